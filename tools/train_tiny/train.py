"""Trains the tiny model: ``python -m tools.train_tiny.train STAGE... [--work FOLDER] [--steps N]``.

Every stage reads what earlier ones wrote to the work folder and writes ``STAGE.pt`` and ``STAGE.jsonl`` there.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn


class Recorder:
    """Writes a stage's curve, one JSON object per line, and its checkpoints."""

    def __init__(self, folder: Path, stage: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._log = folder / f"{stage}.jsonl"
        self._log.write_text("")
        self._checkpoint = folder / f"{stage}.pt"
        self._started = time.monotonic()

    def report(self, **values: Any) -> None:
        row = {key: round(v, 5) if isinstance(v, float) else v for key, v in values.items()}
        row["minutes"] = round((time.monotonic() - self._started) / 60, 2)
        with self._log.open("a") as log:
            log.write(json.dumps(row) + "\n")
        print(row, file=sys.stderr, flush=True)

    def save(self, module: nn.Module) -> None:
        torch.save(module.state_dict(), self._checkpoint)


def load(module: nn.Module, path: Path) -> Any:
    """``module`` with the weights of a checkpoint, ready for use."""
    module.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return module.eval().requires_grad_(False)


def video_vae_stage(folder: Path, steps: int, recorder: Recorder) -> None:
    from . import video_vae

    earlier = folder / "video_vae_start.pt"
    start = torch.load(earlier, weights_only=True) if earlier.exists() else None
    video_vae.train(steps, seed=1, report=recorder.report, save=recorder.save, start=start)


def audio_vae_stage(folder: Path, steps: int, recorder: Recorder) -> None:
    from . import audio

    audio.train_vae(steps, seed=2, report=recorder.report, save=recorder.save)


def vocoder_stage(folder: Path, steps: int, recorder: Recorder) -> None:
    from . import audio

    vae = load(audio.AudioVae(), folder / "audio_vae.pt")
    audio.train_vocoder(steps, seed=3, vae=vae, report=recorder.report, save=recorder.save)


def text_stage(folder: Path, steps: int, recorder: Recorder) -> None:
    from . import text, tokenizer

    (folder / "tokenizer.json").write_text(tokenizer.build().to_str(pretty=False), encoding="utf-8")
    prompts = text.Prompts(folder / "tokenizer.json")
    text.train(steps, seed=4, prompts=prompts, report=recorder.report, save=recorder.save)


def encode_stage(folder: Path, steps: int, recorder: Recorder) -> None:
    """``steps`` is the number of clips of the largest group that are encoded."""
    from . import audio, dataset, video_vae

    vae = load(video_vae.VideoVae(), folder / "video_vae.pt")
    sound = load(audio.AudioVae(), folder / "audio_vae.pt")
    for index, group in enumerate(dataset.GROUPS):
        path = folder / f"latents_{group.name}.pt"
        if not path.exists():
            group = replace(group, count=min(group.count, steps))
            dataset.save(dataset.encode_group(group, 100 + index, vae, sound, recorder.report), path)


def _captions(folder: Path) -> Any:
    from . import flow_matching, text

    prompts = text.Prompts(folder / "tokenizer.json")
    return flow_matching.CaptionPool(load(text.TextPath(prompts.vocabulary), folder / "text.pt"), prompts)


def _group(folder: Path, name: str) -> Any:
    from . import dataset

    return dataset.load(folder / f"latents_{name}.pt")


def transformer_stage(folder: Path, steps: int, recorder: Recorder) -> None:
    from ltx2rt.api import DEFAULT_NEGATIVE_PROMPT

    from . import flow_matching, transformer

    pool = _captions(folder)
    shards = [
        flow_matching.make_shard(_group(folder, name), pool, seed=index, batch=batch, weight=weight)
        for index, (name, batch, weight) in enumerate(TRANSFORMER_MIX)
    ]
    torch.manual_seed(5)
    flow_matching.train(
        transformer.Transformer(),
        shards,
        pool,
        steps=steps,
        seed=5,
        negative=DEFAULT_NEGATIVE_PROMPT,
        report=recorder.report,
        save=recorder.save,
    )


def spatial_upscaler_stage(folder: Path, steps: int, recorder: Recorder) -> None:
    from . import config, upscaler, video_vae

    statistics = load(video_vae.VideoVae(), folder / "video_vae.pt").per_channel_statistics
    data = _group(folder, "256px25f")
    upscaler.train(
        config.SPATIAL_UPSCALER, data.small, data.video, statistics, steps=steps, seed=6,
        report=recorder.report, save=recorder.save,
    )  # fmt: skip


def temporal_upscaler_stage(folder: Path, steps: int, recorder: Recorder) -> None:
    from . import config, upscaler, video_vae

    statistics = load(video_vae.VideoVae(), folder / "video_vae.pt").per_channel_statistics
    data = _group(folder, "128px25fd")
    upscaler.train(
        config.TEMPORAL_UPSCALER, data.video, data.doubled, statistics, steps=steps, seed=7,
        report=recorder.report, save=recorder.save,
    )  # fmt: skip


def control_lora_stage(folder: Path, steps: int, recorder: Recorder) -> None:
    from . import flow_matching, loras, transformer

    pool = _captions(folder)
    shard = flow_matching.make_shard(_group(folder, "128px25fc"), pool, seed=8, batch=32, weight=1.0)
    model = load(transformer.Transformer(), folder / "transformer.pt")
    tensors = loras.train(
        model, loras.CONTROL_TARGETS, 16, lambda rng: loras.control_batch(shard, pool, rng), steps=steps, seed=8,
        report=recorder.report,
    )  # fmt: skip
    torch.save(tensors, folder / "control_lora.pt")


def distilled_lora_stage(folder: Path, steps: int, recorder: Recorder) -> None:
    from . import flow_matching, loras, transformer

    pool = _captions(folder)
    shard = flow_matching.make_shard(_group(folder, "256px25f"), pool, seed=9, batch=12, weight=1.0)
    model = load(transformer.Transformer(), folder / "transformer.pt")
    tensors = loras.train(
        model, loras.DISTILLED_TARGETS, 8, lambda rng: loras.distilled_batch(shard, pool, rng), steps=steps, seed=9,
        report=recorder.report,
    )  # fmt: skip
    torch.save(tensors, folder / "distilled_lora.pt")


# Latents, clips per step and how often they are drawn.
TRANSFORMER_MIX = (
    ("128px25f", 64, 0.52),
    ("128px25fc", 64, 0.10),
    ("256px25f", 16, 0.26),
    ("128px17f", 64, 0.05),
    ("128px33f", 48, 0.05),
    ("128px9f", 64, 0.02),
)

STAGES: dict[str, tuple[Callable[[Path, int, Recorder], None], int]] = {
    "video_vae": (video_vae_stage, 2400),
    "audio_vae": (audio_vae_stage, 600),
    "vocoder": (vocoder_stage, 800),
    "text": (text_stage, 1200),
    "encode": (encode_stage, 1_000_000),
    "transformer": (transformer_stage, 2500),
    "spatial_upscaler": (spatial_upscaler_stage, 600),
    "temporal_upscaler": (temporal_upscaler_stage, 500),
    "control_lora": (control_lora_stage, 400),
    "distilled_lora": (distilled_lora_stage, 200),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="+", choices=STAGES, metavar="STAGE", help=", ".join(STAGES))
    parser.add_argument("--work", type=Path, default=Path("build/train_tiny"), help="folder of checkpoints and curves")
    parser.add_argument("--steps", type=int, help="fewer steps, to try things out")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for name in arguments.stages:
        stage, steps = STAGES[name]
        stage(arguments.work, arguments.steps or steps, Recorder(arguments.work, name))


if __name__ == "__main__":
    main()
