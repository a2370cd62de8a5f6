"""Weights that stay in memory when the stage that loaded them has ended, for later stages and later calls."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import mlx.core as mx

from ltx2rt.types import LinearWeight, ParamSpec
from ltx2rt.weights.checkpoint import Checkpoint, Loaded, LoadedBytes
from ltx2rt.weights.lora.file import LoraFile
from ltx2rt.weights.lora.fusing import is_changed

Loras = tuple[tuple[LoraFile, float], ...]


class WeightKey(NamedTuple):
    """What decides the values of one loaded tensor.

    ``checkpoint`` and the LoRA files count as the objects they are: a file that is opened again is another one.
    ``loras`` are those that change the tensor, ``fuse_dtype`` what they make of it; a tensor that no LoRA changes has
    neither, whatever is fused into its neighbours.
    """

    checkpoint: Checkpoint
    component: str
    spec: ParamSpec
    loras: Loras
    fuse_dtype: mx.Dtype | None


@dataclass(frozen=True)
class StageWeights:
    """Some tensors of a component as a stage wants them; see `Checkpoint.load` for the fields."""

    checkpoint: Checkpoint
    component: str
    specs: Sequence[ParamSpec]
    loras: Loras = ()
    fuse_dtype: mx.Dtype | None = None

    def key(self, spec: ParamSpec) -> WeightKey:
        """The key of one of the tensors."""
        loras = tuple(lora for lora in self.loras if is_changed(self.component, spec.name, [lora]))
        return WeightKey(self.checkpoint, self.component, spec, loras, self.fuse_dtype if loras else None)

    def sizes(self, known: Mapping[WeightKey, int]) -> dict[WeightKey, int]:
        """Bytes of each tensor once it is loaded; nothing is read. Tensors that the file lacks take none.

        Args:
            known: those that need not be found out.
        """
        keys = {self.key(spec): spec for spec in self.specs}
        return {key: known[key] if key in known else self._size(spec) for key, spec in keys.items()}

    @property
    def loaded_bytes(self) -> LoadedBytes:
        """What loading all of them takes; nothing is read."""
        return self.checkpoint.loaded_bytes(self.component, self.specs, self.loras, self.fuse_dtype)

    def _size(self, spec: ParamSpec) -> int:
        return self.checkpoint.loaded_bytes(self.component, [spec], self.loras, self.fuse_dtype).arrays

    def load(self, specs: Iterable[ParamSpec] | None = None) -> dict[str, Loaded]:
        """The tensors, or those of some of the specs, read from the file."""
        wanted = self.specs if specs is None else specs
        return self.checkpoint.load(self.component, wanted, loras=self.loras, fuse_dtype=self.fuse_dtype)


class KeptWeights:
    """The arrays that stay, by what decides their values. Any thread may use it.

    Attributes:
        wanted: what may stay, with its bytes; other weights are loaded for their stage alone.
    """

    def __init__(self) -> None:
        self.wanted: Mapping[WeightKey, int] = {}
        self._arrays: dict[WeightKey, Loaded] = {}
        self._lock = threading.Lock()

    @property
    def sizes(self) -> dict[WeightKey, int]:
        """Bytes of each array that is here."""
        with self._lock:
            return {key: array.nbytes for key, array in self._arrays.items()}

    @property
    def nbytes(self) -> int:
        return sum(self.sizes.values())

    def want(self, wanted: Mapping[WeightKey, int]) -> None:
        """Say what may stay from now on; everything else is dropped."""
        with self._lock:
            self.wanted = dict(wanted)
            for key in self._arrays.keys() - self.wanted.keys():
                del self._arrays[key]

    def load(self, weights: StageWeights) -> tuple[dict[str, Loaded], int]:
        """The tensors of a set: those that are here, and the others read from the file, of which the wanted ones stay.

        Returns:
            The arrays as `Checkpoint.load` gives them, in a mapping of their own, and how many bytes of them were read.

        Raises:
            CheckpointError: as `Checkpoint.load`; what was here stays.
        """
        keys = {spec.name: weights.key(spec) for spec in weights.specs}
        with self._lock:
            here = {name: self._arrays[key] for name, key in keys.items() if key in self._arrays}
        loaded = read(weights, [spec for spec in weights.specs if spec.name not in here])
        with self._lock:
            self._arrays |= {keys[name]: array for name, array in loaded.items() if keys[name] in self.wanted}
        both: Mapping[str, Loaded] = here | loaded
        return {name: both[name] for name in keys if name in both}, sum(array.nbytes for array in loaded.values())


def read(weights: StageWeights, specs: Sequence[ParamSpec]) -> dict[str, Loaded]:
    """The tensors of some specs of a set, evaluated: what a thread has only begun to compute no other one may use."""
    if not specs:
        return {}
    loaded = weights.load(specs)
    for array in loaded.values():
        mx.eval([part for part in array if isinstance(part, mx.array)] if isinstance(array, LinearWeight) else array)
    return loaded
