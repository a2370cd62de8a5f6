"""The joint audio/video diffusion transformer: latents and prompt in, velocity out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import mlx.core as mx
import numpy as np

from ltx2rt.errors import UsageError
from ltx2rt.graph.models.layers.adaln import Distinct, adaln, distinct
from ltx2rt.graph.models.layers.params import Params, linear
from ltx2rt.graph.models.layers.recent import Recent, content_key
from ltx2rt.graph.models.layers.rope import middle, rope_table
from ltx2rt.graph.models.transformer.block import (
    KeptSamples,
    KeyValues,
    Modulation,
    Stream,
    Streams,
    TextContext,
    run_block,
)
from ltx2rt.graph.models.transformer.config import (
    StreamConfig,
    TransformerConfig,
    block_param_specs,
    param_specs,
)
from ltx2rt.graph.models.transformer.modality import (
    AttentionRows,
    Modality,
    ModelPass,
    Perturbation,
    check_modality,
    check_perturbations,
    kept_samples,
)
from ltx2rt.graph.models.transformer.shared_passes import Shared, in_batches, shared_passes
from ltx2rt.graph.models.transformer.state_batches import regrouped, shared_text_keys, state_of
from ltx2rt.graph.models.transformer.token_parts import with_part
from ltx2rt.graph.models.transformer.token_share import TokenExchange, TokenShare
from ltx2rt.kernels import RopeTable, modulated_norm
from ltx2rt.types import Array

__all__ = [
    "Modality",
    "ModelPass",
    "Perturbation",
    "Transformer",
    "TransformerConfig",
    "block_param_specs",
    "param_specs",
]

Velocities = tuple["mx.array | None", "mx.array | None"]

_KEPT_ROPE_TABLES = 16  # small
_KEPT_MASKS = 1  # T * T values
# Strengths of self-attention that are turned into a bias at a time.
BIAS_VALUES = 4 << 20
_KEPT_CONTEXTS = 4  # prompt and negative prompt of two streams; with their keys and values 1.2 GB per prompt in 19B


class Transformer:
    """Runs the blocks over one or both streams.

    Args:
        config: the model.
        params: its tensors under official names (`param_specs`).
        dtype: of the activations: bfloat16, float16 or float32.
        blocks: where the tensors of each block come from. Called once per block and call, in order, after the block
            before it has been evaluated; the view it returns is used until the next call. Default: ``params``. Passes
            of one call of `guided` have their blocks in common.
        token_limit: most tokens of a stream that a block works on together, see `token_parts`; None: all.
        keep_text_keys: keep keys and values of the prompt between calls where they do not depend on sigma (19B): 2 * S
            values of the width of each stream per block and prompt.
        exchange: with the machines that share the tokens of the video; None: this one has all.

    Derived values are kept between calls only for inputs that do not change during a run: rotary tables and mask
    biases by content, projected contexts by identity of the ``context`` array (pass the same array again).

    Attributes:
        block_evaluations: how often a block has been computed so far, for one pass or for several that share it.
        exchange: as given; may be set to None between calls, from when on this machine has all tokens.
    """

    def __init__(
        self,
        config: TransformerConfig,
        params: Params,
        dtype: mx.Dtype = mx.bfloat16,
        *,
        blocks: Callable[[int], Params] | None = None,
        token_limit: int | None = None,
        keep_text_keys: bool = True,
        exchange: TokenExchange | None = None,
    ) -> None:
        self.config = config
        self.exchange = exchange
        self.dtype = dtype
        self._params = params
        self._blocks = blocks if blocks is not None else lambda index: params.at(f"transformer_blocks.{index}")
        self._token_limit = token_limit
        self._keep_text_keys = keep_text_keys and not config.text_modulation
        self._rope_tables: Recent[RopeTable] = Recent(_KEPT_ROPE_TABLES)
        self._masks: Recent[mx.array] = Recent(_KEPT_MASKS)
        self._contexts: Recent[tuple[mx.array, mx.array, KeyValues | None]] = Recent(_KEPT_CONTEXTS)
        self.block_evaluations = 0

    def __call__(
        self,
        video: Modality | None,
        audio: Modality | None,
        perturbations: Sequence[Sequence[Perturbation]] | None = None,
    ) -> tuple[mx.array | None, mx.array | None]:
        """Velocity of each stream.

        Args:
            video, audio: the streams; None: absent (at least one is needed).
            perturbations: per sample what to leave out; None: nothing.

        Returns:
            Video (B, T, C) and audio (B, T, C) velocity in the dtype of the model; None for an absent stream. The
            denoised estimate is ``latent - timesteps * velocity``.

        Raises:
            UsageError: for fields that do not fit together or do not fit the model.

        Source: Lightricks/LTX-2 ltx_core/model/transformer/model.py @ v1.2.0.
        """
        *_, (video_stream, audio_stream) = self.states(video, audio, perturbations)
        return self._velocity(video_stream), self._velocity(audio_stream)

    def states(
        self,
        video: Modality | None,
        audio: Modality | None,
        perturbations: Sequence[Sequence[Perturbation]] | None = None,
    ) -> Iterator[Streams]:
        """The streams as prepared for the first block, then again after each block (the same objects, with new ``x``).

        Each block is evaluated before the next one is asked for, so at most one block's tensors and activations are
        alive at a time.
        """
        streams, batch = self._begun(video, audio)
        check_perturbations(perturbations, batch)
        yield streams
        for index in range(self.config.num_layers):
            self._run(index, self._blocks(index), streams, _kept(perturbations, index, batch), samples=1)
            yield streams

    def guided(
        self, video: Modality | None, audio: Modality | None, passes: Sequence[ModelPass], max_batch_size: int = 1
    ) -> list[Velocities]:
        """Velocities of several passes over the same latents, with the bits of a call per pass.

        Each block is asked for once. As long as passes are the same (`shared_passes`) they are computed once, and the
        keys and values of a prompt serve all passes that read it.

        Args:
            video, audio: the streams as for a call; their ``context`` does not count.
            passes: what sets them apart.
            max_batch_size: most hidden states that go through a block together, on the batch axis. Memory for
                activations grows with it; the hidden states of the other passes wait in any case.

        Returns:
            What a call gives, for each pass.

        Raises:
            UsageError: for fields that do not fit together or do not fit the model.
        """
        prompts: dict[tuple[int, int], ModelPass] = {}
        numbers = []
        for own in passes:
            key = id(own.video_context), id(own.audio_context)
            prompts.setdefault(key, own)
            numbers.append(list(prompts).index(key))
        for prompt in reversed(prompts.values()):
            video, audio = _reading(video, prompt.video_context), _reading(audio, prompt.audio_context)
            self._check(video, audio)
        streams, batch = self._begun(video, audio, list(prompts.values()))
        lengths = [_text_lengths(own) for own in passes]
        perturbations = [own.perturbations for own in passes]
        plan = shared_passes(numbers, perturbations, self.config.num_layers)
        held: list[tuple[Shared, Streams]] = [((tuple(range(len(passes))),), streams)]
        for index, shared in enumerate(plan):
            batches = in_batches(shared, max_batch_size, lengths)
            if batches != tuple(own for own, _ in held):
                held = regrouped(held, batches, streams, numbers)
                _forget_states(streams)
            block = self._blocks(index)
            with shared_text_keys(streams, [numbers[of_state[0]] for of_state in shared]):
                for states, together in held:
                    left_out = [perturbations[of_state[0]] for of_state in states for _ in range(batch)]
                    kept = _kept(left_out, index, len(left_out))
                    self._run(index, block, together, kept, samples=len(states))
        found: dict[int, Velocities] = {}
        for states, (own_video, own_audio) in held:
            both = self._velocity(own_video), self._velocity(own_audio)
            for place, of_state in enumerate(states):
                pair = state_of(both[0], place, len(states)), state_of(both[1], place, len(states))
                found |= dict.fromkeys(of_state, pair)
        return [found[number] for number in range(len(passes))]

    def _check(self, video: Modality | None, audio: Modality | None) -> int:
        """The number of samples of streams that fit together and fit the model."""
        present = [m for m in (video, audio) if m is not None]
        if not present:
            raise UsageError("video and audio are both None; give at least one stream.")
        for name, modality, stream_config in (("video", video, self.config.video), ("audio", audio, self.config.audio)):
            if modality is not None:
                check_modality(
                    name,
                    modality,
                    channels=stream_config.in_channels,
                    axes=len(stream_config.max_positions),
                    context_width=self.config.caption_channels or stream_config.context_dim,
                )
        batch: int = present[0].latent.shape[0]
        if present[-1].latent.shape[0] != batch:
            raise UsageError(f"video has {batch} samples and audio {present[-1].latent.shape[0]}; they must be equal.")
        return batch

    def _begun(
        self, video: Modality | None, audio: Modality | None, prompts: Sequence[ModelPass] | None = None
    ) -> tuple[Streams, int]:
        """The streams before the first block, with the contexts of all prompts, and the number of samples.

        Args:
            prompts: whose contexts; None: the one of the streams.
        """
        batch = self._check(video, audio)
        own = [ModelPass(_context_of(video), _context_of(audio))] if prompts is None else prompts
        video_contexts = [prompt.video_context for prompt in own if prompt.video_context is not None]
        audio_contexts = [prompt.audio_context for prompt in own if prompt.audio_context is not None]
        streams = (
            None if video is None else self._prepare("video", self.config.video, video, audio, video_contexts),
            None if audio is None else self._prepare("audio", self.config.audio, audio, video, audio_contexts),
        )
        _evaluate(streams)
        return streams, batch

    def _run(self, index: int, block: Params, streams: Streams, kept: KeptSamples, samples: int) -> None:
        """One block on the streams, evaluated; ``samples``: how many evaluations that counts as."""
        run_block(self.config, block, index, *streams, kept, self._token_limit)
        _evaluate(streams)
        self.block_evaluations += samples

    def _prepare(
        self, name: str, config: StreamConfig, own: Modality, other: Modality | None, contexts: Sequence[mx.array]
    ) -> Stream:
        prefix = "audio_" if name == "audio" else ""
        tokens = own.latent.shape[1]
        # Every machine has all of the audio: its tokens are few.
        share = TokenShare.of(tokens, self.exchange) if name == "video" and self.exchange is not None else None
        mine = own if share is None else share.part(own)
        scale = np.float32(self.config.timestep_scale)
        timesteps = distinct(own.timesteps.astype(np.float32) * scale)
        rows, embedded = adaln(self._params.at(f"{prefix}adaln_single"), timesteps.values)
        index = mx.array(timesteps.index)
        index = index if share is None else share.index(index)

        texts = [self._context(prefix, context) for context in contexts]
        bias = context_bias(own.context_mask, self.dtype)
        if self.config.prompt_adaln:
            sigma = distinct(own.sigma.astype(np.float32) * scale)
            prompt_rows, _ = adaln(self._params.at(f"{prefix}prompt_adaln_single"), sigma.values)
            for text in texts:
                text.prompt = _repeated_over_tokens(prompt_rows, sigma, text.tokens.shape[1])
        for text in texts:
            text.bias = bias
        cross_rope = cross_modulation = cross_gate = None
        if other is not None:
            cross_rows, _ = adaln(self._params.at(f"av_ca_{name}_scale_shift_adaln_single"), timesteps.values)
            cross_modulation = Modulation(cross_rows, index)
            factor = np.float32(self.config.cross_gate_timestep_scale / self.config.timestep_scale)
            sigma = distinct(other.sigma.astype(np.float32) * scale * factor)
            gate = "av_ca_a2v_gate_adaln_single" if name == "video" else "av_ca_v2a_gate_adaln_single"
            gate_rows, _ = adaln(self._params.at(gate), sigma.values)
            cross_gate = _repeated_over_tokens(gate_rows, sigma, mine.latent.shape[1])
            cross_rope = self._rope(
                middle(own.positions)[:, :1], self.config.audio.context_dim, (self.config.cross_max_time,)
            )
        rope = self._rope(middle(own.positions), config.width, config.max_positions)
        whole_ropes = rope, cross_rope
        if share is not None:
            rope, cross_rope = share.rope(rope), None if cross_rope is None else share.rope(cross_rope)
        return Stream(
            name=name,
            x=self._embed(prefix, mine),
            enabled=own.enabled,
            contexts=tuple(texts),
            self_bias=self._self_bias(mine.attention_mask),
            rope=rope,
            modulation=Modulation(rows, index),
            embedded=embedded,
            cross_rope=cross_rope,
            cross_modulation=cross_modulation,
            cross_gate=cross_gate,
            share=share,
            all_rope=None if share is None else whole_ropes[0],
            all_cross_rope=None if share is None else whole_ropes[1],
        )

    def _embed(self, prefix: str, modality: Modality) -> mx.array:
        x = linear(modality.latent.astype(self.dtype), self._params.at(f"{prefix}patchify_proj"))
        if prefix == "" and self.config.keyframe_embedding and modality.keyframes_mask is not None:
            marked = mx.array(modality.keyframes_mask > 0)[..., None]
            x = x + mx.where(marked, self._params["keyframes_abs_pos_embedding"].astype(self.dtype), 0)
        return x

    def _context(self, prefix: str, context: mx.array) -> TextContext:
        def build() -> tuple[mx.array, mx.array, KeyValues | None]:
            tokens = context.astype(self.dtype)
            if self.config.caption_channels is not None:
                projection = self._params.at(f"{prefix}caption_projection")
                tokens = linear(tokens, projection.at("linear_1"), activation="gelu_tanh")
                tokens = linear(tokens, projection.at("linear_2"))
            return context, tokens, {} if self._keep_text_keys else None

        # What is kept holds the array itself, so its id cannot be given to another one meanwhile.
        _, tokens, key_values = self._contexts.get((prefix, id(context)), build)
        return TextContext(tokens, key_values=key_values)

    def _rope(self, coordinates: Array, dim: int, max_positions: tuple[float, ...]) -> RopeTable:
        def build() -> RopeTable:
            return rope_table(
                coordinates,
                dim=dim,
                max_positions=max_positions,
                theta=self.config.rope_theta,
                float64=self.config.rope_float64,
            )

        return self._rope_tables.get((content_key(coordinates), dim, max_positions), build)

    def _self_bias(self, mask: Array | AttentionRows | None) -> mx.array | None:
        if mask is None:
            return None
        if isinstance(mask, np.ndarray):
            strength = mask
            return self._masks.get(content_key(mask), lambda: self_attention_bias(strength, self.dtype))
        rows = mask
        return self._masks.get(mask.key, lambda: bias_of_rows(rows, self.dtype))

    def _velocity(self, stream: Stream | None) -> mx.array | None:
        """Output head: LayerNorm (mean-subtracting, unlike the norms of the blocks), modulation, projection."""
        if stream is None:
            return None
        table = self._params[f"{stream.prefix}scale_shift_table"].astype(mx.float32)
        h = modulated_norm(
            stream.x,
            shift=table[0][None] + stream.embedded,
            scale=table[1][None] + stream.embedded,
            index=stream.modulation.index,
            norm="layer",
            eps=self.config.norm_eps,
        )
        velocity = linear(h, self._params.at(f"{stream.prefix}proj_out"))
        return velocity if stream.share is None else stream.share.whole(stream.share.start(velocity, "estimates"))


def _evaluate(streams: Streams) -> None:
    mx.eval([stream.x for stream in streams if stream is not None])


def _forget_states(streams: Streams) -> None:
    for stream in streams:
        if stream is not None:
            stream.x = mx.zeros(0)


def _kept(perturbations: Sequence[Sequence[Perturbation]] | None, block: int, batch: int) -> KeptSamples:
    return KeptSamples(
        video_self=kept_samples(perturbations, "skip_video_self_attn", block, batch),
        audio_self=kept_samples(perturbations, "skip_audio_self_attn", block, batch),
        a2v=kept_samples(perturbations, "skip_a2v_cross_attn", block, batch),
        v2a=kept_samples(perturbations, "skip_v2a_cross_attn", block, batch),
    )


def _repeated_over_tokens(rows: mx.array, per_sample: Distinct, tokens: int) -> Modulation:
    """AdaLN of one timestep per sample; the index repeats it for every token."""
    return Modulation(rows, mx.array(np.repeat(per_sample.index[:, None], tokens, axis=1)))


def _context_of(modality: Modality | None) -> mx.array | None:
    return None if modality is None else modality.context


def _reading(modality: Modality | None, context: mx.array | None) -> Modality | None:
    """The stream with the context of a pass.

    Raises:
        UsageError: the pass has none for it.
    """
    if modality is None:
        return None
    if context is None:
        raise UsageError("a pass has no context for a stream that is present; give one for each.")
    return replace(modality, context=context)


def _text_lengths(own: ModelPass) -> tuple[int, ...]:
    return tuple(0 if context is None else context.shape[1] for context in (own.video_context, own.audio_context))


def context_bias(mask: Array | None, dtype: mx.Dtype) -> mx.array | None:
    """Score bias (B, 1, 1, S) of a text mask (B, S).

    An integer mask gives 0 where it is 1 and the lowest finite value of ``dtype`` where it is 0; a float mask is the
    bias itself.
    """
    if mask is None:
        return None
    bias = mask if np.issubdtype(mask.dtype, np.floating) else (mask.astype(np.float64) - 1.0) * mx.finfo(dtype).max
    return mx.array(bias.astype(np.float32)).astype(dtype)[:, None, None, :]


def self_attention_bias(mask: Array, dtype: mx.Dtype) -> mx.array:
    """Score bias (B, 1, Tq, Tk) of a self-attention mask (B, Tq, Tk): its logarithm; the lowest finite value for 0."""
    info = mx.finfo(dtype)
    mask = mask.astype(np.float32)
    bias = np.where(mask > 0, np.log(np.maximum(mask, np.float32(info.smallest_normal))), np.float32(info.min))
    return mx.array(bias.astype(np.float32)).astype(dtype)[:, None]


def bias_of_rows(links: AttentionRows, dtype: mx.Dtype) -> mx.array:
    """`self_attention_bias` of all rows, made of a few at a time."""
    batch, tokens, columns = links.shape
    whole = mx.zeros((batch, tokens, columns), dtype)
    count = max(1, BIAS_VALUES // (batch * columns))
    for start in range(0, tokens, count):
        part = slice(start, min(start + count, tokens))
        whole = with_part(whole, self_attention_bias(links.rows(part), dtype)[:, 0], part)
        mx.eval(whole)
    return whole[:, None]
