"""Previews have the size of their stage, which comes from what it makes and not from its name."""

from __future__ import annotations

import pytest

from ltx2rt import api
from ltx2rt.graph.pipelines import refinement
from ltx2rt.graph.stages.denoise import stage


def previewed() -> list[tuple[str, tuple[int, ...]]]:
    found: list[tuple[str, tuple[int, ...]]] = []
    settings = {"height": 64, "width": 128, "num_frames": 9}
    api.load()("a red circle", **settings, on_preview=lambda p: found.append((p.stage, p.latent.shape)))
    return found


def test_both_stages_are_previewed_at_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [("denoise 1", (1, 2, 1, 2, 128))] * 8 + [("denoise 2", (1, 2, 2, 4, 128))] * 3
    assert previewed() == expected

    def renamed(run: object, name: str, *arguments: object) -> object:
        return stage.denoise(run, {"denoise 1": "draft", "denoise 2": "final 1"}[name], *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(refinement, "denoise", renamed)
    names = {"denoise 1": "draft", "denoise 2": "final 1"}
    assert previewed() == [(names[name], shape) for name, shape in expected]
