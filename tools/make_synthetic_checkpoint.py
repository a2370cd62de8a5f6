"""Writes a weight file of the real size with random values, from a tensor manifest.

    python tools/make_synthetic_checkpoint.py MANIFEST OUT.safetensors [--fp8 | --int8] [--layers N]
        [--encoder-layers M]
    python tools/make_synthetic_checkpoint.py gemma-3-12b FOLDER [--layers M]

A manifest is a JSON file {"tensors": {name: [dtype, shape]}, "metadata": {...}}. The file has the names, shapes, dtypes
and configuration of the published one, so everything that reads that reads this; one of a text encoder also gets the
embedded model's tokenizer. Its values are scaled so that
activations stay finite and of order one through all blocks: matrices by their inputs, what is added to a residual
stream smaller, norms one, modulation tables around zero.

The numbers are not drawn one by one: one block of about a million is, and every tensor repeats it, scaled, from a place
of its own. The block's length is prime, so that no two rows of a matrix are alike. The same arguments give the same
bytes. The memory needed does not depend on the size of the file.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import math
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from ltx2rt import embedded
from ltx2rt.errors import Ltx2rtError, UsageError
from ltx2rt.weights.detection import read_json
from ltx2rt.weights.float8 import E4M3_MAX, encode_e4m3
from ltx2rt.weights.tensor_source import DTYPES

Array = np.ndarray[Any, np.dtype[Any]]
Tensors = dict[str, tuple[str, tuple[int, ...]]]

GEMMA = "gemma-3-12b"
NOTE = "random values of the published shapes; not a trained model"
SEED = 20261121
BLOCK = 1_048_583  # prime
ROOM_TO_SPARE = 64 << 20

ENCODER_LAYER = re.compile(r"model\.layers\.(\d+)\.")
TRANSFORMER_BLOCK = re.compile(r"(^|\.)transformer_blocks\.(\d+)\.")
AGGREGATES = ("aggregate_embed.weight", "video_aggregate_embed.weight", "audio_aggregate_embed.weight")
# The linear layers that FP8 files hold in eight bits; the first block and the last five stay as they are.
EIGHT_BIT = re.compile(
    r"transformer_blocks\.\d+\.\w+\.(to_q|to_k|to_v|to_out\.0|to_gate_logits|net\.0\.proj|net\.2)\.weight$"
)
KEPT_FIRST, KEPT_LAST = 1, 5
# What the int8 files of LTX-2.5 hold in eight bits, rotated in groups: transformer and connectors, or text encoder.
ROTATED = re.compile(
    r"(^|\.)transformer(_1d)?_blocks\.\d+\.\w+\.(to_q|to_k|to_v|to_out\.0|net\.0\.proj|net\.2)\.weight$"
    r"|^model\.layers\.\d+\.\w+\.\w+_proj\.weight$"
)
ROTATED_MARK = json.dumps({"format": "int8_tensorwise", "convrot": True, "convrot_groupsize": 256}).encode()
EIGHT_BIT_MAX = {"F8_E4M3": E4M3_MAX, "I8": 127.0}
EightBits = Literal["fp8", "int8"]

GEMMA_CONFIG: dict[str, Any] = {
    "architectures": ["Gemma3ForConditionalGeneration"],
    "model_type": "gemma3",
    "text_config": {
        "model_type": "gemma3_text",
        "hidden_size": 3840,
        "num_hidden_layers": 48,
        "intermediate_size": 15360,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 256,
        "query_pre_attn_scalar": 256,
        "vocab_size": 262208,
        "rms_norm_eps": 1e-6,
        "hidden_activation": "gelu_pytorch_tanh",
        "sliding_window": 1024,
        "sliding_window_pattern": 6,
        "rope_theta": 1000000.0,
        "rope_local_base_freq": 10000.0,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        "attention_bias": False,
    },
}


class Values(NamedTuple):
    """Normal numbers of this mean and standard deviation."""

    mean: float
    std: float


def values_of(name: str, shape: tuple[int, ...], depth: int, *, gemma_4: bool = False) -> Values:
    """What the values of a tensor look like.

    Args:
        name: in the file.
        shape: of the tensor.
        depth: blocks of the transformer, whose contributions add up.
        gemma_4: the file holds a Gemma 4.
    """
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "input_scale" or "std-of-means" in leaf or leaf == "layer_scalar":
        return Values(1.0, 0.0)
    if leaf == "timestep_scale_multiplier":
        return Values(1000.0, 0.0)
    if "mean-of-means" in leaf or leaf in ("channel", "alpha", "beta"):
        return Values(0.0, 0.0)  # alpha and beta are logarithms
    if leaf == "filter":
        return Values(1.0 / shape[-1], 0.0)
    if leaf == "learnable_registers":
        return Values(0.0, 1.0)
    if leaf.endswith(("bias", "table", "_emb", "_pos_embedding", "per_channel_scale1", "per_channel_scale2")):
        return Values(0.0, 0.02)
    if len(shape) == 1:
        return _norm_values_of_gemma_4(name, shape[0]) if gemma_4 else _norm_values(name)
    std = 1.0 / math.sqrt(math.prod(shape[1:]))
    if name.endswith(("to_out.0.weight", "net.2.weight", "o_proj.weight", "down_proj.weight")):
        return Values(0.0, std * math.sqrt(2 / max(depth, 2)))
    if name.endswith(("adaln_single.linear.weight", "adaln.proj.weight")):
        return Values(0.0, 0.5 * std)
    if name.endswith((".conv2.conv.weight", ".conv2.weight", ".attn.proj.weight", ".mlp.w_down.weight")):
        return Values(0.0, 0.3 * std)
    return Values(0.0, std)


def _norm_values(name: str) -> Values:
    """Gemma 3 stores its norms' distance from one; those that end a residual branch make it a tenth."""
    if re.search(r"\.layers\.\d+\.|(^|\.)model\.norm\.weight$", name):
        return Values(-0.9 if ".post_" in name else 0.0, 0.0)
    return Values(1.0, 0.0)


def _norm_values_of_gemma_4(name: str, size: int) -> Values:
    """Gemma 4 stores the factors themselves, and divides its scores by nothing: queries and keys are short instead."""
    if name.endswith((".q_norm.weight", ".k_norm.weight")):
        return Values(size**-0.25, 0.0)
    return Values(0.1 if ".post_" in name else 1.0, 0.0)


class Entry(NamedTuple):
    """One tensor of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    values: Values

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize


class Content:
    """The random block, and the bytes that tensors make of it."""

    def __init__(self, seed: int) -> None:
        self._block = np.random.default_rng(seed).standard_normal(BLOCK, dtype=np.float32)
        self.largest = float(np.abs(self._block).max())
        self._whole = functools.lru_cache(maxsize=8)(self._stored)

    def entries(self, tensors: Tensors, depth: int) -> list[Entry]:
        """What the tensors hold, widest items first, so that each is aligned to its items.

        Raises:
            UsageError: a tensor of integers.
        """
        entries = []
        gemma_4 = is_gemma_4(tensors)
        for name, (dtype, shape) in tensors.items():
            scaled = f"{name}_scale" in tensors
            if dtype not in ("F64", "F32", "F16", "BF16", "F8_E4M3") and not (dtype == "I8" and scaled):
                raise UsageError(f"tensor {name} is {dtype}; only tensors of floating point numbers can be made up.")
            values = values_of(name, shape, depth, gemma_4=gemma_4)
            if dtype in EIGHT_BIT_MAX and scaled:
                values = Values(0.0, EIGHT_BIT_MAX[dtype] / self.largest)  # the whole range; the scale makes the size
            elif name.endswith(".weight_scale"):
                weight = name.removesuffix("_scale")
                largest = EIGHT_BIT_MAX[tensors[weight][0]]
                values = Values(values_of(weight, tensors[weight][1], depth).std * self.largest / largest, 0.0)
            entries.append(Entry(name, dtype, shape, values))
        return sorted(entries, key=lambda entry: -DTYPES[entry.dtype].itemsize)

    def pieces(self, index: int, entry: Entry) -> Iterator[bytes]:
        """The bytes of one tensor, a block at a time; ``index`` chooses where in the block they begin."""
        count, itemsize = math.prod(entry.shape), DTYPES[entry.dtype].itemsize
        start = index * 7_919 % BLOCK
        while count > 0:
            length = min(count, BLOCK - start)
            if length == BLOCK:
                yield self._whole(entry.dtype, entry.values, 0, BLOCK)
            elif count + start < BLOCK:
                yield self._stored(entry.dtype, entry.values, start, length)
            else:
                whole = memoryview(self._whole(entry.dtype, entry.values, 0, BLOCK))
                yield bytes(whole[start * itemsize : (start + length) * itemsize])
            count -= length
            start = 0

    def _stored(self, dtype: str, values: Values, start: int, length: int) -> bytes:
        numbers = self._block[start : start + length] * np.float32(values.std) + np.float32(values.mean)
        if dtype == "F8_E4M3":
            return encode_e4m3(numbers).tobytes()
        if dtype == "I8":
            return np.rint(numbers).astype(np.int8).tobytes()
        if dtype == "BF16":
            bits = numbers.view(np.uint32)
            rounded = bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))
            return (rounded >> np.uint32(16)).astype("<u2").tobytes()
        return numbers.astype(DTYPES[dtype].numpy).tobytes()


def shortened(tensors: Tensors, layers: int) -> Tensors:
    """Without the transformer's blocks from ``layers`` on.

    Raises:
        UsageError: there are not that many.
    """
    present = depth_of(tensors)
    if not 1 <= layers <= present:
        raise UsageError(f"--layers must be 1 to {present}, got {layers}.")
    kept = {}
    for name, entry in tensors.items():
        match = TRANSFORMER_BLOCK.search(name)
        if match is None or int(match[2]) < layers:
            kept[name] = entry
    return kept


def is_gemma_4(tensors: Tensors) -> bool:
    """Whether a file holds a Gemma 4 text encoder."""
    return any(name.endswith(".layer_scalar") for name in tensors)


def shortened_encoder(tensors: Tensors, config: Mapping[str, Any], layers: int) -> tuple[Tensors, dict[str, Any]]:
    """A text encoder and its configuration without the layers from ``layers`` on, and a projection that reads that.

    Raises:
        UsageError: there are not that many, or the last one left would not see all tokens, as the last one must.
    """
    text = config["text_config"]
    types = text["layer_types"]
    if not 1 <= layers <= len(types) or types[layers - 1] != "full_attention":
        last = [index + 1 for index, kind in enumerate(types) if kind == "full_attention"]
        raise UsageError(f"--layers must be one of {', '.join(map(str, last))} for this text encoder, got {layers}.")
    kept = {
        name: entry
        for name, entry in tensors.items()
        if (match := ENCODER_LAYER.match(name)) is None or int(match[1]) < layers
    }
    shorter = {**text, "num_hidden_layers": layers, "layer_types": types[:layers]}
    return for_encoder(kept, layers, text["hidden_size"]), {**config, "text_config": shorter}


def depth_of(tensors: Tensors) -> int:
    """Blocks of the transformer; 0 without one."""
    found = [int(match[2]) for name in tensors if (match := TRANSFORMER_BLOCK.search(name))]
    return max(found, default=-1) + 1


def for_encoder(tensors: Tensors, layers: int, width: int) -> Tensors:
    """With a text projection that reads the states of an encoder of ``layers`` layers."""
    return {
        name: (dtype, (shape[0], width * (layers + 1))) if name.endswith(AGGREGATES) else (dtype, shape)
        for name, (dtype, shape) in tensors.items()
    }


def in_eight_bits(tensors: Tensors) -> Tensors:
    """The linear weights of all blocks but the outer ones as scaled FP8, as the published FP8 files have them.

    Raises:
        UsageError: there are none.
    """
    last = depth_of(tensors) - KEPT_LAST
    converted: Tensors = {}
    for name, (dtype, shape) in tensors.items():
        block = TRANSFORMER_BLOCK.search(name)
        if block is None or not EIGHT_BIT.search(name) or not KEPT_FIRST <= int(block[2]) < last:
            converted[name] = (dtype, shape)
            continue
        converted[name] = ("F8_E4M3", shape)
        converted[f"{name}_scale"] = ("F32", ())
        converted[name.removesuffix("weight") + "input_scale"] = ("F32", ())
    if not any(dtype == "F8_E4M3" for dtype, _ in converted.values()):
        raise UsageError("--fp8 has no effect on this manifest: it lists no transformer block that can be in FP8.")
    return converted


def rotated(tensors: Tensors) -> tuple[Tensors, dict[str, bytes]]:
    """The linear weights of all layers as rotated int8 with row scales, as the published int8 files of LTX-2.5.

    Returns:
        the tensors, and the marks of those in eight bits.

    Raises:
        UsageError: there are none.
    """
    converted: Tensors = {}
    marks = {}
    for name, (dtype, shape) in tensors.items():
        if ROTATED.search(name):
            converted[name] = ("I8", shape)
            converted[f"{name}_scale"] = ("F32", (shape[0], 1))
            marks[name.removesuffix("weight") + "comfy_quant"] = ROTATED_MARK
        else:
            converted[name] = (dtype, shape)
    if not marks:
        raise UsageError("--int8 has no effect on this manifest: it lists no layer that can be in int8.")
    return converted, marks


def gemma_tensors(config: Mapping[str, Any]) -> Tensors:
    """The text model of a Gemma 3 folder."""
    text = config["text_config"]
    width, wide = text["hidden_size"], text["intermediate_size"]
    head, heads, pairs = text["head_dim"], text["num_attention_heads"], text["num_key_value_heads"]
    tensors: Tensors = {"embed_tokens.weight": ("BF16", (text["vocab_size"], width)), "norm.weight": ("BF16", (width,))}
    shapes: dict[str, tuple[int, ...]] = {
        "self_attn.q_proj.weight": (heads * head, width),
        "self_attn.k_proj.weight": (pairs * head, width),
        "self_attn.v_proj.weight": (pairs * head, width),
        "self_attn.o_proj.weight": (width, heads * head),
        "self_attn.q_norm.weight": (head,),
        "self_attn.k_norm.weight": (head,),
        "mlp.gate_proj.weight": (wide, width),
        "mlp.up_proj.weight": (wide, width),
        "mlp.down_proj.weight": (width, wide),
        "input_layernorm.weight": (width,),
        "post_attention_layernorm.weight": (width,),
        "pre_feedforward_layernorm.weight": (width,),
        "post_feedforward_layernorm.weight": (width,),
    }
    for layer in range(text["num_hidden_layers"]):
        tensors |= {f"layers.{layer}.{name}": ("BF16", shape) for name, shape in shapes.items()}
    return {f"language_model.model.{name}": entry for name, entry in tensors.items()}


def write_file(
    path: Path,
    tensors: Tensors,
    metadata: Mapping[str, str],
    seed: int = SEED,
    assets: Mapping[str, bytes] | None = None,
) -> int:
    """Write a safetensors file of random values, and of ``assets`` as bytes; it appears complete or not at all.

    Returns:
        its size in bytes.

    Raises:
        UsageError: a tensor of integers.
        Ltx2rtError: the folder does not exist, the disk lacks room, or writing fails.
    """
    content = Content(seed)
    entries = content.entries(tensors, depth_of(tensors))
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    position = 0
    for entry in entries:
        end = position + entry.nbytes
        header[entry.name] = {"dtype": entry.dtype, "shape": entry.shape, "data_offsets": [position, end]}
        position = end
    for name, data in (assets or {}).items():
        header[name] = {"dtype": "U8", "shape": [len(data)], "data_offsets": [position, position + len(data)]}
        position += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    size = 8 + len(text) + position
    require_room(path, size)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb", buffering=0) as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)  # so that nobody else takes the room meanwhile
            write_all(file, len(text).to_bytes(8, "little") + text)
            for index, entry in enumerate(entries):
                for piece in content.pieces(index, entry):
                    write_all(file, piece)
            for data in (assets or {}).values():
                write_all(file, data)
        os.replace(temporary, path)
    except OSError as error:
        raise Ltx2rtError(f"cannot write {path}: {error.strerror or error}.") from error
    finally:
        temporary.unlink(missing_ok=True)
    return size


def write_all(file: Any, data: bytes) -> None:
    """Write everything; an unbuffered file may take less at a time."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def require_room(path: Path, size: int) -> None:
    """Raise `Ltx2rtError` unless the folder exists and its disk has room for ``size`` bytes."""
    if not path.parent.is_dir():
        raise Ltx2rtError(f"the folder {path.parent} does not exist; create it or choose another path.")
    free = shutil.disk_usage(path.parent).free
    if size + ROOM_TO_SPARE > free:
        raise Ltx2rtError(
            f"{path} needs {size / 1e9:.2f} GB, but only {free / 1e9:.2f} GB are free; "
            "free some, or choose a folder on another disk."
        )


def write_from_manifest(
    manifest: Path,
    path: Path,
    *,
    eight_bits: EightBits | None = None,
    layers: int | None = None,
    encoder_layers: int | None = None,
) -> int:
    """Make the file that a manifest describes; see the options of the command.

    Returns:
        its size in bytes.
    """
    content = read_json(manifest)
    listed = content.get("tensors")
    if not isinstance(listed, dict) or not listed:
        raise UsageError(f"{manifest} is no tensor manifest: it has no object named 'tensors'.")
    tensors: Tensors = {name: (dtype, tuple(shape)) for name, (dtype, shape) in listed.items()}
    metadata: dict[str, Any] = dict(content.get("metadata") or {})
    config = metadata.get("config")
    if eight_bits == "fp8" and not any(dtype == "F8_E4M3" for dtype, _ in tensors.values()):
        tensors = in_eight_bits(tensors)
    encoder = metadata.get("gemma_config")
    if layers is not None and isinstance(encoder, dict):
        tensors, metadata["gemma_config"] = shortened_encoder(tensors, encoder, layers)
    elif layers is not None:
        tensors = shortened(tensors, layers)
        if isinstance(config, dict):
            metadata["config"] = config | {"transformer": config["transformer"] | {"num_layers": layers}}
    if encoder_layers is not None:
        tensors = for_encoder(tensors, encoder_layers, GEMMA_CONFIG["text_config"]["hidden_size"])
    metadata.pop("_quantization_metadata", None)  # the manifests do not know its text
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}
    assets: dict[str, bytes] = {}
    if eight_bits == "int8":
        tensors, assets = rotated(tensors)
    if encoder is not None and "tokenizer_json" not in tensors:  # a manifest does not hold it
        assets["tokenizer_json"] = (embedded.TEXT_ENCODER / "tokenizer.json").read_bytes()
    return write_file(path, tensors, texts | {"ltx2rt_note": NOTE}, assets=assets)


def write_gemma(folder: Path, layers: int | None = None) -> int:
    """Make a Gemma 3 12B folder: text model, configuration, and the embedded model's tokenizer.

    Returns:
        the size of its weights in bytes.
    """
    config = json.loads(json.dumps(GEMMA_CONFIG))
    if layers is not None:
        if not 1 <= layers <= config["text_config"]["num_hidden_layers"]:
            raise UsageError(f"--layers must be 1 to {config['text_config']['num_hidden_layers']}, got {layers}.")
        config["text_config"]["num_hidden_layers"] = layers
    existed = folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        size = write_file(folder / "model.safetensors", gemma_tensors(config), {"ltx2rt_note": NOTE})
    finally:
        if not existed:
            with contextlib.suppress(OSError):
                folder.rmdir()  # only an empty folder goes
    shutil.copyfile(embedded.TEXT_ENCODER / "tokenizer.json", folder / "tokenizer.json")
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    return size


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("manifest", help=f"a tensor manifest, or {GEMMA}")
    parser.add_argument("output", type=Path, help=f"the file to write; a folder for {GEMMA}")
    eight = parser.add_mutually_exclusive_group()
    for form, text in (
        ("fp8", "linear weights of the blocks in FP8, as the published files"),
        ("int8", "linear weights of all layers in rotated int8, as the published files of LTX-2.5"),
    ):
        eight.add_argument(f"--{form}", dest="eight_bits", action="store_const", const=form, help=text)
    parser.add_argument("--layers", type=int, help="keep only the first blocks of the transformer, or layers of Gemma")
    parser.add_argument("--encoder-layers", type=int, help="a text projection for a Gemma of this many layers")
    arguments = parser.parse_args(words)
    start = time.perf_counter()
    try:
        if arguments.manifest == GEMMA:
            if arguments.eight_bits is not None or arguments.encoder_layers is not None:
                raise UsageError(f"--fp8, --int8 and --encoder-layers do not apply to {GEMMA}.")
            size = write_gemma(arguments.output, arguments.layers)
        else:
            size = write_from_manifest(
                Path(arguments.manifest),
                arguments.output,
                eight_bits=arguments.eight_bits,
                layers=arguments.layers,
                encoder_layers=arguments.encoder_layers,
            )
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Ltx2rtError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; nothing is left behind", file=sys.stderr)
        return 130
    seconds = time.perf_counter() - start
    print(f"{arguments.output}: {size / 1e9:.2f} GB in {seconds:.0f} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
