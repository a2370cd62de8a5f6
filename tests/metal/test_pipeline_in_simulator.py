"""The whole distilled pipeline, both stages, decoders and sound, with every kernel in the simulator. Minutes long."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
from simulated_kernels import simulated_kernels

from ltx2rt import api
from ltx2rt.kernels.selection import forced

SETTINGS: dict[str, Any] = {"height": 64, "width": 64, "num_frames": 9, "seed": 3}
RUN = os.environ.get("LTX2RT_SIMULATE_PIPELINE", "")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(RUN not in ("checked", "unchecked"), reason="set LTX2RT_SIMULATE_PIPELINE=checked or unchecked"),
]


def run(dtype: str) -> dict[str, np.ndarray]:
    clip = api.load("distilled", dtype=dtype)("a red circle moves left on a blue background", **SETTINGS)
    made = {"frames": np.concatenate(list(clip.frames)), "sound": clip.audio}
    made |= {"video latent": clip.video_latent, "audio latent": clip.audio_latent}
    return {name: np.asarray(values, np.float64) for name, values in made.items()}


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt(((a - b) ** 2).mean()))


def test_the_distilled_pipeline() -> None:
    exact = run("float32")
    with forced("mlx"):
        plain = run("bfloat16")
    compiled = run("bfloat16")
    with simulated_kernels(mode=RUN, processes=2) as device:
        ours = run("bfloat16")
    for name, values in exact.items():
        size = np.sqrt((values**2).mean())
        errors = {"simulated": ours[name], "CPU kernels": compiled[name], "plain MLX": plain[name]}
        told = ", ".join(f"{who} {distance(made, values) / size:.2e}" for who, made in errors.items())
        print(f"{name}: relative error against float32: {told}")
    print(f"{len(device.dispatches)} dispatches of {len({d.kernel for d in device.dispatches})} kernels")
    for name, values in exact.items():
        assert 0 < distance(ours[name], values) <= 2 * distance(plain[name], values), name
