"""The hub's own cache on this machine: where its files are, and how a fetched one gets its place there.

The layout is that of huggingface_hub, so that every program which uses the hub finds the files: ``blobs`` holds each
content under its checksum, ``snapshots/COMMIT`` the names that point there, ``refs`` the commit of a branch or tag.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ltx2rt.errors import DownloadError
from ltx2rt.hub.reference import HubReference

_COMMIT = re.compile(r"[0-9a-f]{40}")
_CHUNK = 1 << 22


class HubCache:
    """A cache folder.

    Args:
        folder: None: the one that huggingface_hub uses, ``HF_HUB_CACHE`` or ``~/.cache/huggingface/hub``.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        if folder is None:
            from huggingface_hub import constants

            folder = constants.HF_HUB_CACHE
        self.folder = Path(folder)

    def repository(self, name: str) -> Path:
        """Folder of a repository."""
        return self.folder / f"models--{name.replace('/', '--')}"

    def blob(self, name: str, etag: str) -> Path:
        """Where a repository keeps the content with this checksum."""
        return self.repository(name) / "blobs" / etag

    def partial(self, name: str, etag: str) -> Path:
        """What has come of it so far; `hf cache prune` knows the suffix."""
        return self.blob(name, f"{etag}.incomplete")

    def lock(self, name: str, etag: str) -> Path:
        """The lock that huggingface_hub takes while it fetches the same file."""
        return self.folder / ".locks" / self.repository(name).name / f"{etag}.lock"

    def commit(self, reference: HubReference) -> str | None:
        """The commit that a revision has here; None if nothing of it is here."""
        if _COMMIT.fullmatch(reference.revision):
            return reference.revision
        with contextlib.suppress(OSError):
            stated = (self.repository(reference.repository) / "refs" / reference.revision).read_text().strip()
            return stated if _COMMIT.fullmatch(stated) else None
        return None

    def find(self, reference: HubReference) -> Path | None:
        """The file, or for a whole repository the folder, if it is here. Links are not followed: names tell things."""
        commit = self.commit(reference)
        if commit is None:
            return None
        found = self.repository(reference.repository) / "snapshots" / commit
        if reference.file:
            found = found / reference.file
        return found if found.exists() else None

    def place(self, reference: HubReference, commit: str, etag: str) -> Path:
        """Give a complete blob its name in the snapshot of ``commit``, and let the revision point there.

        Args:
            reference: a single file.

        Raises:
            DownloadError: its name leads out of the folder.
            OSError: the cache cannot be written.
        """
        repository = self.repository(reference.repository)
        snapshot = repository / "snapshots" / commit
        name = snapshot / reference.file
        if ".." in Path(reference.file).parts or not name.is_relative_to(snapshot) or name == snapshot:
            raise DownloadError(f"{reference.repository} has a file called {reference.file!r}, which is no name.")
        name.parent.mkdir(parents=True, exist_ok=True)
        blob = self.blob(reference.repository, etag)
        temporary = name.with_name(f".{name.name}.{os.getpid()}.part")
        try:
            temporary.symlink_to(os.path.relpath(blob, name.parent))
            os.replace(temporary, name)
        except OSError:  # Disks without links, as exFAT: the file itself goes there, which huggingface_hub does, too.
            temporary.unlink(missing_ok=True)
            os.replace(blob, name)
        if not _COMMIT.fullmatch(reference.revision):
            branch = repository / "refs" / reference.revision
            branch.parent.mkdir(parents=True, exist_ok=True)
            waiting = branch.with_name(f".{branch.name}.{os.getpid()}.part")
            waiting.write_text(commit)
            os.replace(waiting, branch)
        return name

    def checksum_of(self, file: Path) -> str | None:
        """The checksum that a file of the cache must have, as its place says; None where it is no link to a blob."""
        if not file.is_symlink():
            return None
        # One step alone: a blob may itself be a link, to what several repositories share, which has another name.
        target = file.parent / os.readlink(file)
        return target.name if target.parent.name == "blobs" else None


def hasher(etag: str, size: int) -> Any:
    """What checks a content: files of Git LFS are named by their SHA-256, the others as Git names a blob.

    Raises:
        DownloadError: neither, so that nothing can be checked.
    """
    if re.fullmatch(r"[0-9a-f]{64}", etag):
        return hashlib.sha256()
    if re.fullmatch(r"[0-9a-f]{40}", etag):
        return hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
    raise DownloadError(
        f"the hub states the checksum {etag!r}, which is neither SHA-256 nor Git's; nothing can be checked."
    )


def add_file(digest: Any, path: Path, advance: Callable[[int], None] = lambda count: None) -> None:
    """Add the content of a file to a checksum; ``advance`` hears of the bytes."""
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            advance(len(chunk))


def is_intact(path: Path, etag: str, advance: Callable[[int], None] = lambda count: None) -> bool:
    """Whether a file has the content that a checksum stands for."""
    digest = hasher(etag, path.stat().st_size)
    add_file(digest, path, advance)
    return bool(digest.hexdigest() == etag)
