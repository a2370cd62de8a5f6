"""Which exit code an outcome has, in one table."""

from __future__ import annotations

import errno
from enum import IntEnum

from ltx2rt.errors import BrokenDownload, Cancelled, Ltx2rtError, MachineLost, OutOfMemory, OutOfSpace, UsageError


class ExitCode(IntEnum):
    """What the shell gets. A script may repeat the same command after ``TRY_AGAIN``, and after no other failure."""

    GOOD = 0
    FAILED = 1
    USAGE = 2
    TRY_AGAIN = 75  # EX_TEMPFAIL of sysexits.h


# In words, for --help; docs/options.md repeats it.
MEANINGS = {
    ExitCode.GOOD: "done",
    ExitCode.FAILED: "a file is missing, damaged or does not fit, a check found something, or the run failed",
    ExitCode.USAGE: "options that cannot work; nothing was computed",
    ExitCode.TRY_AGAIN: "interrupted (Ctrl-C, SIGTERM), disk full, memory refused while running, a download broke "
    "off, or another machine of a team was lost: the same command can work another time, a clip with --resume from "
    "where it was",
}

# The first row whose kind an error is of decides.
_CODES: tuple[tuple[type[BaseException], ExitCode], ...] = (
    (UsageError, ExitCode.USAGE),
    (KeyboardInterrupt, ExitCode.TRY_AGAIN),
    (Cancelled, ExitCode.TRY_AGAIN),
    (OutOfSpace, ExitCode.TRY_AGAIN),
    (OutOfMemory, ExitCode.TRY_AGAIN),
    (MemoryError, ExitCode.TRY_AGAIN),
    (BrokenDownload, ExitCode.TRY_AGAIN),
    (MachineLost, ExitCode.TRY_AGAIN),
    (Ltx2rtError, ExitCode.FAILED),
    (OSError, ExitCode.FAILED),
)
# What the loop of the command line turns into a message; anything else is a bug and shows where it happened.
EXPECTED = tuple(kind for kind, _ in _CODES)


def exit_code(error: BaseException) -> ExitCode:
    """The exit code of an error of one of the `EXPECTED` kinds."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ExitCode.TRY_AGAIN
    return next(code for kind, code in _CODES if isinstance(error, kind))


def table() -> str:
    """The table in words, one row per code, for the end of --help."""
    rows = (f"  {code.value:>2}  {text}" for code, text in MEANINGS.items())
    return "exit codes:\n" + "\n".join(rows)
