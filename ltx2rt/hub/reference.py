"""``org/name``, ``org/name:file``, ``org/name@revision:file``: how files of the hub are named in place of paths."""

from __future__ import annotations

import re
from dataclasses import dataclass

# Both parts of a repository's name begin with a letter or digit, so that ./a/b, ../a/b, ~/a and /a/b are paths.
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_REFERENCE = re.compile(rf"(?P<repository>{_NAME}/{_NAME})(?:@(?P<revision>[^:@\s]+))?(?::(?P<file>[^:\s][^:]*))?")
# What ends so is a file beside us: no repository has such a name.
_FILE_SUFFIXES = (".safetensors", ".gguf", ".json", ".npz", ".pt", ".ckpt", ".bin")
MAIN = "main"


@dataclass(frozen=True)
class HubReference:
    """A repository of the hub, or one file of it.

    Attributes:
        repository: ``organisation/name``.
        file: path inside of it, with ``/``; in a download it may be a pattern. Empty: the whole repository.
        revision: branch, tag or commit.
    """

    repository: str
    file: str = ""
    revision: str = MAIN

    @classmethod
    def parse(cls, text: str) -> HubReference | None:
        """What the text names; None for anything of another shape, which is a path."""
        match = _REFERENCE.fullmatch(text)
        if match is None or match["repository"].lower().endswith(_FILE_SUFFIXES):
            return None
        file = match["file"] or ""
        if file.startswith("/") or ".." in file.split("/"):
            return None
        return cls(match["repository"], file, match["revision"] or MAIN)

    def __str__(self) -> str:
        revision = "" if self.revision == MAIN else f"@{self.revision}"
        return f"{self.repository}{revision}{':' if self.file else ''}{self.file}"

    @property
    def page(self) -> str:
        """Where a person reads about the repository and accepts its licence."""
        return f"https://huggingface.co/{self.repository}"
