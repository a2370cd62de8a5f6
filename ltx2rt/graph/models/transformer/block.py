"""One block of the joint audio/video transformer, written once for both streams and all generations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import mlx.core as mx

from ltx2rt.graph.models.layers.params import Params, linear
from ltx2rt.graph.models.transformer.config import TransformerConfig
from ltx2rt.graph.models.transformer.token_parts import bias_part, joined, rope_part, token_parts, with_part
from ltx2rt.graph.models.transformer.token_share import TokenShare
from ltx2rt.kernels import RopeTable, modulated_norm, rope_attention
from ltx2rt.types import Array

# Rows of scale_shift_table. Rows 6 to 8 exist with text modulation only.
_SHIFT_SELF, _SCALE_SELF, _GATE_SELF, _SHIFT_FF, _SCALE_FF, _GATE_FF, _SHIFT_TEXT, _SCALE_TEXT, _GATE_TEXT = range(9)
# Rows of scale_shift_table_a2v_ca_*: here the scale stands before the shift.
_A2V_ROWS, _V2A_ROWS, _CROSS_GATE_ROW = (0, 1), (2, 3), 4


@dataclass(frozen=True)
class Modulation:
    """AdaLN output for the distinct timesteps of a stream.

    Attributes:
        rows: (k, R, D) float32.
        index: int32, the row of each token.
    """

    rows: mx.array
    index: mx.array


KeyValues = dict[int, tuple[mx.array, mx.array]]
"""k and v of the text attention of some blocks, by the block's index."""


@dataclass
class TextContext:
    """What a stream reads of one prompt.

    Attributes:
        tokens: (B, S, D).
        bias: (B, 1, 1, S) or None.
        prompt: 2 rows from sigma for the tokens (index (B, S)); None without prompt AdaLN.
        key_values: those that are kept for a later use: by other passes of the same block, or in every step where they
            are the same in all; None: each use computes them.
    """

    tokens: mx.array
    bias: mx.array | None = None
    prompt: Modulation | None = None
    key_values: KeyValues | None = field(default=None)


@dataclass
class Stream:
    """One stream on its way through the blocks: the hidden state and what every block needs beside it.

    Attributes:
        name: ``video`` or ``audio``.
        x: (B, T, D) hidden state; the only field that the blocks replace.
        enabled: whether the blocks update x.
        contexts: the prompts, each of an equal share of the batch, in order.
        self_bias: broadcastable to (B, 1, T, T), or None.
        rope: of the self-attention.
        modulation: N rows from the timesteps of the tokens.
        embedded: (R, D) timestep embedding for the output head, with the rows of ``modulation``.
        cross_rope: time-only table of the exchange between the streams; None without the other stream, as the next two.
        cross_modulation: 4 rows from the timesteps of the tokens.
        cross_gate: 1 row from the sigma of the other stream.
        share: the tokens of ``x`` are a machine's share of them; None: they are all, T.
        all_rope, all_cross_rope: of all tokens, for their keys, where ``x`` is a share.
    """

    name: str
    x: mx.array
    enabled: bool
    contexts: tuple[TextContext, ...]
    self_bias: mx.array | None
    rope: RopeTable
    modulation: Modulation
    embedded: mx.array
    cross_rope: RopeTable | None
    cross_modulation: Modulation | None
    cross_gate: Modulation | None
    share: TokenShare | None = None
    all_rope: RopeTable | None = None
    all_cross_rope: RopeTable | None = None

    @property
    def prefix(self) -> str:
        """What the stream's parameter names begin with."""
        return "audio_" if self.name == "audio" else ""

    @property
    def key_rope(self) -> RopeTable:
        """Of the keys of the self-attention."""
        return self.rope if self.all_rope is None else self.all_rope

    @property
    def cross_key_rope(self) -> RopeTable | None:
        """Of the keys that the other stream reads."""
        return self.cross_rope if self.all_cross_rope is None else self.all_cross_rope

    def start(self, x: mx.array) -> Any:
        """Begin to have keys or values (B, T, D) of all tokens, made of those of the tokens that are here."""
        return x if self.share is None else self.share.start(x)

    def whole(self, started: Any) -> mx.array:
        """What `start` began."""
        found: mx.array = started if self.share is None else self.share.whole(started)
        return found


Streams = tuple[Stream | None, Stream | None]
"""Video and audio."""


class KeptSamples(NamedTuple):
    """(B,) bool per operation: the samples of the batch for which a block carries it out."""

    video_self: Array
    audio_self: Array
    a2v: Array
    v2a: Array


def modulation_table(params: Params, name: str, rows: mx.array) -> mx.array:
    """(k, R, D) float32: the block's own table (k, D) plus the rows from the timesteps."""
    return params[name].astype(mx.float32)[:, None] + rows


def gate_logits(config: TransformerConfig, params: Params, query: mx.array) -> mx.array | None:
    return linear(query, params.at("to_gate_logits")) if config.gated_attention else None


def gate_heads(x: mx.array, logits: mx.array | None, num_heads: int) -> mx.array:
    """x (B, T, N*K) times 2 * sigmoid(logits) per head: what `rope_attention` does to its output."""
    if logits is None:
        return x
    batch, tokens, _ = x.shape
    gates = 2.0 * mx.sigmoid(logits.astype(mx.float32))[..., None]
    return (x.reshape(batch, tokens, num_heads, -1).astype(mx.float32) * gates).reshape(x.shape).astype(x.dtype)


def update(stream: Stream, parts: Sequence[slice], compute: Callable[[slice], mx.array]) -> None:
    """Replace ``stream.x`` part by part; several parts are evaluated one after the other, in the same memory."""
    if len(parts) == 1:
        stream.x = compute(parts[0])
        return
    for where in parts:
        part = compute(where)
        mx.eval(part)
        stream.x = with_part(stream.x, part, where)
        del part
        mx.eval(stream.x)


def begun_self_attention(
    config: TransformerConfig,
    block: Params,
    stream: Stream,
    modulation: mx.array,
    kept: Array,
    parts: Sequence[slice],
) -> Callable[[], None]:
    """Self-attention up to where it has to have keys and values of all tokens; what is returned does the rest.

    In the samples that are not kept the values take the place of the output.
    """
    params = block.at(f"{stream.prefix}attn1")
    num_heads = config.video.num_heads
    index = stream.modulation.index

    def normed(where: slice) -> mx.array:
        return modulated_norm(
            stream.x[:, where],
            scale=modulation[_SCALE_SELF],
            shift=modulation[_SHIFT_SELF],
            index=index[:, where],
            eps=config.norm_eps,
        )

    attends = bool(kept.any())
    # Several parts norm their tokens again for each projection; one part does it once.
    whole = normed(parts[0]) if len(parts) == 1 else None

    def projected(name: str) -> mx.array:
        return joined(parts, lambda where: linear(normed(where) if whole is None else whole, params.at(name)))

    values = projected("to_v")
    queries: mx.array | None = None
    coming = (stream.start(values), stream.start(projected("to_k"))) if attends else None
    if attends and stream.share is not None and whole is not None:
        queries = linear(whole, params.at("to_q"))
        mx.async_eval(queries)  # type: ignore[no-untyped-call]  # no types in MLX's stub; keys and values are on their way

    def attended(where: slice, gathered: tuple[mx.array, mx.array] | None) -> mx.array:
        h = normed(where) if whole is None else whole
        logits = gate_logits(config, params, h)
        out = gate_heads(values[:, where], logits, num_heads) if not kept.all() else None
        if gathered is not None:
            all_values, all_keys = gathered
            result = rope_attention(
                linear(h, params.at("to_q")) if queries is None else queries,
                all_keys,
                all_values,
                num_heads=num_heads,
                q_norm=params["q_norm.weight"],
                k_norm=params["k_norm.weight"],
                norm_eps=config.norm_eps,
                rope_q=rope_part(stream.rope, where),
                rope_k=stream.key_rope,
                rope_layout=config.rope_layout,
                bias=bias_part(stream.self_bias, where),
                gate_logits=logits,
            )
            out = result if out is None else mx.where(mx.array(kept)[:, None, None], result, out)
        assert out is not None
        return linear(
            out,
            params.at("to_out.0"),
            residual=stream.x[:, where],
            gate=modulation[_GATE_SELF],
            gate_index=index[:, where],
        )

    def finish() -> None:
        gathered = None if coming is None else (stream.whole(coming[0]), stream.whole(coming[1]))
        update(stream, parts, lambda where: attended(where, gathered))

    return finish


def text_key_values(
    config: TransformerConfig, block: Params, block_index: int, prefix: str, context: TextContext
) -> tuple[mx.array, mx.array]:
    """k and v of the text attention; a model with text modulation modulates the context, none normalises it."""
    kept = context.key_values
    if kept is not None and block_index in kept:
        return kept[block_index]
    params = block.at(f"{prefix}attn2")
    tokens = context.tokens
    if config.text_modulation:
        name = f"{prefix}prompt_scale_shift_table"
        if context.prompt is not None:
            shift, scale = modulation_table(block, name, context.prompt.rows)
            tokens = modulated_norm(tokens, scale=scale, shift=shift, index=context.prompt.index, norm="none")
        else:
            shift, scale = block[name][:, None]
            tokens = modulated_norm(tokens, scale=scale, shift=shift, norm="none")
    key_values = linear(tokens, params.at("to_k")), linear(tokens, params.at("to_v"))
    if kept is not None:
        kept[block_index] = key_values
    return key_values


def text_attention(
    config: TransformerConfig,
    block: Params,
    block_index: int,
    stream: Stream,
    modulation: mx.array,
    parts: Sequence[slice],
) -> None:
    """Attention to the prompt, of each sample to its own."""
    params = block.at(f"{stream.prefix}attn2")
    key_values = [text_key_values(config, block, block_index, stream.prefix, context) for context in stream.contexts]
    share = stream.x.shape[0] // len(stream.contexts)

    def attended(where: slice) -> mx.array:
        index = stream.modulation.index[:, where]
        x = stream.x[:, where]
        scale = shift = gate = gate_index = None
        if config.text_modulation:
            scale, shift = modulation[_SCALE_TEXT], modulation[_SHIFT_TEXT]
            gate, gate_index = modulation[_GATE_TEXT], index
        h = modulated_norm(x, scale=scale, shift=shift, index=gate_index, eps=config.norm_eps)
        query, logits = linear(h, params.at("to_q")), gate_logits(config, params, h)

        def to_prompt(number: int) -> mx.array:
            samples = slice(number * share, (number + 1) * share)
            keys, values = key_values[number]
            return rope_attention(
                query if len(key_values) == 1 else query[samples],
                keys,
                values,
                num_heads=config.video.num_heads,
                q_norm=params["q_norm.weight"],
                k_norm=params["k_norm.weight"],
                norm_eps=config.norm_eps,
                bias=bias_part(stream.contexts[number].bias, where),
                gate_logits=logits if logits is None or len(key_values) == 1 else logits[samples],
            )

        outs = [to_prompt(number) for number in range(len(key_values))]
        out = outs[0] if len(outs) == 1 else mx.concatenate(outs)
        return linear(out, params.at("to_out.0"), residual=x, gate=gate, gate_index=gate_index)

    update(stream, parts, attended)


def cross_modulated(
    config: TransformerConfig, block: Params, stream: Stream, rows: tuple[int, int], where: slice
) -> mx.array:
    """What attention between the streams reads of some tokens of ``stream``; for ``rows`` see `exchange`."""
    assert stream.cross_modulation is not None
    own = stream.cross_modulation
    table = block[f"scale_shift_table_a2v_ca_{stream.name}"].astype(mx.float32)
    scale, shift = (table[row][None] + own.rows[row] for row in rows)
    return modulated_norm(stream.x[:, where], scale=scale, shift=shift, index=own.index[:, where], eps=config.norm_eps)


def exchange_keys(
    config: TransformerConfig, block: Params, source: Stream, name: str, rows: tuple[int, int], limit: int | None
) -> tuple[Any, Any]:
    """Keys and values that attention ``name`` reads of ``source``, as `Stream.start` gives them."""
    params = block.at(name)
    parts = token_parts(source.x.shape[1], limit)
    whole = cross_modulated(config, block, source, rows, parts[0]) if len(parts) == 1 else None

    def projected(module: str) -> mx.array:
        return joined(
            parts,
            lambda where: linear(
                cross_modulated(config, block, source, rows, where) if whole is None else whole, params.at(module)
            ),
        )

    return source.start(projected("to_k")), source.start(projected("to_v"))


def exchange(
    config: TransformerConfig,
    block: Params,
    target: Stream,
    source: Stream,
    name: str,
    rows: tuple[int, int],
    kept: Array,
    limit: int | None,
    coming: tuple[Any, Any] | None = None,
) -> mx.array:
    """Hidden state of ``target`` after attention ``name`` to ``source``; samples that are not kept stay as they are.

    ``rows`` are the scale and the shift row of this direction in the tables of both streams. ``coming`` are the
    `exchange_keys`, where they have been begun.
    """
    assert target.cross_gate is not None
    params = block.at(name)
    begun = exchange_keys(config, block, source, name, rows, limit) if coming is None else coming
    keys, values = (source.whole(started) for started in begun)
    table = block[f"scale_shift_table_a2v_ca_{target.name}"].astype(mx.float32)
    gate = table[_CROSS_GATE_ROW][None] + target.cross_gate.rows[0]
    gate_index = target.cross_gate.index
    if not kept.all():  # one more gate row, of zeros, for the samples that are left out
        gate_index = mx.where(mx.array(kept)[:, None], gate_index, gate.shape[0])
        gate = mx.concatenate([gate, mx.zeros_like(gate[:1])])

    def attended(where: slice) -> mx.array:
        query = cross_modulated(config, block, target, rows, where)
        out = rope_attention(
            linear(query, params.at("to_q")),
            keys,
            values,
            num_heads=config.audio.num_heads,
            q_norm=params["q_norm.weight"],
            k_norm=params["k_norm.weight"],
            norm_eps=config.norm_eps,
            rope_q=rope_part(target.cross_rope, where),
            rope_k=source.cross_key_rope,
            rope_layout=config.rope_layout,
            gate_logits=gate_logits(config, params, query),
        )
        return linear(
            out, params.at("to_out.0"), residual=target.x[:, where], gate=gate, gate_index=gate_index[:, where]
        )

    return joined(token_parts(target.x.shape[1], limit), attended)


def feed_forward(
    config: TransformerConfig, block: Params, stream: Stream, modulation: mx.array, parts: Sequence[slice]
) -> None:
    """The feed-forward layers."""
    params = block.at(f"{stream.prefix}ff")

    def fed(where: slice) -> mx.array:
        x, index = stream.x[:, where], stream.modulation.index[:, where]
        h = modulated_norm(
            x, scale=modulation[_SCALE_FF], shift=modulation[_SHIFT_FF], index=index, eps=config.norm_eps
        )
        h = linear(h, params.at("net.0.proj"), activation="gelu_tanh")
        return linear(h, params.at("net.2"), residual=x, gate=modulation[_GATE_FF], gate_index=index)

    update(stream, parts, fed)


def run_block(
    config: TransformerConfig,
    block: Params,
    block_index: int,
    video: Stream | None,
    audio: Stream | None,
    kept: KeptSamples,
    token_limit: int | None = None,
) -> None:
    """Replace ``x`` of the enabled streams by the block's output; lazily, but where tokens are taken in parts.

    Args:
        block: view of ``transformer_blocks.<block_index>``.
        video, audio: the streams; None: absent.
        kept: the samples for which each operation is carried out.
        token_limit: most tokens that are worked on together, see `token_parts`; it changes memory, not results.

    Source: Lightricks/LTX-2 ltx_core/model/transformer/transformer.py @ v1.2.0.
    """
    enabled = [s for s in (video, audio) if s is not None and s.enabled]
    modulations = {
        stream.name: modulation_table(block, f"{stream.prefix}scale_shift_table", stream.modulation.rows)
        for stream in enabled
    }

    def parts_of(stream: Stream) -> list[slice]:
        return token_parts(stream.x.shape[1], token_limit)

    def begun(stream: Stream) -> Callable[[], None]:
        kept_self = kept.video_self if stream.name == "video" else kept.audio_self
        return begun_self_attention(config, block, stream, modulations[stream.name], kept_self, parts_of(stream))

    def attend(stream: Stream, finish: Callable[[], None]) -> None:
        finish()
        text_attention(config, block, block_index, stream, modulations[stream.name], parts_of(stream))

    def feed(stream: Stream) -> None:
        feed_forward(config, block, stream, modulations[stream.name], parts_of(stream))

    # What has to come from other machines is on its way while the other stream is computed. A machine that is late for
    # a moment then delays nobody.
    coming_first = [(stream, begun(stream)) for stream in enabled if stream.share is not None]
    for stream in enabled:
        if stream.share is None:
            attend(stream, begun(stream))
            if coming_first:
                mx.async_eval(stream.x)  # type: ignore[no-untyped-call]  # MLX's stub gives no types
    for stream, finish in coming_first:
        attend(stream, finish)
    to_feed = enabled
    if video is not None and audio is not None:
        # Both directions read the states from before the exchange.
        video_x, audio_x = video.x, audio.x
        to_video, to_audio = video.enabled and kept.a2v.any(), audio.enabled and kept.v2a.any()
        coming = None
        if to_audio and video.share is not None:
            coming = exchange_keys(config, block, video, "video_to_audio_attn", _V2A_ROWS, token_limit)
        if to_video:
            video_x = exchange(config, block, video, audio, "audio_to_video_attn", _A2V_ROWS, kept.a2v, token_limit)
        if coming is not None and video.enabled:  # the rest of the video does not need them
            video.x = video_x
            feed(video)
            mx.async_eval(video.x)  # type: ignore[no-untyped-call]  # MLX's stub gives no types
            video_x, to_feed = video.x, [audio]
        if to_audio:
            audio_x = exchange(
                config, block, audio, video, "video_to_audio_attn", _V2A_ROWS, kept.v2a, token_limit, coming
            )
        video.x, audio.x = video_x, audio_x
    for stream in to_feed:
        feed(stream)
