"""Where the tensors of each component lie: in which files, under which names, joined from what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ltx2rt.errors import CheckpointError
from ltx2rt.weights.detection import refuse_foreign_tensors
from ltx2rt.weights.foreign_formats import refuse_foreign_formats
from ltx2rt.weights.markers import read_markers
from ltx2rt.weights.names import assign, is_statistic
from ltx2rt.weights.names.origin import Origin
from ltx2rt.weights.tensor_source import TensorInfo, WeightFile


class Place(NamedTuple):
    """A tensor of a component.

    Attributes:
        files: those that hold it and what is joined to it; none for a manifest.
        origin: its name there, and what makes the official tensor of it.
        info: entry of the official tensor, as far as it is known without the shape that the model needs.
        stored: entries of the tensors in the file that it is made of.
        marker: what the file declares about it.
    """

    files: tuple[WeightFile, ...]
    origin: Origin
    info: TensorInfo
    stored: tuple[TensorInfo, ...]
    marker: Mapping[str, Any]

    @property
    def file(self) -> WeightFile | None:
        """The file that holds it; None for a manifest."""
        return self.files[0] if self.files else None

    @property
    def name(self) -> str:
        """In the file."""
        return self.origin.name

    def as_needed(self, shape: Sequence[int] | None) -> TensorInfo:
        """The entry where the model needs this shape."""
        return self.info if shape is None or self.origin.is_plain else self.origin.info(self.stored, shape)


class Places:
    """The tensors of a checkpoint, sorted by component as model after model is added.

    Args:
        path: what was opened, for errors.
        metadata: of a manifest; that of files is their own.

    Attributes:
        components: component -> local name -> place.
        ignored: names of tensors that are known and not used.
        unknown: names of tensors that fit no component.
    """

    def __init__(self, path: Path, metadata: Mapping[str, str]) -> None:
        self.components: dict[str, dict[str, Place]] = {}
        self.ignored: list[str] = []
        self.unknown: list[str] = []
        self._path = path
        self._metadata = metadata

    def add(self, files: Sequence[WeightFile], tensors: Mapping[str, TensorInfo]) -> None:
        """Sort the tensors of one more model in: of its files, or of a manifest, which has none.

        Raises:
            CheckpointError: a model or format that is not supported, or a tensor that is there already.
        """
        path = files[0].path if len(files) == 1 else self._path
        metadata = self._metadata
        if files:
            metadata = {key: text for file in reversed(files) for key, text in file.metadata.items()}
        refuse_foreign_tensors(path, tensors)
        refuse_foreign_formats(path, tensors, metadata)
        markers = read_markers(files)
        holders: dict[str, WeightFile] = {}
        repeated: set[str] = set()
        for file in files:
            repeated |= file.tensors.keys() & holders.keys()
            holders = dict.fromkeys(file.tensors, file) | holders
        assignment = assign(tensors, str(path), metadata)
        self.ignored += assignment.ignored
        self.unknown += assignment.unknown
        for component, origins in assignment.components.items():
            places = self.components.setdefault(component, {})
            for local, origin in origins.items():
                parts = (origin.name, *origin.joined)
                stored, here = tuple(tensors[name] for name in parts), tuple(holders[name] for name in parts if files)
                place = Place(here, origin, origin.info(stored), stored, markers.get(origin.name, {}))
                known = places.setdefault(local, place)
                again = known is not place or not repeated.isdisjoint(parts)
                if again and not _is_repeated(local, place, known):
                    raise CheckpointError(
                        f"{self._path}: tensor {origin.name!r} is in more than one file of the folder; give one of the "
                        "files, or take those away that are not of this model."
                    )


def _is_repeated(local: str, place: Place, first: Place) -> bool:
    """Whether a tensor may be in two files: the statistics of a VAE whose halves are files of their own."""
    return is_statistic(local) and place.info.shape == first.info.shape
