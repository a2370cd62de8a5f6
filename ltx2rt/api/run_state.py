"""The folder from which an interrupted run continues."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

from ltx2rt.api.record import Record, read_record, write_record
from ltx2rt.errors import MediaError, UsageError
from ltx2rt.graph.stages.journal import Journal

RECORD_NAME = "run.json"


def state_folder(output: Path) -> Path:
    """``clip.mp4`` -> ``.clip.mp4.state`` beside it."""
    return output.with_name(f".{output.name}.state")


class RunState:
    """A folder with the record of a run and the journal of what it has computed.

    Attributes:
        folder: hidden, beside the output.
        continued: whether an earlier run has left something here.
    """

    def __init__(self, folder: Path, continued: bool) -> None:
        self.folder = folder
        self.continued = continued

    @classmethod
    def begin(cls, folder: Path, record: Record, *, resume: bool) -> RunState:
        """Take up the state in ``folder``, or start one.

        Args:
            folder: of the state; made if missing.
            record: of the run.
            resume: continue what is there; False: start over.

        Raises:
            UsageError: what is there belongs to a run with other settings, weights, inputs or programs.
            MediaError: the folder cannot be written.
        """
        saved = saved_record(folder)
        if saved is not None and resume:
            differences = saved.differences(record)
            if differences:
                raise UsageError(
                    f"the interrupted run in {folder} differs from this one: {'; '.join(differences)}; "
                    "give the same settings, or start over without --resume."
                )
            return cls(folder, continued=True)
        state = cls(folder, continued=False)
        state.remove()
        try:
            folder.mkdir()
        except OSError as error:
            raise MediaError(f"cannot make the folder {folder}: {error.strerror}; choose another output.") from error
        write_record(folder / RECORD_NAME, record)
        return state

    def journal(self) -> Journal:
        """Where the run keeps its results."""
        return Journal(self.folder)

    @property
    def is_empty(self) -> bool:
        """Whether nothing has been computed yet."""
        return not any(self.folder.glob("*.safetensors"))

    def remove_if_empty(self) -> None:
        """Forget the run if there is nothing to continue from."""
        if self.is_empty:
            self.remove()

    def remove(self) -> None:
        """Forget the run."""
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.folder)


def saved_record(folder: Path) -> Record | None:
    """The record of an interrupted run; None where there is none, or not enough to continue from."""
    path = folder / RECORD_NAME
    if not path.is_file():
        return None
    try:
        return read_record(path)[0]
    except UsageError:
        return None
