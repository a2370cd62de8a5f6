"""Where the commands begin: what Ctrl-C does before the program is loaded."""

from __future__ import annotations

import contextlib
import os
import signal
from types import FrameType

from ltx2rt.cli.exit_codes import ExitCode


def _end(number: int, frame: FrameType | None) -> None:
    with contextlib.suppress(OSError):
        os.write(2, b"interrupted\n")
    os._exit(ExitCode.TRY_AGAIN)


# Loading takes a second. Nothing has been begun then, so that the process may simply end.
for _signal in (signal.SIGINT, signal.SIGTERM):
    if signal.getsignal(_signal) in (signal.default_int_handler, signal.SIG_DFL):  # and not ignored, as under nohup
        signal.signal(_signal, _end)

from ltx2rt.cli.main import generate_main, main  # noqa: E402  # after the lines above

__all__ = ["generate_main", "main"]
