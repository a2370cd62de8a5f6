"""Pictures of a clip while it is being made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from typing import Any

import mlx.core as mx
import numpy as np

from ltx2rt.errors import UsageError
from ltx2rt.graph.components import VIDEO_VAE, video_decoder
from ltx2rt.graph.diffusion.latent_state import VideoTarget
from ltx2rt.graph.diffusion.noise import FrameNoise, TorchCpuNoise
from ltx2rt.graph.models.layers.decode_way import DecodeWay
from ltx2rt.graph.models.layers.params import Params
from ltx2rt.graph.preview_decoder_file import PreviewDecoderFile
from ltx2rt.graph.protocols import Grid, VideoDecoder
from ltx2rt.graph.stages.events import Evaluated, Event, Noised, StageStarted, StepDone
from ltx2rt.graph.stages.inputs import GenerationInputs
from ltx2rt.graph.stages.weight_set import WeightSet
from ltx2rt.media.hdr import srgb_of_acescct
from ltx2rt.spelling import spelled
from ltx2rt.types import Array


class TinyDecoder:
    """A preview decoder whose weights stay in memory from the first preview of a run on.

    Args:
        file: opened.
        dtype: of activations.
    """

    def __init__(self, file: PreviewDecoderFile, dtype: mx.Dtype) -> None:
        self._file = file
        self._dtype = dtype
        self._params: Params | None = None

    def frames(self, latent: Array) -> Array:
        """(F, H, W, 3) float32 in [0, 1] of a normalised latent (1, f, h, w, 128)."""
        if self._params is None:
            self._params = self._file.load(self._dtype)
        return np.concatenate(list(self._file.decoder.frames(self._params, self._dtype, latent[0])))


@dataclass(frozen=True)
class Preview:
    """What the clip, or the window of it that is being made, would be if sampling ended now.

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
    _weights: WeightSet
    _dtype: mx.Dtype
    _tiny: TinyDecoder | None = None
    _is_hdr: bool = False

    @property
    def is_decodable(self) -> bool:
        """Whether the stage is large enough for the video decoder: at least 64 pixels on each side."""
        return self._tiny is not None or bool(min(self.latent.shape[2:4]) >= 2)

    @property
    def is_quick(self) -> bool:
        """Whether a preview decoder makes the frames, so that all of them cost little."""
        return self._tiny is not None

    @property
    def working_bytes(self) -> int:
        """What decoding the first frame takes, where no preview decoder does it, whose memory is part of the plan."""
        if self._tiny is not None:
            return 0
        decoder = video_decoder(self._weights.config(VIDEO_VAE))
        weights = self._weights.source(VIDEO_VAE).loaded_bytes(VIDEO_VAE.stored_name, decoder.specs())
        return weights.arrays + weights.loading + self._way(decoder, (1, *self.latent.shape[2:4])).footprint.total

    def picture(self) -> Array:
        """The first frame, (H, W, 3) float32 in [0, 1]; loads the video decoder for it."""
        result: Array = self._decode(self.latent[:, :1])[0]
        return result

    def frames(self) -> Array:
        """The whole clip, (F, H, W, 3) float32 in [0, 1]; takes as long as the final decoding."""
        return self._decode(self.latent)

    def _way(self, decoder: VideoDecoder, grid: Grid) -> DecodeWay:
        return next(decoder.ways(grid, "auto", self._dtype.size))

    def _decode(self, latent: Array) -> Array:
        frames = self._decoded(latent)
        return srgb_of_acescct(frames) if self._is_hdr else frames

    def _decoded(self, latent: Array) -> Array:
        if self._tiny is not None:
            return self._tiny.frames(latent)
        decoder = video_decoder(self._weights.config(VIDEO_VAE))
        params = Params(self._weights.source(VIDEO_VAE).load(VIDEO_VAE.stored_name, decoder.specs()))
        frames, height, width = latent.shape[1:4]
        way = self._way(decoder, (frames, height, width))
        # A preview draws nothing from the run's generator.
        noise = FrameNoise(TorchCpuNoise(0))
        chunks = decoder.frames(params, self._dtype, mx.array(latent).astype(self._dtype), way.settings, noise=noise)
        return np.concatenate(list(chunks))


class PreviewObserver:
    """Passes events on, and makes a `Preview` of every sampler step that has video."""

    def __init__(
        self,
        files: WeightSet,
        dtype: mx.Dtype,
        on_preview: Callable[[Preview], None],
        observer: Callable[[Event], None] | None,
        tiny: TinyDecoder | None = None,
        *,
        is_hdr: bool = False,
    ) -> None:
        self._files = files
        self._dtype = dtype
        self._is_hdr = is_hdr
        self._on_preview = on_preview
        self._observer = observer
        self._tiny = tiny
        self._estimate: Array | None = None
        self._target: VideoTarget | None = None

    def __call__(self, event: Event) -> None:
        if isinstance(event, Noised) and isinstance(event.target, VideoTarget):
            self._target = event.target
        elif isinstance(event, StageStarted):
            self._estimate = None
        elif isinstance(event, Evaluated):
            self._estimate = event.video_denoised
        elif isinstance(event, StepDone) and self._estimate is not None:
            self._on_preview(
                Preview(
                    event.stage,
                    event.index + 1,
                    event.steps,
                    self._grid(self._estimate),
                    self._files,
                    self._dtype,
                    self._tiny,
                    self._is_hdr,
                )
            )
        if self._observer is not None:  # which knows then that the preview is there
            self._observer(event)

    def _grid(self, tokens: Array) -> Array:
        """The clip's own tokens, which come first, as a latent."""
        assert self._target is not None  # every denoised video has been noised before
        shape = self._target.shape
        grid: Array = tokens[:, : shape.tokens].reshape(shape.array_shape)
        return grid


@dataclass(frozen=True)
class Previews:
    """Who looks at the previews of a run, and what decodes them.

    Attributes:
        looked_at_by: called with each; None: nobody does, in a plan.
        tiny: decodes in place of the video VAE.
        nbytes: what ``tiny`` takes while the run computes.
    """

    looked_at_by: Callable[[Preview], None] | None
    tiny: TinyDecoder | None = None
    nbytes: int = 0

    @classmethod
    def of(cls, looked_at_by: Callable[[Preview], None] | None, decoder: Any, inputs: GenerationInputs) -> Previews:
        """Of a run with these inputs.

        Args:
            looked_at_by: see above.
            decoder: the path of a preview decoder; None: the video VAE decodes.
            inputs: of the run.

        Raises:
            UsageError: ``decoder`` is no path.
            CheckpointError: it is no preview decoder.
        """
        if decoder is None:
            return cls(looked_at_by)
        if not isinstance(decoder, (str, PathLike)):
            raise UsageError(f"{spelled('preview_decoder')} must be a path, got {decoder!r}.")
        file = PreviewDecoderFile.open(decoder)
        nbytes = file.working_bytes(inputs.height, inputs.width, inputs.dtype)
        return cls(looked_at_by, TinyDecoder(file, inputs.dtype), nbytes)

    def seen_by(
        self, observer: Callable[[Event], None] | None, files: WeightSet, inputs: GenerationInputs
    ) -> Callable[[Event], None] | None:
        """An observer of a run that makes the previews and passes events on to ``observer``."""
        if self.looked_at_by is None:
            return observer
        return PreviewObserver(
            files, inputs.decoder_dtype, self.looked_at_by, observer, self.tiny, is_hdr=inputs.is_hdr
        )
