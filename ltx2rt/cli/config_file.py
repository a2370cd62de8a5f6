"""Options from a TOML file or a sidecar, as the command line would have them; and resolved options as TOML."""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ltx2rt.cli.flag import Flag
from ltx2rt.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def read_config(path: Path, flags: Sequence[Flag]) -> list[str]:
    """The options of a TOML file as command line words.

    Keys are option names without dashes in front, ``num-frames`` or ``num_frames``. An option with several values takes
    a list, one that may be repeated a list of lists.

    Raises:
        UsageError: the file cannot be read, is no TOML, or has an unknown key.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"the config file {path} cannot be read: {error.strerror}; check the path.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"the config file {path} is not TOML: {error}.") from error
    by_name = {name.lstrip("-").replace("-", "_"): (flag, name) for flag in flags for name in flag.names}
    words: list[str] = []
    for key, value in content.items():
        plain = key.replace("-", "_")
        if plain not in by_name:
            near = difflib.get_close_matches(plain, by_name, n=1)
            hint = f"did you mean {near[0]}?" if near else "see ltx2rt generate --help."
            raise UsageError(f"{path}: unknown option {key!r}; {hint}")
        flag, name = by_name[plain]
        words += words_of(flag, name, value, str(path))
    return words


def words_of(flag: Flag, name: str, value: Any, origin: str) -> list[str]:
    """Command line words that give ``value`` to an option.

    Raises:
        UsageError: the value has another form than the option.
    """
    if flag.kind is None:
        if not isinstance(value, bool):
            raise UsageError(f"{origin}: {name.lstrip('-')} is a switch and must be true or false, got {value!r}.")
        return [name] if value else []
    if flag.repeat and flag.nargs is not None:
        rows = value if isinstance(value, list) and any(isinstance(item, list) for item in value) else [value]
        return [word for row in rows for word in (name, *_texts(row))]
    if flag.repeat:
        return [f"{name}={text}" for text in _texts(value)]
    if flag.nargs is not None:
        return [name, *_texts(value)]
    if isinstance(value, (list, dict, bool)):
        raise UsageError(f"{origin}: {name.lstrip('-')} takes one value, got {value!r}.")
    return [f"{name}={value}"]


def _texts(value: Any) -> list[str]:
    items = value if isinstance(value, list) else [value]
    return [str(item) for item in items if item is not None]


def words_of_record(sections: Mapping[str, Mapping[str, Any]], flags: Sequence[Flag], origin: str) -> list[str]:
    """The options that a sidecar's sections ``files``, ``settings`` and ``output`` stand for."""
    words: list[str] = []
    for flag, value in _flags_of_record(sections, flags):
        words += words_of(flag, flag.names[0], value, origin)
    return words


def toml_of_record(sections: Mapping[str, Mapping[str, Any]], flags: Sequence[Flag]) -> str:
    """The same as a TOML file."""
    lines = [f"{flag.names[0].lstrip('-')} = {_toml_value(value)}" for flag, value in _flags_of_record(sections, flags)]
    return "\n".join(lines) + "\n"


def _flags_of_record(sections: Mapping[str, Mapping[str, Any]], flags: Sequence[Flag]) -> Iterator[tuple[Flag, Any]]:
    for flag in flags:
        values = sections.get(flag.target, {})
        if flag.name not in values:
            continue
        value = values[flag.name]
        if flag.kind is None:
            if value is flag.const:
                yield flag, True
        elif not (flag.repeat and value == []):
            yield flag, value


def _toml_value(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(_toml_value(item) for item in value)}]"
    # A JSON string, number or truth value is one in TOML too.
    return json.dumps(value, ensure_ascii=False)
