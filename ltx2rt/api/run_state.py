"""The folder from which an interrupted run continues."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ltx2rt.api.record import Record, read_record, write_record
from ltx2rt.errors import StateError, UsageError, write_failure
from ltx2rt.graph.stages.journal import Journal
from ltx2rt.spelling import spelled

RECORD_NAME = "run.json"


def state_folder(output: Path) -> Path:
    """``clip.mp4`` -> ``.clip.mp4.state`` beside it."""
    return output.with_name(f".{output.name}.state")


def require_state_folder(folder: Path) -> None:
    """Check a folder that a user names for the state of a run: what is in it will be removed.

    Raises:
        UsageError: it is a file, or holds anything but the state of a run.
    """
    if not os.path.lexists(folder):
        return
    if not folder.is_dir():
        raise UsageError(f"{spelled('state_folder')} {folder} is not a folder; name one that is new or empty.")
    begun = f".{RECORD_NAME}.part"  # a run was killed while it wrote its record
    if all(path.name == begun for path in folder.iterdir()):
        return
    try:
        read_record(folder / RECORD_NAME)
    except UsageError:
        raise UsageError(
            f"{spelled('state_folder')} {folder} holds something else than the state of a run, and would be emptied; "
            "name a folder that is new or empty."
        ) from None


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
    def begin(cls, folder: Path, record: Record, *, resume: bool, noted: Mapping[str, Any] | None = None) -> RunState:
        """Take up the state in ``folder``, or start one.

        Args:
            folder: of the state; made if missing.
            record: of the run.
            resume: continue what is there; False: start over.
            noted: JSON values to keep with the record for whoever continues, see `saved_notes`.

        Raises:
            UsageError: what is there belongs to a run with other settings, weights, inputs or programs.
            StateError: what is there is damaged, and is to be continued. Without ``resume`` it is dropped.
            MediaError: the folder cannot be written.
        """
        saved = saved_record(folder) if resume else None
        if saved is not None:
            differences = saved.differences(record)
            if differences:
                raise UsageError(
                    f"the interrupted run in {folder} differs from this one: {'; '.join(differences)}; "
                    f"give the same settings, or start over without {spelled('resume')}."
                )
            return cls(folder, continued=True)
        state = cls(folder, continued=False)
        state.remove()
        try:
            folder.mkdir()
        except OSError as error:
            raise write_failure(folder, error) from error
        write_record(folder / RECORD_NAME, record, noted)
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
        """Forget the run. The record goes last, so that a kill on the way leaves a state that can be continued."""
        if not self.folder.is_dir():
            return
        for path in self.folder.iterdir():
            if path.name != RECORD_NAME:
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        shutil.rmtree(self.folder)


def saved_notes(folder: Path) -> dict[str, Any]:
    """What was noted with the record of an interrupted run.

    Raises:
        UsageError: the record is damaged.
    """
    return read_record(folder / RECORD_NAME)[1]


def saved_record(folder: Path) -> Record | None:
    """The record of an interrupted run; None where there is none, or it had not computed anything.

    Raises:
        StateError: there is one whose record is damaged or missing: nothing says what its results belong to.
    """
    path = folder / RECORD_NAME
    if not path.is_file():
        if any(folder.glob("*.safetensors")):
            raise StateError(
                f"the interrupted run in {folder} has lost its {RECORD_NAME}; start over without {spelled('resume')}."
            )
        return None
    try:
        return read_record(path)[0]
    except UsageError as error:
        raise StateError(
            f"the interrupted run in {folder} cannot be continued: {error} Start over without {spelled('resume')}."
        ) from error
