"""Golden cases of the key-frame-aware decode: the joint attention alone, and whole decodes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import partial

import mlx.core as mx
import numpy as np

from ltx2rt.graph.diffusion.noise import FrameNoise
from ltx2rt.graph.models.video_vae.diffusion_keyframes import KeyFrames
from ltx2rt.graph.models.video_vae.diffusion_streams import KeyRing, PlaneKeys, nearest
from ltx2rt.kernels import neighborhood_attention
from ltx2rt.kernels.host import from_numbers, to_numpy
from ltx2rt.types import Array
from ltx2rt.verify.golden import Case, Check, GoldenFile
from ltx2rt.verify.video_vae import NotedNoise, channels_first, channels_last, diffusion_decoder, frame_numbers

_TOLERANCE = {"atol": 1e-4, "rtol": 1e-4}
_EXACT = {"atol": 0.0}
_TIMES = {"atol": 1e-6}
# What was saved of a stage: its first cells.
_CELLS = 8


def find_cases(golden: GoldenFile) -> Iterator[Case]:
    """Cases of ``25_joint_attention`` and ``25_keyframe_decode`` files."""
    stem = golden.path.stem
    if stem.endswith("_joint_attention"):
        for name in _names(golden, r"(\w+)\.kernel"):
            yield Case(f"{golden.name}/{name}", partial(_attention, golden, name))
    elif stem.endswith("_keyframe_decode"):
        for name in _names(golden, r"(\w+)\.planes"):
            yield Case(f"{golden.name}/{name}", partial(_decode, golden, name))


def _names(golden: GoldenFile, pattern: str) -> list[str]:
    matches = map(partial(re.fullmatch, pattern), golden.keys())
    return [match[1] for match in matches if match]


def _attention(golden: GoldenFile, name: str) -> Iterator[Check]:
    given = {key: golden.given(f"{name}.{key}") for key in ("q", "k", "v", "plane_q", "plane_k", "plane_v")}
    window = [int(size) for size in golden.given(f"{name}.kernel")]
    times = golden.given(f"{name}.plane_times").astype(np.float64)
    count, heads = given["q"].shape[1], given["q"].shape[4]

    def keys(prefix: str) -> mx.array:
        return mx.array(np.concatenate([_flat(given[f"{prefix}{letter}"]) for letter in "kv"], axis=-1))

    def attended(queries: str, keys_values: mx.array, listed: mx.array) -> Array:
        width = keys_values.shape[-1] // 2
        out = neighborhood_attention(
            mx.array(_flat(given[queries])),
            keys_values[..., :width],
            keys_values[..., width:],
            listed,
            num_heads=heads,
            window=(window[1], window[2]),
            borders=("mask", "mask"),
            scale=1.0,
        )
        values: Array = to_numpy(out).reshape(given[queries].shape)
        return values

    ring = KeyRing(count, PlaneKeys(keys("plane_"), times))
    ring.put(keys(""))
    seen = ring.seen(np.arange(count), window[0], count)
    yield golden.check(f"{name}.out", attended("q", seen.keys_values, seen.key_frames), **_TOLERANCE)
    own = count + np.arange(len(times))
    listed = np.concatenate([own[:, None], nearest(times, np.arange(count))], axis=1)
    whole = mx.concatenate([keys(""), keys("plane_")], axis=1)
    planes = attended("plane_q", whole, mx.array(listed.astype(np.int32)))
    yield golden.check(f"{name}.plane_out", planes, **_TOLERANCE)


def _decode(golden: GoldenFile, name: str) -> Iterator[Check]:
    stated = golden.metadata["cases"]
    case = (json.loads(stated) if isinstance(stated, str) else stated)[name]
    latent = channels_last(golden.given(f"{name}.in"))
    frames = [int(frame) for frame in golden.given(f"{name}.frames")]
    yield Check(f"{name}.frames", from_numbers(frames), from_numbers(case["frames"]), **_EXACT)
    planes = channels_last(golden.given(f"{name}.planes"))
    keyframes = KeyFrames(planes, tuple(frames), case["clip_start_frame"])
    decoder, noise = diffusion_decoder(golden), NotedNoise()
    clip = channels_first(decoder(latent, FrameNoise(noise), keyframes))
    yield golden.check(f"{name}.noise_shape", from_numbers(noise.shapes), **_EXACT)
    taps = dict(decoder.keyframe_taps(latent, keyframes))
    saved = golden.keys()
    for key in [key for key in saved if key.startswith(f"{name}.")]:
        tap = key.removeprefix(f"{name}.")
        if found := re.fullmatch(r"times\.stage(\d)", tap):
            stage = int(found[1]) - 1
            yield golden.check(key, keyframes.times(decoder.config.require_diffusion(), stage), **_TIMES)
        elif tap.startswith("out_frames_"):
            yield golden.check(key, clip[:, :, frame_numbers(tap)], **_TOLERANCE)
        elif tap == "conv_in_planes":
            yield golden.check(key, to_numpy(taps["conv_in"]), **_TOLERANCE)
        elif found := re.fullmatch(r"stage(\d)_planes", tap):
            cells = to_numpy(taps[f"stage{found[1]}"])[:, :, :_CELLS, :_CELLS]
            yield golden.check(key, cells, **_TOLERANCE)


def _flat(x: Array) -> Array:
    """Heads and their channels as one axis."""
    return x.reshape(*x.shape[:-2], -1)
