"""What a user may change when a stage does not fit."""

from __future__ import annotations

from ltx2rt.spelling import spelled


def smaller(*names: str) -> str:
    """``lower --height, --width or --num-frames``."""
    *others, last = (spelled(name) for name in names)
    return f"lower {', '.join(others)} or {last}" if others else f"lower {last}"
