"""Judges the exported model through the package: ``python -m tools.train_tiny.evaluate [CHECK...] [--count N]``.

Prompts are of combinations that training never saw. Prints a table and, with --json, writes the numbers.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import ltx2rt
from ltx2rt import embedded
from ltx2rt.media.pcm import write_wav
from ltx2rt.media.video_writer import VideoWriter

from . import world

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "meaning"))
import probes

Array = np.ndarray[Any, np.dtype[Any]]
Scores = dict[str, float]
FRAMES, SIZE, RATE = 25, 256, 24000


def held_out(count: int, seed: int = 2026, **fixed: str) -> list[tuple[world.Clip, str]]:
    """Clips with complete captions, alternately the plain one and a paraphrase."""
    rng = random.Random(seed)
    clips = [world.sample_clip(rng, held_out=True, two=0.0, **fixed) for _ in range(count)]
    return [
        (clip, world.plain_caption(clip) if i % 2 == 0 else world.caption(rng, clip, complete=True))
        for i, clip in enumerate(clips)
    ]


def truth(clip: world.Clip) -> dict[str, str]:
    first = clip.first
    return {"color": first.color, "shape": first.shape, "motion": first.motion, "background": clip.background}


def frames_of(clip: Any) -> Array:
    return np.concatenate(list(clip.frames))


def rendered(clip: world.Clip, size: int = SIZE, frames: int = FRAMES) -> Array:
    """(F, H, W, 3) in [0, 1]."""
    picture, _ = world.render([clip], frames, size)
    return (picture[0].permute(1, 2, 3, 0).numpy() + 1) / 2


def share(rows: Sequence[Mapping[str, bool]]) -> Scores:
    """Percentages of every attribute."""
    return {name: 100 * float(np.mean([row[name] for row in rows])) for name in rows[0]}


def overlap(frames: Array, other: Array) -> float:
    """Intersection over union of the objects in two clips, their centres laid on each other; mean over the frames."""
    shares = []
    for pair in zip(frames, other, strict=True):
        masks = [probes.object_mask(frame, probes.border_color(frame)) for frame in pair]
        if masks[0] is None or masks[1] is None:
            shares.append(0.0)
            continue
        places = [np.argwhere(mask) for mask in masks]
        shift = (places[1].mean(0) - places[0].mean(0)).round().astype(int)
        moved = np.roll(masks[0], tuple(shift), (0, 1))
        shares.append((moved & masks[1]).sum() / (moved | masks[1]).sum())
    return float(np.mean(shares))


def judged(pipeline: Any, cases: Sequence[tuple[world.Clip, str]], side: int, **settings: Any) -> Scores:
    """Shares of right attributes, and by how much clips differ from the rendered ones (±: standard error)."""
    rows, overlaps, errors = [], [], []
    for index, (clip, caption) in enumerate(cases):
        result = pipeline(caption, seed=index, height=side, width=side, num_frames=FRAMES, **settings)
        frames = frames_of(result)
        seen = probes.look(frames)
        rows.append(probes.agreement(seen, probes.listen(result.audio, result.sample_rate), truth(clip)))
        overlaps.append(100 * overlap(frames, rendered(clip, side)))
        errors.append(1000 * (seen.color_error + seen.background_error))
        if index % 10 == 9:
            print(f"{index + 1} clips: {share(rows)}", file=sys.stderr, flush=True)
    graded: Scores = {}
    for name, values in (("overlap", overlaps), ("colour error", errors)):
        graded |= {name: float(np.mean(values)), f"{name} ±": float(np.std(values) / len(values) ** 0.5)}
    return share(rows) | graded


def distilled(count: int) -> Scores:
    return judged(ltx2rt.load("distilled"), held_out(count), SIZE)


def classifier_free(scale: float) -> dict[str, Any]:
    """Settings for classifier-free guidance alone; none at all with a ``scale`` of 1."""
    others = {"video_stg_guidance_scale": 0.0, "audio_stg_guidance_scale": 0.0, "video_rescale_scale": 0.0}
    others |= {"a2v_guidance_scale": 1.0, "v2a_guidance_scale": 1.0}
    return others | {"video_cfg_guidance_scale": scale, "audio_cfg_guidance_scale": scale}


def one_stage(scale: float, side: int) -> Callable[[int], Scores]:
    def run(count: int) -> Scores:
        pipeline = ltx2rt.load("one-stage")
        return judged(pipeline, held_out(count), side, num_inference_steps=20, **classifier_free(scale))

    return run


def write_clip(path: Path, frames: Array, waves: Array | None = None) -> None:
    writer = VideoWriter(path, width=frames.shape[2], height=frames.shape[1], frame_rate=24, sample_rate=RATE)
    with writer:
        if waves is not None:
            writer.write_audio(waves)
        writer.write(frames.astype(np.float32))


def through_codec(path: Path) -> Array:
    """The clip of a file through encoder and decoder: a retake that keeps all of the video."""
    pipeline = ltx2rt.load("retake")
    return frames_of(pipeline("a clip", video_path=path, start_time=0.0, end_time=2.0, regenerate_video=False))


def codec_of(frames: Array) -> Array:
    """Frames as the video VAE alone gives them back."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        write_clip(path, frames)
        return through_codec(path)


def means(columns: Mapping[str, Sequence[float]]) -> Scores:
    return {name: float(np.mean(values)) for name, values in columns.items()}


def image_to_video(count: int) -> Scores:
    pipeline = ltx2rt.load("distilled")
    decibels: dict[str, list[float]] = {"first frame dB": [], "codec dB": []}
    moves = []
    with tempfile.TemporaryDirectory() as folder:
        for index, (clip, caption) in enumerate(held_out(count, seed=7)):
            shown = rendered(clip)
            first = shown[0]
            path = Path(folder) / "first.png"
            Image.fromarray((first * 255).round().astype(np.uint8)).save(path)
            image = ltx2rt.ImageInput(path, crf=0)
            frames = frames_of(pipeline(caption, seed=index, height=SIZE, width=SIZE, images=(image,)))
            decibels["first frame dB"].append(probes.psnr(frames[0], first))
            decibels["codec dB"].append(probes.psnr(codec_of(shown)[0], first))
            moves.append(probes.look(frames).motion == clip.first.motion)
    return means(decibels) | {"direction": 100 * float(np.mean(moves))}


def keyframes(count: int, **settings: Any) -> Scores:
    pipeline = ltx2rt.load("keyframe-interpolation", distilled_lora=embedded.DISTILLED_LORA)
    ends: dict[str, list[float]] = {"first frame dB": [], "codec dB": [], "last frame dB": [], "codec, last dB": []}
    away, colors = [], []
    with tempfile.TemporaryDirectory() as folder:
        for index, (clip, _) in enumerate(held_out(count, seed=8)):
            shown = rendered(clip)
            images = []
            for name, frame in (("first", 0), ("last", FRAMES - 1)):
                path = Path(folder) / f"{name}.png"
                Image.fromarray((shown[frame] * 255).round().astype(np.uint8)).save(path)
                images.append(ltx2rt.ImageInput(path, frame_index=frame, crf=0))
            result = pipeline(
                world.free_caption(clip),
                seed=index,
                height=SIZE,
                width=SIZE,
                num_frames=FRAMES,
                images=tuple(images),
                num_inference_steps=15,
                **settings,
            )
            frames, codec = frames_of(result), codec_of(shown)
            ends["first frame dB"].append(probes.psnr(frames[0], shown[0]))
            ends["codec dB"].append(probes.psnr(codec[0], shown[0]))
            ends["last frame dB"].append(probes.psnr(frames[-1], shown[-1]))
            ends["codec, last dB"].append(probes.psnr(codec[-1], shown[-1]))
            seen = probes.look(frames[-1:])
            away.append(np.linalg.norm(seen.centres[0] - np.array(clip.first.end)))
            colors.append((seen.color, seen.background) == (clip.first.color, clip.background))
    last = {
        "object off at the end %": 100 * float(np.nanmean(away)),
        "colours at the end": 100 * float(np.mean(colors)),
    }
    return means(ends) | last


def retake(count: int) -> Scores:
    """Frames after the first 9 are generated anew with a prompt for another movement from there."""
    pipeline = ltx2rt.load("retake")
    kept, codec, right = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        for index, (clip, _) in enumerate(held_out(count, seed=9, motion="still")):
            shown = rendered(clip)
            waves = world.sound([clip], 25000, RATE, 25 / 24)[0].T.numpy()
            path = Path(folder) / "source.mp4"
            write_clip(path, shown, waves)
            other = random.Random(index).choice(["up", "down", "left", "right"])
            caption = f"a {clip.first.color} {clip.first.shape} moves {other} on a {clip.background} background"
            frames = frames_of(pipeline(caption, seed=index, video_path=path, start_time=9.5 / 24, end_time=2.0))
            kept.append(probes.psnr(frames[:8], shown[:8]))
            codec.append(probes.psnr(through_codec(path)[:8], shown[:8]))
            centres = probes.look(frames).centres
            right.append(probes.direction(np.nanmean(centres[8:11], 0), np.nanmean(centres[-3:], 0)) == other)
    decibels = {"kept frames dB": kept, "codec dB": codec}
    lost = max(b - a for a, b in zip(kept, codec, strict=True))
    return means(decibels) | {"most lost dB": lost, "new direction": 100 * float(np.mean(right))}


def audio_to_video(count: int) -> Scores:
    pipeline = ltx2rt.load("audio-to-video", distilled_lora=embedded.DISTILLED_LORA)
    right = []
    with tempfile.TemporaryDirectory() as folder:
        cases = [*held_out(count // 2, seed=10, motion="left"), *held_out(count - count // 2, seed=11, motion="right")]
        for index, (clip, _) in enumerate(cases):
            path = Path(folder) / "sound.wav"
            write_wav(path, world.sound([clip], 26000, RATE, 25 / 24)[0].T.numpy(), RATE)
            result = pipeline(
                world.free_caption(clip),
                seed=index,
                height=SIZE,
                width=SIZE,
                num_frames=FRAMES,
                audio_path=path,
                num_inference_steps=15,
            )
            right.append(probes.look(frames_of(result)).motion == clip.first.motion)
    return {"direction follows pan": 100 * float(np.mean(right))}


def control(count: int) -> Scores:
    pipeline = ltx2rt.load("ic-lora", loras=((embedded.IC_LORA, 1.0),))
    distances, right = [], []
    with tempfile.TemporaryDirectory() as folder:
        for index, (clip, _) in enumerate(held_out(count, seed=12)):
            path = Path(folder) / "control.mp4"
            write_clip(path, rendered(world.silhouette(clip), SIZE // 2))
            reference = ltx2rt.VideoInput(path)
            result = pipeline(
                world.free_caption(clip),
                seed=index,
                height=SIZE,
                width=SIZE,
                num_frames=FRAMES,
                video_conditioning=(reference,),
            )
            seen = probes.look(frames_of(result))
            start, end = np.array(clip.first.start), np.array(clip.first.end)
            path_truth = start + (end - start) * np.linspace(0, 1, FRAMES)[:, None]
            distances.append(np.nanmean(np.linalg.norm(seen.centres - path_truth, axis=1)))
            right.append({"direction": seen.motion == clip.first.motion, "colour": seen.color == clip.first.color})
    return {"distance to control %": 100 * float(np.mean(distances))} | share(right)


def sharpness(count: int) -> Scores:
    """Two-stage against stage 1 enlarged bicubically: gradient lengths relative to the rendered clip's."""
    rows = []
    for index, (clip, caption) in enumerate(held_out(count, seed=13)):
        full = frames_of(ltx2rt.load("distilled")(caption, seed=index, height=SIZE, width=SIZE, num_frames=FRAMES))
        half = frames_of(ltx2rt.load("distilled")(caption, seed=index, height=128, width=128, num_frames=FRAMES))
        enlarged = torch.nn.functional.interpolate(
            torch.from_numpy(half).permute(0, 3, 1, 2), scale_factor=2, mode="bicubic", align_corners=False
        )
        reference = probes.sharpness(rendered(clip))
        rows.append((probes.sharpness(full) / reference, probes.sharpness(enlarged.permute(0, 2, 3, 1)) / reference))
    two_stage, bicubic = np.mean(rows, axis=0)
    return {"two-stage": float(two_stage), "bicubic": float(bicubic)}


def temporal(count: int) -> Scores:
    """Twice the frames: every new frame's object lies between its neighbours."""
    pipeline = ltx2rt.load("distilled", temporal_upscaler=embedded.TEMPORAL_UPSCALER)
    between = []
    for index, (_, caption) in enumerate(held_out(count, seed=14, motion="right")):
        result = pipeline(caption, seed=index, height=SIZE, width=SIZE, num_frames=FRAMES, upscale_temporal=True)
        x = probes.look(frames_of(result)).centres[:, 0]
        between += list((x[1:-1:2] > x[:-2:2] - 0.01) & (x[1:-1:2] < x[2::2] + 0.01))
    return {"in between": 100 * float(np.mean(between))}


CHECKS: dict[str, Callable[[int], Scores]] = {
    "distilled": distilled,
    "one-stage, CFG 3": one_stage(3.0, SIZE),
    "one-stage, CFG 1": one_stage(1.0, SIZE),
    "one-stage, CFG 3, 128": one_stage(3.0, 128),
    "one-stage, CFG 1, 128": one_stage(1.0, 128),
    "image-to-video": image_to_video,
    "keyframes": keyframes,
    "keyframes, unguided": lambda count: keyframes(count, **classifier_free(1.0)),
    "retake": retake,
    "audio-to-video": audio_to_video,
    "ic-lora": control,
    "sharpness": sharpness,
    "temporal x2": temporal,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checks", nargs="*", metavar="CHECK", help=f"of {', '.join(CHECKS)}; default all")
    parser.add_argument("--count", type=int, default=100, help="prompts of the text checks; others take a quarter")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    table: dict[str, Scores] = {}
    for name in arguments.checks or CHECKS:
        count = arguments.count if name.startswith(("distilled", "one-stage")) else max(1, arguments.count // 4)
        started = time.monotonic()
        table[name] = CHECKS[name](count)
        values = "  ".join(f"{key} {value:.1f}" for key, value in table[name].items())
        print(f"{name:20} {count:4} clips {time.monotonic() - started:6.0f} s  {values}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
