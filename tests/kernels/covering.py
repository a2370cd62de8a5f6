"""Chooses a few of the cases of a test in which each value of each of its parameters still occurs."""

from __future__ import annotations

from collections.abc import Iterable

import pytest


def left_out(items: Iterable[pytest.Item]) -> list[pytest.Item]:
    """Cases all of whose values earlier cases of the same test have; tests without parameters are none.

    Nor are those that are slow: a value that only they have is left to them.
    """
    seen: dict[str, set[tuple[str, str]]] = {}
    found = []
    for item in items:
        if not isinstance(item, pytest.Function) or not hasattr(item, "callspec"):
            continue
        if item.get_closest_marker("slow"):
            continue
        values = {(name, str(value)) for name, value in item.callspec.params.items()}
        known = seen.setdefault(item.nodeid.partition("[")[0], set())
        if values <= known:
            found.append(item)
        known |= values
    return found
