"""How the caller spells the name of a setting, for errors: ``--image`` on the command line, ``images`` in Python."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

_flags: ContextVar[Mapping[str, str] | None] = ContextVar("flags", default=None)


def spelled(name: str, value: str = "") -> str:
    """A setting's name as the caller writes it.

    Args:
        name: of the setting, as in Python.
        value: what it should be given, for advice: ``FILE`` makes ``--checkpoint-path FILE`` or ``checkpoint=FILE``.
    """
    flags = _flags.get()
    if flags is None or name not in flags:
        return f"{name}={value}" if value else name
    return f"{flags[name]} {value}" if value else flags[name]


@contextmanager
def spelled_as(flags: Mapping[str, str]) -> Iterator[None]:
    """Errors inside name settings by these flags: name -> option."""
    token = _flags.set(flags)
    try:
        yield
    finally:
        _flags.reset(token)
