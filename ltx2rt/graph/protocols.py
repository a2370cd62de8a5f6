"""What the stages ask of the models that there is more than one kind of: text encoders and video decoders.

An object of these protocols is made from a configuration and knows no weights; `components` chooses its kind.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import mlx.core as mx

from ltx2rt.graph.models.layers.decode_way import DecodeWay
from ltx2rt.graph.models.layers.footprint import Footprint
from ltx2rt.graph.models.layers.params import Params
from ltx2rt.graph.models.text.token_sampling import SamplingOptions
from ltx2rt.graph.models.video_vae.diffusion_keyframes import KeyFrames
from ltx2rt.graph.models.video_vae.surroundings import DecoderNoise
from ltx2rt.graph.models.video_vae.tiling import Tiling
from ltx2rt.types import Array, LinearWeight, ParamSpec

Grid = tuple[int, int, int]


class TextModel(Protocol):
    """A text encoder with its weights."""

    def hidden_states(self, input_ids: Array) -> Iterator[mx.array]:
        """The states (1, n, D) of token ids (n,), each evaluated before it is yielded."""


class WritingTextModel(TextModel, Protocol):
    """A text encoder with its weights that continues texts, too."""

    def written(self, input_ids: Array, stop_ids: Collection[int], options: SamplingOptions) -> Iterator[int]:
        """Token ids that continue a text, until one of ``stop_ids`` (not given out) or ``max_new_tokens``."""


class TextEncoder(Protocol):
    """A text encoder: an embedding and a list of layers.

    Attributes:
        hidden_size: D, channels of a state.
        num_states: how many states it gives for a prompt.
    """

    @property
    def hidden_size(self) -> int: ...

    @property
    def num_states(self) -> int: ...

    def embedding_spec(self) -> ParamSpec:
        """The embedding."""

    def layer_specs(self) -> list[list[ParamSpec]]:
        """What each layer needs, named below ``layers.N.``."""

    def looked_up_specs(self) -> list[ParamSpec]:
        """What is looked up by token for the layers, of models that have it: rows are read, the whole never is."""

    def resident_specs(self) -> list[ParamSpec]:
        """What it needs besides its layers, the embedding and what is looked up."""

    def encoding_footprint(self, tokens: int, itemsize: int, rotation: int = 0) -> Footprint:
        """Of a prompt of ``tokens`` tokens; ``itemsize`` is the bytes of an activation, ``rotation`` the largest groups
        in which weights rotate what they are multiplied with."""

    def encoding_flops(self, tokens: int) -> float:
        """Operations of a prompt."""

    def model(
        self,
        params: Params,
        dtype: mx.Dtype,
        *,
        layers: Callable[[int], Params] | None = None,
        embedding_rows: Callable[[Array], LinearWeight] | None = None,
    ) -> TextModel:
        """The model.

        Args:
            params: the tensors that are in memory.
            dtype: of activations.
            layers: gives the tensors of a layer (without ``layers.N.``), asked in order; None: they are in ``params``.
            embedding_rows: gives rows of the embedding for token ids; None: the embedding is in ``params``.
        """


@runtime_checkable
class TextWriter(TextEncoder, Protocol):
    """A text encoder that is a language model, too, whose head is the embedding.

    Attributes:
        usual_sampling: how it writes where nothing is said.
        needs_template: it has turns of its own, which a template in its folder writes.
    """

    usual_sampling: ClassVar[SamplingOptions]
    needs_template: ClassVar[bool]

    def writing_footprint(self, tokens: int, new_tokens: int, itemsize: int, rotation: int = 0) -> Footprint:
        """Of continuing ``tokens`` tokens by ``new_tokens``, without what is kept of earlier tokens."""

    def writing_flops(self, tokens: int, new_tokens: int) -> float:
        """Operations of the same."""

    def kept_bytes(self, tokens: int, new_tokens: int, itemsize: int) -> int:
        """What is kept of earlier tokens."""

    def model(
        self,
        params: Params,
        dtype: mx.Dtype,
        *,
        layers: Callable[[int], Params] | None = None,
        embedding_rows: Callable[[Array], LinearWeight] | None = None,
        input_rows: Callable[[Array], LinearWeight] | None = None,
    ) -> WritingTextModel:
        """See `TextEncoder.model`; ``input_rows`` gives rows of what is looked up for the layers."""


class VideoDecoder(Protocol):
    """A decoder of normalised video latents."""

    def specs(self) -> list[ParamSpec]:
        """Its tensors in the component ``video_vae``."""

    def flops(self, latent: Grid, keyframes: int = 0) -> float:
        """Operations of decoding (f, h, w) cells while looking at some key frames."""

    def ways(
        self, latent: Grid, tiling: Tiling | Literal["auto"] | None, itemsize: int, keyframes: int = 0
    ) -> Iterator[DecodeWay]:
        """The ways of decoding a clip, best first, of which the memory decides.

        Args:
            latent: (f, h, w) cells.
            tiling: ``auto``: in tiles where memory asks for it. None: never in tiles.
            itemsize: bytes of an activation.
            keyframes: how many key frames the decoder looks at besides.
        """

    def frames(
        self,
        params: Params,
        dtype: mx.Dtype,
        latent: mx.array,
        settings: Mapping[str, Any],
        noise: DecoderNoise,
        keyframes: KeyFrames | None = None,
    ) -> Iterator[Array]:
        """Chunks of float32 (f, H, W, 3) in [0, 1] of a latent (1, f, h, w, C).

        Args:
            params: view of the component ``video_vae``.
            dtype: of activations.
            latent: normalised.
            settings: of a `DecodeWay`.
            noise: source of the random numbers of decoders that take some.
            keyframes: what the decoder looks at besides the clip, if it can; None: nothing.
        """

    def draws(self, latent: Grid, settings: Mapping[str, Any], keyframes: KeyFrames | None) -> list[tuple[int, ...]]:
        """The shapes of what `frames` draws, in order: whoever goes on with the same noise passes over them.

        Args:
            latent: (f, h, w) cells.
            settings: of a `DecodeWay`.
            keyframes: as of `frames`.
        """
