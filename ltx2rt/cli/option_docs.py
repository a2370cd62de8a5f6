"""The page ``docs/options.md``, made from the option table."""

from __future__ import annotations

from collections.abc import Iterator

from ltx2rt.api import DEFAULT_NEGATIVE_PROMPT
from ltx2rt.cli.exit_codes import MEANINGS
from ltx2rt.cli.flag import Flag
from ltx2rt.cli.flags import FLAGS

_OWN = ("settings", "files", "output", "run", "shorthand")


def options_markdown() -> str:
    """Every option of ``ltx2rt generate`` with its default and the pipelines that use it."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield "# Options of `ltx2rt generate`"
    yield ""
    yield "Made from the table in `ltx2rt/cli/flags.py` by `python -m ltx2rt.cli.option_docs > docs/options.md`; a test"
    yield "compares them. Names of one option are separated by commas; they are also the keys of a `--config` TOML"
    yield "file, without the dashes in front. An option that the chosen pipeline does not use is refused."
    for group in dict.fromkeys(flag.group for flag in FLAGS):
        flags = [flag for flag in FLAGS if flag.group == group]
        own = flags[0].target in _OWN
        yield ""
        yield f"## {group}"
        yield ""
        yield "| option | what it does | default | pipelines |" if own else "| option | what it is | why |"
        yield "|---|---|---|---|" if own else "|---|---|---|"
        for flag in flags:
            yield _row(flag) if own else f"| {_names(flag)} | {_cell(flag.help)} | {_cell(flag.why)} |"
    yield ""
    yield "## Exit codes"
    yield ""
    yield "Of every verb, from the table in `ltx2rt/cli/exit_codes.py`."
    yield ""
    yield "| code | meaning |"
    yield "|---|---|"
    yield from (f"| {code.value} | {_cell(text)} |" for code, text in MEANINGS.items())
    yield ""
    yield "## Default negative prompt"
    yield ""
    yield f"> {DEFAULT_NEGATIVE_PROMPT}"
    yield ""
    yield "Any other text is accepted with `--negative-prompt`, the empty one included."


def _row(flag: Flag) -> str:
    default = {"model": "by model", None: ""}.get(flag.default, str(flag.default))
    return f"| {_names(flag)} | {_cell(flag.help)} | {_cell(default)} | {', '.join(flag.used_by) or 'all'} |"


def _names(flag: Flag) -> str:
    metavar = flag.metavar if flag.kind is not None else None
    words = " ".join(metavar) if isinstance(metavar, tuple) else metavar or ""
    if flag.choices:
        words = " or ".join(flag.choices)
    spelled = ", ".join(f"`{name}`" for name in flag.names)
    return f"{spelled} {_cell(words)}".strip()


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*")


if __name__ == "__main__":
    print(options_markdown(), end="")
