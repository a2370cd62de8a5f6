"""Predicts the bytes and the arithmetic of the transformer from its configuration and the shapes of a call."""

from __future__ import annotations

from dataclasses import dataclass

from ltx2rt.graph.models.layers.footprint import Footprint, largest
from ltx2rt.graph.models.transformer.config import StreamConfig, TransformerConfig
from ltx2rt.graph.models.transformer.token_parts import token_parts
from ltx2rt.kernels.working_memory import attention_bytes, linear_bytes
from ltx2rt.types import FLOAT32_BYTES

# Latents, estimates, noise and masks of a sampler step, each (T, channels) float32, and positions.
_HOST_COPIES = 12


@dataclass(frozen=True)
class CallShape:
    """Shapes of one transformer call.

    Attributes:
        video, audio: tokens of each stream; 0: absent.
        text: tokens of the context.
        batch: samples.
        itemsize: bytes of an activation.
        masked: the video's self-attention has a mask (B, T, T).
        rotation: the largest groups in which weights rotate what they are multiplied with.
        int8_activations: activations are multiplied as 8-bit codes, at least with some weights.
        all_video: tokens of the video on all machines that share them, whose keys are gathered; 0: ``video``.
        gathering: tokens of a sample that there is room for while a value of all of them is gathered.
    """

    video: int
    audio: int
    text: int
    batch: int = 1
    itemsize: int = 2
    masked: bool = False
    rotation: int = 0
    int8_activations: bool = False
    all_video: int = 0
    gathering: int = 0

    def keys(self, config: TransformerConfig, stream: StreamConfig) -> int:
        """Tokens whose keys the attentions read of a stream."""
        return (self.all_video or self.video) if stream is config.video else self.audio

    def streams(self, config: TransformerConfig) -> list[tuple[StreamConfig, int]]:
        """(stream, tokens) of the streams that are present."""
        both = ((config.video, self.video), (config.audio, self.audio))
        return [(stream, tokens) for stream, tokens in both if tokens]


def call_footprint(
    config: TransformerConfig, shape: CallShape, token_limit: int | None, *, states: int = 1, shared_prompts: int = 0
) -> Footprint:
    """Most bytes of one call; contexts and kept text keys are counted by `context_bytes` and `text_key_bytes`.

    Args:
        config, shape: of what goes through a block together.
        token_limit: see `token_parts`.
        states: hidden states that are there, those that wait for their turn included.
        shared_prompts: prompts whose keys and values stay while a block runs, for other states that read them.
    """
    of_state = _state_bytes(config, shape)
    keys = 2 * shape.text * shape.itemsize * sum(stream.width for stream, _ in shape.streams(config))
    elsewhere = max(0, states - shape.batch) * of_state + shared_prompts * keys
    moments = []
    for stream, tokens in shape.streams(config):
        # The other stream's hidden state waits.
        waiting = sum(
            shape.batch * count * other.width * shape.itemsize
            for other, count in shape.streams(config)
            if other is not stream
        )
        # The sound is computed while keys and values of a shared video are on their way.
        beside = Footprint(0, 0)
        if shape.all_video and stream is config.video and shape.audio:
            beside = largest(*_stream_moments(config, shape, config.audio, shape.audio, token_limit))
        for moment in _stream_moments(config, shape, stream, tokens, token_limit):
            activations = moment.activations + waiting + beside.activations
            moments.append(Footprint(activations, max(moment.working, beside.working)))
    tokens = shape.batch * sum(tokens * stream.in_channels for stream, tokens in shape.streams(config))
    peak = largest(*moments)
    activations = peak.activations + _mask_bytes(config, shape) + elsewhere
    return Footprint(activations, peak.working, _HOST_COPIES * FLOAT32_BYTES * tokens)


def waiting_bytes(config: TransformerConfig, shape: CallShape, states: int) -> int:
    """Of what there is while the next block arrives: ``states`` hidden states, and the mask."""
    return states * _state_bytes(config, shape) + _mask_bytes(config, shape)


def _state_bytes(config: TransformerConfig, shape: CallShape) -> int:
    """Of a hidden state of one sample."""
    return sum(tokens * stream.width * shape.itemsize for stream, tokens in shape.streams(config))


def _mask_bytes(config: TransformerConfig, shape: CallShape) -> int:
    if not shape.masked:
        return 0
    return shape.batch * shape.video * shape.keys(config, config.video) * shape.itemsize


def _stream_moments(
    config: TransformerConfig, shape: CallShape, stream: StreamConfig, tokens: int, limit: int | None
) -> list[Footprint]:
    """One unit is a hidden state (B, T, D); a part of the tokens is a smaller one."""
    width, batch = stream.width, shape.batch
    parts = token_parts(tokens, limit)
    longest = max(part.stop - part.start for part in parts)
    unit = batch * tokens * width * shape.itemsize
    part = batch * longest * width * shape.itemsize
    rows = batch * longest

    def attention(keys: int) -> int:
        heads, size = stream.num_heads, stream.head_dim
        return attention_bytes(batch, heads, size, longest, keys, shape.itemsize, wide_norms=True)

    def linear(rows: int, depth: int, columns: int) -> int:
        ways = (False, True) if shape.int8_activations else (False,)
        return max(
            linear_bytes(rows, depth, columns, shape.itemsize, rotation=shape.rotation, int8_activations=way)
            for way in ways
        )

    text_rows = batch * shape.text
    keys = 2 * text_rows * width * shape.itemsize
    all_keys = shape.keys(config, stream)
    gathering = shape.gathering if stream is config.video else 0
    gathered = 2 * batch * gathering * width * shape.itemsize  # keys and values
    projection = linear(rows, width, width)
    feed_forward = max(linear(rows, width, 4 * width), linear(rows, 4 * width, width))
    together = len(parts) == 1
    return [
        # Feed-forward: x, normed x and the hidden layer of 4 units; then x, the hidden layer and the result.
        Footprint((6 * unit) if together else unit + 6 * part, feed_forward),
        # Self-attention: x, q, k, v and the result.
        Footprint(((5 * unit) if together else 3 * unit + 4 * part) + gathered, max(attention(all_keys), projection)),
        # Attention to the prompt: x, q and the result, keys and values.
        Footprint((3 * unit if together else unit + 4 * part) + keys, attention(shape.text)),
        Footprint((2 * unit if together else unit) + keys, linear(text_rows, width, width)),
    ]


def context_bytes(config: TransformerConfig, shape: CallShape) -> int:
    """Of the projected contexts of one prompt that the model keeps between calls."""
    if config.caption_channels is None:
        return 0
    return shape.text * shape.itemsize * sum(stream.width for stream, _ in shape.streams(config))


def text_key_bytes(config: TransformerConfig, shape: CallShape) -> int:
    """Of the keys and values of one prompt that the model may keep between calls; 0 where they change with sigma."""
    if config.text_modulation:
        return 0
    widths = sum(stream.width for stream, _ in shape.streams(config))
    return 2 * config.num_layers * shape.text * shape.itemsize * widths


def call_flops(config: TransformerConfig, shape: CallShape, *, text_keys: bool = True) -> float:
    """Operations of one call; ``text_keys``: keys and values of the prompt are computed in this call."""
    computed = shape.batch * config.num_layers
    keys = computed if text_keys or config.text_modulation else 0
    return walk_flops(config, shape, blocks=computed, text_keys=keys, passes=shape.batch)


def walk_flops(config: TransformerConfig, shape: CallShape, *, blocks: int, text_keys: int, passes: int) -> float:
    """Operations of some passes, whatever goes through a block together.

    Args:
        config, shape: the model, and the tokens of a pass.
        blocks: evaluations of a block, each for one hidden state.
        text_keys: blocks whose keys and values of a prompt are computed, each for one prompt.
        passes: results.
    """
    per_block = per_text = 0.0
    for stream, tokens in shape.streams(config):
        width = stream.width
        per_block += 2 * tokens * width * width * (4 + 2 + 8)  # self-attention, q and out of text, feed-forward
        per_block += 4 * tokens * width * (shape.keys(config, stream) + shape.text)
        per_text += 4 * shape.text * stream.context_dim * width
    if shape.video and shape.audio:
        inner, video, audio = config.audio.width, config.video.width, config.audio.width
        all_video = shape.keys(config, config.video)
        for queries, q_width, keys, k_width, all_keys in (
            (shape.video, video, shape.audio, audio, shape.audio),
            (shape.audio, audio, shape.video, video, all_video),
        ):
            per_block += 4 * queries * q_width * inner + 4 * keys * k_width * inner + 4 * queries * all_keys * inner
    ends = sum(
        2 * tokens * stream.width * (stream.in_channels + stream.out_channels)
        for stream, tokens in shape.streams(config)
    )
    return blocks * per_block + text_keys * per_text + passes * ends
