"""Writes text with a Gemma model, one token after the other, with a cache of keys and values."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import mlx.core as mx
import numpy as np

from ltx2rt.graph.models.text.gemma import Gemma, window_bias
from ltx2rt.graph.models.text.key_value_cache import KeyValueCache
from ltx2rt.graph.models.text.token_sampling import SamplingOptions, TokenSampler
from ltx2rt.kernels.host import from_numbers, to_numpy
from ltx2rt.types import Array


def generate_tokens(
    model: Gemma, input_ids: Array, stop_ids: Collection[int], options: SamplingOptions
) -> Iterator[int]:
    """Token ids that continue a text, until one of ``stop_ids`` (not given out) or ``max_new_tokens``.

    Args:
        model: the loaded text model.
        input_ids: (n,) integers, n >= 1.
        stop_ids: tokens that end the text.
        options: see `SamplingOptions`.

    Raises:
        ValueError: empty input, an id outside the vocabulary, or scores that are not numbers.

    Source: transformers 5.23 generation of Gemma3ForCausalLM and Gemma4ForCausalLM (order: no_repeat, temperature,
    top-k, top-p), with our own draws.
    """
    ids = from_numbers(input_ids)
    vocabulary = model.config.vocab_size
    if ids.ndim != 1 or ids.size == 0 or ids.min() < 0 or ids.max() >= vocabulary:
        raise ValueError(f"input_ids must be a non-empty vector of ids below {vocabulary}, got shape {ids.shape}.")
    return _tokens(model, ids, stop_ids, options)


def _tokens(model: Gemma, ids: Array, stop_ids: Collection[int], options: SamplingOptions) -> Iterator[int]:
    config = model.config
    longest = ids.size + options.max_new_tokens
    global_rope, local_rope = model.rope_tables(longest)
    caches = [
        KeyValueCache(longest, None if is_global else config.sliding_window)
        for is_global in config.global_layers[: config.first_sharing]
    ]
    sampler = TokenSampler(options, ids)
    for _ in range(options.max_new_tokens):
        window = window_bias(ids.size, config.sliding_window) if ids.size > config.sliding_window else None
        hidden = model.embed(ids)
        inputs, shared = model.layer_inputs(ids, hidden), model.shared_keys()
        for layer, is_global in enumerate(config.global_layers):
            cache = caches[layer] if layer < len(caches) else None
            rope, bias = (global_rope, None) if is_global else (local_rope, window)
            hidden = model.layer(layer, hidden, rope, bias, cache, inputs, shared)
            if ids.size > 1 or not model.keeps_layers:
                # A long prompt layer by layer, for the memory of one layer at a time; and layers that come and go.
                mx.eval(hidden, *([] if cache is None else cache.arrays()))
        logits = model.logits(model.final_norm(hidden[:, -1:])).astype(mx.float32)
        mx.eval(logits, *(array for cache in caches for array in cache.arrays()))
        token = sampler.choose(to_numpy(logits[0, 0]))
        if token in stop_ids:
            return
        yield token
        ids = from_numbers([token], dtype=np.int32)
