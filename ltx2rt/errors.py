"""The exceptions ltx2rt raises on purpose; anything else is a bug.

Every message has three parts: what is wrong, the value seen, what to do.
The command line turns `UsageError` into exit code 2 and the others into exit code 1.
"""


class Ltx2rtError(Exception):
    """Base of all deliberate errors."""


class UsageError(Ltx2rtError, ValueError):
    """An argument or a combination of arguments cannot work."""


class CheckpointError(Ltx2rtError):
    """A weight file is missing, damaged, of the wrong kind, or lacks tensors. Names the file and the tensor."""


class MediaError(Ltx2rtError):
    """An image, video or audio file cannot be read or written."""


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


class Cancelled(Ltx2rtError):
    """The caller asked a running pipeline to stop."""
