"""Pictures of a clip while it is being made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from ltx2rt.graph.models.layers.params import Params
from ltx2rt.graph.models.video_vae.decoder import VideoDecoder
from ltx2rt.graph.models.video_vae.specs import VideoVaeConfig, decoder_specs
from ltx2rt.graph.models.video_vae.statistics import statistics_specs
from ltx2rt.graph.models.video_vae.tiling import Tiling
from ltx2rt.graph.stages.events import Evaluated, Event, StageStarted, StepDone
from ltx2rt.graph.stages.model_files import ModelFiles
from ltx2rt.graph.stages.request import Request
from ltx2rt.weights.checkpoint import Checkpoint

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Preview:
    """What the clip would be if sampling ended now.

    Attributes:
        stage: name of the denoising stage.
        step: number of finished steps of the stage.
        steps: of the stage.
        latent: (1, f, h, w, 128) float32, the clean estimate, normalised.
    """

    stage: str
    step: int
    steps: int
    latent: Array
    _checkpoint: Checkpoint
    _dtype: mx.Dtype

    @property
    def is_decodable(self) -> bool:
        """Whether the stage is large enough for the video decoder: at least 64 pixels on each side."""
        return min(self.latent.shape[2:4]) >= 2

    def picture(self) -> Array:
        """The first frame, (H, W, 3) float32 in [0, 1]; loads the video decoder for it."""
        return self._decode(self.latent[:, :1])[0]

    def frames(self) -> Array:
        """The whole clip, (F, H, W, 3) float32 in [0, 1]; takes as long as the final decoding."""
        return self._decode(self.latent)

    def _decode(self, latent: Array) -> Array:
        config = VideoVaeConfig.from_dict(self._checkpoint.section("video_vae"))
        arrays = self._checkpoint.load("video_vae", decoder_specs(config) + statistics_specs())
        decoder = VideoDecoder(config, Params(arrays), self._dtype)
        tiling = Tiling.auto(latent.shape[2] * config.spatial_factor, latent.shape[3] * config.spatial_factor)
        # Noise that some decoders add is left out: a preview draws nothing from the run's generator.
        chunks = decoder.decode_frames(
            mx.array(latent).astype(self._dtype),
            tiling,
            noise=_no_noise,
        )
        return np.concatenate(list(chunks))


def _no_noise(shape: tuple[int, ...], dtype: str = "float32") -> Array:
    return np.zeros(shape, np.float32)


class PreviewObserver:
    """Passes events on, and makes a `Preview` of every sampler step that has video."""

    def __init__(
        self,
        files: ModelFiles,
        request: Request,
        two_stage: bool,
        on_preview: Callable[[Preview], None],
        observer: Callable[[Event], None] | None,
    ) -> None:
        self._files = files
        self._request = request
        self._two_stage = two_stage
        self._on_preview = on_preview
        self._observer = observer
        self._estimate: Array | None = None

    def __call__(self, event: Event) -> None:
        if self._observer is not None:
            self._observer(event)
        if isinstance(event, StageStarted):
            self._estimate = None
        elif isinstance(event, Evaluated):
            self._estimate = event.video_denoised
        elif isinstance(event, StepDone) and self._estimate is not None:
            self._on_preview(
                Preview(
                    event.stage,
                    event.index + 1,
                    event.steps,
                    self._grid(event.stage, self._estimate),
                    self._files.checkpoint,
                    self._request.dtype,
                )
            )

    def _grid(self, stage: str, tokens: Array) -> Array:
        """The clip's own tokens, which come first, as a latent."""
        vae = VideoVaeConfig.from_dict(self._files.checkpoint.section("video_vae"))
        divisor = vae.spatial_factor * (2 if self._two_stage and stage.endswith("1") else 1)
        frames = (self._request.num_frames - 1) // vae.temporal_factor + 1
        height, width = self._request.height // divisor, self._request.width // divisor
        grid: Array = tokens[:, : frames * height * width].reshape(1, frames, height, width, -1)
        return grid
