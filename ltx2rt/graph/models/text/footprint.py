"""Predicts the bytes and the arithmetic of the text encoder, the text projection and the connectors."""

from __future__ import annotations

from dataclasses import replace

from ltx2rt.graph.models.layers.footprint import Footprint, largest
from ltx2rt.graph.models.text.connector import CONTEXT_ROWS, ConnectorConfig
from ltx2rt.graph.models.text.duration_head import DurationHeadConfig
from ltx2rt.graph.models.text.feature_extractor import STATES_PER_SLAB, FeatureExtractorConfig
from ltx2rt.graph.models.text.gemma import AttentionSizes, GemmaConfig
from ltx2rt.graph.models.text.token_sampling import SAMPLING_BYTES
from ltx2rt.kernels.working_memory import attention_bytes, linear_bytes
from ltx2rt.types import FLOAT32_BYTES


def encoder_footprint(config: GemmaConfig, tokens: int, itemsize: int, rotation: int = 0) -> Footprint:
    """Of the layer that takes most, for a prompt of ``tokens`` tokens; ``rotation``: see `linear_bytes`."""
    unit = tokens * config.hidden_size * itemsize
    inner = max(config.feed_forward(layer) for layer in range(config.num_layers))
    hidden = tokens * inner * itemsize
    mask = tokens * tokens * FLOAT32_BYTES if tokens > config.sliding_window else 0
    outer = config.hidden_size
    sizes_of_both = ((outer, inner), (inner, outer))
    feed_forward = max(linear_bytes(tokens, *sizes, itemsize, rotation=rotation) for sizes in sizes_of_both)
    return largest(
        # x, normed x, the gate, its partner; or x, both, and their product.
        Footprint(2 * unit + 2 * hidden + mask, feed_forward),
        *(
            Footprint(
                2 * unit + tokens * _attention_width(config, sizes) * itemsize + mask,
                attention_bytes(
                    1, sizes.kv_heads, sizes.head_dim, tokens, tokens, itemsize, group=sizes.heads // sizes.kv_heads
                ),
            )
            for sizes in (config.attention(is_global=is_global) for is_global in sorted(set(config.global_layers)))
        ),
    )


def _attention_width(config: GemmaConfig, sizes: AttentionSizes) -> int:
    """Channels of queries and result, of keys and of values; and of values as they are projected, if those differ."""
    kept = 3 if config.norms_values and not sizes.keys_are_values else 2
    return (2 * sizes.heads + kept * sizes.kv_heads) * sizes.head_dim


def writing_footprint(config: GemmaConfig, tokens: int, new_tokens: int, itemsize: int, rotation: int = 0) -> Footprint:
    """Of continuing ``tokens`` tokens: reading them, or choosing one of the new ones; ``rotation``: see
    `linear_bytes`."""
    widths = [config.attention(is_global=is_global).head_dim for is_global in (True, False)]
    rope = (tokens + new_tokens) * sum(widths) * FLOAT32_BYTES  # cosines and sines of both kinds of layers
    inputs = config.layer_inputs
    # Rows of every layer as stored, as activations, and their projection; and what is added to a layer.
    added = 0 if inputs is None else tokens * (4 * config.num_layers + 3) * inputs.width * itemsize
    reading = encoder_footprint(config, tokens, itemsize, rotation)
    logits = config.vocab_size * (itemsize + FLOAT32_BYTES) * (3 if config.score_limit else 1)
    choosing = Footprint(logits, linear_bytes(1, config.hidden_size, itemsize), config.vocab_size * SAMPLING_BYTES)
    most = largest(reading, choosing)
    return replace(most, activations=most.activations + rope + added)


def key_value_bytes(config: GemmaConfig, tokens: int, new_tokens: int, itemsize: int) -> int:
    """Keys and values of all layers that have some, for every token from the start."""
    sizes = (config.attention(is_global=is_global) for is_global in config.global_layers[: config.first_sharing])
    return 2 * (tokens + new_tokens) * itemsize * sum(layer.kv_heads * layer.head_dim for layer in sizes)


def normalising_bytes(config: FeatureExtractorConfig, tokens: int) -> int:
    """What `FeatureExtractor.normalised` takes besides what it keeps: the states of a slab a second time, side by side,
    the encoder's last one and what is made of it. No layer runs then."""
    state = tokens * config.encoder_width * FLOAT32_BYTES
    return (min(STATES_PER_SLAB, config.encoder_states) + 2) * state


def kept_bytes(config: FeatureExtractorConfig, tokens: int) -> int:
    """What `FeatureExtractor.normalised` keeps of a prompt."""
    return config.encoder_states * tokens * config.encoder_width * FLOAT32_BYTES


def projection_footprint(config: FeatureExtractorConfig, tokens: int, rows: int) -> Footprint:
    """Of multiplying prompts of together ``tokens`` tokens with ``rows`` rows of a weight, which is not counted."""
    depth = config.encoder_width * STATES_PER_SLAB
    widest = max(width for _, width in config.projections)
    sums = 3 * tokens * widest * FLOAT32_BYTES
    # The columns of some states are copied out, unless there are no others.
    columns = rows * depth * 2 if config.encoder_states > STATES_PER_SLAB else 0
    return Footprint(columns + sums, linear_bytes(tokens, depth, widest))


def connector_footprint(config: ConnectorConfig, itemsize: int, rotation: int = 0) -> Footprint:
    """Of one prompt; the context is `CONTEXT_ROWS` long whatever the prompt. ``rotation``: see `linear_bytes`."""
    unit = CONTEXT_ROWS * config.width * itemsize
    rope = 3 * CONTEXT_ROWS * config.width * FLOAT32_BYTES // 2
    working = linear_bytes(CONTEXT_ROWS, 4 * config.width, config.width, itemsize, rotation=rotation)
    return Footprint(8 * unit + rope, working)  # half a block: attention or the feed-forward, with what goes in


def duration_footprint(config: DurationHeadConfig, tokens: int) -> Footprint:
    """Of the duration head for contexts of together ``tokens`` tokens."""
    pooled = tokens * config.pooled * FLOAT32_BYTES
    widest = max(config.video_width, config.audio_width)
    # The tokens of both streams and apart, keys, values; of the contexts the wider one in float32.
    return Footprint(
        4 * pooled + tokens * widest * FLOAT32_BYTES // 2,
        max(linear_bytes(tokens, widest, config.pooled), linear_bytes(tokens, config.pooled, config.pooled)),
    )


def duration_flops(config: DurationHeadConfig, tokens: int) -> float:
    inputs = tokens * (config.video_width + config.audio_width) * config.pooled
    return float(inputs + 2 * tokens * config.pooled * 2 * config.pooled)


def encoder_flops(config: GemmaConfig, tokens: int) -> float:
    width = config.hidden_size
    total = 0.0
    for layer, is_global in enumerate(config.global_layers):
        sizes = config.attention(is_global=is_global)
        inner, keys = sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim
        projected = 0 if layer >= config.first_sharing else keys * (1 if sizes.keys_are_values else 2)
        total += 2 * tokens * width * (2 * inner + projected + 3 * config.feed_forward(layer))
        total += 2.0 * tokens * tokens * inner  # causal: half of the scores
    return total


def head_flops(config: GemmaConfig) -> float:
    """Of the scores of one token."""
    return 2.0 * config.hidden_size * config.vocab_size


def projection_flops(config: FeatureExtractorConfig, tokens: int) -> float:
    columns = config.encoder_width * config.encoder_states
    return 2.0 * tokens * columns * sum(width for _, width in config.projections)


def connector_flops(config: ConnectorConfig) -> float:
    width = config.width
    per_layer = 2.0 * CONTEXT_ROWS * width * width * 12 + 4.0 * CONTEXT_ROWS * CONTEXT_ROWS * width
    return config.num_layers * per_layer
