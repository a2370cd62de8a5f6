"""Prompts that were encoded before, on disk: one private file each, in a folder of bounded size."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import stat
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import mlx.core as mx

from ltx2rt.atomic_file import AtomicFile
from ltx2rt.errors import CheckpointError
from ltx2rt.kernels.host import to_numpy
from ltx2rt.weights.safetensors import SafetensorsFile, write_tensors

log = logging.getLogger(__name__)

FORMAT = "ltx2rt-prompt"
# Raised when what is kept means something else than before.
FORMAT_VERSION = 1
# All files together, where nobody says otherwise: some sixty prompts of 22B.
MOST_BYTES = 1_000_000_000
_ENDING = ".safetensors"
# Names of the files, and while they are written. Files of others stay, whatever folder this is.
_KEPT = re.compile(r"[0-9a-f]+" + re.escape(_ENDING))
_HALF_WRITTEN = re.compile(r"\.[0-9a-f]+" + re.escape(_ENDING) + r"\.\d+\.\d+\.part")
# What a killed process left half written is removed after so long.
_STALE_S = 24 * 3600.0


def key_of(identity: Mapping[str, object]) -> str:
    """Hexadecimal name of what ``identity``, JSON values, decides."""
    text = json.dumps({"format_version": FORMAT_VERSION, **identity}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


class KeptPrompts:
    """Arrays by key. Any number of processes may use a folder: a file appears and goes as a whole.

    Nothing here can fail a run: what cannot be read counts as not there, and what cannot be written is not kept; a
    warning says so.

    Args:
        folder: made when something is kept; readable by its owner alone.
        most_bytes: of all files together. What was used least recently goes first.
    """

    def __init__(self, folder: Path, most_bytes: int = MOST_BYTES) -> None:
        self.folder = folder
        self.most_bytes = most_bytes

    def has(self, key: str) -> bool:
        """Whether something is kept under a key."""
        return self._path(key).is_file()

    def get(self, key: str) -> dict[str, mx.array] | None:
        """What is kept under a key, with the bits it was kept with; None: nothing is."""
        path = self._path(key)
        try:
            with closing(SafetensorsFile(path)) as file:
                arrays = {name: file.mlx(name) for name in file.tensors}
                mx.eval(list(arrays.values()))
                whole = file.metadata.get("format") == FORMAT and file.metadata.get("digest") == _digest(arrays)
        except CheckpointError as error:
            if isinstance(error.__cause__, FileNotFoundError):  # never kept, or removed by another process just now
                return None
            whole, why = False, str(error)
        else:
            why = f"{path}: its values are not those that were kept"
        if not whole:
            log.warning("a prompt that was kept is damaged and is encoded again: %s", why)
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        with contextlib.suppress(OSError):  # another process may have removed it
            os.utime(path)
        return arrays

    def put(self, key: str, arrays: Mapping[str, mx.array]) -> None:
        """Keep arrays, and forget what was used least recently until the folder is small enough."""
        nbytes = sum(array.nbytes for array in arrays.values())
        if nbytes > self.most_bytes:
            return
        try:
            self._make_folder()
            with AtomicFile(self._path(key), shared=True) as file:
                os.fchmod(file.fileno(), stat.S_IRUSR | stat.S_IWUSR)
                write_tensors(file, arrays, {"format": FORMAT, "digest": _digest(arrays)})
            self._shrink()
        except OSError as error:
            log.warning("the encoded prompt is not kept: %s: %s", self.folder, error.strerror or error)

    def _make_folder(self) -> None:
        """The folder, which nobody else may enter: names and times of files alone tell something."""
        self.folder.mkdir(mode=stat.S_IRWXU, parents=True, exist_ok=True)
        if stat.S_IMODE(self.folder.stat().st_mode) != stat.S_IRWXU:
            self.folder.chmod(stat.S_IRWXU)

    def _shrink(self) -> None:
        found: list[tuple[float, int, Path]] = []
        for path in self.folder.iterdir():
            with contextlib.suppress(FileNotFoundError):  # another process removed it
                status = path.stat()
                if _KEPT.fullmatch(path.name):
                    found.append((status.st_mtime, status.st_size, path))
                elif _HALF_WRITTEN.fullmatch(path.name) and time.time() - status.st_mtime > _STALE_S:
                    path.unlink()
        excess = sum(size for _, size, _ in found) - self.most_bytes
        for _, size, path in sorted(found):
            if excess <= 0:
                return
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
            excess -= size

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}{_ENDING}"


def _digest(arrays: Mapping[str, mx.array]) -> str:
    """SHA-256 of names, dtypes, shapes and values."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(_bytes(array))
    return digest.hexdigest()


def _bytes(array: mx.array) -> bytes:
    values = array.view(mx.uint16) if array.dtype == mx.bfloat16 else array
    return to_numpy(values).tobytes()
