"""A text encoder of one layer, and a layer of Gemma 4, as transformers writes them."""

from __future__ import annotations

from typing import Any

from ltx2rt.bench.case import DTYPES, TORCH, Call, Way
from ltx2rt.bench.text_cases import Gemma4Layer, Gemma4LayerCase, TextLayer, TextLayerCase

from .arrays import installed, to_torch, torch_module, torch_weights


def layer_ways(case: TextLayerCase, part: TextLayer) -> dict[str, Way]:
    if case.form not in DTYPES or not installed("transformers"):
        return {}
    return {TORCH: Way(lambda share: layer_call(part))}


def layer_call(part: TextLayer) -> Call:
    """The text encoder of transformers with the same weights and tokens."""
    from transformers.models.gemma3.configuration_gemma3 import Gemma3TextConfig
    from transformers.models.gemma3.modeling_gemma3 import Gemma3TextModel

    torch = torch_module()
    # Made for real and not on the meta device: the rotary frequencies are no weights.
    model = Gemma3TextModel(Gemma3TextConfig(**part.section))
    model.load_state_dict(torch_weights(part.params, part.specs, str, part.case.dtype), strict=False, assign=True)
    model.eval()
    ids = torch.from_numpy(part.ids[None])

    def call() -> Any:
        with torch.inference_mode():
            return model(input_ids=ids, use_cache=False).last_hidden_state

    return call


def gemma4_ways(case: Gemma4LayerCase, part: Gemma4Layer) -> dict[str, Way]:
    if case.form not in DTYPES or not installed("transformers"):
        return {}
    return {TORCH: Way(lambda share: gemma4_call(part))}


def gemma4_call(part: Gemma4Layer) -> Call:
    """The layer of transformers with the same weights and hidden state."""
    from transformers.models.gemma4_unified.configuration_gemma4_unified import Gemma4UnifiedTextConfig
    from transformers.models.gemma4_unified.modeling_gemma4_unified import (
        Gemma4UnifiedTextDecoderLayer,
        Gemma4UnifiedTextRotaryEmbedding,
    )

    torch = torch_module()
    config = Gemma4UnifiedTextConfig(**part.section, attn_implementation="sdpa")
    with torch.device("meta"):
        layer = Gemma4UnifiedTextDecoderLayer(config, part.index)
    prefix = f"layers.{part.index}."
    weights = torch_weights(part.params, part.specs, lambda name: name.removeprefix(prefix), part.case.dtype)
    layer.load_state_dict(weights, strict=True, assign=True)
    layer.eval()
    hidden = to_torch(part.hidden)
    positions = torch.arange(hidden.shape[1])[None]
    kind = part.section["layer_types"][part.index]
    rotary = Gemma4UnifiedTextRotaryEmbedding(config)(hidden, positions, kind)
    # Without a mask, torch's attention is the causal one.
    mask = None
    if part.bias is not None:
        mask = (to_torch(part.bias) == 0).tril()

    def call() -> Any:
        with torch.inference_mode():
            return layer(hidden, shared_kv_states={}, position_embeddings=rotary, attention_mask=mask)

    return call


WAYS: dict[type, Any] = {TextLayerCase: layer_ways, Gemma4LayerCase: gemma4_ways}
