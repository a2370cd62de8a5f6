"""The folder of one job: its inputs, what is being computed, and what came out. Names are ours, never a client's."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ltx2rt.atomic_file import AtomicFile
from ltx2rt.errors import write_failure
from ltx2rt.media.exr import SUFFIX
from ltx2rt.serve.asked import Upload


class JobFolder:
    """Paths below one folder.

    Args:
        jobs: the folder of all jobs.
        job_id: made by this program.
    """

    def __init__(self, jobs: Path, job_id: str) -> None:
        self.path = jobs / job_id
        self.state = self.path / "state"
        self.thumbnail = self.path / "thumbnail.png"
        self.sheet = self.path / "spritesheet.png"
        self.preview = self.path / "preview.webp"
        self._result = self.path / "result.json"

    def clip(self, *, pictures: bool) -> Path:
        """The clip, or the sound of a pipeline that makes nothing else."""
        return self.path / ("clip.mp4" if pictures else "clip.wav")

    def frames(self) -> list[Path]:
        """The EXR frames that a clip of high dynamic range has beside it, in order; empty: those of no other clip."""
        return sorted(self.path.glob(f"clip_*_exr/*{SUFFIX}"))

    def create(self, files: Mapping[str, Upload]) -> int:
        """Make the folder with the inputs of a request; gives their bytes.

        Raises:
            OutOfSpace: the disk is full; MediaError: the folder cannot be written. Nothing is left then.
        """
        try:
            self.path.mkdir(parents=True)
            return sum(self._add(name, upload) for name, upload in files.items())
        except OSError as error:
            self.remove()
            raise write_failure(self.path, error) from error

    def _add(self, name: str, upload: Upload) -> int:
        path = self.path / name
        size = upload.write(path)
        with path.open("rb+") as file:
            os.fsync(file.fileno())
        return size

    def take_inputs_of(self, other: JobFolder, names: Collection[str]) -> None:
        """Have these inputs of another job, too: the same files under further names where the disk can do that."""
        try:
            for name in names:
                path, target = other.path / name, self.path / name
                try:
                    os.link(path, target)
                except FileNotFoundError:
                    continue  # that job was deleted meanwhile; the check of this one says what is missing
                except OSError:
                    shutil.copyfile(path, target)
        except OSError as error:
            raise write_failure(self.path, error) from error

    def finished(self) -> dict[str, Any] | None:
        """What the worker has written at the very end; None: it has not come to that."""
        try:
            result: dict[str, Any] = json.loads(self._result.read_bytes())
        except (OSError, ValueError):
            return None
        return result

    def finish(self, result: Mapping[str, Any]) -> None:
        """Say that everything is there.

        Raises:
            OutOfSpace: the disk is full.
        """
        try:
            with AtomicFile(self._result) as file:
                file.write(json.dumps(dict(result)).encode())
        except OSError as error:
            raise write_failure(self._result, error) from error

    def nbytes(self) -> int:
        """Bytes of everything in it, also of the folder of frames that a clip of high dynamic range has beside it."""
        try:
            return sum(path.stat().st_size for path in self.path.rglob("*") if path.is_file())
        except FileNotFoundError:
            return 0

    def drop_leftovers(self) -> None:
        """Remove what only a running job needs."""
        shutil.rmtree(self.state, ignore_errors=True)
        self.preview.unlink(missing_ok=True)

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
