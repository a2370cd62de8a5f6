"""Predicted peaks of the process against measured ones, stage by stage, in a process of its own."""

from __future__ import annotations

import copy
import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ltx2rt import embedded
from ltx2rt.graph.models import gemma3, upscaler

ROOT = Path(__file__).parents[2]
# Above: predicted too little. Below: so much too much that smaller machines would be refused without a reason.
LEAST, MOST = 0.98, 1.05
COUNTS_FROM = 100e6

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's per-stage resident peak")


def stages(folder: Path, *words: str) -> list[dict[str, Any]]:
    """The report's stages of one run of ``ltx2rt generate`` in a process of its own."""
    report = folder / "report.json"
    command = [sys.executable, "-m", "ltx2rt.cli", "generate", "--prompt", "a red circle moves left", "--quiet"]
    command += ["--output-path", str(folder / "clip.mp4"), "--report", str(report), "--no-sidecar", "--no-state"]
    done = subprocess.run([*command, *words], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(report.read_text())["stages"]
    return found


def wrong(found: list[dict[str, Any]]) -> list[str]:
    """What to say about the stages whose prediction is not good enough."""
    said = []
    for stage in found:
        planned, measured = stage["planned_peak_bytes"], stage["resident_peak_bytes"]
        if measured > COUNTS_FROM and not LEAST <= planned / measured <= MOST:
            said.append(f"{stage['name']}: {planned / 1e6:.1f} MB predicted, {measured / 1e6:.1f} MB measured")
    return said


@pytest.mark.parametrize(
    "words",
    [
        ["--pipeline", "distilled"],
        ["--pipeline", "one-stage", "--num-inference-steps", "1"],
    ],
    ids=lambda words: words[1],
)
def test_embedded_model(words: list[str], tmp_path: Path) -> None:
    assert wrong(stages(tmp_path, *words)) == []


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Options that name weight files of the embedded model's depth but 16 times its width, 0.4 GB together."""
    folder = tmp_path_factory.mktemp("wide")
    maker, synthetic = _tool("make_embedded_model"), _tool("make_synthetic_checkpoint")
    config = copy.deepcopy(maker.CONFIG)
    config["transformer"] |= {
        "caption_channels": 1024,
        "connector_num_attention_heads": 16,
        "connector_attention_head_dim": 64,
        "num_attention_heads": 16,
        "attention_head_dim": 64,
        "cross_attention_dim": 1024,
        "audio_num_attention_heads": 16,
        "audio_attention_head_dim": 32,
        "audio_cross_attention_dim": 512,
    }
    config["vae"] |= {"encoder_base_channels": 32, "decoder_base_channels": 32}
    config["audio_vae"]["model"]["params"]["ddconfig"]["ch"] = 64
    config["vocoder"]["upsample_initial_channel"] = 256
    encoder = copy.deepcopy(maker.TEXT_ENCODER_CONFIG)
    encoder["text_config"] |= {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "query_pre_attn_scalar": 128,
        "vocab_size": json.loads((embedded.TEXT_ENCODER / "config.json").read_text())["text_config"]["vocab_size"],
    }
    upscaling = maker.UPSCALER_CONFIG | {"mid_channels": 256, "num_blocks_per_stage": 2}

    maker.CONFIG, maker.TEXT_ENCODER_CONFIG = config, encoder
    tensors = {prefix + spec.name: (spec.dtype, spec.shape) for prefix, specs in maker.components() for spec in specs}
    synthetic.write_file(folder / "wide-distilled.safetensors", tensors, {"config": json.dumps(config)})
    specs = upscaler.param_specs(upscaler.LatentUpscalerConfig.from_dict(upscaling))
    tensors = {spec.name: (spec.dtype, spec.shape) for spec in specs}
    synthetic.write_file(folder / "upscaler.safetensors", tensors, {"config": json.dumps(upscaling)})
    text = folder / "gemma"
    text.mkdir()
    specs = gemma3.param_specs(gemma3.Gemma3Config.from_dict(encoder))
    tensors = {f"language_model.model.{spec.name}": (spec.dtype, spec.shape) for spec in specs}
    synthetic.write_file(text / "model.safetensors", tensors, {})
    (text / "config.json").write_text(json.dumps(encoder))
    shutil.copy(embedded.TEXT_ENCODER / "tokenizer.json", text)
    yield [
        *("--checkpoint-path", str(folder / "wide-distilled.safetensors")),
        *("--gemma-root", str(text)),
        *("--spatial-upsampler-path", str(folder / "upscaler.safetensors")),
    ]
    shutil.rmtree(folder)


def _tool(name: str) -> ModuleType:
    specification = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module
    specification.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("memory", ["2GB", "300MB"])
def test_wide_model(wide: list[str], memory: str, tmp_path: Path) -> None:
    found = stages(tmp_path, *wide, "--memory", memory, "--height", "512", "--width", "512", "--num-frames", "25")
    assert wrong(found) == []
    streams = any(stage["streamed_bytes"] for stage in found if stage["name"].startswith("denoise"))
    assert streams == (memory == "300MB")
