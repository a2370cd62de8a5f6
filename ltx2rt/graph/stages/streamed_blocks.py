"""Blocks of a model that are read from disk while others compute."""

from __future__ import annotations

# Slots that blocks are streamed through: one computes while the next is read.
DEPTHS = (2, 1)


def streamed_text(depth: int) -> str:
    """How blocks come from disk, for people."""
    return "streamed, read ahead" if depth > 1 else "streamed, not read ahead"
