"""Options from a TOML file or a sidecar, in the form that the parser gives them; and resolved options as TOML."""

from __future__ import annotations

import difflib
import sys
from argparse import ArgumentTypeError
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w

from ltx2rt.cli.flag import Flag
from ltx2rt.errors import UsageError
from ltx2rt.paths import read_text

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def read_config(path: Path, flags: Sequence[Flag]) -> dict[str, Any]:
    """The options of a TOML file: attribute of the parsed arguments -> value.

    Keys are option names without dashes in front, ``num-frames`` or ``num_frames``. An option with several values takes
    a list, one that may be repeated a list of lists.

    Raises:
        UsageError: the file cannot be read, is no TOML, or has an unknown key.
    """
    try:
        content = tomllib.loads(read_text(path).replace("\r\n", "\n"))
    except OSError as error:
        raise UsageError(f"the config file {path} cannot be read: {error.strerror}; check the path.") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"the config file {path} is not UTF-8 text: {error.reason}; save it as UTF-8.") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"the config file {path} is not TOML: {error}.") from error
    by_name = {name.lstrip("-").replace("-", "_"): (flag, name) for flag in flags for name in flag.names}
    values: dict[str, Any] = {}
    for key, value in content.items():
        plain = key.replace("-", "_")
        if plain not in by_name:
            near = difflib.get_close_matches(plain, by_name, n=1)
            hint = f"did you mean {near[0]}?" if near else "see ltx2rt generate --help."
            raise UsageError(f"{path}: unknown option {key!r}; {hint}")
        flag, name = by_name[plain]
        values[flag.dest] = option_value(flag, name, value, str(path))
    return values


def option_value(flag: Flag, name: str, value: Any, origin: str) -> Any:
    """A value of a TOML or JSON file as the parser would give it.

    Args:
        flag: the option.
        name: as the file spells it.
        value: what the file says.
        origin: the file, for errors.

    Raises:
        UsageError: the value has another form than the option.
    """
    shown = name.lstrip("-")
    if flag.kind is None:
        if not isinstance(value, bool):
            raise UsageError(f"{origin}: {shown} is a switch and must be true or false, got {value!r}.")
        return flag.const if value else None
    if flag.repeat and flag.nargs is not None:
        rows = value if isinstance(value, list) and any(isinstance(item, list) for item in value) else [value]
        return [row if isinstance(row, list) else [row] for row in rows]
    if flag.repeat or flag.nargs is not None:
        return value if isinstance(value, list) else [value]
    if isinstance(value, (list, dict, bool)):
        raise UsageError(f"{origin}: {shown} takes one value, got {value!r}.")
    try:
        return flag.kind(str(value)) if flag.said is None else flag.said.kind.convert(value)
    except (TypeError, ValueError, ArgumentTypeError) as error:
        wanted = "another kind of value" if flag.said is None else flag.said.wanted
        raise UsageError(f"{origin}: {shown} must be {wanted}, got {value!r}.") from error


def values_of_record(sections: Mapping[str, Mapping[str, Any]], flags: Sequence[Flag], origin: str) -> dict[str, Any]:
    """The options that a sidecar's sections ``files``, ``settings`` and ``output`` stand for."""
    return {
        flag.dest: option_value(flag, flag.names[0], value, origin) for flag, value in _flags_of_record(sections, flags)
    }


def toml_of_record(sections: Mapping[str, Mapping[str, Any]], flags: Sequence[Flag]) -> str:
    """The same as a TOML file."""
    return tomli_w.dumps({flag.names[0].lstrip("-"): value for flag, value in _flags_of_record(sections, flags)})


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
