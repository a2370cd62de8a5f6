"""Which files a pipeline uses: those that were given, and the embedded model's where it runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ltx2rt import embedded
from ltx2rt.graph.pipelines.pipeline import PipelineEntry
from ltx2rt.graph.settings.setting import plain_values
from ltx2rt.graph.settings.weight_files import WeightFiles
from ltx2rt.types import FilePath

Lora = FilePath | tuple[FilePath, float]

# What stands for each file that a pipeline needs and nobody gave, where the embedded model runs.
_EMBEDDED: Mapping[str, Any] = {
    "checkpoint": embedded.CHECKPOINT,
    "text_encoder": embedded.TEXT_ENCODER,
    "spatial_upscaler": embedded.SPATIAL_UPSCALER,
    "temporal_upscaler": embedded.TEMPORAL_UPSCALER,
    "distilled_lora": (embedded.DISTILLED_LORA, 1.0),
    "loras": ((embedded.IC_LORA, 1.0),),
}
_ALWAYS_EMBEDDED = ("checkpoint", "text_encoder", "spatial_upscaler", "temporal_upscaler")


@dataclass(frozen=True)
class PipelineFiles:
    """What a pipeline was loaded from.

    Attributes:
        entry: the pipeline; None: still to be found by the checkpoint, for which its own files do not matter.
        given: the files that were given.
    """

    entry: PipelineEntry | None
    given: WeightFiles

    @property
    def is_embedded(self) -> bool:
        """Whether the small model inside the package runs."""
        return not self.given.has_model

    @property
    def used(self) -> WeightFiles:
        """The files that are used."""
        if not self.is_embedded:
            return self.given
        used = _with_embedded(self.given, _ALWAYS_EMBEDDED)
        return used if self.entry is None else _with_embedded(used, self.entry.files)

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of `load` for a record, as JSON values."""
        defaults = plain_values(WeightFiles())
        arguments = {name: value for name, value in plain_values(self.given).items() if value != defaults.get(name)}
        return arguments if self.entry is None else {"pipeline": self.entry.name, **arguments}

    def weights_with(self, found: Iterable[Path]) -> tuple[Path, ...]:
        """Every file that is used, and every folder that is read as one.

        Args:
            found: where the parts of the model are; a folder that was given as the whole model stands for these.
        """
        found = list(found)
        given = (path for path in self.weights if path in found or not path.is_dir())
        return tuple(dict.fromkeys((*given, *found)))

    @property
    def weights(self) -> tuple[Path, ...]:
        """Everything that was given, and what stands for it where nothing was."""
        return self.used.paths


def _with_embedded(given: WeightFiles, names: Sequence[str]) -> WeightFiles:
    return replace(given, **{name: _EMBEDDED[name] for name in names if name in _EMBEDDED and not getattr(given, name)})
