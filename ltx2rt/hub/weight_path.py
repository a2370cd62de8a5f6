"""What stands where a path of weights is taken: a path, or a file or repository of the hub that is in its cache."""

from __future__ import annotations

import os
from pathlib import Path

from ltx2rt.errors import CheckpointError
from ltx2rt.hub.cache import HubCache
from ltx2rt.hub.known_set import Part
from ltx2rt.hub.known_sets import OTHERS, SETS
from ltx2rt.hub.reference import HubReference

# A folder with a file of every component has names, such as model.safetensors, that say nothing.
_NAMED = tuple(part for part in (*(p for known in SETS for p in known.parts), *OTHERS) if not part.is_folder)
_FOLDERS = tuple(part for known in SETS for part in known.parts if part.is_folder)


def resolve_weight_path(text: str | os.PathLike[str], cache: HubCache | None = None) -> Path:
    """The path that is meant.

    What exists beside us comes first. Else ``org/name``, ``org/name:file`` and ``org/name@revision:file`` stand for
    what the hub's cache has of them. Nothing is ever fetched here: weights are gigabytes, which nobody asked for.

    Args:
        text: a path, or a reference to the hub.
        cache: None: the hub's own.

    Returns:
        The path; one that does not exist and names nothing known is handed back as it is, for whoever opens it.

    Raises:
        CheckpointError: it names something of the hub that is not here, or has the name of a published file; the
            message has the command that fetches it.
    """
    path = Path(text)
    if os.path.lexists(path):
        return path
    reference = HubReference.parse(os.fspath(text))
    if reference is None:
        part = published(path.name)
        if part is not None:
            raise CheckpointError(_published_text(path, part, cache))
        return path
    cache = HubCache() if cache is None else cache
    found = cache.find(reference)
    if found is None:
        raise CheckpointError(
            f"{reference} is neither a path nor in the hub's cache ({cache.folder}). If it is a "
            f"{'file' if reference.file else 'repository'} of the hub, get it with: ltx2rt download {reference}"
        )
    return found


def published(name: str) -> Part | None:
    """The published file, or folder of a text encoder, with this name."""
    for part in _NAMED:
        if part.files[0].rpartition("/")[2] == name:
            return part
    return next((part for part in _FOLDERS if part.repository.name.rpartition("/")[2] == name), None)


def _published_text(path: Path, part: Part, cache: HubCache | None) -> str:
    reference = part.reference
    if (HubCache() if cache is None else cache).find(reference) is not None:
        return f"{path}: there is no such path, but the hub's cache has it: give {reference} in its place."
    size = "" if part.gigabytes is None else f" ({part.gigabytes:.1f} GB)"
    gated = f"; it is gated, accept its licence at {part.repository.page} first" if part.repository.gated else ""
    whole = next((known for known in SETS if known.parts[0] is part), None)
    return (
        f"{path}: there is no such path. It is published as {reference} on the Hugging Face hub{size}{gated}. Get it "
        f"with: ltx2rt download {reference}"
        + (
            ""
            if whole is None
            else f" (with all that goes with it: ltx2rt download {whole.name} --format {whole.format})"
        )
    )
