"""What the arguments of a saved run become: every form that they may have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ltx2rt.graph.diffusion.windows import Window
from ltx2rt.verify.golden import GoldenFile
from ltx2rt.verify.saved_run import SavedRun
from ltx2rt.verify.stage_passes import PassesRun
from ltx2rt.weights.safetensors import write_safetensors

CORPUS = Path(__file__).parents[1] / "goldens"
MODEL = "tiny-ltx2-19b-style.safetensors"
FILES = {
    "transformer": MODEL,
    "video_vae": MODEL,
    "audio_vae": MODEL,
    "upscaler": "tiny-spatial-upscaler-x2.safetensors",
}
SIZE = {"prompt": "a dog", "seed": 5, "height": 64, "width": 64, "num_frames": 49, "frame_rate": 24.0}


def saved_run(
    tmp_path: Path, pipeline: str, tensors: dict[str, np.ndarray] | None = None, *, by_passes: bool = False, **args: Any
) -> SavedRun:
    """A run of the corpus' 19B model with these arguments beside the size."""
    (tmp_path / "pipelines").mkdir(exist_ok=True)
    (tmp_path / "pipelines" / "inputs").symlink_to(CORPUS / "pipelines" / "inputs")
    for path in CORPUS.glob("tiny-*"):
        (tmp_path / path.name).symlink_to(path)
    metadata = {"pipeline": pipeline, "args": json.dumps(SIZE | args)}
    metadata |= {"files": json.dumps(FILES)} if by_passes else {"checkpoint": MODEL}
    path = tmp_path / "pipelines" / f"x_{pipeline}.safetensors"
    write_safetensors(path, {"noise.00": np.zeros(1, np.float32)} if tensors is None else tensors, metadata)
    return (PassesRun if by_passes else SavedRun)(GoldenFile(path, tmp_path))


@pytest.mark.parametrize(("given", "places"), [([16, 40], (16, 40)), (2, (16, 32)), (0, ())])
def test_key_frames_by_number_or_place(tmp_path: Path, given: Any, places: tuple[int, ...]) -> None:
    assert saved_run(tmp_path, "distilled", num_generated_keyframes=given).inputs.keyframe_positions == places


@pytest.mark.parametrize(
    ("given", "starts"),
    [
        ({"chunk_pixel_frames": 33, "chunk_carry_frames": 17, "chunk_blend_frames": None}, [0, 16]),
        ({"chunk_pixel_frames": None, "chunk_carry_frames": None, "chunk_blend_frames": None}, [0]),
        ({"chunked": False}, [0]),
        ({"chunked": True, "num_frames": 121}, [0, 72]),
    ],
)
def test_windows_are_asked_for_by_any_size_that_is_not_null(
    tmp_path: Path, given: dict[str, Any], starts: list[int]
) -> None:
    assert [window.start for window in saved_run(tmp_path, "distilled", **given).inputs.windows] == starts


def test_references_and_their_mask_end_where_a_window_ends(tmp_path: Path) -> None:
    mask = {
        "conditioning_attention_mask_in": np.arange(49, dtype=np.float32)[None, None, :, None, None] * np.ones((8, 8))
    }
    run = saved_run(
        tmp_path,
        "ic_lora",
        {name: values.astype(np.float32) for name, values in mask.items()},
        video_conditioning=[["ripple frames", 1.0], ["ripple frames", 0.5]],
        conditioning_attention_mask="tensor conditioning_attention_mask_in",
        conditioning_attention_strength=0.25,
        ic_lora_strength=0.9,
    )
    media = run.inputs.media.of_window(Window(1, 3, 16, 17, 9, 9, 0))
    assert [reference.strength for reference in media.references] == [1.0, 0.5]
    for reference in media.references:
        assert reference.frames(32, 32, range(17)).shape == (17, 32, 32, 3)
    assert media.attention_mask is not None
    assert media.attention_mask.weights is not None
    assert media.attention_mask.strength == 0.25
    np.testing.assert_array_equal(media.attention_mask.weights(8, 8, range(17))[:, 0, 0], np.arange(16, 33))


@pytest.mark.parametrize("by_passes", [False, True])
def test_loras_of_both_kinds_of_files(tmp_path: Path, by_passes: bool) -> None:
    run = saved_run(tmp_path, "ti2vid_two_stages_hq", by_passes=by_passes, loras=[["style-lora", 0.7]])
    assert [(lora.path.name, strength) for lora, strength in run.files.loras] == [
        ("tiny-ltx2-19b-style-lora.safetensors", 0.7)
    ]
    assert [strength for _, strength in run.files.distilled_lora] == [1.0]


@pytest.mark.parametrize(("longest", "samples"), [(None, 16538), (0.2, 8820)])
def test_sound_is_as_long_as_the_clip_where_nothing_else_is_said(
    tmp_path: Path, longest: float | None, samples: int
) -> None:
    run = saved_run(tmp_path, "a2vid_two_stage", audio="audio.wav", audio_max_duration=longest, num_frames=9)
    assert run.inputs.media.sound is not None
    assert len(run.inputs.media.sound.waveform) == samples


def test_a_retake_of_one_stream(tmp_path: Path) -> None:
    times: dict[str, Any] = {"start_time": 0.1, "end_time": 0.3}
    run = saved_run(tmp_path, "retake", num_frames=9, audio="audio.wav", regenerate_video=False, **times)
    assert run.inputs.media.region is not None
    assert (run.inputs.media.region.video, run.inputs.media.region.audio) == (False, True)


def test_null_is_as_if_an_argument_were_not_there(tmp_path: Path) -> None:
    nothing = dict.fromkeys(
        ("images", "loras", "negative_prompt", "tiling", "tile", "video_guider", "conditioning_attention_mask"), None
    )
    run = saved_run(tmp_path, "ti2vid_two_stages", distilled_lora=None, video_conditioning=None, **nothing)
    assert not run.inputs.media.images
    assert not run.inputs.media.references
    assert not run.files.loras
    assert run.inputs.settings.negative_prompt == ""
    assert [strength for _, strength in run.files.distilled_lora] == [1.0]
