"""Trains the tiny model: ``python -m tools.train_tiny.train STAGE... [--work FOLDER] [--steps N]``.

Every stage reads what earlier ones wrote to the work folder and writes ``STAGE.pt`` and ``STAGE.jsonl`` there.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .device import read_state


class Recorder:
    """Writes a stage's curve, one JSON object per line, and its checkpoints."""

    def __init__(self, folder: Path, stage: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._log = folder / f"{stage}.jsonl"
        if not (folder / f"{stage}_state.pt").exists():  # a resumed stage goes on with its curve
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
    module.load_state_dict(read_state(path))
    return module.eval().requires_grad_(False)


def video_decoder_stage(folder: Path, steps: int, recorder: Recorder) -> None:
    from . import video_vae

    video_vae.train_decoder(steps, seed=1, report=recorder.report, save=recorder.save)


def video_decoder_finish_stage(folder: Path, steps: int, recorder: Recorder) -> None:
    from . import video_vae

    decoder = load(video_vae.VideoVae().decoder, folder / "video_decoder.pt").train().requires_grad_(True)
    video_vae.finish_decoder(decoder, steps, seed=12, report=recorder.report, save=recorder.save)


def video_encoder_stage(folder: Path, steps: int, recorder: Recorder) -> None:
    from . import video_vae

    video_vae.train_encoder(steps, seed=11, report=recorder.report, save=recorder.save)


def video_encoder_finish_stage(folder: Path, steps: int, recorder: Recorder) -> None:
    from . import video_vae

    encoder = load(video_vae.VideoVae().encoder, folder / "video_encoder.pt").train().requires_grad_(True)
    video_vae.finish_encoder(encoder, steps, seed=13, report=recorder.report, save=recorder.save)


def video_encoder_clips_stage(folder: Path, steps: int, recorder: Recorder) -> None:
    from . import video_vae

    encoder = load(video_vae.VideoVae().encoder, folder / "video_encoder_finish.pt").train().requires_grad_(True)
    decoder = load(video_vae.VideoVae().decoder, folder / "video_decoder_finish.pt")
    video_vae.read_whole_clips(encoder, decoder, steps, seed=14, report=recorder.report, save=recorder.save)


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


def _captions(folder: Path) -> Any:
    from . import flow_matching, text

    prompts = text.Prompts(folder / "tokenizer.json")
    return flow_matching.CaptionPool(load(text.TextPath(prompts.vocabulary), folder / "text.pt"), prompts)


def _shards(pool: Any, *, large: float, refining: float, muddled: float) -> Any:
    """The clips of both transformer stages; ``large`` of the batches are of 256x256."""
    from . import dataset, flow_matching

    small = dataset.make_group(128, 25, MAIN_CLIPS, seed=100)
    groups = (
        (small, 32, 0.88 - large, 0.0),
        (dataset.make_group(256, 25, MAIN_CLIPS, seed=100, like=small), 8, large, refining),
        (dataset.make_group(128, 17, 300, seed=101), 32, 0.05, 0.0),
        (dataset.make_group(128, 33, 300, seed=102), 24, 0.05, 0.0),
        (dataset.make_group(128, 9, 150, seed=103), 32, 0.02, 0.0),
    )
    return [
        flow_matching.make_shard(group, pool, seed=i, batch=batch, weight=weight, refining=share, muddled=muddled)
        for i, (group, batch, weight, share) in enumerate(groups)
    ]


def transformer_stage(folder: Path, steps: int, recorder: Recorder) -> None:
    from ltx2rt.api import DEFAULT_NEGATIVE_PROMPT

    from . import flow_matching, transformer

    pool = _captions(folder)
    torch.manual_seed(5)
    flow_matching.train(
        transformer.Transformer(),
        _shards(pool, large=0.25, refining=0.65, muddled=0.0),
        pool,
        steps=steps,
        fall=TRANSFORMER_FALL,
        seed=5,
        rate=1.0,
        negative=DEFAULT_NEGATIVE_PROMPT,
        report=recorder.report,
        save=recorder.save,
        resume=folder / "transformer_state.pt",
    )


def transformer_guided_stage(folder: Path, steps: int, recorder: Recorder) -> None:
    from ltx2rt.api import DEFAULT_NEGATIVE_PROMPT

    from . import flow_matching, transformer

    pool = _captions(folder)
    model = load(transformer.Transformer(), folder / "transformer.pt").train().requires_grad_(True)
    flow_matching.train(
        model,
        _shards(pool, large=0.45, refining=0.4, muddled=2 / 3),
        pool,
        steps=steps,
        fall=GUIDED_FALL,
        seed=15,
        rate=0.5,
        negative=DEFAULT_NEGATIVE_PROMPT,
        report=recorder.report,
        save=recorder.save,
        resume=folder / "transformer_guided_state.pt",
    )


def spatial_upscaler_stage(folder: Path, steps: int, recorder: Recorder) -> None:
    from . import config, dataset, upscaler

    clips = dataset.sample_clips(800, seed=104)
    low, high = dataset.video(clips, 25, 128), dataset.video(clips, 25, 256)
    upscaler.train(
        config.SPATIAL_UPSCALER, low, high, steps=steps, seed=6, report=recorder.report, save=recorder.save
    )  # fmt: skip


def temporal_upscaler_stage(folder: Path, steps: int, recorder: Recorder) -> None:
    from . import config, dataset, upscaler

    clips = dataset.sample_clips(800, seed=105)
    low = torch.cat([dataset.video(clips[:600], 25, 128)])
    high = torch.cat([dataset.video(clips[:600], 49, 128)])
    upscaler.train(
        config.TEMPORAL_UPSCALER, low, high, steps=steps, seed=7, report=recorder.report, save=recorder.save
    )  # fmt: skip


def control_lora_stage(folder: Path, steps: int, recorder: Recorder) -> None:
    from . import dataset, flow_matching, loras, transformer

    pool = _captions(folder)
    group = dataset.make_group(128, 25, 600, seed=106)
    control = group.control()
    shard = flow_matching.make_shard(group, pool, seed=8, batch=16, weight=1.0)
    model = load(transformer.Transformer(), folder / "transformer_guided.pt")
    tensors = loras.train(
        model, loras.CONTROL_TARGETS, 16, lambda rng: loras.control_batch(shard, control, pool, rng), steps=steps,
        seed=8, report=recorder.report,
    )  # fmt: skip
    torch.save(tensors, folder / "control_lora.pt")


def distilled_lora_stage(folder: Path, steps: int, recorder: Recorder) -> None:
    from . import dataset, flow_matching, loras, transformer

    pool = _captions(folder)
    group = dataset.make_group(256, 25, 400, seed=107)
    shard = flow_matching.make_shard(group, pool, seed=9, batch=8, weight=1.0)
    model = load(transformer.Transformer(), folder / "transformer_guided.pt")
    tensors = loras.train(
        model, loras.DISTILLED_TARGETS, 8, lambda rng: loras.distilled_batch(shard, pool, rng), steps=steps, seed=9,
        report=recorder.report,
    )  # fmt: skip
    torch.save(tensors, folder / "distilled_lora.pt")


MAIN_CLIPS = 2500
TRANSFORMER_FALL = 1400  # steps with a falling rate at the end
GUIDED_FALL = 7000

STAGES: dict[str, tuple[Callable[[Path, int, Recorder], None], int]] = {
    "video_decoder": (video_decoder_stage, 600),
    "video_decoder_finish": (video_decoder_finish_stage, 1000),
    "video_encoder": (video_encoder_stage, 4500),
    "video_encoder_finish": (video_encoder_finish_stage, 2000),
    "video_encoder_clips": (video_encoder_clips_stage, 2400),
    "audio_vae": (audio_vae_stage, 350),
    "vocoder": (vocoder_stage, 500),
    "text": (text_stage, 500),
    "transformer": (transformer_stage, 2400),
    "transformer_guided": (transformer_guided_stage, 8500),
    "spatial_upscaler": (spatial_upscaler_stage, 400),
    "temporal_upscaler": (temporal_upscaler_stage, 200),
    "control_lora": (control_lora_stage, 500),
    "distilled_lora": (distilled_lora_stage, 80),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="+", choices=STAGES, metavar="STAGE", help=", ".join(STAGES))
    parser.add_argument("--work", type=Path, default=Path("build/train_tiny"), help="folder of checkpoints and curves")
    parser.add_argument("--steps", type=int, help="fewer steps, to try things out")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="where PyTorch computes: cpu, cuda, ...")
    arguments = parser.parse_args()
    torch.set_default_device(arguments.device)
    torch.set_num_threads(arguments.threads)
    for name in arguments.stages:
        stage, steps = STAGES[name]
        stage(arguments.work, arguments.steps or steps, Recorder(arguments.work, name))


if __name__ == "__main__":
    main()
