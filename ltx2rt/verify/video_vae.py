"""Golden cases of the video VAE: encode, decode, every layer, tiles, timestep conditioning and tile plans."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from ltx2rt.graph.components import VIDEO_VAE
from ltx2rt.graph.diffusion.noise import FrameNoise, NoiseDtype
from ltx2rt.graph.models.layers.params import Params
from ltx2rt.graph.models.video_vae.decoder import VideoDecoder
from ltx2rt.graph.models.video_vae.diffusion_decoder import DiffusionVideoDecoder
from ltx2rt.graph.models.video_vae.encoder import VideoEncoder
from ltx2rt.graph.models.video_vae.specs import VideoVaeConfig, decoder_specs, encoder_specs, statistics_specs
from ltx2rt.graph.models.video_vae.tiling import TilePlan, TileSize, Tiling, decode_plan, decode_tiled
from ltx2rt.kernels.host import from_numbers, to_numpy
from ltx2rt.types import Array
from ltx2rt.verify.golden import Case, Check, GoldenFile
from ltx2rt.verify.hash_noise import HashNoise
from ltx2rt.weights.checkpoint import Checkpoint

_TOLERANCE = {"atol": 1e-4, "rtol": 1e-4}
_TABLE = {"atol": 1e-6}
# Pixels of a latent cell's side, and both sizes of it, of the models that the plans were saved with.
_SIDE = 32
_FACTORS = {"temporal_factor": 8, "spatial_factor": _SIDE}
_EXACT = {"atol": 0.0}

# What the tiled cases mean, from the description of the goldens.
_DECODE_TILINGS = {
    "spatial": Tiling.of(spatial=(64, 32), temporal=(24, 8)),
    "temporal": Tiling.of(temporal=(16, 8)),
    "both": Tiling.of(spatial=(64, 32), temporal=(16, 8)),
}
_ENCODE_TILINGS = {
    "spatial": (Tiling.of(spatial=(128, 64)), (9, 192, 128)),
    "temporal": (Tiling.of(temporal=(24, 16)), (41, 32, 64)),
}


def find_cases(golden: GoldenFile) -> Iterator[Case]:
    """Cases of ``*_video_vae``, ``video_vae_timestep_conditioned`` and ``vae_tile_plans`` files."""
    stem = golden.path.stem
    runs: dict[str, Callable[[], Iterable[Check]]] = {}
    if golden.path.suffix == ".json":
        if stem == "vae_tile_plans":
            runs = {"decode": partial(_plans, golden)}
    elif stem.startswith("video_vae_timestep_conditioned"):
        for name in _names(golden, r"(.+)\.in"):
            runs[name] = partial(_conditioned, golden, name)
    elif re.fullmatch(r"\w+_video_vae", stem) and "checkpoint" in golden.metadata:
        for name in _names(golden, r"encode\.(.+)\.out"):
            runs[f"encode.{name}"] = partial(_encode, golden, name)
        for name in _names(golden, r"decode\.(.+)\.in"):
            # A case with noise belongs to a diffusion decoder.
            decode = _denoise if f"decode.{name}.noise_shape" in golden else _decode
            runs[f"decode.{name}"] = partial(decode, golden, name)
        for name in _names(golden, r"tiled_decode\.(.+)\.in"):
            if name in _DECODE_TILINGS:
                runs[f"tiled_decode.{name}"] = partial(_tiled_decode, golden, name)
        for name in _names(golden, r"tiled_encode\.(.+)\.out"):
            if name in _ENCODE_TILINGS:
                runs[f"tiled_encode.{name}"] = partial(_tiled_encode, golden, name)
    for name, run in runs.items():
        yield Case(f"{golden.name}/{name}", run)


def ripple(frames: int, height: int, width: int) -> Array:
    """(1, F, H, W, 3) float32: the synthetic clip that the encoder goldens were made from."""
    f = np.arange(frames, dtype=np.float64)[:, None, None, None]
    h = np.arange(height, dtype=np.float64)[:, None, None]
    w = np.arange(width, dtype=np.float64)[:, None]
    c = np.arange(1, 4, dtype=np.float64)
    clip = 0.6 * np.sin(0.13 * c * h + 0.07 * w + 0.5 * f) + 0.3 * np.cos(0.11 * w * c - 0.4 * f)
    return clip[None].astype(np.float32)


def _names(golden: GoldenFile, pattern: str) -> list[str]:
    matches = map(partial(re.fullmatch, pattern), golden.keys())
    return [match[1] for match in matches if match]


def _keys(golden: GoldenFile, prefix: str) -> list[str]:
    keys = golden.keys()
    return [key for key in keys if key.startswith(prefix)]


@lru_cache(maxsize=2)
def _weights(path: Path, half: str) -> tuple[VideoVaeConfig, Params]:
    checkpoint = Checkpoint.open(path)
    config = VIDEO_VAE.parse(checkpoint)
    specs = encoder_specs(config) if half == "encoder" else decoder_specs(config)
    return config, Params(checkpoint.load("video_vae", specs + statistics_specs(config.latent_channels)))


def _encoder(golden: GoldenFile) -> VideoEncoder:
    return VideoEncoder(*_weights(golden.root / golden.metadata["checkpoint"], "encoder"), mx.float32)


def _decoder(golden: GoldenFile) -> VideoDecoder:
    return VideoDecoder(*_weights(golden.root / golden.metadata["checkpoint"], "decoder"), mx.float32)


def diffusion_decoder(golden: GoldenFile) -> DiffusionVideoDecoder:
    """The diffusion decoder of the checkpoint that a golden was saved with, in float32."""
    return DiffusionVideoDecoder(*_weights(golden.root / golden.metadata["checkpoint"], "decoder"), mx.float32)


def channels_first(x: mx.array | Array) -> Array:
    """Ours (B, F, H, W, C) as official (B, C, F, H, W)."""
    return np.moveaxis(to_numpy(x) if isinstance(x, mx.array) else x, -1, 1)


def channels_last(x: Array) -> mx.array:
    """The inverse of `channels_first`."""
    return mx.array(np.moveaxis(x, 1, -1).copy())


def _encode(golden: GoldenFile, name: str) -> Iterator[Check]:
    size = re.match(r"(\d+)x(\d+)x(\d+)", name)
    if size is None:
        raise KeyError(f"encode.{name}: no clip size in the name")
    prefix = f"encode.{name}."
    clip = ripple(*(int(number) for number in size.groups()))
    outputs = dict(_blocks(_encoder(golden).activations(clip)))
    for key in _keys(golden, prefix):
        tap = key.removeprefix(prefix)
        if tap == "out":
            actual = outputs["latent"]
        elif tap == "conv_in_frame0":
            actual = outputs["conv_in"][:, :1]
        else:
            actual = outputs[tap.replace("down", "down_blocks.")]
        yield golden.check(key, channels_first(actual), **_TOLERANCE)


def _decode(golden: GoldenFile, name: str) -> Iterator[Check]:
    prefix = f"decode.{name}."
    outputs = dict(_blocks(_decoder(golden).activations(channels_last(golden.given(prefix + "in")))))
    _frames_saved(golden, prefix)
    for key in _keys(golden, prefix):
        tap = key.removeprefix(prefix)
        if tap == "in":
            continue
        if tap.startswith("out_frames_"):
            actual = channels_first(outputs["frames"])[:, :, frame_numbers(tap)]
        else:
            actual = channels_first(outputs[re.sub(r"^up(?=\d)", "up_blocks.", tap)])
        yield golden.check(key, actual, **_TOLERANCE)


def _denoise(golden: GoldenFile, name: str) -> Iterator[Check]:
    prefix = f"decode.{name}."
    latent, noise = channels_last(golden.given(prefix + "in")), NotedNoise()
    decoder = diffusion_decoder(golden)
    clip = channels_first(decoder(latent, FrameNoise(noise)))
    yield golden.check(f"{prefix}noise_shape", from_numbers(noise.shapes), atol=0)
    yield golden.check(f"{prefix}noise_std", from_numbers([noise.deviation]), atol=1e-4)
    for key in _keys(golden, prefix):
        tap = key.removeprefix(prefix)
        if tap.startswith("out_frames_"):
            yield golden.check(key, clip[:, :, frame_numbers(tap)], **_TOLERANCE)
        elif tap == "stages_1_3_first_frame":
            yield golden.check(key, to_numpy(decoder.features(latent))[:, :1], **_TOLERANCE)


class NotedNoise(HashNoise):
    """Hash noise that remembers what it was asked for.

    Attributes:
        shapes: of the draws.
        deviation: of the last one.
    """

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self.deviation = 0.0

    def normal(self, shape: tuple[int, ...], dtype: NoiseDtype = "float32") -> Array:
        values = super().normal(shape, dtype)
        self.shapes.append(shape)
        self.deviation = float(values.std())
        return values


def _blocks(activations: Iterable[tuple[str, mx.array]]) -> Iterator[tuple[str, mx.array]]:
    """Outputs by block: a group of residual layers counts as one, its last layer decides."""
    for path, output in activations:
        yield re.sub(r"\.res_blocks\.\d+$", "", path), output


def _frames_saved(golden: GoldenFile, prefix: str) -> list[str]:
    keys = _keys(golden, prefix + "out_frames_")
    if not keys:
        raise KeyError(f"{golden.name} holds no tensor {prefix}out_frames_*")
    return keys


def frame_numbers(tap: str) -> list[int]:
    """Of ``out_frames_0_4_8``."""
    return [int(number) for number in tap.removeprefix("out_frames_").split("_")]


def _tiled_decode(golden: GoldenFile, name: str) -> Iterator[Check]:
    prefix = f"tiled_decode.{name}."
    decoder, latent, tiling = _decoder(golden), channels_last(golden.given(prefix + "in")), _DECODE_TILINGS[name]
    frames, height, width = latent.shape[1:4]
    plan = decode_plan((frames, height, width), tiling, **_FACTORS)
    chunks = list(decode_tiled(decoder, latent, plan))
    note = golden.metadata.get("notes", {}).get(f"tiled_decode.{name}", {})
    if "chunk_frames" in note:
        yield Check(
            prefix + "chunk_frames", from_numbers(plan.chunk_frames), from_numbers(note["chunk_frames"]), **_EXACT
        )
        count = sum(note["chunk_frames"])
        yield Check(prefix + "frames", from_numbers(len(chunks)), from_numbers(count), **_EXACT)
    clip = np.concatenate(chunks)
    for key in _frames_saved(golden, prefix):
        actual = channels_first(clip[None])[:, :, frame_numbers(key.removeprefix(prefix))]
        yield golden.check(key, actual, **_TOLERANCE)


def _tiled_encode(golden: GoldenFile, name: str) -> Iterator[Check]:
    tiling, size = _ENCODE_TILINGS[name]
    key = f"tiled_encode.{name}.out"
    yield golden.check(key, channels_first(_encoder(golden).encode_frames(ripple(*size), tiling)), **_TOLERANCE)


def _conditioned(golden: GoldenFile, name: str) -> Iterator[Check]:
    stated = golden.metadata.get("checkpoint", "tiny-video-vae-timestep-conditioned.safetensors")
    decoder = VideoDecoder(*_weights(golden.root / stated, "decoder"), mx.float32)
    draws = iter(_keys(golden, f"{name}.draw."))

    def noise(shape: tuple[int, ...]) -> Array:
        drawn = golden.given(next(draws, f"{name}.draw (another one)"))
        if drawn.shape != shape:
            raise ValueError(f"{name}: the decoder draws {shape} where the golden has {drawn.shape}")
        return drawn

    timestep = float(name[1:]) if re.fullmatch(r"t[\d.]+", name) else None
    clip = channels_first(decoder(channels_last(golden.given(f"{name}.in")), noise, timestep))
    yield Check(f"{name}.draws left", from_numbers(len(list(draws))), from_numbers(0), **_EXACT)
    for key in _frames_saved(golden, f"{name}."):
        yield golden.check(key, clip[:, :, frame_numbers(key.removeprefix(f"{name}."))], **_TOLERANCE)


def _plans(golden: GoldenFile) -> Iterator[Check]:
    for number, entry in enumerate(golden.entry("plans")):
        name = f"plans.{number}"
        frames, height, width = entry["latent_fhw"]
        stated = _tiling(entry)
        if entry["config"] == "auto":
            auto = Tiling.auto(_SIDE * height, _SIDE * width, _SIDE)
            yield Check(f"{name}.auto", from_numbers(stated == auto), from_numbers(True), **_EXACT)
        plan = decode_plan((frames, height, width), stated, **_FACTORS)
        yield Check(f"{name}.n_tiles", from_numbers(len(plan.tiles)), from_numbers(entry["n_tiles"]), **_EXACT)
        yield from _plan_tiles(name, plan, entry["tiles"])


def _plan_tiles(name: str, plan: TilePlan, stated: list[dict[str, Any]]) -> Iterator[Check]:
    # Of long plans the first and the last tiles are stored.
    head = len(stated) // 2
    tiles = plan.tiles[:head] + plan.tiles[len(plan.tiles) - (len(stated) - head) :]
    for number, (ours, theirs) in enumerate(zip(tiles, stated, strict=True)):
        axes = (ours.frames, ours.height, ours.width)
        where = f"{name}.tiles.{number}"
        yield Check(f"{where}.in", from_numbers([axis.source for axis in axes]), from_numbers(theirs["in"]), **_EXACT)
        yield Check(f"{where}.out", from_numbers([axis.target for axis in axes]), from_numbers(theirs["out"]), **_EXACT)
        for axis, mask in zip(axes, theirs["masks"], strict=True):
            if isinstance(mask, list):  # short masks are stored whole
                yield Check(f"{where}.mask", axis.mask, from_numbers(mask), **_TABLE)
                continue
            first, last = from_numbers(mask["first"]), from_numbers(mask["last"])
            yield Check(f"{where}.length", from_numbers(len(axis.mask)), from_numbers(mask["len"]), **_EXACT)
            yield Check(f"{where}.first", axis.mask[: len(first)], first, **_TABLE)
            yield Check(f"{where}.last", axis.mask[len(axis.mask) - len(last) :], last, **_TABLE)


def _tiling(entry: dict[str, Any]) -> Tiling:
    frames, height, width = (
        TileSize(*entry[axis]) if entry[axis] else None for axis in ("temporal", "height", "width")
    )
    return Tiling(frames, height, width)
