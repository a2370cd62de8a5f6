"""What is said about one setting, once: kind, default, range, help, flags; and the field that carries it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any

from ltx2rt.errors import UsageError
from ltx2rt.graph.settings.kinds import Kind
from ltx2rt.spelling import spelled


@dataclass(frozen=True)
class Setting:
    """Everything but the name and the default of a setting, which are those of its dataclass field.

    Attributes:
        kind: of its values.
        help: one line.
        group: heading in ``--help``.
        topic: pipelines, and the verbs that read weights, state which topics they take; empty: all pipelines take it.
        flags: spellings on the command line, the documented one first; empty: ``--name-of-the-field``.
        for_python: what no command line can say; it has no option.
        low, high: the range, both ends included.
        choices: the only values.
        shown_default: what help shows where the field's default is None: "model" = decided by the pipeline and the
            checkpoint's generation.
        turns_off: the flag stands for False, of a switch that is on.
    """

    kind: Kind[Any]
    help: str
    group: str
    topic: str = ""
    flags: tuple[str, ...] = ()
    for_python: bool = False
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    shown_default: str | None = None
    turns_off: bool = False

    def stored(self, name: str, value: Any) -> Any:
        """A value in its stored form.

        Raises:
            UsageError: another kind of value, or outside the range; in the caller's spelling.
        """
        try:
            return self.checked(name, self.kind.convert(value))
        except (TypeError, ValueError) as error:
            if isinstance(error, UsageError):
                raise
            raise UsageError(f"{spelled(name)} must be {self.wanted}, got {_shown(value)}.") from error

    def checked(self, name: str, value: Any) -> Any:
        """A stored value that lies in the range; UsageError otherwise."""
        if self.choices and value not in self.choices:
            near = difflib.get_close_matches(str(value), self.choices, n=1)
            hint = f"did you mean {near[0]}?" if near else f"use one of {', '.join(self.choices)}."
            raise UsageError(f"{spelled(name)} must be one of its choices, got {value!r}; {hint}")
        if (self.low is not None and value < self.low) or (self.high is not None and value > self.high):
            raise UsageError(f"{spelled(name)} must be {self.range}, got {value}.")
        return value

    @property
    def wanted(self) -> str:
        """What a value must be, for errors."""
        limits = self.range
        return f"{self.kind.wanted}, {limits}" if limits else self.kind.wanted

    @property
    def range(self) -> str:
        """The range in words; empty if there is none."""
        if self.low is None and self.high is None:
            return ""
        if self.high is None:
            return f"{self.low:g} or more"
        return f"up to {self.high:g}" if self.low is None else f"{self.low:g} to {self.high:g}"


def setting(default: Any, kind: Kind[Any], help_line: str, group: str, **more: Any) -> Any:
    """A dataclass field that carries a `Setting`."""
    return field(default=default, metadata={"setting": Setting(kind, help_line, group, **more)})


def settings_of(owner: type) -> dict[str, tuple[Field[Any], Setting]]:
    """Name -> (field, what is said about it) of a dataclass of settings."""
    return {entry.name: (entry, entry.metadata["setting"]) for entry in fields(owner)}


def stored_values(owner: type, values: Mapping[str, Any], hints: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Values in their stored form; None stands for the default.

    Args:
        owner: the dataclass of settings.
        values: name -> value.
        hints: what to say about names that other programs use.

    Raises:
        UsageError: a name that does not exist, with the nearest one, or a value that does not fit.
    """
    known = settings_of(owner)
    stored = {}
    for name, value in values.items():
        if name not in known:
            raise UsageError(f"unknown setting {name!r}; {_hint(name, known, hints or {})}")
        entry, said = known[name]
        stored[name] = entry.default if value is None else said.stored(name, value)
    return stored


def plain_values(owner: Any) -> dict[str, Any]:
    """Every setting of an instance that is not None, as JSON values."""
    return {
        name: said.kind.plain(getattr(owner, name))
        for name, (_, said) in settings_of(type(owner)).items()
        if getattr(owner, name) is not None
    }


def _hint(name: str, known: Mapping[str, Any], hints: Mapping[str, str]) -> str:
    if name in hints:
        return hints[name]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
    return f"did you mean {near[0]}?" if near else f"the settings are {', '.join(known)}."


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"a {type(value).__name__}"
