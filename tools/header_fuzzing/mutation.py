"""Changes of tensors, names, values, markers and bytes of a file, all decided by a random number generator."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from header_fuzzing.file_model import NUMBERS, WRITERS, Model, Tensor

from ltx2rt.weights.tensor_source import entry

# Part of the mutants that are made of whole models.
_WHOLE = 0.01
# Most characters of a text that was made by repeating: it may be repeated again.
_LONGEST_TEXT = 8 << 20
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
        header, data = WRITERS[model.container](model, self._lies())
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
            times: int = self.dice.choice((2, 2, 2, 1000))
            return value[: _LONGEST_TEXT // times] * times
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
