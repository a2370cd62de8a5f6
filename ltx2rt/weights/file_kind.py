"""What a file is, by its first bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ltx2rt.errors import CheckpointError
from ltx2rt.weights.safetensors import MAX_HEADER_BYTES

FileKind = Literal["safetensors", "gguf"]

_ONLY = "only safetensors and GGUF files are read; use the model's .safetensors or .gguf file"
_AGAIN = "download the file again"
_GIT_LFS = b"version https://git-lfs.github.com/spec"
# Beginning of a text, in lower case -> what it is.
_TEXTS = {
    b"<!doctype": "a web page, not a weight file: a failed or refused download",
    b"<html": "a web page, not a weight file: a failed or refused download",
    b"<?xml": "an XML text, not a weight file: a failed or refused download",
    b"<error": "an XML text, not a weight file: a failed or refused download",
}
_ZIP = f"a zip archive (PyTorch .pt, .ckpt or .bin, or .npz), which can run code when read and is refused: {_ONLY}"
_BINARIES = {
    b"PK\x03\x04": _ZIP,
    b"PK\x05\x06": _ZIP,
    b"\x89HDF\r\n\x1a\n": f"an HDF5 file: {_ONLY}",
    b"\x1f\x8b": f"a gzip archive: unpack it; {_ONLY}",
    b"7z\xbc\xaf\x27\x1c": f"a 7z archive: unpack it; {_ONLY}",
    b"Rar!": f"a RAR archive: unpack it; {_ONLY}",
    b"\x93NUMPY": f"a NumPy array: {_ONLY}",
    b"ftrt": f"a TensorRT engine: {_ONLY}",
    b"ptrt": f"a TensorRT engine: {_ONLY}",
}


def file_kind(path: Path) -> FileKind:
    """Whether a file is to be read as safetensors or as GGUF. Its name does not matter.

    Raises:
        CheckpointError: it cannot be read, or is recognisably neither; the message says what it is.
    """
    begin = _beginning(path)
    kind = _kind(begin)
    found = "" if kind else _other_kind(begin)
    if found:
        raise CheckpointError(f"{path}: {found}.")
    return kind or "safetensors"


def begins_as(path: Path) -> FileKind | None:
    """The kind of a weight file; None for any other file.

    Raises:
        CheckpointError: it cannot be read.
    """
    return _kind(_beginning(path))


def _beginning(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(512)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot open the weight file ({error.strerror}); check the path.") from error


def _kind(begin: bytes) -> FileKind | None:
    if begin.startswith(b"GGUF"):
        return "gguf"
    # The length of a safetensors header may look like the beginning of a pickle, so nothing else is tried before.
    if int.from_bytes(begin[:8], "little") <= MAX_HEADER_BYTES and begin[8:9] == b"{":
        return "safetensors"
    return None


def _other_kind(begin: bytes) -> str:
    """What something that is neither is; empty if it is not recognised."""
    if not begin:
        return f"an empty file; {_AGAIN}"
    for magic, what in _BINARIES.items():
        if begin.startswith(magic):
            return what
    if begin[:1] == b"\x80" and begin[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return f"a Python pickle (PyTorch .pt, .ckpt or .bin), which can run code when read and is refused: {_ONLY}"
    text = begin.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(_GIT_LFS):
        return (
            "a git-lfs pointer of a few lines in place of the weights; fetch them with `git lfs pull`, or download the "
            "file itself"
        )
    for start, what in _TEXTS.items():
        if text.startswith(start):
            return f"{what}; {_AGAIN}"
    if text.startswith((b'{"', b"{\n", b"{\r", b"{ ", b'["')):
        shown = begin.decode("utf-8", "replace").split("\n")[0][:80]
        return f"a JSON text ({shown!r}), not a weight file, perhaps the message of a refused download; {_AGAIN}"
    return ""
