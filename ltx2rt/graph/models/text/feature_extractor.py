"""Turns the text encoder's hidden states into the features that the connectors read."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import mlx.core as mx

from ltx2rt.errors import CheckpointError
from ltx2rt.graph.models.layers.params import Params
from ltx2rt.graph.models.text.connector import ConnectorConfig
from ltx2rt.kernels import quantized_linear
from ltx2rt.types import LinearWeight, ParamSpec

# Gemma 3 12B and Gemma 4 12B, the encoders of every published checkpoint.
ENCODER_WIDTH = 3840
ENCODER_STATES = 49

# The four settings that decide how states are normalised, and their only value set with a second meaning.
_PER_TOKEN_RMS = {
    "caption_proj_before_connector": True,
    "caption_projection_first_linear": False,
    "caption_proj_input_norm": False,
    "caption_projection_second_linear": False,
}
_EPS = 1e-6
# States projected in one product. The aggregate weight keeps the states' columns side by side, so a slab of several
# states reads its cache lines once instead of once per state; 7 divides the 49 states of the published encoders.
STATES_PER_SLAB = 7


@dataclass(frozen=True)
class FeatureExtractorConfig:
    """What is projected to what, and how it is normalised first.

    Attributes:
        per_token: False (V1): each state is centred and divided by its range over all tokens and channels.
            True (V2): each token of each state is divided by its root mean square.
        encoder_width: D, channels of a hidden state.
        encoder_states: L, number of hidden states.
        video_width: channels of the video features.
        audio_width: channels of the audio features; with V1 both connectors read the same features.
    """

    per_token: bool
    encoder_width: int
    encoder_states: int
    video_width: int
    audio_width: int

    @classmethod
    def from_dict(
        cls,
        transformer: Mapping[str, Any],
        *,
        encoder_width: int = ENCODER_WIDTH,
        encoder_states: int = ENCODER_STATES,
    ) -> FeatureExtractorConfig:
        """The extractor that belongs to the ``transformer`` section of the official config.

        Raises:
            CheckpointError: if the settings that select the normalisation are neither all absent nor the known set,
                or if V1 has connectors of different widths.

        Source: the text-encoder configurator of Lightricks/LTX-2 ltx_core/text_encoders/gemma @ v1.2.0.
        """
        present = {key: transformer[key] for key in _PER_TOKEN_RMS if key in transformer}
        if present and present != _PER_TOKEN_RMS:
            raise CheckpointError(
                f"Unknown text projection: the transformer config has {present}, but only {_PER_TOKEN_RMS} "
                "or none of these keys is known; the checkpoint needs a newer ltx2rt."
            )
        video = ConnectorConfig.from_dict(transformer, "video").width
        audio = ConnectorConfig.from_dict(transformer, "audio").width
        if not present and video != audio:
            raise CheckpointError(
                f"The video and audio connectors share one text projection but are {video} and {audio} wide; "
                "the config of this checkpoint is inconsistent."
            )
        return cls(bool(present), encoder_width, encoder_states, video, audio)

    @property
    def projections(self) -> tuple[tuple[str, int], ...]:
        """(official module name, output width) of each aggregate projection."""
        if self.per_token:
            return (("video_aggregate_embed", self.video_width), ("audio_aggregate_embed", self.audio_width))
        return (("aggregate_embed", self.video_width),)


def param_specs(config: FeatureExtractorConfig) -> list[ParamSpec]:
    """The aggregate projections, kept as stored: column d*L + l belongs to channel d of state l."""
    columns = config.encoder_width * config.encoder_states
    specs = []
    for name, width in config.projections:
        specs.append(ParamSpec(f"{name}.weight", (width, columns)))
        if config.per_token:
            specs.append(ParamSpec(f"{name}.bias", (width,)))
    return specs


class TextFeatures(NamedTuple):
    """What the connectors read: video (1, n, Wv) and audio (1, n, Wa); with V1 the two are one array."""

    video: mx.array
    audio: mx.array


class FeatureExtractor:
    """Normalises the hidden states and projects them.

    Statistics and sums are float32. The result does not depend on ``rows_per_slab``.

    Args:
        config: sizes and normalisation.
        params: arrays named as in `param_specs`; with ``weight_rows`` only the biases.
        dtype: of the features.
        weight_rows: gives rows [first, last) of a weight of `param_specs`, in place of ``params``.
        rows_per_slab: rows of the weight that are asked for at a time; None: all.
    """

    def __init__(
        self,
        config: FeatureExtractorConfig,
        params: Params,
        dtype: mx.Dtype = mx.bfloat16,
        *,
        weight_rows: Callable[[str, int, int], mx.array] | None = None,
        rows_per_slab: int | None = None,
    ) -> None:
        self.config = config
        self._params = params
        self._dtype = dtype
        self._weight_rows = (
            weight_rows if weight_rows is not None else lambda name, first, last: params[name][first:last]
        )
        self._rows_per_slab = rows_per_slab

    def __call__(self, states: Iterable[mx.array]) -> TextFeatures:
        """Features of one prompt; see `normalised` and `project`."""
        return self.project(self.normalised([states]))[0]

    def normalised(self, prompts: Sequence[Iterable[mx.array]]) -> list[list[mx.array]]:
        """What is projected of each prompt: its normalised states, a few side by side.

        Args:
            prompts: per prompt L arrays (1, n, D), real tokens only. The first states of all prompts are consumed
                first, then the second ones: a layer that several texts run through is needed once.

        Returns:
            Slabs (1, n, D*k) float32, evaluated; feature d*k + l is channel d of the slab's state l.

        Raises:
            ValueError: if the number of states or their width differs from the config.
        """
        collectors = [_Slabs(self.config) for _ in prompts]
        for states in zip(*prompts, strict=True):
            for collector, state in zip(collectors, states, strict=True):
                collector.add(state)
        return [collector.finished() for collector in collectors]

    def project(self, prompts: Sequence[Sequence[mx.array]]) -> list[TextFeatures]:
        """Features of several prompts from what `normalised` gave; each row of the weights is asked for once.

        Returns:
            Features in the dtype of the extractor, evaluated.

        Source: the feature extractors of Lightricks/LTX-2 ltx_core/text_encoders/gemma @ v1.2.0.
        """
        by_projection = [self._project(name, width, prompts) for name, width in self.config.projections]
        return [TextFeatures(features[0], features[-1]) for features in zip(*by_projection, strict=True)]

    def _project(self, name: str, width: int, prompts: Sequence[Sequence[mx.array]]) -> list[mx.array]:
        """One aggregate projection of every prompt."""
        sums: list[list[mx.array]] = [[] for _ in prompts]
        step = self._rows_per_slab or width
        for first in range(0, width, step):
            weight = self._weight_rows(f"{name}.weight", first, min(first + step, width))
            for slabs, parts in zip(prompts, sums, strict=True):
                parts.append(self._accumulated(slabs, weight))
            del weight  # before the next rows come
        return [self._finish(name, mx.concatenate(parts, axis=-1)) for parts in sums]

    def _accumulated(self, slabs: Sequence[mx.array], weight: mx.array) -> mx.array:
        """The products of the slabs with their columns of ``weight``, summed, float32."""
        config = self.config
        rows = weight.shape[0]
        by_state = weight.reshape(rows, config.encoder_width, config.encoder_states)
        total: mx.array | None = None
        for index, slab in enumerate(slabs):
            states = slice(index * STATES_PER_SLAB, min((index + 1) * STATES_PER_SLAB, config.encoder_states))
            columns = by_state[..., states].reshape(rows, slab.shape[-1])
            total = quantized_linear(slab, LinearWeight("dense", columns), residual=total)
            mx.eval(total)
        assert total is not None
        return total

    def _finish(self, name: str, total: mx.array) -> mx.array:
        if self.config.per_token:
            # The factor belongs to the states; the product is linear in them, so it is applied to the sum once.
            factor = math.sqrt(total.shape[-1] / self.config.encoder_width)
            total = total * factor + self._params[f"{name}.bias"].astype(mx.float32)
        features = total.astype(self._dtype)
        mx.eval(features)
        return features


class _Slabs:
    """Collects the normalised states of one prompt."""

    def __init__(self, config: FeatureExtractorConfig) -> None:
        self._config = config
        self._slabs: list[mx.array] = []
        self._waiting: list[mx.array] = []
        self._taken = 0

    def add(self, state: mx.array) -> None:
        config = self._config
        if self._taken == config.encoder_states:
            raise ValueError(f"The text projection is made for {self._taken} hidden states, got more.")
        if state.ndim != 3 or state.shape[-1] != config.encoder_width:
            raise ValueError(f"states must be (1, n, {config.encoder_width}), got {state.shape}.")
        self._waiting.append(normalise(state, per_token=config.per_token))
        mx.eval(self._waiting[-1])
        self._taken += 1
        # A full slab, or what is left after the last state.
        if len(self._waiting) == STATES_PER_SLAB or self._taken == config.encoder_states:
            width = config.encoder_width * len(self._waiting)
            self._slabs.append(mx.stack(self._waiting, axis=-1).reshape(*state.shape[:2], width))
            mx.eval(self._slabs[-1])
            self._waiting = []

    def finished(self) -> list[mx.array]:
        wanted = self._config.encoder_states
        if self._taken != wanted:
            raise ValueError(f"The text projection is made for {wanted} hidden states, got {self._taken}.")
        return self._slabs


def normalise(state: mx.array, *, per_token: bool) -> mx.array:
    """One hidden state (1, n, D), normalised, float32; see `FeatureExtractorConfig.per_token`."""
    x = state.astype(mx.float32)
    if per_token:
        return x * mx.rsqrt(mx.mean(mx.square(x), axis=-1, keepdims=True) + _EPS)
    mean = mx.sum(x) / (x.size + _EPS)
    return 8.0 * (x - mean) / (mx.max(x) - mx.min(x) + _EPS)
