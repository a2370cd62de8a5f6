"""Writes what the documentation says about pipelines and names, from the pipelines and the settings themselves.

    python tools/make_docs.py

Rewrites the parts between ``<!-- made: NAME -->`` and ``<!-- end -->`` in README.md, docs/python.md and docs/pipelines.
A test compares them.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from ltx2rt.api.diffusers_names import DIFFUSERS_NAMES, LOADING_NAMES
from ltx2rt.cli.flags import FLAGS
from ltx2rt.graph.pipelines import AUTOMATIC, PIPELINES

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs" / "pipelines"

# Files that the examples name: what the README's first command writes.
EXAMPLE_FILES = {"clip": "clip.mp4", "image": "first.png"}

_PART = re.compile(r"(<!-- made: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def example(name: str) -> str:
    """The short command of a pipeline, which needs no weight files."""
    words = PIPELINES[name].example.format(**EXAMPLE_FILES) if name in PIPELINES else AUTOMATIC_EXAMPLE
    return f"ltx2rt generate {words}"


_DEFAULTS = {entry.variant: entry for entry in PIPELINES.values() if entry.automatic}
AUTOMATIC_EXAMPLE = _DEFAULTS["distilled"].example.replace(f"--pipeline {_DEFAULTS['distilled'].name} ", "")
AUTOMATIC_SUMMARY = f"`{_DEFAULTS['dev'].name}` for a dev checkpoint, else `{_DEFAULTS['distilled'].name}`"


def readme_table() -> Iterator[str]:
    """Every pipeline with what it needs and the command that runs it on the embedded model."""
    yield "| `--pipeline` | checkpoint | what it makes | size | a command that needs no files of weights |"
    yield "|---|---|---|---|---|"
    yield f"| `{AUTOMATIC}` (default) | any | {AUTOMATIC_SUMMARY} | | `{example(AUTOMATIC)}` |"
    for name, entry in PIPELINES.items():
        shows = f" ({entry.example_shows})" if entry.example_shows else ""
        yield f"| `{name}` | {entry.checkpoint} | {entry.summary} | {entry.size} | `{example(name)}`{shows} |"


def pages_table() -> Iterator[str]:
    """Every pipeline with its page."""
    yield "| `--pipeline` | checkpoint | what it makes | size |"
    yield "|---|---|---|---|"
    yield f"| [{AUTOMATIC}]({AUTOMATIC}.md) (default) | any | {AUTOMATIC_SUMMARY} | |"
    for name, entry in PIPELINES.items():
        yield f"| [{name}]({name}.md) | {entry.checkpoint} | {entry.summary} | {entry.size} |"


def diffusers_table() -> Iterator[str]:
    """What diffusers calls the arguments of a call, and what holds here."""
    yield "| in diffusers | here |"
    yield "|---|---|"
    yield from (f"| `{name}` | {_here(hint)} |" for name, hint in DIFFUSERS_NAMES.items())


def loading_table() -> Iterator[str]:
    """The same of `load`."""
    yield "| elsewhere | in `ltx2rt.load` |"
    yield "|---|---|"
    yield from (f"| `{name}` | {_here(hint)} |" for name, hint in LOADING_NAMES.items())


def spellings_table() -> Iterator[str]:
    """Options whose name in Python is another one than that of the command line."""
    yield "| command line | Python |"
    yield "|---|---|"
    for flag in FLAGS:
        if flag.target in ("settings", "files", "output") and (flag.name != flag.dest or flag.const is False):
            yield f"| `{flag.names[0]}` | `{flag.name}{'=False' if flag.const is False else ''}` |"


def page_command(name: str) -> Iterator[str]:
    """The short command of a page."""
    yield "```sh"
    yield example(name)
    yield "```"


PARTS: dict[str, Callable[[], Iterator[str]]] = {
    "pipelines": readme_table,
    "pages": pages_table,
    "diffusers": diffusers_table,
    "loading": loading_table,
    "spellings": spellings_table,
    **{f"command-{name}": (lambda name=name: page_command(name)) for name in (AUTOMATIC, *PIPELINES)},
}


def updated(text: str) -> str:
    """A page with its made parts made anew."""
    return _PART.sub(lambda part: part[1] + "\n".join(PARTS[part[2]]()) + "\n" + part[3], text)


def parts_of(text: str) -> list[str]:
    """The names of the made parts of a page."""
    return [part[2] for part in _PART.finditer(text)]


def pages() -> list[Path]:
    """Every page that has made parts."""
    return [ROOT / "README.md", ROOT / "docs" / "python.md", *sorted(PAGES.glob("*.md"))]


def _here(hint: str) -> str:
    return hint.removeprefix("here ").removesuffix(".")


if __name__ == "__main__":
    argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0]).parse_args()
    for path in pages():
        path.write_text(updated(path.read_text()))
