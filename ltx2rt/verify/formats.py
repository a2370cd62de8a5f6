"""Golden cases of weight formats: layers, files, sets, LoRAs, and files that must be refused.

The golden file is the folder's table of contents, ``INDEX.json``; each of its entries is a case. A case compares every
value that was saved for its file, and every tensor of the file.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import mlx.core as mx
import numpy as np

from ltx2rt.kernels.host import from_numbers, to_numpy
from ltx2rt.kernels.reference import dequantise
from ltx2rt.types import Array, LinearWeight, ParamSpec
from ltx2rt.verify.format_runs import check_run, no_run
from ltx2rt.verify.format_sets import check_folder
from ltx2rt.verify.golden import Case, Check, GoldenFile
from ltx2rt.verify.refusals import refusal
from ltx2rt.weights.checkpoint import Checkpoint
from ltx2rt.weights.formats import DENSE, companion_of
from ltx2rt.weights.lora.opening import open_lora
from ltx2rt.weights.names import is_unused, locate
from ltx2rt.weights.tokenizer import GemmaTokenizer

INDEX = "INDEX.json"
# What the entries of the table say: these are read, and these are for people.
_READ = {"kind", "expected", "hashes", "ids", "tolerance", "equals", "base", "mention", "optional", "shapes", "info"}
_FOR_PEOPLE = {"format", "notes", "error"}
_FOLDERS = ("layers", "files", "sets", "lora", "bad")
# Folders of whole models, or whole parts of models.
_WHOLE = ("files/", "sets/")
_OF_VALUES = ("expected", "hashes", "equals")
# The saved products W x are float32, rounded once.
_PROBE_ROUNDING = 2.0**-23
# What the kernels get: bfloat16, or packed integers whose scales are; relative to the value and to the largest one.
_LOADED_RELATIVE, _LOADED_ABSOLUTE = 2.0**-8, 2.0**-7
_LORA_BASE = "tiny-ltx2.3-22b-style.safetensors"
_HASH_DIGITS = 16


class Place(NamedTuple):
    """A tensor of a checkpoint."""

    component: str
    name: str


def is_formats_folder(folder: Path) -> bool:
    """Whether a folder holds golden cases of weight formats, as opposed to a folder of golden folders."""
    return (folder / INDEX).is_file() and any((folder / name).is_dir() for name in _FOLDERS)


def find_cases(golden: GoldenFile) -> Iterator[Case]:
    """One case per entry of a table of contents, a second one where a run can be made, and one for all files."""
    if golden.path.name != INDEX or not is_formats_folder(golden.path.parent):
        return
    table = json.loads(golden.path.read_text())
    for name in sorted(table):
        yield Case(f"formats/{name}", partial(_run, golden, name))
        path = golden.path.parent / name
        if name.startswith(_WHOLE) and any(table[name].get(key) for key in _OF_VALUES):
            run = partial(check_run, path, golden.path.parent.parent)
            yield Case(f"formats/{name} in a run", run, _why_not(path))
    yield Case("formats/files of the folder", partial(_contents, golden))


def _why_not(path: Path) -> str:
    """Why no run can be made with a path; empty if one can. A file that cannot be read fails in its run alone."""
    try:
        return no_run(path)
    except Exception:  # of whatever kind: the run says which
        return ""


def _run(golden: GoldenFile, name: str) -> Iterator[Check]:
    entry: Mapping[str, Any] = golden.entry(name)
    strange = sorted(entry.keys() - _READ - _FOR_PEOPLE)
    if strange:
        raise KeyError(f"{INDEX} says {', '.join(strange)} of {name}, which no case reads")
    folder = golden.path.parent
    kind = entry["kind"]
    if kind.startswith("bad"):
        yield from _refused(folder, name, entry)
    elif kind == "lora":
        yield from _lora(folder, name, entry)
    else:
        yield from _weights(folder, name, entry)


def _saved(folder: Path, name: str) -> GoldenFile:
    return GoldenFile(folder / name, folder)


def _contents(golden: GoldenFile) -> Iterator[Check]:
    """Every file of the folder belongs to an entry, and every entry has its files."""
    folder = golden.path.parent
    entries: dict[str, Any] = json.loads(golden.path.read_text())
    named = {*entries, INDEX, "README.md"}
    named |= {entry[key] for entry in entries.values() for key in ("expected", "hashes", "ids") if entry.get(key)}
    named |= {f"{name}.expected.json" for name in entries if name.startswith("sets/")}
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    odd = sorted(name for name in present if not any(name == n or name.startswith(f"{n}/") for n in named))
    if odd:
        raise KeyError(f"no entry of {INDEX} names {', '.join(odd[:5])}{' ...' if len(odd) > 5 else ''}")
    missing = sorted(name for name in entries if not (folder / name).exists())
    yield Check("entries without a file", from_numbers(len(missing)), from_numbers(0), 0.0)


def _weights(folder: Path, name: str, entry: Mapping[str, Any]) -> Iterator[Check]:
    """A file or folder of weights against what was saved of it and against the file that it equals."""
    if entry["kind"] == "set" and not entry.get("expected") and not entry.get("hashes"):
        yield from check_folder(folder / name, _saved(folder, f"{name}.expected.json"))
        return
    checkpoint = Checkpoint.open(folder / name)
    compared: set[Place] = set()
    if entry.get("expected"):
        expected = _saved(folder, entry["expected"])
        shapes = {key: tuple(shape) for key, shape in entry.get("shapes", {}).items()}
        shapes |= {key: tuple(info["shape"]) for key, info in entry.get("info", {}).items()}
        for place, check in _against_values(checkpoint, expected, shapes, entry["tolerance"]):
            compared.add(place)
            yield check
        _require_all_read(expected)
        for official, info in entry.get("info", {}).items():
            yield _packing_check(checkpoint, official, info)
    if entry.get("hashes"):
        for place, check in _against_hashes(checkpoint, _saved(folder, entry["hashes"])):
            compared.add(place)
            yield check
    if entry.get("equals"):
        for place, check in _against_file(checkpoint, _base(folder, entry["equals"]), compared):
            compared.add(place)
            yield check
    # Partial files are filled up with plain tensors.
    left = [
        f"{place.component}: {place.name}"
        for place in _tensors(checkpoint)
        if place not in compared
        and (entry["kind"] != "layers" or checkpoint.stored_form(*place)[0] is not DENSE)
        and (place.component != "text_assets" or not entry.get("ids"))
    ]
    if left:
        raise KeyError(f"tensors that nothing is compared with: {', '.join(left[:5])} ({len(left)})")
    if entry.get("ids"):
        yield from _token_ids(folder / name, _saved(folder, entry["ids"]))


def _tensors(checkpoint: Checkpoint) -> Iterator[Place]:
    """Everything in a checkpoint but what accompanies a weight or is used by nothing."""
    for component in sorted(checkpoint.components):
        for name in checkpoint.names(component):
            if companion_of(name) == name and not is_unused(component, name):
                yield Place(component, name)


def _place(official: str) -> Place:
    """Where a tensor with this official name is."""
    found = locate(official)
    if found is None:
        raise KeyError(f"{official} is no official name")
    return Place(*found)


def decoded(checkpoint: Checkpoint, place: Place, shape: tuple[int, ...]) -> Array:
    """The exact values of a tensor, float32, in the official layout."""
    spec = ParamSpec(place.name, shape)
    slabs = list(checkpoint.value_slabs(place.component, spec))
    return (np.concatenate(slabs) if shape else slabs[0]).reshape(shape)


def _loaded(checkpoint: Checkpoint, place: Place, shape: tuple[int, ...]) -> Array:
    """A matrix as the kernels get it, expanded to float32."""
    loaded = checkpoint.load(place.component, [ParamSpec(place.name, shape, layout="linear")])[place.name]
    assert isinstance(loaded, LinearWeight)
    return to_numpy(dequantise(loaded).astype(mx.float32))


def _against_values(
    checkpoint: Checkpoint, expected: GoldenFile, shapes: Mapping[str, tuple[int, ...]], tolerance: float
) -> Iterator[tuple[Place, Check]]:
    """Whole tensors, and products of matrices with a vector."""
    keys = expected.keys()
    for key in keys:
        official, _, part = key.partition("|")
        if part == "y":  # comes with its x
            continue
        place = _place(official)
        if part == "x":
            vector, product = expected.given(key), expected.expected(f"{official}|y")
            shape = shapes.get(official, (product.size, vector.size))
            values = decoded(checkpoint, place, shape)
            scale = float(np.abs(values).max(initial=0.0)) * math.sqrt(vector.size)
            limit = max(tolerance, _PROBE_ROUNDING) * scale
            actual = values.astype(np.float64) @ vector.astype(np.float64)
            yield place, Check(f"{official} x", actual, product, limit)
        else:
            saved = expected.expected(key)
            shape = shapes.get(official, saved.shape)
            values = decoded(checkpoint, place, shape)
            yield place, Check(official, values, saved, 0.0, tolerance)
        if len(shape) == 2 and official.endswith(".weight"):
            yield place, _loaded_check(f"{official} as loaded", _loaded(checkpoint, place, shape), values)


def _loaded_check(name: str, loaded: Array, exact: Array) -> Check:
    """The kernels' form of a matrix beside its exact values: what is beyond one rounding of each value is the error."""
    if loaded.shape != exact.shape:
        return Check(name, loaded, exact, 0.0)
    beyond = np.maximum(np.abs(loaded - exact) - _LOADED_RELATIVE * np.abs(exact), 0.0)
    largest = float(np.abs(exact).max(initial=0.0))
    return Check(name, beyond, np.zeros_like(exact), _LOADED_ABSOLUTE * largest)


def _packing_check(checkpoint: Checkpoint, official: str, info: Mapping[str, Any]) -> Check:
    """Bits and groups that the entry tells beside those that the stored shapes give."""
    _, encoding = checkpoint.stored_form(*_place(official))
    columns = info["shape"][1]
    bits = encoding.info.shape[1] * 32 / columns
    group = columns / encoding.companions[".scales"].shape[1]
    return Check(
        f"{official} bits and group", from_numbers([bits, group]), from_numbers([info["bits"], info["group"]]), 0.0
    )


def _against_hashes(checkpoint: Checkpoint, expected: GoldenFile) -> Iterator[tuple[Place, Check]]:
    """Tensors whose bytes were hashed in their official dtype and layout."""
    kinds = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
    names = expected.keys()
    for official in names:
        dtype, shape, saved = expected.entry(official)
        place = _place(official)
        values = decoded(checkpoint, place, tuple(shape)).astype(kinds[dtype])
        found = hashlib.sha256(values.tobytes()).hexdigest()[:_HASH_DIGITS]
        yield place, Check(official, _digits(found), _digits(saved), 0.0)


def _digits(text: str) -> Array:
    return from_numbers([int(digit, 16) for digit in text], np.int32)


def _base(folder: Path, equals: str) -> Checkpoint:
    """The file or folder that a sentence names, below the folder that holds ours."""
    for word in re.split(r"[\s,]+", equals):
        path = folder.parent / word.removeprefix("../")
        if word and path.exists():
            return Checkpoint.open(path)
    raise KeyError(f"nothing that is beside {folder}: {equals}")


def _against_file(checkpoint: Checkpoint, base: Checkpoint, compared: set[Place]) -> Iterator[tuple[Place, Check]]:
    """Everything that was not compared before is the same as in another file."""
    for place in _tensors(checkpoint):
        names = base.names(place.component)
        # The assets of a text encoder are files in its folder.
        packed = place.component == "text_assets" and place.component not in base.components
        if place in compared or packed:
            continue
        if place.name not in names:
            raise KeyError(f"{place.component}: {place.name} is not in {base.path.name}, with which it should be equal")
        if place.component == "text_assets":
            ours, theirs = (_bytes(source.bytes(*place)) for source in (checkpoint, base))
        else:
            shape = names[place.name].shape
            ours, theirs = (decoded(source, place, shape) for source in (checkpoint, base))
        yield place, Check(f"{place.component}: {place.name}", ours, theirs, 0.0)


def _bytes(data: bytes) -> Array:
    return from_numbers(list(data), np.uint8)


def _token_ids(path: Path, expected: GoldenFile) -> Iterator[Check]:
    tokenizer = GemmaTokenizer.of(Checkpoint.open(path))
    texts = expected.keys()
    for text in texts:
        ids = from_numbers(expected.entry(text), np.int32)
        # As it stands: `encode` would drop spaces around it, which prompts have no use for.
        found = from_numbers([tokenizer.bos_id, *tokenizer.encode_turns(text)], np.int32)
        yield Check(f"ids of {text[:20]!r}", found, ids, 0.0)


def _require_all_read(golden: GoldenFile) -> None:
    if golden.unread:
        raise KeyError(f"saved in {golden.name}, but compared with nothing: {', '.join(golden.unread[:5])}")


def _lora(folder: Path, name: str, entry: Mapping[str, Any]) -> Iterator[Check]:
    """What a LoRA at strength 1 adds to every tensor of the small 2.3 model: what was saved, and nothing elsewhere."""
    expected = _saved(folder, entry["expected"])
    base = Checkpoint.open(folder.parent / _LORA_BASE)
    keys = expected.keys()
    changed = {key.partition("|")[0] for key in keys}
    changes = {_place(official): official for official in changed}
    loras = [(open_lora(folder / name), 1.0)]
    for place in _tensors(base):
        if place.component not in ("transformer", "video_connector", "audio_connector"):
            continue
        shape = base.names(place.component)[place.name].shape
        before, after = (_fused(base, place, shape, used) for used in ((), loras))
        official = changes.pop(place, None)
        if official is None:
            yield Check(f"{place.name} is not changed", after, before, 0.0)
            continue
        delta = after.astype(np.float64) - before
        # The sum is rounded to float32 once.
        rounding = 2.0**-24 * float(np.abs(after).max())
        if official in expected:
            saved = expected.expected(official)
            yield Check(official, delta, saved, rounding, entry["tolerance"])
        else:
            vector, product = expected.given(f"{official}|x"), expected.expected(f"{official}|y")
            scale = float(np.abs(delta).max()) * entry["tolerance"] + rounding
            yield Check(f"{official} x", delta @ vector, product, scale * math.sqrt(vector.size))
    if changes:
        raise KeyError(f"the base has no {', '.join(sorted(changes.values())[:5])}")
    _require_all_read(expected)


def _fused(base: Checkpoint, place: Place, shape: tuple[int, ...], loras: Any) -> Array:
    is_matrix = len(shape) == 2 and place.name.endswith(".weight")
    spec = ParamSpec(place.name, shape, layout="linear" if is_matrix else "as_stored")
    loaded = base.load(place.component, [spec], loras, mx.float32)[place.name]
    values = dequantise(loaded) if isinstance(loaded, LinearWeight) else loaded
    return to_numpy(values.astype(mx.float32))


def _refused(folder: Path, name: str, entry: Mapping[str, Any]) -> Iterator[Check]:
    """A file that must be refused, or warned of, in words that say what is wrong with it."""
    text = refusal(folder / name, folder.parent, is_lora="lora" in entry["kind"])
    wanted = [*entry["mention"], Path(name).name]
    unsaid = [word for word in wanted if word.lower() not in text.lower()]
    if unsaid:
        raise KeyError(f"{', '.join(map(repr, unsaid))} is not in what is said about it: {text or 'nothing'}")
    yield Check("words that are missing", from_numbers(len(unsaid)), from_numbers(0), 0.0)
