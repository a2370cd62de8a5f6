"""Previews have the size of their stage, which comes from the positions of its tokens and not from its name."""

from __future__ import annotations

import numpy as np
import pytest

from ltx2rt import api
from ltx2rt.api.previews import first_grid
from ltx2rt.graph.diffusion.conditioning import AppendKeyframe, apply_conditioning
from ltx2rt.graph.diffusion.latent_geometry import VideoLatentShape, VideoScale
from ltx2rt.graph.diffusion.latent_state import VideoTarget, create_video_state
from ltx2rt.graph.pipelines import refinement
from ltx2rt.graph.stages.denoise import stage


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 2, 3), (2, 1, 1), (2, 3, 1), (3, 1, 4), (4, 5, 6)])
@pytest.mark.parametrize("frame", [None, 0, 8])
def test_the_grid_of_the_first_frame(shape: tuple[int, int, int], frame: int | None) -> None:
    target = VideoTarget(VideoLatentShape(*shape), 24.0, VideoScale(8, 32, 32))
    state = create_video_state(target)
    if frame is not None:
        latent = np.zeros((1, 1, *shape[1:], 128), np.float32)
        state = apply_conditioning(state, target, [AppendKeyframe(latent, min(frame, target.pixel_frames - 1), 1.0)])
    assert first_grid(state.positions) == shape[1:]


def previewed() -> list[tuple[str, tuple[int, ...]]]:
    found: list[tuple[str, tuple[int, ...]]] = []
    settings = {"height": 128, "width": 192, "num_frames": 9}
    api.load()("a red circle", **settings, on_preview=lambda p: found.append((p.stage, p.latent.shape)))
    return found


def test_both_stages_are_previewed_at_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [("denoise 1", (1, 2, 2, 3, 128))] * 8 + [("denoise 2", (1, 2, 4, 6, 128))] * 3
    assert previewed() == expected

    def renamed(run: object, name: str, *arguments: object) -> object:
        return stage.denoise(run, {"denoise 1": "draft", "denoise 2": "final 1"}[name], *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(refinement, "denoise", renamed)
    names = {"denoise 1": "draft", "denoise 2": "final 1"}
    assert previewed() == [(names[name], shape) for name, shape in expected]
