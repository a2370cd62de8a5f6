"""The names that llama.cpp gives the tensors of Gemma 3 and Gemma 4."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from ltx2rt.weights.names import official
from ltx2rt.weights.names.origin import Origin
from ltx2rt.weights.tensor_source import TensorInfo

GEMMA_ARCHITECTURES = ("gemma3", "gemma4")
_ARCHITECTURE = "general.architecture"

_WHOLE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}
_OF_A_LAYER = {
    "attn_norm": "input_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
# Tied to the embedding; and what the configuration says in other words.
_UNUSED = ("output", "rope_freqs")
_TIED = "lm_head.weight"  # known, and read by nothing
_LAYER = re.compile(r"blk\.(\d{1,4})\.(.+)")


class LlamaCppName(NamedTuple):
    """Official name of a tensor.

    ``official`` None: known, and nothing needs it; ``minus_one``: the stored values are one too large.
    """

    official: str | None
    minus_one: bool = False


def official_name(name: str, architecture: str) -> LlamaCppName | None:
    """What a tensor of a GGUF text encoder is called officially; None if that is no name of llama.cpp.

    Args:
        name: in the file; what accompanies a weight (``blk.0.attn_q.weight_scale``) goes with it.
        architecture: ``gemma3`` or ``gemma4``. Gemma 3 multiplies by one more than the weight of a norm, and llama.cpp
            stores that sum.

    Source: gguf-py/gguf/constants.py and convert_hf_to_gguf.py of llama.cpp, commit of ggml @ d99724f.
    """
    module, _, kind = name.rpartition(".")
    if module in _UNUSED:
        return LlamaCppName(None)
    is_norm = module.endswith("norm")
    minus_one = is_norm and architecture == "gemma3"
    if module in _WHOLE:
        return LlamaCppName(f"{_WHOLE[module]}.{kind}", minus_one)
    layer = _LAYER.fullmatch(module)
    if layer is None:
        return None
    prefix = f"model.layers.{int(layer[1])}."
    if layer[2] == "layer_output_scale" and architecture == "gemma4":
        return LlamaCppName(f"{prefix}layer_scalar")
    if layer[2] not in _OF_A_LAYER:
        return None
    return LlamaCppName(f"{prefix}{_OF_A_LAYER[layer[2]]}.{kind}", minus_one)


def is_gemma(metadata: Mapping[str, str]) -> bool:
    """Whether the header of a GGUF file states a Gemma text encoder."""
    return metadata.get(_ARCHITECTURE) in GEMMA_ARCHITECTURES


def official_names(tensors: Mapping[str, TensorInfo], metadata: Mapping[str, str]) -> list[tuple[str, Origin]]:
    """(official name, origin) of the tensors of a GGUF text encoder; names that llama.cpp does not have are kept."""
    found = []
    others = {}
    for name, info in tensors.items():
        known = official_name(name, metadata[_ARCHITECTURE])
        if known is None:
            others[name] = info
        else:
            found.append((known.official or _TIED, Origin(name, minus_one=known.minus_one)))
    return found + official.official_names(others)
