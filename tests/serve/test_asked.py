"""Fields of requests: each is checked by what is said about its setting, and refused under its own name."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ltx2rt.graph.settings.setting import settings_of
from ltx2rt.graph.settings.settings import Settings
from ltx2rt.serve.asked import Asked, Served, Upload, read_asked, suffix_of
from ltx2rt.serve.fields import FIELDS, UNSERVED
from ltx2rt.serve.refusal import Refusal

SERVED = Served("toy", ("cat", "dog"))


def png() -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(content, "PNG")
    return content.getvalue()


BASE64 = base64.b64encode(png()).decode()


def upload(content: bytes = png()) -> Upload:
    return Upload(lambda path: path.write_bytes(content), content[:64])


def asked(**values: Any) -> Asked:
    return read_asked(values, SERVED)


def refusal(**values: Any) -> Refusal:
    with pytest.raises(Refusal) as found:
        asked(**values)
    return found.value


def test_every_setting_is_a_field_or_has_a_reason() -> None:
    for name, (_, said) in settings_of(Settings).items():
        assert (name in FIELDS) != (said.for_python or name in UNSERVED), name


@pytest.mark.parametrize("seconds", ["4", 4, 4.0])
def test_seconds_are_text_or_numbers(seconds: Any) -> None:
    assert asked(seconds=seconds).settings == {"duration": 4.0}


def test_sizes_are_one_word_or_two_numbers() -> None:
    assert asked(size="768x512").settings == asked(width="768", height=512).settings == {"width": 768, "height": 512}
    assert "different" in refusal(size="768x512", width=704).message
    assert refusal(size="768").param == "size"
    assert refusal(size="16x512").param == "size"


def test_names_of_other_servers() -> None:
    found = asked(fps=24, steps="20", guidance_scale=3, negative_prompt="blur", n="1", model="toy")
    assert found.settings == {
        "frame_rate": "24",
        "num_inference_steps": 20,
        "video_cfg_guidance_scale": 3.0,
        "negative_prompt": "blur",
    }


@pytest.mark.parametrize(
    ("values", "param", "words"),
    [
        ({"promt": "x"}, "promt", "did you mean prompt?"),
        ({"qqq": 1}, "qqq", "/v1/options"),
        ({"num_frames": "many"}, "num_frames", "must be a whole number"),
        ({"num_frames": 0}, "num_frames", "1 or more"),
        ({"num_frames": 10**40}, "num_frames", "too large"),
        ({"seed": True}, "seed", "whole number"),
        ({"prompt": 5}, "prompt", "a text"),
        ({"prompt": "\ud800"}, "prompt", "UTF-8"),
        ({"prompt": "x" * 40000}, "prompt", "32768 characters"),
        ({"frame_rate": "1/0"}, "frame_rate", "ratio"),
        ({"fps": [24]}, "fps", "ratio"),
        ({"codec": "vp9"}, "codec", "one of"),
        ({"audio": "maybe"}, "audio", "True or False"),
        ({"video_stg_blocks": [[1]]}, "video_stg_blocks", "block numbers"),
        ({"video_stg_blocks": "[" * 5000}, "video_stg_blocks", "block numbers"),
        ({"model": "sora-2"}, "model", "must be toy"),
        ({"pipeline": "../x"}, "pipeline", "no name of a pipeline"),
        ({"pipeline": "two_stagee"}, "pipeline", "did you mean two-stage?"),
        ({"n": 2}, "n", "several requests"),
        ({"prompt_file": "/etc/passwd"}, "prompt_file", "send the text as prompt"),
        ({"latents_only": True}, "latents_only", "a job makes a clip"),
        ({"save_wav": "/tmp/x.wav"}, "save_wav", "unknown field"),
        ({"loras": ["mouse"]}, "loras", "cat, dog"),
        ({"loras": [{"name": "cat", "strength": "much"}]}, "loras", "strength must be a number"),
        ({"loras": [{"path": "/x"}]}, "loras", "a name"),
        ({"images": [{"image": BASE64, "frames": 1}]}, "images", "unknown 'frames'"),
        ({"images": [{"frame": 1}]}, "images", "has no image"),
        ({"images": [{"image": BASE64, "frame": 0.5}]}, "images", "whole number"),
        ({"images": ["http://example.com/a.png"]}, "images", "not fetched"),
        ({"images": ["file:///etc/passwd"]}, "images", "not fetched"),
        ({"images": ["/etc/passwd"]}, "images", "base64"),
        ({"images": [{"path": "/etc/passwd"}]}, "images", "no file in a folder that this server allows"),
        ({"images": ["data:image/png,xxx"]}, "images", "data:TYPE;base64"),
        ({"images": "upload:a"}, "images", "the form does not have"),
        ({"images": [BASE64] * 40}, "images", "32 files"),
        ({"input_reference": {"file_id": "file-1"}}, "input_reference", "keeps no files"),
        ({"audio_path": 5}, "audio_path", "must be a file"),
        ({"photo": upload()}, "photo", "belongs to no field"),
        ({"prompt": upload()}, "prompt", "no file"),
    ],
)
def test_what_is_wrong_is_refused_under_its_name(values: dict[str, Any], param: str, words: str) -> None:
    found = refusal(**values)
    assert (found.status, found.param) == (400, param)
    assert words in found.message


def test_pictures_are_forms_data_urls_or_base64(tmp_path: Path) -> None:
    data = f"data:image/png;base64,{BASE64}"
    entries = [BASE64, {"image": data, "frame": 8, "strength": "0.5"}, {"image_url": data, "crf": 20}]
    found = asked(images=entries, input_reference={"image_url": data})
    assert found.settings["images"] == [
        ["input-3.png", 0, 1.0],
        ["input-0.png", 0, 1.0],
        ["input-1.png", 8, 0.5],
        ["input-2.png", 0, 1.0, 20],
    ]
    assert found.files["input-1.png"].write(tmp_path / "a") == len(png())
    assert (tmp_path / "a").read_bytes() == png()


def test_uploads_are_named_by_their_field_or_by_upload() -> None:
    found = asked(images='[{"image": "upload:first", "frame": 8}]', first=upload(), audio_path=upload(b"RIFF0000WAVE"))
    assert found.settings == {"images": [["input-0.png", 8, 1.0]], "audio_path": "input-1.wav"}
    assert asked(images=upload()).settings == {"images": [["input-0.png", 0, 1.0]]}
    assert asked(video_conditioning=[upload(b"\0\0\0 ftypisom")]).settings == {
        "video_conditioning": [["input-0.mp4", 1.0]]
    }


def test_paths_are_taken_below_allowed_folders_alone(tmp_path: Path) -> None:
    folder, outside = tmp_path / "pictures", tmp_path / "secret.png"
    folder.mkdir()
    for path in (folder / "a.png", outside):
        path.write_bytes(png())
    (folder / "link.png").symlink_to(outside)
    served = Served("toy", folders=(folder.resolve(),))
    found = read_asked({"images": [{"path": str(folder / "a.png")}]}, served)
    assert found.settings["images"] == [[str((folder / "a.png").resolve()), 0, 1.0]]
    for path in (outside, folder / ".." / "secret.png", folder / "link.png", folder / "none.png", folder, "a\0b"):
        with pytest.raises(Refusal, match="images"):
            read_asked({"images": [{"path": str(path)}]}, served)


def test_a_request_is_repeated_with_changes() -> None:
    before = asked(prompt="a", seconds=4, input_reference=BASE64, loras=["cat"], pipeline="two-stage")
    again = read_asked({"seed": "random", "num_frames": 9}, SERVED, Asked.of(before.as_dict()))
    assert again.settings == {"prompt": "a", "images": [["input-0.png", 0, 1.0]], "seed": -1, "num_frames": 9}
    assert (again.loras, again.pipeline) == ([["cat", 1.0]], "two-stage")
    more = read_asked({"images": [BASE64]}, SERVED, Asked.of(before.as_dict()))
    assert more.settings["images"] == [["input-1.png", 0, 1.0]]
    assert before.settings["duration"] == 4.0


@pytest.mark.parametrize(
    ("head", "suffix"),
    [
        (b"RIFF1234WEBP", ".webp"),
        (b"\0\0\0\x18ftypheic", ".heic"),
        (b"\0\0\0\x18ftypqt  ", ".mov"),
        (b"\x10\0\0\0\0\0\0\0{", ".safetensors"),
        (b"../../etc/passwd", ".bin"),
        (b"", ".bin"),
    ],
)
def test_endings_come_from_the_content(head: bytes, suffix: str) -> None:
    assert suffix_of(head) == suffix
