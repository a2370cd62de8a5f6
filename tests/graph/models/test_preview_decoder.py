"""The tiny preview decoder against its formula in numpy, and the files in which it comes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from ltx2rt import api, inspection
from ltx2rt.cli.main import run
from ltx2rt.errors import Cancelled, CheckpointError, UsageError
from ltx2rt.graph.models.preview_decoder.model import PreviewDecoder, PreviewDecoderConfig
from ltx2rt.graph.preview_decoder_file import PreviewDecoderFile
from ltx2rt.types import Array
from ltx2rt.weights.safetensors import write_safetensors

NARROW = PreviewDecoderConfig(128, (16, 8, 8, 8), False)
# Blocks of 128 channels have two groups, those below one.
WIDE = PreviewDecoderConfig(128, (128, 64, 32, 8), True)


def tensors_of(config: PreviewDecoderConfig) -> dict[str, Array]:
    random = np.random.default_rng(1)
    found = {}
    for spec in PreviewDecoder(config).specs():
        fan = np.prod(spec.shape[1:]) if len(spec.shape) > 1 else 100
        found[spec.name] = (random.standard_normal(spec.shape) * 1.4 / np.sqrt(fan)).astype(np.float16)
    found["decoder.22.bias"] += np.float16(0.5)
    return found


def write(path: Path, config: PreviewDecoderConfig = NARROW, prefix: str = "", **changes: Array | None) -> Path:
    tensors = {**tensors_of(config), "encoder.0.weight": np.zeros((8, 48, 3, 3), np.float16), **changes}
    kept = {f"{prefix}{name}": mx.array(value) for name, value in tensors.items() if value is not None}
    write_safetensors(path, kept)
    return path


def convolved(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """torch's conv2d of (T, C, H, W) with zeros around it, in groups where the weight has fewer channels."""
    out, channels, side, _ = weight.shape
    groups = x.shape[1] // channels
    around = side // 2
    padded = np.pad(x, ((0, 0), (0, 0), (around, around), (around, around)))
    result = np.zeros((len(x), out, *x.shape[2:]))
    for group in range(groups):
        part = padded[:, group * channels : (group + 1) * channels]
        rows = slice(group * out // groups, (group + 1) * out // groups)
        for i in range(side):
            for j in range(side):
                seen = part[:, :, i : i + x.shape[2], j : j + x.shape[3]]
                result[:, rows] += np.einsum("tchw,oc->tohw", seen, weight[rows, :, i, j])
    return result if bias is None else result + bias[:, None, None]


def reference(tensors: dict[str, Array], latent: Array, *, wide: bool) -> Array:
    """All frames of a latent (f, h, w, C) at once, as taehv.py has it; (8 f - 7, 32 h, 32 w, 3)."""
    w = {name: value.astype(np.float64) for name, value in tensors.items()}
    x = np.tanh(latent.astype(np.float64).transpose(0, 3, 1, 2) / 3) * 3
    x = convolved(x, w["decoder.1.weight"], w["decoder.1.bias"]).clip(0)
    for blocks, grow, after in (((3, 4, 5), 7, 8), ((9, 10, 11), 13, 14), ((15, 16, 17), 19, 20)):
        for block in blocks:
            before = np.concatenate([np.zeros_like(x[:1]), x[:-1]])
            y = np.concatenate([x, before], axis=1)
            layers = (0, 2, 4, 6) if wide else (0, 2, 4)
            for layer in layers:
                name = f"decoder.{block}.conv.{layer}"
                y = convolved(y, w[f"{name}.weight"], w[f"{name}.bias"])
                y = y if layer == layers[-1] else y.clip(0)
            x = (x + y).clip(0)
        x = x.repeat(2, axis=2).repeat(2, axis=3)
        x = convolved(x, w[f"decoder.{grow}.conv.weight"])
        x = x.reshape(2 * len(x), -1, *x.shape[2:])
        x = convolved(x, w[f"decoder.{after}.weight"])
    x = convolved(x.clip(0), w["decoder.22.weight"], w["decoder.22.bias"])
    frames, _, height, width = x.shape
    x = x.reshape(frames, 3, 4, 4, height, width).transpose(0, 4, 2, 5, 3, 1)
    result: Array = x.reshape(frames, 4 * height, 4 * width, 3).clip(0, 1)[7:]
    return result


@pytest.mark.parametrize("config", [NARROW, pytest.param(WIDE, marks=pytest.mark.slow)], ids=["narrow", "wide"])
def test_it_is_what_its_authors_wrote(tmp_path: Path, config: PreviewDecoderConfig) -> None:
    file = PreviewDecoderFile.open(write(tmp_path / "tae.safetensors", config))
    assert file.decoder.config == config
    latent = np.random.default_rng(2).standard_normal((3, 2, 3, 128)).astype(np.float32)
    chunks = list(file.decoder.frames(file.load(mx.float32), mx.float32, latent))
    assert [chunk.shape for chunk in chunks] == [(1, 64, 96, 3), (8, 64, 96, 3), (8, 64, 96, 3)]
    wanted = reference(tensors_of(config), latent, wide=config.is_wide)
    assert wanted.std() > 0.1
    np.testing.assert_allclose(np.concatenate(chunks), wanted, atol=2e-4)


def test_its_memory_is_counted(tmp_path: Path) -> None:
    file = PreviewDecoderFile.open(write(tmp_path / "tae.safetensors", WIDE))
    latent = np.zeros((2, 8, 12, 128), np.float32)
    params = file.load(mx.float32)
    list(file.decoder.frames(params, mx.float32, latent))
    mx.clear_cache()
    mx.reset_peak_memory()
    list(file.decoder.frames(params, mx.float32, latent))
    counted = file.working_bytes(256, 384, mx.float32)
    assert 0.4 * counted < mx.get_peak_memory() < 1.1 * counted


def test_inspect_calls_it_by_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = write(tmp_path / "taeltx2_3.safetensors", prefix="taehv.")
    report = inspection.inspect(whole, deep=True)
    assert (report.kind, report.complete, report.ignored) == ("preview decoder", True, 1)
    assert run(["inspect", str(whole)]) == 0
    assert "preview decoder" in capsys.readouterr().out
    damaged = write(tmp_path / "damaged.safetensors", **{"decoder.9.conv.0.bias": None, "decoder.1.bias": np.zeros(3)})
    report = inspection.inspect(damaged)
    assert report.missing == ["preview_decoder: decoder.9.conv.0.bias"]
    assert not report.complete
    with pytest.raises(CheckpointError, match=r"not whole: decoder\.9\.conv\.0\.bias is missing; decoder\.1\.bias"):
        PreviewDecoderFile.open(damaged)


def test_those_of_other_models_are_refused(tmp_path: Path) -> None:
    wan = write(tmp_path / "taew2_1.safetensors", PreviewDecoderConfig(16, (16, 8, 8, 8), False))
    with pytest.raises(CheckpointError, match=r"preview decoder .* of another model"):
        PreviewDecoderFile.open(wan)
    with pytest.raises(CheckpointError, match="cannot stand in for the video VAE"):
        api.load(checkpoint=write(tmp_path / "tae.safetensors"))
    other = tmp_path / "other.safetensors"
    write_safetensors(other, {"weight": mx.zeros((2, 2))})
    with pytest.raises(CheckpointError, match="no preview decoder"):
        PreviewDecoderFile.open(other)


def test_it_makes_the_previews_of_a_run(tmp_path: Path) -> None:
    decoder = write(tmp_path / "tae.safetensors")
    shapes = []

    def look(preview: api.Preview) -> None:
        if preview.step == 1:
            shapes.append((preview.picture().shape, preview.frames().shape, preview.is_quick, preview.working_bytes))

    small = {"height": 64, "width": 64, "num_frames": 9}
    pipeline = api.load()
    pipeline("a red circle", **small, on_preview=look, preview_decoder=decoder)
    assert shapes == [((32, 32, 3), (9, 32, 32, 3), True, 0), ((64, 64, 3), (9, 64, 64, 3), True, 0)]
    planned = [pipeline.plan("x", **small, memory="2GB", preview_decoder=d)[0].base_bytes for d in (None, decoder)]
    assert planned[1] - planned[0] > decoder.stat().st_size / 2
    with pytest.raises(UsageError, match="give on_preview"):
        pipeline("a red circle", **small, preview_decoder=decoder)
    with pytest.raises(CheckpointError, match=r"none\.safetensors"):
        pipeline("a red circle", **small, on_preview=look, preview_decoder=tmp_path / "none.safetensors")


def test_the_command_takes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {}

    def call(pipeline: api.Pipeline, **arguments: Any) -> None:
        given.update(arguments)
        raise Cancelled

    monkeypatch.setattr(api.Pipeline, "__call__", call)
    decoder, picture = write(tmp_path / "tae.safetensors"), tmp_path / "now.png"
    words = ["generate", "a red circle", "--quiet", "--preview-decoder", str(decoder)]
    assert run([*words, "-o", str(tmp_path / "clip.mp4")]) == 2
    assert "--preview-decoder goes with --preview" in capsys.readouterr().err
    assert run([*words, "-o", str(tmp_path / "clip.mp4"), "--preview", str(picture)]) == 75
    assert given["preview_decoder"] == decoder
    assert given["on_preview"] is not None
    assert run([*words, "-o", str(tmp_path / "clip.mp4"), "--preview", str(decoder), "--overwrite"]) == 2
