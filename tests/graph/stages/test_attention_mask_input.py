"""The mask that says how strongly each place attends to the references: what a coloured picture means."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ltx2rt.graph.settings.settings import Settings
from ltx2rt.graph.stages.media_inputs import attention_mask


@pytest.mark.parametrize(
    ("colour", "weight"), [((255, 255, 255), 1.0), ((0, 255, 0), 1 / 3), ((255, 0, 255), 2 / 3), ((51, 51, 51), 0.2)]
)
def test_a_colour_counts_as_the_mean_of_its_channels(
    tmp_path: Path, colour: tuple[int, int, int], weight: float
) -> None:
    path = tmp_path / "mask.png"
    Image.new("RGB", (64, 64), colour).save(path)
    settings = Settings(conditioning_attention_mask=path, height=64, width=64, num_frames=9)
    mask = attention_mask(settings)
    assert mask is not None
    assert mask.weights is not None
    np.testing.assert_allclose(mask.weights(32, 32, range(9)), np.full((9, 32, 32), weight), atol=1e-6)
