"""What a pipeline has opened, component by component: for looking at; nothing is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltx2rt.graph.components import PROMPT_ENHANCER, SPATIAL_UPSCALER, TEMPORAL_UPSCALER
from ltx2rt.graph.stages.weight_set import WeightSet
from ltx2rt.weights.checkpoint import Checkpoint
from ltx2rt.weights.lora.file import LoraFile
from ltx2rt.weights.tensor_source import TensorInfo


@dataclass(frozen=True)
class OpenedComponent:
    """One component of a model, or a LoRA.

    Attributes:
        path: the file or folder that it is read from.
        config: as the file states it, else inferred from names and shapes; the metadata of a LoRA.
        tensors: name inside of the component -> dtype code (``BF16``), shape and place, as stored.
        strength: of a LoRA; None otherwise.
    """

    path: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]
    strength: float | None = None

    @property
    def dtypes(self) -> tuple[str, ...]:
        """Codes of the stored dtypes, the one with the most bytes first."""
        nbytes: dict[str, int] = {}
        for info in self.tensors.values():
            nbytes[info.dtype] = nbytes.get(info.dtype, 0) + info.nbytes
        return tuple(sorted(nbytes, key=lambda dtype: (-nbytes[dtype], dtype)))

    @property
    def nbytes(self) -> int:
        """Bytes as stored."""
        return sum(info.nbytes for info in self.tensors.values())


def components_of(files: WeightSet) -> dict[str, OpenedComponent]:
    """Name -> what has been opened: ``transformer``, ``video_vae``, ``text_encoder``, ``loras[0]``."""
    others = {part.name: part.stored for part in (SPATIAL_UPSCALER, TEMPORAL_UPSCALER, PROMPT_ENHANCER)}
    found = {name: _of_checkpoint(source, others.get(name, name)) for name, source in files.sources.items()}
    loras = {"loras": files.loras, "distilled_lora": files.distilled_lora, "detailing_lora": files.detailing_lora}
    return found | {name: lora for kind, given in loras.items() for name, lora in _loras(kind, given).items()}


def _of_checkpoint(checkpoint: Checkpoint, component: str) -> OpenedComponent:
    return OpenedComponent(checkpoint.path, checkpoint.section(component), checkpoint.names(component))


def _loras(name: str, loras: Iterable[tuple[LoraFile, float]]) -> dict[str, OpenedComponent]:
    return {
        f"{name}[{index}]": OpenedComponent(lora.path, lora.metadata, lora.tensors, strength)
        for index, (lora, strength) in enumerate(loras)
    }
