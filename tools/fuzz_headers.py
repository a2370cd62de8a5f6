"""Feeds damaged weight files to `ltx2rt inspect` and the loader, and counts what comes of it.

    python tools/fuzz_headers.py --count 1000000 --jobs 4        # an hour or so
    python tools/fuzz_headers.py --only 4711 --keep /tmp/mutant  # one of them again

The corpus is made here: small safetensors and GGUF files with every kind of header, marker and LoRA name. A mutant is
one of them with its tensors, names, values and markers changed, written as a file, and some bytes of its header changed
after that. Whatever happens must be a result or an error of ltx2rt, within a second and without much memory; the exit
code is 1 if anything else came out. The report says how many mutants got past the parsing of their header, and which
lines of `ltx2rt/weights` a part of them reached.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import random
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

import numpy as np

import ltx2rt
from ltx2rt.errors import Ltx2rtError
from ltx2rt.inspection import inspect
from ltx2rt.types import ParamSpec
from ltx2rt.weights.checkpoint import Checkpoint
from ltx2rt.weights.lora.keys import is_lora
from ltx2rt.weights.lora.opening import open_lora
from ltx2rt.weights.tensor_source import WeightFile, entry
from ltx2rt.weights.tokenizer import GemmaTokenizer
from ltx2rt.weights.weight_file import open_weight_file

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "weights"))
import tiny_files
from tiny_gguf import NUMBERS, text, value_bytes

READERS = Path(ltx2rt.__file__).parent / "weights"
_CHUNK = 500
# A line of progress after so many of these.
_REPORTED = 20
# Part of the mutants that are made of whole models.
_WHOLE = 0.02
# Of each component, at the most, that are loaded.
_TENSORS = 4
# For one mutant.
_SECONDS = 20
_BYTES = 2 << 30
_STRANGE_NUMBERS = (
    0,
    1,
    2,
    3,
    31,
    32,
    33,
    255,
    256,
    2**15,
    2**31 - 1,
    2**31,
    2**32,
    2**53,
    2**63 - 1,
    2**63,
    2**64 - 1,
)
_STRANGE_VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1,
    2**70,
    1e300,
    "",
    "256",
    [],
    [1, 2],
    {},
    {"format": []},
    float("nan"),
    "\ud7ff",
    [[[[]]]],
)
_STRANGE_NAMES = (
    "",
    ".",
    "..",
    "weight",
    ".weight",
    "x" * 300,
    "vae.\0",
    "a\nb",
    "日本",
    "model.",
    "_scale",
    "blk.9999.attn_q",
)
_WORDS = (
    "model.diffusion_model.",
    "diffusion_model.",
    "transformer.",
    "transformer_blocks.0.",
    "attn1.to_q",
    "attn1.to_k",
    "ff.net.0.proj",
    "ff.net.2",
    "audio_attn1.to_v",
    "patchify_proj",
    "vae.encoder.conv_in.conv",
    "decoder.conv_in.conv",
    "per_channel_statistics.mean-of-means",
    "audio_vae.decoder.conv_in.conv",
    "vocoder.conv_pre",
    "text_embedding_projection.aggregate_embed",
    "video_embeddings_connector.learnable_registers",
    "model.layers.0.self_attn.q_proj",
    "blk.0.attn_q",
    "blk.0.attn_norm",
    "token_embd",
    "output_norm",
    "lora_unet_transformer_blocks_0_attn1_to_q",
    "base_model.model.",
    "pipe.dit.",
    ".weight",
    ".bias",
    ".weight_scale",
    ".weight_scale_2",
    ".scale_weight",
    ".input_scale",
    ".scales",
    ".biases",
    ".comfy_quant",
    ".lora_A.weight",
    ".lora_B.weight",
    ".lora_down.weight",
    ".lora_up.weight",
    ".alpha",
    ".dora_scale",
    ".lokr_w1",
    ".lokr_w2_a",
    ".hada_w1_a",
    ".diff",
    ".diff_b",
    "scaled_fp8",
    "spiece_model",
    "tokenizer_json",
)
_SAFETENSORS_DTYPES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "I64": 8}
_SAFETENSORS_DTYPES |= {"I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1, "F4": 1, "X": 1}


class Tensor(NamedTuple):
    """A tensor as a file holds it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: bytes


@dataclass(frozen=True)
class Model:
    """A file before it is written. ``values``: strings of safetensors, or values of GGUF."""

    container: str
    tensors: tuple[Tensor, ...]
    values: dict[str, Any] = field(default_factory=dict)


def tensor(name: str, dtype: str, *shape: int, data: bytes | None = None) -> Tensor:
    """A tensor of bytes that are small finite numbers in every dtype."""
    return Tensor(name, dtype, shape, b"\x31" * entry(dtype, shape).nbytes if data is None else data)


def marker(name: str, **declared: Any) -> Tensor:
    """A tensor with JSON."""
    data = json.dumps(declared).encode()
    return Tensor(f"{name}.comfy_quant", "U8", (len(data),), data)


# ---------------------------------------------------------------------------------------------------------- the corpus


def corpus() -> list[Model]:
    """The small files that mutants are made of."""
    return [*_quantised(), *_loras(), *_components(), *_gguf()]


def whole_models() -> Iterator[Model]:
    """Complete models of every generation, and an upscaler: whatever reads a configuration has what it looks for."""
    configs = (
        tiny_files.CONFIG_19B,
        {"transformer": tiny_files.TRANSFORMER_23},
        {"transformer": tiny_files.TRANSFORMER_25},
    )
    for config in configs:
        specs = tiny_files.model_specs(config).items()
        tensors = tuple(_of_spec(name, spec) for name, spec in specs)
        yield Model("safetensors", tensors, {"config": json.dumps(config), "model_version": "2.3.0"})
        yield Model("safetensors", tensors)
    for part in ("vae.", "audio_vae.", "vocoder."):
        specs = tiny_files.model_specs({**tiny_files.CONFIG_23, "transformer": tiny_files.TRANSFORMER_19B}).items()
        tensors = tuple(_of_spec(name, spec) for name, spec in specs if name.startswith(part))
        section = json.dumps({part[:-1]: tiny_files.CONFIG_23[part[:-1]]})
        yield Model("safetensors", tensors, {"config": section})
        yield Model("safetensors", tensors)


def _of_spec(name: str, spec: ParamSpec) -> Tensor:
    return Tensor(name, spec.dtype, spec.shape, bytes(entry(spec.dtype, spec.shape).nbytes))


def _quantised() -> Iterator[Model]:
    block = "model.diffusion_model.transformer_blocks.0."
    q, k, v = (f"{block}attn1.to_{letter}" for letter in "qkv")
    dense = [
        tensor(f"{block}scale_shift_table", "F32", 6, 64),
        tensor("model.diffusion_model.patchify_proj.bias", "BF16", 8),
    ]
    fp8 = (
        tensor(f"{q}.weight", "F8_E4M3", 16, 64),
        tensor(f"{q}.weight_scale", "F32"),
        tensor(f"{q}.bias", "BF16", 16),
    )
    yield Model("safetensors", (*dense, *fp8, tensor(f"{k}.weight", "F8_E5M2", 16, 64)), {"format": "pt"})
    old = (tensor(f"{q}.weight", "F8_E4M3", 16, 64), tensor(f"{q}.scale_weight", "F32", 1))
    yield Model("safetensors", (*old, tensor("model.diffusion_model.scaled_fp8", "F8_E4M3", 0)))
    int8 = (tensor(f"{q}.weight", "I8", 16, 64), tensor(f"{q}.weight_scale", "F32", 16, 1))
    rotated = marker(q, format="int8_tensorwise", convrot=True, convrot_groupsize=64)
    yield Model("safetensors", (*dense, *int8, rotated))
    layers = {
        "format_version": "1.0",
        "layers": {q: {"format": "int8_tensorwise", "params": {"convrot": True}}, v: "int8"},
    }
    second = (tensor(f"{v}.weight", "I8", 4, 256), tensor(f"{v}.weight_scale", "F32", 4))
    yield Model("safetensors", (*int8, *second), {"_quantization_metadata": json.dumps(layers)})
    nvfp4 = (
        tensor(f"{q}.weight", "U8", 16, 32),
        tensor(f"{q}.weight_scale", "F8_E4M3", 128, 4),
        tensor(f"{q}.weight_scale_2", "F32"),
        marker(q, format="nvfp4"),
    )
    mxfp8 = (
        tensor(f"{k}.weight", "F8_E4M3", 32, 64),
        tensor(f"{k}.weight_scale", "F8_E8M0", 128, 4),
        marker(k, format="mxfp8"),
    )
    yield Model("safetensors", (*nvfp4, *mxfp8))
    w4a8 = (
        tensor(f"{q}.weight", "I8", 8, 128),
        tensor(f"{q}.weight_s_rel", "F8_E4M3", 8, 16),
        tensor(f"{q}.weight_s_channel", "F32", 8),
        tensor(f"{q}.weight_codebook", "F32", 16),
        marker(q, format="asym_w4a8_int8", group_size=16, convrot_groupsize=256),
    )
    w4a4 = (
        tensor(f"{k}.weight", "I8", 8, 128),
        tensor(f"{k}.weight_scale", "F32", 8),
        marker(k, format="convrot_w4a4", convrot_groupsize=256, quant_group_size=64),
    )
    awq = (
        tensor(f"{v}.weight", "I8", 8, 64),
        tensor(f"{v}.weight_scale", "BF16", 2, 8),
        tensor(f"{v}.weight_zeros", "BF16", 2, 8),
        marker(v, format="awq_w4a16", group_size=64),
    )
    yield Model("safetensors", (*w4a8, *w4a4, *awq))
    mlx = (
        tensor(f"{q}.weight", "U32", 8, 16),
        tensor(f"{q}.scales", "BF16", 8, 2),
        tensor(f"{q}.biases", "BF16", 8, 2),
    )
    yield Model("safetensors", (*mlx, tensor(f"{k}.weight", "U32", 8, 8), tensor(f"{k}.scales", "U8", 8, 2)))
    rows = (tensor(f"{q}.weight", "F8_E4M3", 16, 64), tensor(f"{q}.weight_scale", "F32", 16, 1))
    yield Model("safetensors", (*rows, marker(q, format="float8_e4m3fn_rowwise")))


def _loras() -> Iterator[Model]:
    a, b = "transformer_blocks.0.attn1.to_q", "transformer_blocks.0.ff.net.2"
    flat = f"lora_unet_{a.replace('.', '_')}"

    def pair(base: str, down: str, up: str) -> tuple[Tensor, Tensor]:
        return tensor(base + down, "F32", 2, 64), tensor(base + up, "F32", 64, 2)

    peft = (*pair(f"diffusion_model.{a}", ".lora_A.weight", ".lora_B.weight"),)
    yield Model("safetensors", (*peft, *pair(f"diffusion_model.{b}", ".lora_A.weight", ".lora_B.weight")))
    named = {"lora_rank": "2", "lora_alpha": "2", "reference_downscale_factor": "2"}
    yield Model(
        "safetensors", (*peft, *pair(f"transformer.{b}", ".lora_A.default.weight", ".lora_B.default.weight")), named
    )
    kohya = (*pair(flat, ".lora_down.weight", ".lora_up.weight"), tensor(f"{flat}.alpha", "F32"))
    yield Model("safetensors", (*kohya, tensor(f"{flat}.dora_scale", "F32", 64, 1)), {"ss_network_dim": "2"})
    settings = {"transformer.r": 2, "transformer.lora_alpha": 4, "transformer.alpha_pattern": {a: 8}}
    yield Model("safetensors", peft, {"lora_adapter_metadata": json.dumps(settings)})
    lokr = (
        tensor(f"lycoris_{a.replace('.', '_')}.lokr_w1", "F32", 4, 4),
        tensor(f"lycoris_{a.replace('.', '_')}.lokr_w2", "F32", 16, 16),
    )
    loha = tuple(
        tensor(f"diffusion_model.{b}.hada_{part}", "F32", *shape)
        for part, shape in (("w1_a", (64, 2)), ("w1_b", (2, 64)), ("w2_a", (64, 2)), ("w2_b", (2, 64)))
    )
    yield Model("safetensors", (*lokr, *loha))
    yield Model(
        "safetensors",
        (tensor(f"diffusion_model.{a}.diff", "F32", 64, 64), tensor(f"diffusion_model.{a}.diff_b", "F32", 64)),
    )


def _components() -> Iterator[Model]:
    config = {
        "transformer": {"num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 32},
        "vae": {"latent_channels": 8},
    }
    yield Model(
        "safetensors",
        (
            tensor("model.diffusion_model.patchify_proj.weight", "BF16", 64, 8),
            tensor("model.diffusion_model.transformer_blocks.0.attn1.to_gate_logits.weight", "BF16", 2, 64),
            tensor("model.diffusion_model.video_embeddings_connector.learnable_registers", "BF16", 8, 64),
            tensor("text_embedding_projection.video_aggregate_embed.weight", "BF16", 64, 32),
            tensor("vae.encoder.conv_in.conv.weight", "BF16", 8, 3, 3, 3, 3),
            tensor("vae.per_channel_statistics.mean-of-means", "BF16", 8),
            tensor("audio_vae.decoder.conv_in.conv.weight", "BF16", 8, 8, 3, 3),
            tensor("vocoder.conv_pre.weight", "BF16", 8, 8, 7),
            tensor("duration_head.mlp_hidden.weight", "BF16", 8, 8),
        ),
        {"config": json.dumps(config), "model_version": "2.3.0", "gemma_source_checkpoint": "{}"},
    )
    gemma = ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm")
    yield Model(
        "safetensors",
        (
            tensor("model.embed_tokens.weight", "BF16", 16, 64),
            *(tensor(f"model.layers.0.{name}.weight", "BF16", 64) for name in gemma),
            tensor("model.layers.0.self_attn.q_proj.weight", "BF16", 64, 64),
            tensor("model.layers.0.self_attn.k_proj.weight", "BF16", 32, 64),
            tensor("model.layers.0.self_attn.q_norm.weight", "BF16", 32),
            tensor("model.layers.0.mlp.gate_proj.weight", "BF16", 128, 64),
            tensor("model.norm.weight", "BF16", 64),
            tensor("spiece_model", "U8", len(_SPIECE), data=_SPIECE),
        ),
        {"gemma_config": json.dumps({"model_type": "gemma3", "text_config": {"hidden_size": 64}})},
    )
    upscaler = ("initial_conv", "res_blocks.0.conv1", "upsampler.0", "final_conv")
    yield Model("safetensors", tuple(tensor(f"{name}.weight", "BF16", 8, 8, 3, 3, 3) for name in upscaler))
    packs = (
        "transformer.transformer_blocks.0.attn1.to_out.weight",
        "transformer.transformer_blocks.0.ff.proj_in.weight",
    )
    yield Model(
        "safetensors",
        (
            *(tensor(name, "BF16", 64, 64) for name in packs),
            tensor("vae_decoder.conv_in.conv.weight", "BF16", 8, 3, 3, 3, 8),
        ),
    )
    diffusers = (
        "transformer_blocks.0.attn1.norm_q.weight",
        "time_embed.emb.timestep_embedder.linear_1.weight",
        "proj_in.weight",
    )
    yield Model("safetensors", tuple(tensor(name, "BF16", 64, 64) for name in diffusers))


def _gguf() -> Iterator[Model]:
    q = "transformer_blocks.0.attn1.to_q.weight"
    types = (
        "Q8_0",
        "Q4_0",
        "Q4_1",
        "Q5_0",
        "Q5_1",
        "Q2_K",
        "Q3_K",
        "Q4_K",
        "Q5_K",
        "Q6_K",
        "IQ4_NL",
        "IQ4_XS",
        "MXFP4",
    )
    yield Model(
        "gguf",
        (
            *(tensor(q.replace("0", str(index), 1), name, 2, 256) for index, name in enumerate(types)),
            tensor("scale_shift_table", "F32", 2, 8),
        ),
        {
            "general.architecture": "ltxv",
            "general.alignment": np.uint32(64),
            f"comfy.gguf.orig_shape.{q}": np.array([8, 64], np.int32),
        },
    )
    int8 = {"format": "int8_tensorwise", "convrot": True, "weight_rotated": True, "convrot_groupsize": 64}
    yield Model(
        "gguf",
        (tensor(q, "I8", 4, 64), tensor(f"{q}_scale", "F32", 4, 1), tensor("patchify_proj.weight", "F16", 8, 8)),
        {
            "general.architecture": "ltxv",
            f"comfy.gguf.quant.{q}": json.dumps(int8),
            "model_version": "2.5.0",
            "config": "{}",
        },
    )
    pieces = [
        ("<pad>", 3),
        ("<eos>", 3),
        ("<bos>", 3),
        ("<unk>", 2),
        ("\n", 4),
        ("  ", 4),
        ("<0x41>", 6),
        ("▁", 1),
        ("a", 1),
        ("▁a", 1),
    ]
    sizes = {"block_count": 1, "embedding_length": 64, "feed_forward_length": 128, "attention.head_count": 2}
    sizes |= {"attention.head_count_kv": 1, "attention.key_length": 32, "attention.sliding_window": 8}
    for architecture, merged in (("gemma3", {}), ("gemma4", {"tokenizer.ggml.merges": ["▁ a"]})):
        yield Model(
            "gguf",
            (
                tensor("token_embd.weight", "Q8_0", 10, 64),
                tensor("blk.0.attn_norm.weight", "F32", 64),
                tensor("blk.0.attn_q.weight", "Q4_0", 64, 64),
                tensor("blk.0.attn_q_norm.weight", "F32", 32),
                tensor("output_norm.weight", "F32", 64),
                tensor("rope_freqs.weight", "F32", 16),
            ),
            {
                "general.architecture": architecture,
                "general.name": "small",
                **{f"{architecture}.{key}": value for key, value in sizes.items()},
                f"{architecture}.attention.layer_norm_rms_epsilon": 1e-6,
                f"{architecture}.attention.sliding_window_pattern": np.array([True]),
                "tokenizer.ggml.model": "llama" if architecture == "gemma3" else architecture,
                "tokenizer.ggml.tokens": [piece for piece, _ in pieces],
                "tokenizer.ggml.token_type": np.array([kind for _, kind in pieces], np.int32),
                "tokenizer.ggml.scores": np.arange(len(pieces), dtype=np.float32),
                **merged,
            },
        )


def _message(number: int, data: bytes) -> bytes:
    return bytes([number << 3 | 2, len(data)]) + data


_SPIECE = b"".join(
    _message(1, _message(1, piece.encode()) + b"\x15" + struct.pack("<f", -index) + b"\x18" + bytes([kind]))
    for index, (piece, kind) in enumerate([("<pad>", 3), ("<bos>", 3), ("<unk>", 2), ("▁", 1), ("a", 1), ("▁a", 1)])
)


# ----------------------------------------------------------------------------------------------------------- mutation


class Mutator:
    """Makes mutants; ``dice`` decides everything."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice

    def mutant(self, small: Sequence[Model], whole: Sequence[Model]) -> bytes:
        """A file; of the whole models, whose headers take a while to read, there are few."""
        model = self.dice.choice(whole if self.dice.random() < _WHOLE else small)
        for _ in range(self.dice.choice((0, 1, 1, 1, 2, 3))):
            change = self.dice.choice(self._changes(model))
            model = change(model)
        header, data = (write_gguf if model.container == "gguf" else write_safetensors)(model, self._lies())
        if self.dice.random() < 0.35:
            header = self._bytes_changed(header)
        if self.dice.random() < 0.05:
            data = data[: self.dice.randrange(len(data) + 1)]
        return header + data

    def _changes(self, model: Model) -> list[Callable[[Model], Model]]:
        return [self._rename, self._retype, self._reshape, self._drop, self._values, self._contents]

    def _lies(self) -> dict[str, int]:
        """A number of one tensor that the file states wrongly, now and then."""
        if self.dice.random() > 0.2:
            return {}
        return {self.dice.choice(("begin", "end", "dim", "rank")): self._number()}

    def _number(self) -> int:
        return self.dice.choice(_STRANGE_NUMBERS) if self.dice.random() < 0.5 else self.dice.randrange(5000)

    def _one(self, model: Model, change: Callable[[Tensor], Tensor]) -> Model:
        if not model.tensors:
            return model
        at = self.dice.randrange(len(model.tensors))
        return replace(model, tensors=(*model.tensors[:at], change(model.tensors[at]), *model.tensors[at + 1 :]))

    def _rename(self, model: Model) -> Model:
        def change(one: Tensor) -> Tensor:
            name = one.name
            kind = self.dice.randrange(6)
            if kind == 0:
                name = self.dice.choice(_STRANGE_NAMES)
            elif kind == 1:
                name = "".join(self.dice.sample(_WORDS, self.dice.randint(1, 4)))
            elif kind == 2:
                parts = name.split(".")
                del parts[self.dice.randrange(len(parts))]
                name = ".".join(parts)
            elif kind == 3:
                name = name.rpartition(".")[0] + self.dice.choice([word for word in _WORDS if word[0] == "."])
            elif kind == 4:
                name = name.replace("0", str(self._number()), 1)
            else:
                name = self.dice.choice([word for word in _WORDS if word[-1] == "."]) + name
            return one._replace(name=name)

        return self._one(model, change)

    def _retype(self, model: Model) -> Model:
        dtypes = list(NUMBERS) if model.container == "gguf" else list(_SAFETENSORS_DTYPES)

        def change(one: Tensor) -> Tensor:
            return _sized(one._replace(dtype=self.dice.choice(dtypes)))

        return self._one(model, change)

    def _reshape(self, model: Model) -> Model:
        def change(one: Tensor) -> Tensor:
            shape = list(one.shape)
            kind = self.dice.randrange(5)
            if kind == 0 and shape:
                shape[self.dice.randrange(len(shape))] = self.dice.choice((0, 1, 2, 3, 32, 64, 96, 255, 256, 512))
            elif kind == 1:
                shape.insert(self.dice.randrange(len(shape) + 1), self.dice.choice((0, 1, 2)))
            elif kind == 2 and shape:
                del shape[self.dice.randrange(len(shape))]
            elif kind == 3:
                self.dice.shuffle(shape)
            else:
                shape = [1] * self.dice.choice((0, 1, 5, 8, 33))
            return _sized(one._replace(shape=tuple(shape)))

        return self._one(model, change)

    def _drop(self, model: Model) -> Model:
        tensors = list(model.tensors)
        if self.dice.random() < 0.5 and tensors:
            del tensors[self.dice.randrange(len(tensors))]
        elif tensors:
            tensors.append(self.dice.choice(tensors))
            if self.dice.random() < 0.7:
                tensors[-1] = tensors[-1]._replace(name=tensors[-1].name + self.dice.choice(_WORDS))
        return replace(model, tensors=tuple(tensors))

    def _values(self, model: Model) -> Model:
        values = dict(model.values)
        keys = list(values) or ["config"]
        key = self.dice.choice(keys)
        value = values.get(key, "{}")
        kind = self.dice.randrange(4)
        if kind == 0:
            values.pop(key, None)
        elif kind == 1:
            values[self.dice.choice((*keys, "config", "model_version", "gemma_config", "x"))] = value
        elif isinstance(value, str):
            values[key] = self._text(value)
        elif isinstance(value, np.ndarray):
            values[key] = self._array(value)
        elif isinstance(value, list):
            values[key] = [self.dice.choice((piece, self._text(piece), "")) for piece in value]
        else:
            values[key] = self.dice.choice(
                (np.int32(-1), np.uint64(2**63), np.float64("nan"), True, "x", np.arange(3), [])
            )
        return replace(model, values=values)

    def _array(self, value: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        kind = self.dice.randrange(4)
        if kind == 0:
            return value[: self.dice.randrange(len(value) + 1)]
        if kind == 1:
            return np.concatenate([value, value])
        if kind == 2:
            return value.astype(self.dice.choice(("u1", "<i8", "<f4", "?")))
        value = value.copy()
        if len(value):
            value[self.dice.randrange(len(value))] = self.dice.choice((0, 1, 2, 7, 100))
        return value

    def _contents(self, model: Model) -> Model:
        """Other bytes in a tensor; in one of JSON, other JSON."""

        def change(one: Tensor) -> Tensor:
            if one.data[:1] == b"{":
                data = self._text(one.data.decode("utf-8", "replace")).encode("utf-8", "surrogatepass")
                return one._replace(data=data, shape=(len(data),))
            data = bytearray(one.data)
            for _ in range(self.dice.randint(1, 4)):
                if data:
                    data[self.dice.randrange(len(data))] = self.dice.choice(
                        (0, 0x7F, 0x80, 0xFF, self.dice.randrange(256))
                    )
            return one._replace(data=bytes(data))

        marked = [at for at, one in enumerate(model.tensors) if one.data[:1] == b"{"]
        if marked and self.dice.random() < 0.8:
            at = self.dice.choice(marked)
            return replace(model, tensors=(*model.tensors[:at], change(model.tensors[at]), *model.tensors[at + 1 :]))
        return self._one(model, change)

    def _text(self, value: str) -> str:
        """Another string; JSON most often stays JSON."""
        if self.dice.random() < 0.75:
            try:
                return json.dumps(self._json(json.loads(value)))
            except (ValueError, RecursionError):
                pass
        kind = self.dice.randrange(6)
        if kind == 0:
            return value[: self.dice.randrange(len(value) + 1)]
        if kind == 1:
            return value * self.dice.choice((2, 2, 2, 1000))
        if kind == 2:
            return "[" * self.dice.choice((10, 1000, 60_000))
        if kind == 3:
            return self.dice.choice(_STRANGE_NAMES)
        if kind == 4:
            return str(self._number())
        return value.replace(self.dice.choice(value or "x"), self.dice.choice(("", "\0", '"', "1", "[")), 1)

    def _json(self, value: Any) -> Any:
        kind = self.dice.randrange(5)
        if isinstance(value, dict) and value and kind > 0:
            key = self.dice.choice(list(value))
            if kind == 1:
                return {name: inner for name, inner in value.items() if name != key}
            if kind == 2:
                return value | {
                    self.dice.choice(("format", "params", "convrot", "layers", "group_size", "x")): self._strange()
                }
            return value | {key: self._json(value[key])}
        if isinstance(value, list) and value and kind > 2:
            at = self.dice.randrange(len(value))
            return [*value[:at], self._json(value[at]), *value[at + 1 :]]
        if isinstance(value, str) and kind > 2:
            formats = (
                "int8_tensorwise",
                "nvfp4",
                "mxfp8",
                "asym_w4a8_int8",
                "convrot_w4a4",
                "awq_w4a16",
                "float8_e4m3fn",
                "x",
            )
            return self.dice.choice(formats)
        return self._strange()

    def _strange(self) -> Any:
        return self._number() if self.dice.random() < 0.4 else self.dice.choice(_STRANGE_VALUES)

    def _bytes_changed(self, header: bytes) -> bytes:
        changed = bytearray(header)
        for _ in range(self.dice.choice((1, 1, 2, 5))):
            if not changed:
                break
            at = self.dice.randrange(len(changed))
            kind = self.dice.randrange(5)
            if kind == 0:
                changed[at] ^= 1 << self.dice.randrange(8)
            elif kind == 1:
                changed[at] = self.dice.randrange(256)
            elif kind == 2:
                number = self.dice.choice(_STRANGE_NUMBERS)
                changed[at : at + 8] = struct.pack("<Q", number)
            elif kind == 3:
                del changed[at : at + self.dice.choice((1, 4, 50))]
            else:
                changed[at:at] = changed[at : at + self.dice.choice((1, 8, 50))]
        return bytes(changed)


def _sized(one: Tensor) -> Tensor:
    """With as much data as dtype and shape need, if that is little."""
    try:
        size = entry(one.dtype, one.shape).nbytes
    except KeyError:
        size = int(np.prod(one.shape, dtype=object))
    return one._replace(data=(one.data or b"\x31").ljust(min(size, 1 << 16), b"\x31")[: min(size, 1 << 16)])


def write_safetensors(model: Model, lies: dict[str, int]) -> tuple[bytes, bytes]:
    """(header, data); ``lies`` are of the last tensor."""
    pairs: list[tuple[str, Any]] = [("__metadata__", model.values)] if model.values else []
    position = 0
    for one in model.tensors:
        span = [position, position + len(one.data)]
        position += len(one.data)
        pairs.append((one.name, {"dtype": one.dtype, "shape": list(one.shape), "data_offsets": span}))
    if lies and model.tensors:
        stated = pairs[-1][1]
        stated["data_offsets"] = [
            lies.get("begin", stated["data_offsets"][0]),
            lies.get("end", stated["data_offsets"][1]),
        ]
        stated["shape"] = [lies["dim"], *stated["shape"]][: lies.get("rank", 40)] if "dim" in lies else stated["shape"]
    # By hand, because a name may occur twice.
    header = "{" + ",".join(f"{json.dumps(name)}:{json.dumps(value, default=str)}" for name, value in pairs) + "}"
    encoded = header.encode("utf-8", "surrogatepass")
    return len(encoded).to_bytes(8, "little") + encoded, b"".join(one.data for one in model.tensors)


def write_gguf(model: Model, lies: dict[str, int]) -> tuple[bytes, bytes]:
    """(header, data); ``lies`` are of the last tensor."""
    alignment = 64 if "general.alignment" in model.values else 32
    header = b"GGUF" + struct.pack("<IQQ", 3, len(model.tensors), len(model.values))
    header += b"".join(text(_plain(key)) + value_bytes(_plain(value)) for key, value in model.values.items())
    data = b""
    for one in model.tensors:
        data += b"\0" * (-len(data) % alignment)
        last = one is model.tensors[-1]
        dims = list(reversed(one.shape))
        if last and "dim" in lies and dims:
            dims[0] = lies["dim"]
        rank = min(lies["rank"], 2**32 - 1) if last and "rank" in lies else len(dims)
        offset = lies["begin"] if last and "begin" in lies else len(data)
        kind = min(lies["end"], 2**32 - 1) if last and "end" in lies else NUMBERS.get(one.dtype, 99)
        header += text(_plain(one.name)) + struct.pack(f"<I{len(dims)}QIQ", rank, *dims, kind, offset)
        data += one.data
    return header + b"\0" * (-len(header) % alignment), data


def _plain(value: Any) -> Any:
    """Strings as bytes, which a file may hold whatever they are."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    return [_plain(inner) for inner in value] if isinstance(value, list) else value


# --------------------------------------------------------------------------------------------------------- the readers


def read(path: Path) -> tuple[WeightFile | None, list[str]]:
    """Everything that a header can reach: (the file, if its header is sound; kinds of what came of it)."""
    try:
        file = open_weight_file(path)
    except Ltx2rtError as error:
        return None, [f"refused: {type(error).__name__}"]
    found = [_result("inspected", lambda: inspect(path, deep=True))]
    if is_lora(file.tensors):
        found.append(_result("LoRA opened", lambda: _load_lora(path)))
    found.append(_result("tokenizer", lambda: GemmaTokenizer.from_path(path).encode("a  a\n")))
    return file, [*found, *_load(path)]


def _result(what: str, act: Callable[[], object]) -> str:
    try:
        act()
    except Ltx2rtError as error:
        return f"{what}: {type(error).__name__}"
    return what


def _load(path: Path) -> list[str]:
    """What came of opening the file as a checkpoint, and of asking for each of its parts."""
    try:
        checkpoint = Checkpoint.open(path)
    except Ltx2rtError as error:
        return [f"opened: {type(error).__name__}"]
    found = ["opened", _result("described", lambda: (checkpoint.generation, checkpoint.variant, checkpoint.config))]
    for component in sorted(checkpoint.components):
        found.append(_result("section", partial(checkpoint.section, component)))
        found.append(_result("formats", partial(checkpoint.formats, component)))
        for name, info in list(checkpoint.names(component).items())[:_TENSORS]:
            linear = name.endswith(".weight") and len(info.shape) == 2
            spec = ParamSpec(name, info.shape, layout="linear" if linear else "as_stored")
            found.append(_result("tensor planned", partial(checkpoint.loaded_bytes, component, [spec])))
            found.append(_result("tensor loaded", partial(checkpoint.load, component, [spec])))
    return found


def _load_lora(path: Path) -> None:
    lora = open_lora(path)
    lora.stated_factor("spatial")
    lora.require_finite()
    for change in list(lora.changes.values())[:_TENSORS]:
        if change.shape and 0 < np.prod(change.shape, dtype=object) < 1 << 20:
            change.begin(0.5, np.ones(change.shape, np.float32))(slice(0, 1))


# ------------------------------------------------------------------------------------------------------------ counting


@dataclass
class Tally:
    """What came of some mutants.

    Attributes:
        kinds: outcome -> how many.
        parsed: how many had a sound header.
        failures: where something else than an error of ltx2rt came from -> (first mutant, traceback).
        slowest: seconds, and the mutant.
        lines: file of `ltx2rt/weights` -> lines reached.
        peak_bytes: of memory, in the process that ran them.
    """

    kinds: Counter[str] = field(default_factory=Counter)
    parsed: int = 0
    failures: dict[str, tuple[int, str]] = field(default_factory=dict)
    slowest: tuple[float, int] = (0.0, -1)
    lines: dict[str, set[int]] = field(default_factory=dict)
    peak_bytes: int = 0

    def add(self, other: Tally) -> None:
        self.kinds += other.kinds
        self.parsed += other.parsed
        for where, failure in other.failures.items():
            self.failures.setdefault(where, failure)
        self.slowest = max(self.slowest, other.slowest)
        for name, lines in other.lines.items():
            self.lines.setdefault(name, set()).update(lines)
        self.peak_bytes = max(self.peak_bytes, other.peak_bytes)


def run(seed: int, first: int, stop: int, traced: bool, keep: Path | None) -> Tally:
    """The mutants from ``first`` to before ``stop``; ``traced`` records the lines that they reach."""
    small, whole, tally = corpus(), list(whole_models()), Tally()
    before = signal.signal(signal.SIGPROF, _too_long)
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
        for index in range(first, stop):
            # Of its own, so that no file beside it is read with it.
            path = Path(folder) / f"{index}" / "mutant-dev.safetensors"
            path.parent.mkdir()
            path.write_bytes(Mutator(random.Random(f"{seed}/{index}")).mutant(small, whole))
            start = time.process_time()
            signal.setitimer(signal.ITIMER_PROF, _SECONDS * (5 if traced else 1))  # of this process
            if traced:
                sys.settrace(_tracer(tally.lines))
            try:
                file, kinds = read(path)
                tally.kinds.update(kinds)
                tally.parsed += file is not None
                if file is not None:
                    file.close()
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                tally.kinds["FAILED"] += 1
                place = traceback.extract_tb(error.__traceback__)[-1]
                ours = [frame for frame in traceback.extract_tb(error.__traceback__) if "ltx2rt" in frame.filename]
                where = f"{type(error).__name__} at {(ours or [place])[-1].filename}:{(ours or [place])[-1].lineno}"
                if where not in tally.failures and keep is not None:
                    keep.mkdir(parents=True, exist_ok=True)
                    (keep / f"{seed}-{index}.bin").write_bytes(path.read_bytes())
                tally.failures.setdefault(where, (index, traceback.format_exc(limit=-6)))
            finally:
                sys.settrace(None)
                signal.setitimer(signal.ITIMER_PROF, 0)
            tally.slowest = max(tally.slowest, (time.process_time() - start, index))
            path.unlink()
            path.parent.rmdir()
    signal.signal(signal.SIGPROF, before)
    tally.peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return tally


def _run(work: tuple[int, int, int, bool, Path | None]) -> Tally:
    return run(*work)


def _too_long(number: int, frame: FrameType | None) -> None:
    raise TimeoutError(f"a mutant took more than {_SECONDS} s")


def _tracer(lines: dict[str, set[int]]) -> Callable[[FrameType, str, Any], Any]:
    prefix = str(READERS) + os.sep

    def local(frame: FrameType, event: str, _: Any) -> Any:
        if event == "line":
            lines.setdefault(frame.f_code.co_filename, set()).add(frame.f_lineno)
        return local

    def entered(frame: FrameType, event: str, argument: Any) -> Any:
        return local(frame, "line", argument) if frame.f_code.co_filename.startswith(prefix) else None

    return entered


def lines_of(path: Path) -> set[int]:
    """Numbers of the lines inside functions that can be executed."""
    found: set[int] = set()

    def collect(code: CodeType, inside: bool) -> None:
        if inside:
            found.update(line for _, _, line in code.co_lines() if line)
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                collect(constant, inside or not _is_class(constant))

    def _is_class(code: CodeType) -> bool:
        return "__module__" in code.co_names

    collect(compile(path.read_text(encoding="utf-8"), str(path), "exec"), inside=False)
    return found


def _prepare() -> None:
    """A process of its own: quiet, and with little memory."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore", RuntimeWarning)  # of numpy, where values of mutants overflow
    with open("/proc/self/statm", encoding="ascii") as statm:
        now = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + _BYTES, now + _BYTES))


def report(tally: Tally, count: int, seconds: float) -> None:
    """Print the outcome."""
    print(f"{count} mutants in {seconds:.0f} s ({count / seconds:.0f} a second), {tally.parsed} with a sound header")
    print(f"({100 * tally.parsed / count:.1f} %); slowest {tally.slowest[0]:.2f} s (mutant {tally.slowest[1]});")
    print(f"peak memory of a process {tally.peak_bytes / 2**20:.0f} MiB")
    for kind, number in sorted(tally.kinds.items()):
        print(f"{number:9} {kind}")
    if tally.lines:
        print("lines reached of the readers:")
        for path in sorted(READERS.rglob("*.py")):
            every = lines_of(path)
            reached = tally.lines.get(str(path), set()) & every
            if reached:
                print(f"{len(reached):5} of {len(every):4} {path.relative_to(READERS)}")
    for where, (index, trace) in tally.failures.items():
        print(f"\nFAILED first with mutant {index}: {where}\n{trace}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000, help="mutants (10000)")
    parser.add_argument("--seed", type=int, default=0, help="of all of them together (0)")
    parser.add_argument("--first", type=int, default=0, help="number of the first mutant (0)")
    parser.add_argument("--only", type=int, help="run this mutant alone")
    parser.add_argument("--jobs", type=int, default=1, help="processes (1)")
    parser.add_argument(
        "--traced", type=int, default=2000, help="mutants whose lines are counted, which is slow (2000)"
    )
    parser.add_argument("--keep", type=Path, help="folder for the mutants that failed")
    options = parser.parse_args()
    first, count = (options.first, options.count) if options.only is None else (options.only, 1)
    if options.only is not None and options.keep is not None:
        options.keep.mkdir(parents=True, exist_ok=True)
        mutant = Mutator(random.Random(f"{options.seed}/{options.only}")).mutant(corpus(), list(whole_models()))
        (options.keep / f"{options.seed}-{options.only}.bin").write_bytes(mutant)
    start = time.perf_counter()
    bounds = [(at, min(at + _CHUNK, first + count)) for at in range(first, first + count, _CHUNK)]
    work = [(options.seed, at, stop, at < first + options.traced, options.keep) for at, stop in bounds]
    tally = Tally()
    with multiprocessing.get_context("spawn").Pool(options.jobs, _prepare) as pool:
        for done, part in enumerate(pool.imap_unordered(_run, work), 1):
            tally.add(part)
            if done % _REPORTED == 0:
                seconds = time.perf_counter() - start
                print(f"{done * _CHUNK} mutants, {seconds:.0f} s, {len(tally.failures)} failures", file=sys.stderr)
    report(tally, count, time.perf_counter() - start)
    return 1 if tally.failures else 0


if __name__ == "__main__":
    sys.exit(main())
