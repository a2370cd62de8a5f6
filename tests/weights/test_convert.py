"""Converted files: their tensors are decoded here by plain numpy, their errors stay within what each format costs."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from tiny_files import CONFIG_19B, CONFIG_23, model_specs, tensors_of, write_model

from ltx2rt import embedded
from ltx2rt.cli.main import run
from ltx2rt.convert.conversion import ConversionReport, convert
from ltx2rt.convert.formats import TARGETS
from ltx2rt.errors import CheckpointError, OutOfSpace, UsageError
from ltx2rt.kernels.host import to_numpy
from ltx2rt.kernels.reference import dequantise
from ltx2rt.memory.measure import resident_bytes, resident_peak_bytes
from ltx2rt.types import Array, LinearWeight, ParamSpec
from ltx2rt.weights.checkpoint import Checkpoint
from ltx2rt.weights.safetensors import RawTensor, SafetensorsFile, write_safetensors
from ltx2rt.weights.tokenizer import MAX_TOKENS, GemmaTokenizer

TO_Q = "model.diffusion_model.transformer_blocks.1.attn1.to_q"
CONNECTOR = "model.diffusion_model.video_embeddings_connector.transformer_1d_blocks.0.attn1.to_q"
# Relative RMS error on normally distributed weights, from the table of formats: what the format costs, and some room.
MOST = {"int8-convrot": 0.0085, "fp8": 0.028, "mlx-int4": 0.1, "gguf-q8_0": 0.0065}

Converted = Callable[[str], tuple[Path, ConversionReport]]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    config = {**CONFIG_19B, "transformer": {**CONFIG_19B["transformer"], "num_layers": 3}}
    return write_model(folder / "model.safetensors", model_specs(config), config, note="kept")


@pytest.fixture(scope="module")
def converted(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Converted:
    """Name of a format -> the source in it, and what the conversion said; each is made once."""

    @cache
    def made(name: str) -> tuple[Path, ConversionReport]:
        target = tmp_path_factory.mktemp("converted") / "out.safetensors"
        return target, convert(source, target, name)

    return made


def stored(path: Path) -> dict[str, Array]:
    """Every tensor of a safetensors file, as numpy gives its bytes; independent of the package."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    kinds = {"BF16": ml_dtypes.bfloat16, "F8_E4M3": ml_dtypes.float8_e4m3fn, "F32": "<f4", "F16": "<f2"}
    kinds |= {"I8": "i1", "U8": "u1", "U32": "<u4"}
    tensors = {}
    for name, entry in json.loads(data[8 : 8 + size]).items():
        if name != "__metadata__":
            begin, end = (8 + size + offset for offset in entry["data_offsets"])
            tensors[name] = np.frombuffer(data[begin:end], kinds[entry["dtype"]]).reshape(entry["shape"])
    return tensors


def metadata(path: Path) -> dict[str, str]:
    data = path.read_bytes()
    found: dict[str, str] = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    return found


def relative(values: Array, exact: Array) -> float:
    exact = exact.astype(np.float64)
    return float(np.sqrt(np.square(values - exact).sum() / np.square(exact).sum()))


def int8_convrot(tensors: dict[str, Array], base: str) -> Array:
    marker = json.loads(tensors[f"{base}.comfy_quant"].tobytes())
    assert marker["format"] == "int8_tensorwise"
    assert marker["convrot"] is True
    turned = tensors[f"{base}.weight"].astype(np.float64) * tensors[f"{base}.weight_scale"]
    group = marker["convrot_groupsize"]
    values = turned.reshape(*turned.shape[:-1], -1, group)
    stride = 1
    while stride < group:  # the fast form: y_i = sum / 2 - x_(3 - i), with strides 1, 4, 16, ...
        fours = values.reshape(*values.shape[:-1], group // (4 * stride), 4, stride)
        fours = fours.sum(axis=-2, keepdims=True) / 2 - fours[..., ::-1, :]
        values = fours.reshape(*values.shape)
        stride *= 4
    return values.reshape(turned.shape)


def fp8(tensors: dict[str, Array], base: str) -> Array:
    assert tensors[f"{base}.weight_scale"].shape == ()
    return tensors[f"{base}.weight"].astype(np.float64) * tensors[f"{base}.weight_scale"]


def mlx_int4(tensors: dict[str, Array], base: str) -> Array:
    packed = tensors[f"{base}.weight"]
    codes = (packed[..., None] >> np.arange(0, 32, 4, dtype=np.uint32) & 15).reshape(len(packed), -1, 64)
    scales, zeros = (tensors[f"{base}.{part}"].astype(np.float64)[..., None] for part in ("scales", "biases"))
    return np.asarray(codes * scales + zeros).reshape(len(packed), -1)


DECODERS: dict[str, Callable[[dict[str, Array], str], Array]] = {
    "int8-convrot": int8_convrot,
    "fp8": fp8,
    "mlx-int4": mlx_int4,
}


@pytest.mark.parametrize("name", DECODERS)
def test_chosen_layers_are_within_the_error_of_the_format(name: str, source: Path, converted: Converted) -> None:
    target, report = converted(name)
    exact, written = stored(source), stored(target)
    values = DECODERS[name](written, TO_Q)
    error = relative(values, exact[f"{TO_Q}.weight"])
    assert 0 < error < MOST[name]
    rows = [row for row in report.classes if row.written_as == name]
    assert rows
    assert max(row.worst for row in rows) < MOST[name]
    chosen = next(row for row in rows if row.layers == "transformer attn1")
    assert chosen.worst >= error * 0.999
    assert chosen.error <= chosen.worst


@pytest.mark.parametrize("name", DECODERS)
def test_our_loader_reads_what_numpy_reads(name: str, converted: Converted) -> None:
    target, _ = converted(name)
    values = DECODERS[name](stored(target), TO_Q)
    spec = ParamSpec(f"{TO_Q.removeprefix('model.diffusion_model.')}.weight", values.shape, layout="linear")
    opened = Checkpoint.open(target)
    slabs = np.concatenate(list(opened.value_slabs("transformer", spec)))
    assert np.abs(slabs - values).max() <= 2e-6 * np.abs(values).max()
    loaded = opened.load("transformer", [spec])[spec.name]
    assert isinstance(loaded, LinearWeight)
    # What the kernels get is at most rounded to bfloat16.
    assert relative(to_numpy(dequantise(loaded)), values) < 0.004


@pytest.mark.parametrize("name", DECODERS)
def test_everything_else_keeps_its_bytes(name: str, source: Path, converted: Converted) -> None:
    target, _ = converted(name)
    exact, written = stored(source), stored(target)
    changed = {key.rpartition(".")[0] for key in written if key not in exact}
    assert changed
    assert {key for key in exact if key not in written} == set()
    for key, values in exact.items():
        if key.rpartition(".")[0] not in changed:
            assert written[key].dtype == values.dtype
            assert written[key].tobytes() == values.tobytes()
    assert metadata(target) == metadata(source)


def test_the_official_int8_choice(converted: Converted) -> None:
    target, _ = converted("int8-convrot")
    marked = [name.removesuffix(".comfy_quant") for name in stored(target) if name.endswith(".comfy_quant")]
    assert len([name for name in marked if ".transformer_blocks." in name]) == 3 * 28
    assert len([name for name in marked if "_connector." in name]) == 2 * 6
    assert len(marked) == 3 * 28 + 2 * 6
    assert not any("gate" in name or "adaln" in name or "patchify" in name for name in marked)


def test_fp8_leaves_the_outer_blocks(converted: Converted) -> None:
    target, _ = converted("fp8")
    blocks = {name.split(".")[3] for name, values in stored(target).items() if values.dtype == ml_dtypes.float8_e4m3fn}
    assert blocks == {"1", "2"}
    assert stored(target)[f"{CONNECTOR}.weight"].dtype == ml_dtypes.bfloat16


@pytest.mark.parametrize(("depth", "inner"), [(48, range(1, 43)), (10, range(1, 9)), (1, range(0))])
def test_the_outer_blocks_of_the_official_fp8_files(depth: int, inner: range) -> None:
    choice = TARGETS["fp8"].choice
    chosen = [
        block
        for block in range(depth)
        if choice.includes("transformer", f"transformer_blocks.{block}.ff.net.2.weight", (8, 8), None, depth)
    ]
    assert chosen == list(inner)


def test_gated_attention_in_fp8(tmp_path: Path) -> None:
    config = {**CONFIG_23, "transformer": {**CONFIG_23["transformer"], "num_layers": 2}}
    model = write_model(tmp_path / "model.safetensors", model_specs(config), config)
    convert(model, tmp_path / "out.safetensors", "fp8")
    eight = [n for n, values in stored(tmp_path / "out.safetensors").items() if values.dtype.itemsize == 1]
    assert len([name for name in eight if ".1." in name]) == 34


def test_bf16_is_exact_where_it_was_bf16(source: Path, tmp_path: Path) -> None:
    report = convert(source, tmp_path / "out.safetensors", "bf16")
    exact, written = stored(source), stored(tmp_path / "out.safetensors")
    assert exact.keys() == written.keys()
    assert all(written[name].tobytes() == values.tobytes() for name, values in exact.items())
    assert all(row.error == 0 for row in report.classes)


def test_bf16_of_a_quantised_file_rounds_its_values_once(source: Path, converted: Converted, tmp_path: Path) -> None:
    small, _ = converted("fp8")
    report = convert(small, tmp_path / "out.safetensors", "bf16")
    expected = fp8(stored(small), TO_Q).astype(np.float32).astype(ml_dtypes.bfloat16)
    assert stored(tmp_path / "out.safetensors")[f"{TO_Q}.weight"].tobytes() == expected.tobytes()
    assert stored(tmp_path / "out.safetensors").keys() == stored(source).keys()
    attention = next(row for row in report.classes if row.layers == "transformer attn1")
    assert 0 < attention.error < 0.003
    assert report.requantised == {}


def test_what_was_quantised_before_is_said(converted: Converted, tmp_path: Path) -> None:
    report = convert(converted("fp8")[0], tmp_path / "out.safetensors", "int8-convrot")
    assert report.requantised == {"fp8": 2 * 28}


def test_metadata_about_formats_is_not_kept(source: Path, tmp_path: Path) -> None:
    file = SafetensorsFile(source)
    tensors = {name: RawTensor(info.dtype, file.raw(name)) for name, info in file.tensors.items()}
    stale = json.dumps({"format_version": "1.0", "layers": {}})
    write_safetensors(tmp_path / "in.safetensors", tensors, {**file.metadata, "_quantization_metadata": stale})
    convert(tmp_path / "in.safetensors", tmp_path / "out.safetensors", "fp8")
    assert metadata(tmp_path / "out.safetensors") == metadata(source)


def gguf_tensors(path: Path) -> tuple[dict[str, Any], dict[str, tuple[int, list[int], bytes]]]:
    """Key-values, and name -> (type, dimensions as stored, data) of a GGUF file; written from its description."""
    data = path.read_bytes()
    magic, version, count, pairs = struct.unpack_from("<4sIQQ", data)
    assert (magic, version) == (b"GGUF", 3)
    position = 24

    def take(form: str) -> Any:
        nonlocal position
        value = struct.unpack_from("<" + form, data, position)
        position += struct.calcsize("<" + form)
        return value[0] if len(value) == 1 else value

    def text() -> str:
        return str(take(f"{take('Q')}s").decode())

    keys: dict[str, Any] = {}
    for _ in range(pairs):
        key, kind = text(), take("I")
        keys[key] = {8: text, 4: lambda: take("I")}[kind]()
    records = []
    for _ in range(count):
        name, rank = text(), take("I")
        sizes = [take("Q") for _ in range(rank)]
        records.append((name, sizes, take("I"), take("Q")))
    start = position + -position % 32
    itemsizes = {0: (1, 4), 1: (1, 2), 8: (32, 34), 30: (1, 2)}
    tensors, end = {}, start
    for name, sizes, kind, offset in records:
        block, nbytes = itemsizes[kind]
        assert offset % 32 == 0
        length = int(np.prod(sizes)) // block * nbytes
        tensors[name] = kind, sizes, data[start + offset : start + offset + length]
        end = max(end, start + offset + length)
    assert len(data) == end + -end % 32
    return keys, tensors


def test_gguf_holds_the_transformer_under_bare_names(source: Path, tmp_path: Path) -> None:
    report = convert(source, tmp_path / "out.gguf", "gguf-q8_0")
    keys, tensors = gguf_tensors(tmp_path / "out.gguf")
    exact = stored(source)
    assert keys["general.architecture"] == "ltxv"
    assert {key: keys[key] for key in metadata(source)} == metadata(source)
    prefix = "model.diffusion_model."
    assert {prefix + name for name in tensors} == {name for name in exact if name.startswith(prefix)}
    kinds = {}
    for name, (kind, sizes, data) in tensors.items():
        values = exact[prefix + name].astype(np.float32)
        assert sizes == list(values.shape[::-1])
        kinds[name] = kind
        if kind == 8:
            blocks = np.frombuffer(data, np.uint8).reshape(-1, 34)
            scale = blocks[:, :2].copy().view("<f2").astype(np.float64)
            decoded = (blocks[:, 2:].copy().view(np.int8) * scale).reshape(values.shape)
            assert 0 < relative(decoded, values) < MOST["gguf-q8_0"]
        else:
            decoded = np.frombuffer(data, {0: "<f4", 30: ml_dtypes.bfloat16}[kind]).reshape(values.shape)
            assert (decoded == values).all()
    assert all(kind == 0 for name, kind in kinds.items() if "scale_shift_table" in name or name.endswith("bias"))
    assert kinds["video_embeddings_connector.learnable_registers"] == 30  # no linear layer
    assert kinds["transformer_blocks.0.attn1.to_q.weight"] == kinds["adaln_single.linear.weight"] == 8
    assert report.left_out == ["audio_vae", "text_projection", "video_vae", "vocoder"]


def test_tables_of_gguf_files_stay_f32_whatever_their_size(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ltx2rt.convert.plan._MOST_SMALL_VALUES", 16)
    convert(source, tmp_path / "out.gguf", "gguf-q8_0")
    _, tensors = gguf_tensors(tmp_path / "out.gguf")
    tables = [kind for name, (kind, sizes, _) in tensors.items() if "scale_shift_table" in name and len(sizes) == 2]
    assert tables
    assert set(tables) == {0}


def test_only_one_component(source: Path, tmp_path: Path) -> None:
    report = convert(source, tmp_path / "out.safetensors", "int8-convrot", only=("video_connector",))
    written = stored(tmp_path / "out.safetensors")
    assert written
    assert all(name.startswith("model.diffusion_model.video_embeddings_connector.") for name in written)
    assert "transformer" in report.left_out


def text_encoder_folder(folder: Path) -> Path:
    """A Gemma folder: weights with the names of Hugging Face, configuration and tokenizer."""
    folder.mkdir()
    shapes = {"self_attn.q_proj.weight": (64, 64), "mlp.down_proj.weight": (64, 128), "input_layernorm.weight": (64,)}
    specs = {f"layers.{n}.{name}": shape for n in range(2) for name, shape in shapes.items()}
    specs |= {"embed_tokens.weight": (300, 64), "norm.weight": (64,)}
    tensors = {f"language_model.model.{name}": ParamSpec(name, shape) for name, shape in specs.items()}
    write_safetensors(folder / "model.safetensors", tensors_of({**tensors, "vision_tower.x": ParamSpec("x", (4,))}))
    text = {"model_type": "gemma4_text", "hidden_size": 64}
    (folder / "config.json").write_text(json.dumps({"model_type": "gemma4", "text_config": text}))
    (folder / "tokenizer.json").write_text("{}")
    return folder


def test_a_text_encoder_folder_becomes_one_file_with_its_tokenizer(tmp_path: Path) -> None:
    folder = text_encoder_folder(tmp_path / "gemma")
    report = convert(folder, tmp_path / "gemma.safetensors", "int8-convrot")
    written, exact = stored(tmp_path / "gemma.safetensors"), stored(folder / "model.safetensors")
    assert written["tokenizer_json"].tobytes() == b"{}"
    assert json.loads(metadata(tmp_path / "gemma.safetensors")["gemma_config"])["model_type"] == "gemma4"
    base = "model.layers.0.self_attn.q_proj"
    kept = exact[f"language_model.{base}.weight"]
    assert relative(int8_convrot(written, base), kept) < MOST["int8-convrot"]
    embedding = written["model.embed_tokens.weight"]
    assert embedding.tobytes() == exact["language_model.model.embed_tokens.weight"].tobytes()
    assert len([name for name in written if name.endswith(".comfy_quant")]) == 2 * 2
    # What no model here uses and other programs may is kept.
    assert written["vision_tower.x"].tobytes() == exact["vision_tower.x"].tobytes()
    assert report.left_out == []
    assert Checkpoint.open(tmp_path / "gemma.safetensors").section("text_encoder")["model_type"] == "gemma4"


@pytest.mark.skipif(resident_peak_bytes() is None, reason="this system does not tell the peak of resident memory")
def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    folder = text_encoder_folder(tmp_path / "gemma")
    specs = {
        "embed_tokens.weight": (30_000, 1024),
        "layers.0.mlp.up_proj.weight": (15_000, 1024),
        "norm.weight": (1024,),
    }
    tensors = {f"language_model.model.{name}": np.ones(shape, np.float32) for name, shape in specs.items()}
    write_safetensors(folder / "model.safetensors", tensors)
    del tensors
    before = resident_bytes()
    report = convert(folder, tmp_path / "out.safetensors", "int8-convrot")
    assert report.peak_bytes is not None
    assert report.source_bytes > 180e6
    assert report.peak_bytes - before < 120e6


def test_the_output_is_never_an_input(source: Path, tmp_path: Path) -> None:
    before = source.read_bytes()
    os.symlink(source, tmp_path / "link.safetensors")
    (tmp_path / "hard").mkdir()
    os.link(source, tmp_path / "hard" / "link.safetensors")
    for target in (source, tmp_path / "link.safetensors", tmp_path / "hard" / "link.safetensors"):
        with pytest.raises(UsageError, match="is the file that is converted"):
            convert(source, target, "fp8")
    with pytest.raises(UsageError, match="is the file that is converted"):
        convert(tmp_path / "link.safetensors", source, "fp8")
    folder = text_encoder_folder(tmp_path / "gemma")
    with pytest.raises(UsageError, match="among the files"):
        convert(folder, folder / "new.safetensors", "fp8")
    assert source.read_bytes() == before


def test_an_interrupted_conversion_leaves_nothing(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out.safetensors").write_bytes(b"old")

    def interrupt(done: int, total: int) -> None:
        if done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(source, tmp_path / "out.safetensors", "int8-convrot", observer=interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["out.safetensors"]
    assert (tmp_path / "out.safetensors").read_bytes() == b"old"


def test_a_failing_disk_leaves_nothing(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: object, name: str, items: Array) -> None:
        raise OutOfSpace("the disk is full")

    monkeypatch.setattr("ltx2rt.convert.growing_file.GrowingFile.append", full)
    with pytest.raises(OutOfSpace):
        convert(source, tmp_path / "out.safetensors", "fp8")
    assert list(tmp_path.iterdir()) == []


def test_room_is_checked_before_anything_is_written(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("ltx2rt.convert.growing_file.shutil.disk_usage", lambda folder: usage)
    with pytest.raises(OutOfSpace, match=r"only 0\.00 GB are free"):
        convert(source, tmp_path / "out.safetensors", "fp8")
    assert list(tmp_path.iterdir()) == []


def test_progress_ends_at_the_whole(source: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    report = convert(source, tmp_path / "o.safetensors", "fp8", observer=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1] == (report.source_bytes, report.source_bytes)
    assert report.target_bytes == (tmp_path / "o.safetensors").stat().st_size


def test_what_cannot_be_converted_is_named(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.safetensors"
    with pytest.raises(UsageError, match=r"must end in \.gguf"):
        convert(source, target, "gguf-q8_0")
    with pytest.raises(UsageError, match="one of int8-convrot, fp8"):
        convert(source, target, "int3")
    with pytest.raises(UsageError, match="has no component 'decoder'; it holds audio_connector"):
        convert(source, target, "fp8", only=("decoder",))
    with pytest.raises(UsageError, match="fp8 changes no tensor"):
        convert(source, target, "fp8", only=("vocoder",))
    with pytest.raises(UsageError, match="gguf-q8_0 files hold transformer"):
        convert(source, tmp_path / "out.gguf", "gguf-q8_0", only=("vocoder",))
    with pytest.raises(UsageError, match="does not exist"):
        convert(source, tmp_path / "nowhere" / "out.safetensors", "fp8")
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(UsageError, match="is a folder"):
        convert(source, tmp_path / "folder.safetensors", "fp8")
    manifest = tmp_path / "manifest.json"
    tensors = {name: [info.dtype, list(info.shape)] for name, info in SafetensorsFile(source).tensors.items()}
    manifest.write_text(json.dumps({"tensors": tensors, "metadata": metadata(source)}))
    with pytest.raises(CheckpointError, match="manifest"):
        convert(manifest, target, "fp8")
    assert not target.exists()


def test_a_tensor_of_another_shape_is_refused(source: Path, tmp_path: Path) -> None:
    file = SafetensorsFile(source)
    tensors = {name: RawTensor(info.dtype, file.raw(name)) for name, info in file.tensors.items()}
    tensors[f"{TO_Q}.weight"] = RawTensor("BF16", tensors[f"{TO_Q}.weight"].items[:-4])
    write_safetensors(tmp_path / "in.safetensors", tensors, file.metadata)
    with pytest.raises(CheckpointError, match=r"attn1\.to_q\.weight is BF16 \[124, 128\], expected \[128, 128\]"):
        convert(tmp_path / "in.safetensors", tmp_path / "out.safetensors", "fp8")


def test_command(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(source), str(tmp_path / "out.safetensors"), "--format", "int8-convrot"]
    assert run(["convert", *words, "--report", str(tmp_path / "report.json")]) == 0
    shown = capsys.readouterr().out
    assert "transformer attn1" in shown
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["format"] == "int8-convrot"
    row = next(row for row in report["classes"] if row["layers"] == "transformer ff")
    assert row["tensors"] == 6
    assert 0 < row["error"] <= row["worst"] < MOST["int8-convrot"]
    assert row["worst_tensor"].endswith(".weight")
    assert run(["convert", str(source), str(source), "--format", "fp8"]) == 2
    assert "is the input; name another file" in capsys.readouterr().err
    assert run(["convert", *words, "--report", str(source)]) == 2


TEXT = "a red circle moves left on a blue background"


def test_a_tokenizer_beside_the_file_goes_into_it(tmp_path: Path) -> None:
    folder = embedded.TEXT_ENCODER
    convert(folder, tmp_path / "one.safetensors", "int8-convrot")
    expected = GemmaTokenizer.from_path(folder).encode(TEXT)
    assert (GemmaTokenizer.of(Checkpoint.open(tmp_path / "one.safetensors")).encode(TEXT) == expected).all()
    # Once more, from a file without a folder, whose tokenizer is already in it.
    convert(tmp_path / "one.safetensors", tmp_path / "two.safetensors", "fp8")
    assert (GemmaTokenizer.of(Checkpoint.open(tmp_path / "two.safetensors")).encode(TEXT) == expected).all()
    assert stored(tmp_path / "one.safetensors")["tokenizer_json"].tobytes() == (folder / "tokenizer.json").read_bytes()


def test_the_vocabulary_of_a_gguf_header_goes_into_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = text_encoder_folder(tmp_path / "gemma")
    (folder / "tokenizer.json").unlink()
    report = convert(folder, tmp_path / "without.safetensors", "bf16")
    assert "tokenizer_json" not in stored(tmp_path / "without.safetensors")
    assert "the tokenizer, which is neither in the file nor beside it" in report.left_out
    found = GemmaTokenizer.from_path(embedded.TEXT_ENCODER)
    monkeypatch.setattr(GemmaTokenizer, "of", lambda encoder: found)  # as from a header
    convert(folder, tmp_path / "with.safetensors", "bf16")
    read = GemmaTokenizer.from_json(stored(tmp_path / "with.safetensors")["tokenizer_json"].tobytes(), "x")
    assert (read.encode(TEXT) == found.encode(TEXT)).all()
    assert len(read.encode_turns("red " * 3000)) > MAX_TOKENS


def test_a_file_that_tells_no_configuration_is_converted_all_the_same(source: Path, tmp_path: Path) -> None:
    file = SafetensorsFile(source)
    names = [name for name in file.tensors if "transformer_blocks.0.attn1" in name]
    tensors = {name: RawTensor(file.tensors[name].dtype, file.raw(name)) for name in names}
    write_safetensors(tmp_path / "in.safetensors", tensors)
    convert(tmp_path / "in.safetensors", tmp_path / "out.safetensors", "int8-convrot")
    written = stored(tmp_path / "out.safetensors")
    name = TO_Q.replace("blocks.1", "blocks.0")
    assert relative(int8_convrot(written, name), stored(source)[f"{name}.weight"]) < MOST["int8-convrot"]
    assert written[f"{name}.bias"].tobytes() == stored(source)[f"{name}.bias"].tobytes()
    assert "config" not in SafetensorsFile(tmp_path / "out.safetensors").metadata
    # What states a configuration that cannot be is refused.
    write_safetensors(
        tmp_path / "in.safetensors", tensors, {"config": json.dumps({"transformer": {"num_layers": "?"}})}
    )
    with pytest.raises(CheckpointError):
        convert(tmp_path / "in.safetensors", tmp_path / "out.safetensors", "int8-convrot")
