"""What one option of the command line is, and how it gets into a parser."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ltx2rt.graph.pipelines import pipelines_taking
from ltx2rt.graph.settings.kinds import Switch
from ltx2rt.graph.settings.setting import Setting, settings_of

Target = Literal["settings", "files", "output", "run", "shorthand", "inert", "refused"]


@dataclass(frozen=True)
class Flag:
    """One option.

    Attributes:
        names: spellings; the first is the one we document, the others belong to other LTX-2 command lines.
        help: one line; the default is appended to it.
        group: heading in ``--help``.
        target: whom it concerns: a setting of the call (``settings``), what is loaded (``files``), how the clip is
            written (``output``), this command (``run``); ``shorthand`` stands for other options; ``inert`` is accepted
            and changes nothing; ``refused`` is known and gives an error.
        sets: name of what it sets in its target; default: from the first spelling.
        kind: converter of one value; None for a switch.
        const: what a switch sets.
        metavar: names of the value(s).
        nargs: as argparse.
        repeat: the option may be given several times.
        default: shown in ``--help``; "model" = decided by the pipeline and the checkpoint's generation.
        pipelines: pipelines that use a shorthand; those of settings are known from the pipelines.
        said: what is said about the setting that it sets.
        why: why an inert option changes nothing, or a refused one is refused.
    """

    names: tuple[str, ...]
    help: str
    group: str
    target: Target = "settings"
    sets: str = ""
    kind: Callable[[str], Any] | None = str
    const: Any = True
    metavar: str | tuple[str, ...] | None = None
    nargs: str | int | None = None
    repeat: bool = False
    default: Any = None
    choices: tuple[str, ...] | None = None
    pipelines: tuple[str, ...] = ()
    why: str = ""
    said: Setting | None = None

    @property
    def dest(self) -> str:
        """Attribute of the parsed arguments."""
        return self.names[0].lstrip("-").replace("-", "_")

    @property
    def name(self) -> str:
        """What it sets in its target."""
        return self.sets or self.dest

    @property
    def used_by(self) -> tuple[str, ...]:
        """Pipelines in which it has a meaning; empty = all."""
        return self.pipelines or (pipelines_taking(self.name) if self.target == "settings" else ())


def flags_of(owner: type, target: Target) -> tuple[Flag, ...]:
    """The options of a dataclass of settings, in its order."""
    return tuple(
        _flag(name, entry.default, said, target)
        for name, (entry, said) in settings_of(owner).items()
        if not said.for_python
    )


def _flag(name: str, default: Any, said: Setting, target: Target) -> Flag:
    names = said.flags or (f"--{name.replace('_', '-')}",)
    if isinstance(said.kind, Switch):
        return Flag(names, said.help, said.group, target, name, kind=None, const=not said.turns_off, said=said)
    shown = said.shown_default or (default if isinstance(default, (str, int, float)) else None)
    words: dict[str, Any] = {"nargs": said.kind.words, "repeat": said.kind.repeats}
    return Flag(
        names,
        said.help,
        said.group,
        target,
        name,
        kind=str if said.kind.words is not None else _parser(said),
        metavar=None if said.choices else said.kind.metavar,
        default=shown,
        choices=said.choices or None,
        said=said,
        **words,
    )


def _parser(said: Setting) -> Callable[[str], Any]:
    def parse(word: str) -> Any:
        try:
            return said.kind.parse(word)
        except (TypeError, ValueError, ZeroDivisionError):
            raise argparse.ArgumentTypeError(f"must be {said.wanted}, got {word!r}") from None

    return parse


class _Store(argparse.Action):
    """Stores a value, the last one of several; different values under two names of one option are refused."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        spellings = namespace.__dict__.setdefault("spellings", {})
        before, present = spellings.get(self.dest, option_string), getattr(namespace, self.dest, None)
        if before != option_string and present != values:
            parser.error(
                f"{before} says {present}, but {option_string}, another name of it, says {values}; give one of them"
            )
        spellings[self.dest] = option_string
        setattr(namespace, self.dest, values)


def add_flags(parser: argparse.ArgumentParser, flags: Sequence[Flag]) -> None:
    """Add options to a parser, grouped. A value of None in the result means "not given"."""
    groups: dict[str, Any] = {}
    for flag in flags:
        if flag.group not in groups:
            groups[flag.group] = parser.add_argument_group(flag.group)
        arguments: dict[str, Any] = {"dest": flag.dest, "help": help_text(flag), "default": None}
        if flag.kind is None:
            arguments.update(action="store_const", const=flag.const)
        else:
            arguments.update(type=flag.kind, choices=flag.choices, nargs=flag.nargs)
            arguments["action"] = "append" if flag.repeat else _Store
            if flag.metavar is not None:
                arguments["metavar"] = flag.metavar
        groups[flag.group].add_argument(*flag.names, **arguments)


def help_text(flag: Flag) -> str:
    """The help line with its default and its pipelines."""
    notes = []
    if flag.default == "model":
        notes.append("default: by model")
    elif flag.default not in (None, False):
        notes.append(f"default: {flag.default}")
    if flag.used_by:
        notes.append(f"only {', '.join(flag.used_by)}")
    if flag.target == "inert":
        notes.append(f"no effect: {flag.why}")
    if flag.target == "refused":
        notes.append(f"refused: {flag.why}")
    return flag.help.replace("%", "%%") + (f" ({'; '.join(notes).replace('%', '%%')})" if notes else "")
