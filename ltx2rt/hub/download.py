"""What a download consists of: which files, which of them are here already, whether the rest fits, and fetching it."""

from __future__ import annotations

import difflib
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Protocol

from ltx2rt.errors import DownloadError, OutOfSpace, UsageError
from ltx2rt.hub.cache import HubCache, is_intact
from ltx2rt.hub.client import Hub, HubFile, Listing
from ltx2rt.hub.known_set import KnownSet, Part
from ltx2rt.hub.known_sets import SETS
from ltx2rt.hub.reference import HubReference
from ltx2rt.memory.limits import format_bytes

# What stays free on the disk: the cache also writes links and locks, and a full disk harms everything else on it.
_SPARE = 10**8
_EVERYTHING = "**"


@dataclass(frozen=True)
class Wanted:
    """Files of one repository that a download asks for.

    Attributes:
        reference: the repository and revision, without a file.
        patterns: paths, or patterns of paths in one folder; `**`: everything.
        part: of which known set they are a part.
    """

    reference: HubReference
    patterns: tuple[str, ...]
    part: Part | None = None

    def matches(self, path: str) -> bool:
        """Whether a path of the repository is among them."""
        return any(
            pattern == _EVERYTHING or (path.count("/") == pattern.count("/") and fnmatchcase(path, pattern))
            for pattern in self.patterns
        )


class State(Enum):
    """How much of a file is here."""

    HERE = "here"
    PARTLY = "partly here"
    MISSING = "missing"
    DAMAGED = "damaged"


@dataclass(frozen=True)
class Item:
    """One file of a download.

    Attributes:
        wanted: what asks for it.
        reference: the file.
        bytes: its size; None where that is not known, which only the hub can tell.
        state: how much of it is here.
        done: bytes of it that need not be fetched.
        path: its name in the cache; None where it has none.
        file, listing: as the hub states it; None offline.
    """

    wanted: Wanted
    reference: HubReference
    bytes: int | None
    state: State
    done: int = 0
    path: Path | None = None
    file: HubFile | None = None
    listing: Listing | None = None

    @property
    def missing_bytes(self) -> int:
        """What has to be fetched, as far as it is known."""
        return max(0, (self.bytes or 0) - self.done)


class Transfer(Protocol):
    """Is told how a transfer, or a check, goes on."""

    def begin(self, name: str) -> None:
        """A file follows."""

    def advance(self, count: int) -> None:
        """Bytes have come; negative: they have to come again."""


def known_set(name: str, form: str | None) -> KnownSet:
    """The set of a name and a format; without one, the name's first.

    Raises:
        UsageError: no such set.
    """
    formats = [known for known in SETS if known.name == name]
    if not formats:
        names = list(dict.fromkeys(known.name for known in SETS))
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"the sets are {', '.join(names)}."
        raise UsageError(f"{name!r} is neither a known set nor a repository ORG/NAME or file ORG/NAME:FILE; {hint}")
    found = next((known for known in formats if known.format == form), None)
    if form is None:
        return formats[0]
    if found is None:
        raise UsageError(
            f"{name} is not known in the format {form!r}; it is in {', '.join(known.format for known in formats)}."
        )
    return found


def parts_of(known: KnownSet, only: Sequence[str]) -> tuple[Part, ...]:
    """The parts of a set that are asked for: its usual ones, or those for the settings named in ``only``.

    Raises:
        UsageError: the set has no such part.
    """
    unknown = [name for name in only if name not in known.settings]
    if unknown:
        raise UsageError(
            f"{known.name} in {known.format} has no part {unknown[0]!r}; it has {', '.join(known.settings)}."
        )
    if not only:
        return known.usual
    # Of two parts for one setting, one of which is optional, the usual one is meant.
    taken = [part for part in known.parts if part.setting in only]
    usual = {part.setting for part in taken if not part.optional}
    return tuple(part for part in taken if not part.optional or part.setting not in usual)


def wanted_parts(parts: Sequence[Part]) -> tuple[Wanted, ...]:
    """The files of the parts of a set."""
    return tuple(Wanted(HubReference(part.repository.name), part.files, part) for part in parts)


def wanted_reference(reference: HubReference) -> tuple[Wanted, ...]:
    """The files that a reference names: one, those of a pattern, or the whole repository."""
    return (Wanted(replace(reference, file=""), (reference.file or _EVERYTHING,)),)


def survey(hub: Hub, wanted: Sequence[Wanted]) -> list[Item]:
    """Ask the hub for every file, and look which of them are here.

    Raises:
        DownloadError: a repository or file does not exist; nothing has been fetched.
        BrokenDownload: the hub does not answer.
    """
    listings: dict[HubReference, Listing] = {}
    items: dict[HubReference, Item] = {}
    for want in wanted:
        if want.reference not in listings:
            listings[want.reference] = hub.list(want.reference)
        listing = listings[want.reference]
        for path in _paths(want, listing):
            reference = replace(want.reference, file=path)
            items.setdefault(reference, _looked_up(hub.cache, want, reference, listing))
    return list(items.values())


def _paths(want: Wanted, listing: Listing) -> list[str]:
    """The paths that are asked for; each name must be there, and of several patterns at least one must match."""
    for pattern in want.patterns:
        if not set("*?[") & set(pattern) and pattern not in listing.files:
            near = difflib.get_close_matches(pattern, listing.files, n=1)
            raise DownloadError(
                f"{want.reference} has no file {pattern!r}"
                + (f"; did you mean {near[0]}?" if near else f"; see {want.reference.page}/tree/main.")
            )
    found = sorted(path for path in listing.files if want.matches(path))
    if not found:
        raise DownloadError(
            f"{want.reference} has no file like {' or '.join(want.patterns)}; see {want.reference.page}."
        )
    return found


def _looked_up(cache: HubCache, want: Wanted, reference: HubReference, listing: Listing) -> Item:
    file = listing.files[reference.file]
    item = Item(want, reference, file.bytes, State.MISSING, 0, None, file, listing)
    named = cache.find(replace(reference, revision=listing.commit))
    blob = cache.blob(reference.repository, file.etag)
    for path in (named, blob):
        if path is not None and path.exists():
            right = path.stat().st_size == file.bytes
            return replace(
                item, path=path, state=State.HERE if right else State.DAMAGED, done=file.bytes if right else 0
            )
    partial = cache.partial(reference.repository, file.etag)
    if partial.exists():
        return replace(item, state=State.PARTLY, done=min(partial.stat().st_size, file.bytes))
    return item


def survey_offline(cache: HubCache, wanted: Sequence[Wanted]) -> list[Item]:
    """What the cache has of the files, without asking anybody; names alone tell what is missing."""
    return [item for want in wanted for item in _cached(cache, want)]


def _cached(cache: HubCache, want: Wanted) -> Iterator[Item]:
    folder = cache.find(want.reference)
    present = set() if folder is None else {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    names = {pattern for pattern in want.patterns if not set("*?[") & set(pattern)}
    if folder is not None:
        names |= {path for path in present if want.matches(path)} | _indexed(folder, want)
    if not names:
        names = set(want.patterns)
    for name in sorted(names):
        reference = replace(want.reference, file="" if name == _EVERYTHING else name)
        if folder is not None and name in present:
            size = (folder / name).stat().st_size
            yield Item(want, reference, size, State.HERE, size, folder / name)
        else:
            single = want.part is not None and not want.part.is_folder
            yield Item(want, reference, want.part.bytes if single and want.part else None, State.MISSING)


def _indexed(folder: Path, want: Wanted) -> set[str]:
    """Files that an index of shards names, which a transfer that stopped in between lacks."""
    names: set[str] = set()
    for index in folder.glob("*.safetensors.index.json"):
        try:
            weight_map = json.loads(index.read_text(encoding="utf-8")).get("weight_map", {})
            names |= {name for name in weight_map.values() if isinstance(name, str) and want.matches(name)}
        except (OSError, ValueError, AttributeError):  # It is reported where the folder is opened.
            continue
    return names


def free_bytes(folder: Path) -> int:
    """Free space where a folder is, or will be."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(existing).free


def require_space(cache: HubCache, items: Sequence[Item]) -> None:
    """Refuse what cannot fit, before anything is fetched.

    Raises:
        OutOfSpace: with both sizes.
    """
    needed, free = sum(item.missing_bytes for item in items), free_bytes(cache.folder)
    if needed and needed + _SPARE > free:
        raise OutOfSpace(
            f"{format_bytes(needed)} are to be fetched, but only {format_bytes(free)} are free in {cache.folder}; make "
            "room, choose another --format, or set HF_HUB_CACHE to a folder on another disk. Nothing was fetched."
        )


def require_access(hub: Hub, items: Sequence[Item]) -> None:
    """Refuse a download of which a part would not be given, before gigabytes of the others are fetched.

    Raises:
        DownloadError: a repository is gated or private, with what to do.
        BrokenDownload: the hub does not answer.
    """
    first = {item.reference.repository: item for item in reversed(items) if item.state is not State.HERE}
    for item in first.values():
        if item.file is not None and item.listing is not None:
            hub.require_access(item.listing, item.file)


def verify(items: Sequence[Item], cache: HubCache, transfer: Transfer) -> list[Item]:
    """The same items, those marked as damaged whose content has another checksum than the hub states.

    Offline the checksum is that under which the cache keeps a file; a file that is kept without one is taken as it is.
    """
    checked = []
    for item in items:
        if item.state is State.HERE and item.path is not None:
            etag = item.file.etag if item.file is not None else cache.checksum_of(item.path)
            transfer.begin(str(item.reference))
            if etag is not None and not is_intact(item.path, etag, transfer.advance):
                item = replace(item, state=State.DAMAGED, done=0)
        checked.append(item)
    return checked


def fetch(hub: Hub, items: Sequence[Item], transfer: Transfer) -> list[Path]:
    """Fetch what is missing or damaged, and give everything its name in the cache.

    Returns:
        the names, in the order of the items.

    Raises:
        DownloadError, BrokenDownload, OutOfSpace: see `Hub.fetch`; files before the failing one are complete.
    """
    paths = []
    for item in items:
        if item.file is None or item.listing is None:
            raise DownloadError(f"{item.reference}: the hub was not asked about it.")
        if item.state is State.HERE and item.path is not None:
            blob = hub.cache.blob(item.reference.repository, item.file.etag)
            paths.append(
                hub.cache.place(item.reference, item.listing.commit, item.file.etag) if blob.exists() else item.path
            )
            continue
        transfer.begin(str(item.reference))
        paths.append(hub.fetch(item.listing, item.file, transfer.advance))
    return paths
