"""Every pipeline: the commands of its page make playable files; the examples of the Python page run. Small sizes."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import av
import numpy as np
import pytest
from command_inputs import lora_file, moving_square, tones, video_file
from ltx25_pack import write_lora, write_official_pack
from PIL import Image

from ltx2rt import embedded
from ltx2rt.api import PIPELINE_NAMES
from ltx2rt.api.output_files import LATENTS, PICTURE, RECORD, SOUND, VIDEO
from ltx2rt.cli.flags import FLAGS
from ltx2rt.cli.main import run
from ltx2rt.graph.pipelines import PIPELINES
from ltx2rt.graph.settings.settings import LENGTH, SIZE
from ltx2rt.media.clip_reader import ClipReader
from ltx2rt.media.pcm import write_wav
from ltx2rt.media.video_writer import VideoWriter
from ltx2rt.weights.embedding_file import read_embedding
from ltx2rt.weights.safetensors import write_safetensors

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted(path.name for path in (DOCS / "pipelines").glob("*.md") if path.name != "README.md")


@pytest.fixture(scope="session")
def documented_files(tmp_path_factory: pytest.TempPathFactory, weights: Path) -> Path:
    """A folder with every file that the pages name."""
    folder = tmp_path_factory.mktemp("documented")
    for path in weights.iterdir():
        (folder / path.name).symlink_to(path)
    write_official_pack(folder / "LTX-2.5")
    square = moving_square(3)
    for name, picture in zip(("photograph.jpg", "first.png", "last.png"), square, strict=True):
        Image.fromarray(picture).save(folder / name)
    video_file(folder / "clip.mp4", frames=25)
    video_file(folder / "dance.mp4", frames=121)
    video_file(folder / "scene.mp4", frames=25)
    video_file(folder / "speech.mp4", frames=25)
    for name in ("ltx-2.3-22b-distilled-1.1", "ltx-2.3-spatial-upscaler-x2-1.1"):
        (folder / f"{name}.safetensors").symlink_to(
            embedded.SPATIAL_UPSCALER if "upscaler" in name else embedded.CHECKPOINT
        )
    lora_file(folder / "ltx-2.3-22b-ic-lora-dubit-0.9.safetensors", reference_downscale_factor="1")
    write_lora(folder / "ltx-2.5-22b-ic-lora-alpha-gen-0.9.safetensors", reference_downscale_factor="1")
    lora_file(folder / "ltx-2.3-22b-ic-lora-hdr-0.9.safetensors")
    context = np.random.default_rng(0).standard_normal((1, 16, 64)).astype(np.float32)
    write_safetensors(folder / "ltx-2.3-22b-ic-lora-hdr-scene-emb.safetensors", {"video_context": context}, {})
    write_wav(folder / "music.wav", tones(6.0, 44100), 44100)
    with VideoWriter(folder / "mask.mp4", 96, 64, 24) as writer:
        writer.write(np.repeat(moving_square(1, 64, 96), 121, axis=0))
    return folder


@pytest.fixture
def workplace(documented_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for path in documented_files.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[list[str]]:
    """The words of every command, without the program's name."""
    lines = [line for block in blocks(page, "sh") for line in block.replace("\\\n", " ").splitlines()]
    words = [shlex.split(line) for line in lines]
    for command in words:
        assert command[0] in ("ltx2rt", "ltx2rt-generate"), command
    return [command[1:] if command[0] == "ltx2rt" else ["generate", *command[1:]] for command in words]


def shrunk(words: list[str]) -> list[str]:
    """The same command with few small frames (proportions kept where a mask needs them) and few steps."""
    words = [word.replace(":120:", ":8:") for word in words]
    late = [index for index, word in enumerate(words) if word in ("24", "120") and words[index - 2] == "--image"]
    words = ["8" if index in late else word for index, word in enumerate(words)]
    sizes = {"--height": "64", "--width": "64", "--num-frames": "9"}
    if "--conditioning-attention-mask" in words:
        sizes |= {"--height": "128", "--width": "192"}
    if "--spatial-upscalings" in words:
        sizes |= {"--height": "128", "--width": "128"}
    small = list(words)
    for option, value in {**sizes, "--num-inference-steps": "2", "--steps": "2"}.items():
        if option in small:
            small[small.index(option) + 1] = value
    if "generate" not in small:
        return small
    entry = PIPELINES[small[small.index("--pipeline") + 1] if "--pipeline" in small else "distilled"]
    if SIZE in entry.topics and "--height" not in small:
        small += ["--height", "64", "--width", "64"]
    if "--duration" in small:
        small[small.index("--duration") + 1] = "0.4"
    elif LENGTH in entry.topics and "--num-frames" not in small:
        small += ["--num-frames", "9"]
    if entry.variant == "dev" and "--steps" not in small and "--num-inference-steps" not in small:
        small += ["--steps", "2"]
    return small


def output_of(words: list[str]) -> str:
    """The file that a command writes."""
    for name in ("-o", "--output-path"):
        if name in words:
            return words[words.index(name) + 1]
    return "output.wav" if "text-to-audio" in words else "output.mp4"


def assert_plays(path: Path, *, silent: bool) -> None:
    """A clip has pictures and stereo sound of the same length, a sound file sound, an embedding finite contexts."""
    if silent:
        reader = ClipReader(path)
        assert reader.sample_rate is None
        assert np.ptp(np.stack(list(reader.frames()))) > 20
        return
    if path.suffix == ".safetensors":
        assert read_embedding(path).video_context.shape[1] == 1024
        return
    with av.open(str(path)) as container:
        sound = np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], axis=1)
        assert container.streams.audio[0].codec_context.channels == 2
        seconds = sound.size / 2 / container.streams.audio[0].codec_context.sample_rate
    assert np.isfinite(sound).all()
    assert np.ptp(sound.astype(np.float64)) > 0
    if path.suffix == ".wav":
        assert seconds > 0.3
        return
    info, frames = ClipReader(path), np.stack(list(ClipReader(path).frames()))
    assert frames.shape == (info.num_frames, info.height, info.width, 3)
    assert np.ptp(frames) > 20
    assert abs(len(frames) / float(info.frame_rate) - seconds) < 0.2


def test_every_pipeline_has_a_page() -> None:
    assert {f"{name}.md" for name in PIPELINE_NAMES} <= set(PAGES)
    index = (DOCS / "pipelines" / "README.md").read_text()
    for page in PAGES:
        assert f"({page})" in index


def plans(words: list[str]) -> bool:
    """Whether a command need not run: it has a plan, and no other command of its page reads what it writes."""
    return words[0] in ("generate", "upscale") and "--save-latents" not in words


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_can_run(page: str, workplace: Path) -> None:
    """All that is checked before a run computes: options, files, inputs, outputs, memory."""
    found = commands(DOCS / "pipelines" / page)
    assert found
    for words in found:
        assert run([*shrunk(words), *(["--plan"] if plans(words) else ["--quiet"])]) == 0, words


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_run(page: str, workplace: Path) -> None:
    found = commands(DOCS / "pipelines" / page)
    assert found
    for words in found:
        output = output_of(words)
        assert run([*shrunk(words), "--quiet"]) == 0, words
        if "--skip-vae" not in words:
            assert_plays(
                workplace / output, silent=any(entry.silent and name in words for name, entry in PIPELINES.items())
            )


def test_the_command_of_the_progress_page_says_what_the_page_says(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (words,) = commands(DOCS / "progress.md")
    assert run(shrunk(words)) == 0
    page = (DOCS / "progress.md").read_text()
    for line in capsys.readouterr().err.splitlines():
        event = json.loads(line)
        kind = event.pop("event")
        (row,) = (row for row in page.splitlines() if row.startswith(f"| `{kind}` |"))
        assert event.pop("elapsed") >= 0
        assert all(f"`{key}`" in row for key in event), row
        assert "state" not in event or f"`{event['state']}`" in row


def test_the_page_of_files_names_what_is_written_and_help_says_the_rule(capsys: pytest.CaptureFixture[str]) -> None:
    page = (DOCS / "files.md").read_text()
    for suffix in (*VIDEO, *SOUND, *PICTURE, *LATENTS, *RECORD, ".npz"):
        assert f"`{suffix}`" in page
    written = [flag for flag in FLAGS if flag.name in {"save_wav", "contact_sheet", "report", "preview", "overwrite"}]
    assert len(written) == 5
    assert all(f"`{flag.names[0]}`" in page for flag in written)
    for verb in ("generate", "upscale", "encode"):
        with pytest.raises(SystemExit):
            run([verb, "--help"])
        assert "A file that exists is not replaced" in " ".join(capsys.readouterr().out.split())


@pytest.mark.slow
def test_the_python_examples_run(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    namespace: dict[str, object] = {"__name__": "example"}
    for code in blocks(DOCS / "python.md", "python"):
        small = code.replace('"last.png", 120', '"last.png", 8')
        for name, value in {"height": 64, "width": 64, "num_inference_steps": 2}.items():
            small = re.sub(rf'({name}=|"{name}": )\d+', rf"\g<1>{value}", small)
        small = re.sub(r'(num_frames=|"num_frames": )(25|121)', r"\g<1>9", small)
        exec(compile(small, "docs/python.md", "exec"), namespace)
    shown = capsys.readouterr().out
    assert "stopped" in shown
    assert "num_frames must be 8*k + 1, got 96; use 97 or 89" in shown
    for name in ("circle.mp4", "circle.png", "lighthouse.mp4", "robots.mp4", "longer.mp4", "smooth.mp4", "rain.wav"):
        assert (workplace / name).stat().st_size > 0
    assert not (workplace / "circle.state").exists()


def test_every_pipeline_has_a_command_without_weights_where_its_page_begins() -> None:
    """`test_the_commands_of_a_page_run` runs it."""
    options = [name for flag in FLAGS if flag.target == "files" and flag.name != "pipeline" for name in flag.names]
    readme = (DOCS.parent / "README.md").read_text()
    for page in PAGES:
        first = blocks(DOCS / "pipelines" / page, "sh")[0].strip()
        assert not set(options) & set(shlex.split(first)), page
    for name in PIPELINE_NAMES:
        first = blocks(DOCS / "pipelines" / f"{name}.md", "sh")[0].strip()
        assert f"| `{first}` " in readme
        assert (DOCS / "pipelines" / f"{name}.md").read_text().startswith(f"# {name}\n\n<!-- made: command-{name} -->")
