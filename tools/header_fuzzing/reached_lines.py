"""Which lines of the readers were executed, of those that can be."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import ltx2rt

READERS = Path(ltx2rt.__file__).parent / "weights"


def tracer(lines: dict[str, set[int]]) -> Callable[[FrameType, str, Any], Any]:
    prefix = str(READERS) + os.sep

    def local(frame: FrameType, event: str, _: Any) -> Any:
        if event == "line":
            lines.setdefault(frame.f_code.co_filename, set()).add(frame.f_lineno)
        return local

    def entered(frame: FrameType, event: str, argument: Any) -> Any:
        return local(frame, "line", argument) if frame.f_code.co_filename.startswith(prefix) else None

    return entered


def lines_of(path: Path) -> set[int]:
    """Numbers of the lines inside functions that can be executed."""
    found: set[int] = set()

    def collect(code: CodeType, inside: bool) -> None:
        if inside:
            found.update(line for _, _, line in code.co_lines() if line)
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                collect(constant, inside or not _is_class(constant))

    def _is_class(code: CodeType) -> bool:
        return "__module__" in code.co_names

    collect(compile(path.read_text(encoding="utf-8"), str(path), "exec"), inside=False)
    return found
