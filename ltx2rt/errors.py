"""The exceptions ltx2rt raises on purpose; anything else is a bug.

Every message has three parts: what is wrong, the value seen, what to do.
`ltx2rt/cli/exit_codes.py` says which exit code each has.
"""

from __future__ import annotations

import errno
from pathlib import Path


class Ltx2rtError(Exception):
    """Base of all deliberate errors."""


class UsageError(Ltx2rtError, ValueError):
    """An argument or a combination of arguments cannot work."""


class CheckpointError(Ltx2rtError):
    """A weight file is missing, damaged, of the wrong kind, or lacks tensors. Names the file and the tensor."""


class MediaError(Ltx2rtError):
    """An image, video or audio file, or another output, cannot be read or written."""


class OutOfSpace(MediaError):
    """The disk is full or its quota is used up: the same command may work once there is space."""


class DownloadError(Ltx2rtError):
    """The hub refuses a file, does not have it, or what came is not what it states."""


class BrokenDownload(DownloadError):
    """The hub cannot be reached, or a transfer broke off: the same command goes on where it stopped."""


class StateError(Ltx2rtError):
    """What an interrupted run has left cannot be continued: files of its state are damaged or missing."""


class NotFiniteError(Ltx2rtError):
    """A model computed values that are not finite numbers. Names the stage."""


class MemoryBudgetError(Ltx2rtError):
    """A stage needs more memory than the budget allows.

    Attributes:
        needed_bytes: the smallest budget that would do for the stage; 0 where that is not known.
    """

    def __init__(self, message: str, needed_bytes: int = 0) -> None:
        super().__init__(message)
        self.needed_bytes = needed_bytes


class OutOfMemory(MemoryBudgetError):
    """The system refused memory while a stage ran, though its plan fitted: the same command may work another time.

    Everything that the stage held has been given back when this is raised.
    """


class MachineLost(Ltx2rtError):
    """Another machine of a team did not come, says nothing, has gone or cannot do its part: the same command may work
    another time."""


class ConnectionLost(MachineLost):
    """The connection to another machine of a team broke, as when its process ends; the leader can go on alone."""


class Cancelled(Ltx2rtError):
    """The caller asked a running pipeline to stop."""


def write_failure(path: Path, error: OSError) -> MediaError:
    """The error to raise for an OSError met while ``path`` was written: `OutOfSpace` for a full disk."""
    kind = OutOfSpace if error.errno in (errno.ENOSPC, errno.EDQUOT) else MediaError
    return kind(
        f"cannot write {path}: {error.strerror or error}; "
        "check free space and permissions of the folder or choose another output."
    )
