"""A clip in windows shows one thing that goes on: no jump, no change of colour and no click where windows meet."""

from __future__ import annotations

import numpy as np
import probes
import pytest

from ltx2rt import api
from ltx2rt.embedded.world import COLORS

pytestmark = pytest.mark.slow

RED, BLUE = (np.array(COLORS[name]) / 255 for name in ("red", "blue"))
# At this rate a window lasts a second, as the clips that the model was trained on do; at 24 frames/s it lasts four, and
# the circle hardly moves.
FRAME_RATE = 96
SIDE = 256
CODE = 1 / 255


def colour_errors(frame: np.ndarray) -> tuple[float, float]:
    """Of the circle and of the background, in [0, 1]."""
    rim = probes.border_color(frame)
    mask = probes.object_mask(frame, rim)
    assert mask is not None
    difference = np.abs(frame - rim).max(axis=-1)
    shown = np.median(frame[difference > 0.8 * np.quantile(difference[mask], 0.9)], axis=0)
    return float(np.sqrt(((shown - RED) ** 2).mean())), float(np.sqrt(((rim - BLUE) ** 2).mean()))


def test_a_shape_goes_on_through_four_windows() -> None:
    clip = api.load("distilled")(
        "a red circle moves left on a blue background",
        height=SIDE,
        width=SIDE,
        num_frames=313,
        frame_rate=FRAME_RATE,
        chunked=True,
    )
    windows = clip.inputs.windows
    assert len(windows) == 4
    frames = np.concatenate(list(clip.frames))
    assert len(frames) == 313
    seen = probes.look(frames)
    assert (seen.color, seen.background, seen.shape, seen.motion) == ("red", "blue", "circle", "left")
    at_seams = np.zeros(len(frames), bool)
    for window in windows[:-1]:
        at_seams[window.stop - window.blend - 1 : window.stop + 1] = True
    assert not np.isnan(seen.centres).any()
    steps = np.linalg.norm(np.diff(seen.centres * SIDE, axis=0), axis=1)
    at_seam_steps = at_seams[1:] & at_seams[:-1]
    assert steps[at_seam_steps].max() <= steps[~at_seam_steps].max() + 1
    errors = np.array([colour_errors(frame) for frame in frames.astype(np.float64)])
    assert (errors[at_seams].max(axis=0) <= errors[~at_seams].max(axis=0) + CODE).all()
    # Each window moves the circle on, from where the one before has left it.
    ends = [seen.centres[window.stop - 1, 0] for window in windows]
    assert ends == sorted(ends, reverse=True)
    assert ends[-1] < seen.centres[0, 0] - 0.12

    sound, rate = clip.audio, clip.sample_rate
    assert abs(len(sound) / rate - 313 / FRAME_RATE) < 0.045  # what a vocoder gives less than the latents of a window
    changes = np.abs(np.diff(sound, axis=0)).max(axis=1)
    near = np.zeros(len(changes), bool)
    for window in windows[:-1]:
        end = round(window.stop / FRAME_RATE * rate)
        near[end - round(0.1 * rate) : end + round(0.05 * rate)] = True
    assert changes[near].max() < np.quantile(changes[~near], 0.999)
