"""A weight file before it is written, and writing it in one of three ways, with wrong numbers where wanted."""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ltx2rt.weights.byte_planes import in_byte_planes
from ltx2rt.weights.tensor_source import entry

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "weights"))
from tiny_gguf import NUMBERS, text, value_bytes


class Tensor(NamedTuple):
    """A tensor as a file holds it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: bytes


@dataclass(frozen=True)
class Model:
    """A file before it is written.

    ``container``: one of `WRITERS`; ``values``: strings of safetensors, or values of GGUF.
    """

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


def write_byte_planes(model: Model, lies: dict[str, int]) -> tuple[bytes, bytes]:
    """(header, data) of a safetensors file with its bytes in planes; ``lies`` are in the header of the ordinary one."""
    header, data = write_safetensors(model, lies)
    content = in_byte_planes(header + data + bytes(len(data) % 2))
    start = 8 + int.from_bytes(content[:8], "little")
    return content[:start], content[start:]


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


WRITERS: dict[str, Callable[[Model, dict[str, int]], tuple[bytes, bytes]]] = {
    "safetensors": write_safetensors,
    "byte planes": write_byte_planes,
    "gguf": write_gguf,
}


def _plain(value: Any) -> Any:
    """Strings as bytes, which a file may hold whatever they are."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    return [_plain(inner) for inner in value] if isinstance(value, list) else value
