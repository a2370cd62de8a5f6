"""The configuration of a Gemma text encoder from the header of its GGUF file, as a Hugging Face ``config.json``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ltx2rt.errors import CheckpointError
from ltx2rt.weights.gguf import GgufFile
from ltx2rt.weights.tensor_source import TensorInfo

_EMBEDDING = "token_embd.weight"
# Of the published families; headers may leave these out.
_EPSILON, _WINDOW, _PATTERN, _LOCAL_THETA, _THETA = 1e-6, 1024, 6, 1e4, 1e6
_GEMMA4_PARTIAL_ROTARY = 0.25
# How Gemma 3 12B, by its width, stretches positions, also where the header does not say it.
_GEMMA3_SCALING, _SCALED_WIDTH = 8.0, 3840


def gemma_config(
    file: GgufFile, stated: Mapping[str, Any] | None = None, tensors: Mapping[str, TensorInfo] | None = None
) -> dict[str, Any]:
    """Sizes and constants of a file of architecture ``gemma3`` or ``gemma4``, in the words of Hugging Face.

    Args:
        file: the text encoder.
        stated: the Hugging Face configuration that the file carries besides the values of llama.cpp; it is followed in
            everything but the size of the vocabulary, as converters leave out the rows that no token has.
        tensors: those of all files, if the model was split into several.

    Raises:
        CheckpointError: the header lacks a size, or states something else than a size there.
    """
    header = _Header(file, file.tensors if tensors is None else tensors)
    if stated:
        text = stated.get("text_config", stated)
        rows = {"vocab_size": header.vocabulary()}
        return {**stated, "text_config": {**text, **rows}} if isinstance(text, Mapping) else dict(stated)
    if header.architecture == "gemma3":
        return _gemma3(header)
    if header.architecture == "gemma4":
        return _gemma4(header)
    raise CheckpointError(f"{file.path}: a GGUF file of architecture {header.architecture!r}, not of a Gemma model.")


class _Header:
    """Values of the header under the name of its architecture."""

    def __init__(self, file: GgufFile, tensors: Mapping[str, TensorInfo]) -> None:
        self.file = file
        self.tensors = tensors
        self.architecture = file.metadata.get("general.architecture")

    def size(self, key: str) -> int:
        """A positive integer, which must be there."""
        found = self._value(key)
        if found is None:
            raise self._wrong(key, "is missing; the file is incomplete")
        return self._positive(key, found)

    def number(self, key: str, default: float) -> float:
        """A number, or ``default`` where the header states none."""
        found = self._value(key)
        if found is None:
            return default
        if not isinstance(found, (int, float)) or isinstance(found, bool) or not 0 < found < 1e12:
            raise self._wrong(key, f"must be a positive number, got {_shown(found)}")
        # Files of Hugging Face state decimals, of which these are the nearest float32.
        decimal = float(str(np.float32(found)))
        return decimal if found == np.float32(found) else found

    def sizes(self, key: str, count: int) -> list[int]:
        """A positive integer for each of ``count`` layers; the header may state one for all."""
        found = self._value(key)
        if not isinstance(found, np.ndarray):
            return [self.size(key)] * count
        if len(found) != count or found.dtype.kind not in "iu":
            raise self._wrong(key, f"must have {count} sizes, got {_shown(found)}")
        return [self._positive(key, int(n)) for n in found]

    def sliding_layers(self, count: int) -> list[bool]:
        """For each layer whether it sees a window only: a list, or every n-th sees everything."""
        key = "attention.sliding_window_pattern"
        found = self._value(key)
        if isinstance(found, np.ndarray):
            if len(found) != count or found.dtype.kind not in "iub":
                raise self._wrong(key, f"must have {count} entries, got {_shown(found)}")
            return [bool(n) for n in found]
        pattern = _PATTERN if found is None else self._positive(key, found)
        return [(layer + 1) % pattern != 0 for layer in range(count)]

    def vocabulary(self) -> int:
        """Rows of the embedding."""
        if _EMBEDDING not in self.tensors:
            raise CheckpointError(f"{self.file.path}: no tensor named {_EMBEDDING!r}; the file is incomplete.")
        shape = self.tensors[_EMBEDDING].shape
        if len(shape) != 2:
            raise CheckpointError(f"{self.file.path}: tensor {_EMBEDDING!r} is {list(shape)}, which is no matrix.")
        return shape[0]

    def scaling(self) -> dict[str, Any] | None:
        """How global layers stretch positions, in the words of Hugging Face; None: not at all."""
        kind = self.file.metadata.get(f"{self.architecture}.rope.scaling.type")
        factor = self.number("rope.scaling.factor", 0.0)
        if kind is None and factor == 0.0 and self.size("embedding_length") == _SCALED_WIDTH:
            factor = _GEMMA3_SCALING
        if kind == "none" or factor == 0.0:
            return None
        return {"rope_type": "linear" if kind is None else kind, "factor": factor}

    def _value(self, key: str) -> Any:
        return self.file.value(f"{self.architecture}.{key}")

    def _positive(self, key: str, value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**31:
            raise self._wrong(key, f"must be a positive size, got {_shown(value)}")
        return value

    def _wrong(self, key: str, why: str) -> CheckpointError:
        return CheckpointError(f"{self.file.path}: {self.architecture}.{key} {why}.")


def _gemma3(header: _Header) -> dict[str, Any]:
    layers = header.size("block_count")
    head_dim = header.size("attention.key_length")
    text = {
        **_common(header, layers, header.sliding_layers(layers)),
        "model_type": "gemma3_text",
        "num_key_value_heads": header.size("attention.head_count_kv"),
        "head_dim": head_dim,
        "query_pre_attn_scalar": head_dim,
        "rope_theta": header.number("rope.freq_base", _THETA),
        "rope_local_base_freq": header.number("rope.freq_base_swa", _LOCAL_THETA),
        "rope_scaling": header.scaling(),
    }
    return {"model_type": "gemma3", "text_config": text}


def _gemma4(header: _Header) -> dict[str, Any]:
    layers = header.size("block_count")
    sliding = header.sliding_layers(layers)
    heads = dict(zip(sliding, header.sizes("attention.head_count_kv", layers), strict=True))
    values = [f"blk.{layer}.attn_v.weight" in header.tensors for layer in range(layers) if not sliding[layer]]
    head_dim = header.size("attention.key_length")
    text = {
        **_common(header, layers, sliding),
        "model_type": "gemma4_unified_text",
        "num_key_value_heads": heads.get(True, heads.get(False)),
        "num_global_key_value_heads": heads.get(False, heads.get(True)),
        "head_dim": int(header.number("attention.key_length_swa", head_dim)),
        "global_head_dim": head_dim,
        "attention_k_eq_v": not all(values),
        "final_logit_softcapping": header.number("final_logit_softcapping", 30.0),
        "tie_word_embeddings": True,
        "rope_parameters": {
            "sliding_attention": {
                "rope_theta": header.number("rope.freq_base_swa", _LOCAL_THETA),
                "rope_type": "default",
            },
            "full_attention": {
                "rope_theta": header.number("rope.freq_base", _THETA),
                "rope_type": "proportional",
                "partial_rotary_factor": _GEMMA4_PARTIAL_ROTARY,
            },
        },
    }
    version = header.file.value("gemma_version")
    stated = {"gemma_version": version} if isinstance(version, str) else {}
    return {"model_type": "gemma4_unified", **stated, "text_config": text}


def _common(header: _Header, layers: int, sliding: list[bool]) -> dict[str, Any]:
    """What both families say in the same words."""
    return {
        "vocab_size": header.vocabulary(),
        "hidden_size": header.size("embedding_length"),
        "intermediate_size": header.size("feed_forward_length"),
        "num_hidden_layers": layers,
        "num_attention_heads": header.size("attention.head_count"),
        "rms_norm_eps": header.number("attention.layer_norm_rms_epsilon", _EPSILON),
        "sliding_window": int(header.number("attention.sliding_window", _WINDOW)),
        "layer_types": ["sliding_attention" if window else "full_attention" for window in sliding],
        "hidden_activation": "gelu_pytorch_tanh",
    }


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
