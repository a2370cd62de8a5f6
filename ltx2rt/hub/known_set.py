"""What a known set of weight files consists of; the sets themselves are in `known_sets`."""

from __future__ import annotations

from dataclasses import dataclass

from ltx2rt.hub.reference import HubReference

# What makes a name a pattern.
_PATTERN = frozenset("*?[")


@dataclass(frozen=True)
class Repository:
    """A repository of the hub.

    Attributes:
        name: ``organisation/name``.
        licence: of what it holds, in words.
        gated: the hub gives its files only to accounts that have accepted the licence on its page.
    """

    name: str
    licence: str
    gated: bool = False

    @property
    def page(self) -> str:
        return HubReference(self.name).page


@dataclass(frozen=True)
class Part:
    """One thing of a set: a file, or several of one repository that are used together.

    Attributes:
        setting: which setting of `ltx2rt.load` takes it.
        repository: that publishes it.
        files: paths in the repository, or patterns; a folder that is given as a whole has several.
        bytes: of all its files together; None where it is not known, then the hub is asked when they are fetched.
        about: published size in GB (10^9 bytes) where the bytes are not known.
        optional: left out of a download unless it is named.
        note: what else there is to say.
    """

    setting: str
    repository: Repository
    files: tuple[str, ...]
    bytes: int | None = None
    about: float | None = None
    optional: bool = False
    note: str = ""

    @property
    def is_folder(self) -> bool:
        """Whether it is given as a folder, and not as one file."""
        return len(self.files) != 1 or bool(_PATTERN & set(self.files[0]))

    @property
    def reference(self) -> HubReference:
        """What is given in place of a path once it is in the cache."""
        return HubReference(self.repository.name, "" if self.is_folder else self.files[0])

    @property
    def gigabytes(self) -> float | None:
        """Its size, as far as it is known."""
        return self.about if self.bytes is None else self.bytes / 1e9


@dataclass(frozen=True)
class KnownSet:
    """Files that make clips together.

    Attributes:
        name: what `ltx2rt download` calls it.
        format: how the transformer's weights are stored.
        parts: its files; the first one is the model.
    """

    name: str
    format: str
    parts: tuple[Part, ...]

    @property
    def variant(self) -> str:
        """``dev`` or ``distilled``, with which its name ends."""
        return self.name.rpartition("-")[2]

    @property
    def settings(self) -> tuple[str, ...]:
        """The settings that its parts are for, without repetition."""
        return tuple(dict.fromkeys(part.setting for part in self.parts))

    @property
    def usual(self) -> tuple[Part, ...]:
        """The parts that are fetched unless others are named."""
        return tuple(part for part in self.parts if not part.optional)
