"""A model in several files on the command line: options for its parts, folders, what is printed and refused."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from command_inputs import video_file

import ltx2rt
from ltx2rt import embedded
from ltx2rt.cli import encode, upscale
from ltx2rt.cli.flags import FLAGS
from ltx2rt.cli.main import run
from ltx2rt.errors import UsageError
from ltx2rt.weights.checkpoint import Checkpoint
from ltx2rt.weights.safetensors import SafetensorsFile, write_safetensors

SMALL = ["--height", "64", "--width", "64", "--num-frames", "9", "--prompt", "a red circle", "--no-state", "--quiet"]
# The quickest run, where any will do.
ANY = [*SMALL, "--no-gemma", "--pipeline", "one-stage", "--steps", "1"]
MODEL = "model.diffusion_model."
CONNECTORS = (f"{MODEL}video_embeddings_connector.", f"{MODEL}audio_embeddings_connector.")
# File -> the beginnings of the names that it holds.
FILES = {
    "vae/video.safetensors": ("vae.",),
    "vae/audio.safetensors": ("audio_vae.",),
    "vae/voice.safetensors": ("vocoder.",),
    "text_encoders/projection.safetensors": ("text_embedding_projection.",),
    "text_encoders/connectors.safetensors": CONNECTORS,
    "diffusion_models/transformer-distilled.safetensors": (MODEL,),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model as ComfyUI keeps models, without metadata but for one file."""
    folder = tmp_path_factory.mktemp("models")
    file = SafetensorsFile(embedded.CHECKPOINT)
    left = dict.fromkeys(file.tensors)
    for path, beginnings in FILES.items():
        names = [name for name in left if name.startswith(beginnings)]
        tensors = {
            name.removeprefix(beginnings[0]) if beginnings[0] == "vae." else name: file.mlx(name) for name in names
        }
        (folder / path).parent.mkdir(exist_ok=True)
        stated = file.metadata if path == "vae/audio.safetensors" else {}
        write_safetensors(folder / path, tensors, stated)
        for name in names:
            del left[name]
    assert not left
    (folder / "text_encoders" / "gemma-3").symlink_to(embedded.TEXT_ENCODER)
    (folder / "latent_upscale_models").mkdir()
    (folder / "latent_upscale_models" / "x2.safetensors").symlink_to(embedded.SPATIAL_UPSCALER)
    return folder


def latents(tmp_path: Path, words: list[str]) -> np.ndarray:
    saved = tmp_path / "latents.safetensors"
    saved.unlink(missing_ok=True)
    assert (
        run(["generate", *SMALL, *words, "--skip-vae", "--save-latents", str(saved), "-o", str(tmp_path / "o.mp4")])
        == 0
    )
    return SafetensorsFile(saved).numpy("video")


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    return latents(tmp_path_factory.mktemp("expected"), [])


def test_every_part_by_its_option(
    tmp_path: Path, root: Path, expected: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    video_vae, audio_vae, vocoder, projection, connectors, transformer = (str(root / path) for path in FILES)
    words = [
        "--transformer-path",
        transformer,
        "--connectors-path",
        connectors,
        "--text-projection-path",
        projection,
        "--video-vae-path",
        video_vae,
        "--audio-vae-path",
        audio_vae,
        "--vocoder-path",
        vocoder,
        "--text-encoder-path",
        str(embedded.TEXT_ENCODER),
        "--tokenizer-path",
        str(embedded.TEXT_ENCODER / "tokenizer.json"),
        "--spatial-upsampler-path",
        str(embedded.SPATIAL_UPSCALER),
    ]
    np.testing.assert_array_equal(latents(tmp_path, words), expected)
    assert str(root) not in capsys.readouterr().err  # everything was named


@pytest.mark.parametrize(
    "given", [pytest.param("", marks=pytest.mark.slow), "diffusion_models/transformer-distilled.safetensors"]
)
def test_a_folder_or_the_transformer_in_it(
    tmp_path: Path, root: Path, expected: np.ndarray, given: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--checkpoint-path", str(root / given), "--gemma-root", str(embedded.TEXT_ENCODER)]
    np.testing.assert_array_equal(latents(tmp_path, words), expected)
    said = capsys.readouterr().err
    assert said.count(f"ltx2rt: video VAE: {root / 'vae/video.safetensors'}\n") == 1
    assert said.count(f"ltx2rt: connectors: {root / 'text_encoders/connectors.safetensors'}\n") == 1
    assert ("ltx2rt: transformer: " in said) == (given == "")


def test_a_transformer_alone_names_what_is_missing(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = tmp_path / "alone-distilled.safetensors"
    alone.write_bytes((root / "diffusion_models/transformer-distilled.safetensors").read_bytes())
    output = tmp_path / "o.mp4"
    words = ["--checkpoint-path", str(alone), "--gemma-root", str(embedded.TEXT_ENCODER), "-o", str(output)]
    for verb in ("generate", "plan"):
        assert run([verb, *SMALL, *words]) == 1
        said = capsys.readouterr().err
        for option in ("--connectors-path", "--text-projection-path", "--video-vae-path", "--audio-vae-path"):
            assert f"of generation 19b: give {option} FILE (usually " in said
        assert "ComfyUI's models folder" in said
    assert not output.exists()


def test_parts_without_a_model(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["generate", *SMALL, "--video-vae-path", str(root / "vae/video.safetensors")]) == 2
    assert "--video-vae-path goes with --checkpoint-path FILE, which is missing" in capsys.readouterr().err


def test_a_duration_head_is_taken_where_the_model_has_one(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head = tmp_path / "head.safetensors"
    write_safetensors(head, {"duration_head.mlp_hidden.weight": mx.zeros((4, 4))}, {})
    words = ["--transformer-path", str(root / list(FILES)[5]), "--duration-head-path", str(head)]
    assert run(["generate", *SMALL, *words]) == 1
    assert "head.safetensors: duration head of generation 2.5, but transformer-distilled" in capsys.readouterr().err


def test_a_text_encoder_of_another_size(tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "gemma-3-4b"
    folder.mkdir()
    encoder = Checkpoint.open(embedded.TEXT_ENCODER)
    config = json.loads((embedded.TEXT_ENCODER / "config.json").read_text())
    text = config.get("text_config", config)
    width = text["hidden_size"]
    text["num_hidden_layers"] -= 1
    tensors = {n: file.mlx(n) for file in encoder.files for n in file.tensors}
    write_safetensors(folder / "model.safetensors", tensors, {})
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").symlink_to(embedded.TEXT_ENCODER / "tokenizer.json")
    words = ["--checkpoint-path", str(embedded.CHECKPOINT), "--gemma-root", str(folder)]
    for verb in ("generate", "plan"):
        assert run([verb, *SMALL, *words]) == 1
        said = capsys.readouterr().err
        assert f"{folder}: this text encoder has {text['num_hidden_layers'] + 1} states of {width} channels" in said
        assert "give the text encoder of 12B that the model was made for (Gemma 3 12B)" in said


def test_paths_with_a_tilde(tmp_path: Path, root: Path, expected: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(root.parent))
    home = f"~/{root.name}"
    settings = tmp_path / "settings.toml"
    settings.write_text(f'checkpoint-path = "{home}"\ngemma-root = "{home}/text_encoders/gemma-3"\n')
    np.testing.assert_array_equal(latents(tmp_path, ["--config", str(settings)]), expected)
    assert run(["inspect", f"{home}/vae/video.safetensors"]) == 0
    assert run(["generate", *ANY, "--skip-vae", "--save-latents", f"{home}/l.safetensors", "-o", f"{home}/o.mp4"]) == 0
    assert (root / "l.safetensors").exists()
    (root / "l.safetensors").unlink()


def test_inspect_shows_a_folder_as_a_run_would_take_it(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["inspect", str(root)]) == 0
    said = capsys.readouterr().out
    assert "ComfyUI models folder" in said
    for row in ("transformer", "video connector", "text projection", "video vae", "vocoder", "spatial upscaler"):
        assert any(line.startswith(row) for line in said.splitlines()), row
    assert run(["inspect", "--json", str(root)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["complete"]
    assert {Path(part["path"]).name for part in report["parts"]} >= {Path(path).name for path in FILES}
    assert all(part["resident"] for part in report["parts"] if part["component"] in ("transformer", "video_vae"))
    assert run(["inspect", "--deep", str(root)]) == 0
    assert "all finite" in capsys.readouterr().out


def test_inspect_refuses_what_a_run_refuses(tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (*list(FILES)[:5], "diffusion_models/a-dev.safetensors", "diffusion_models/b-dev.safetensors"):
        target = tmp_path / path
        target.parent.mkdir(exist_ok=True)
        target.symlink_to(root / (list(FILES)[5] if "-dev" in path else path))
    (tmp_path / "diffusion_models/b-dev.safetensors").unlink()
    assert run(["inspect", str(tmp_path)]) == 0
    (tmp_path / "vae/video.safetensors").unlink()
    capsys.readouterr()
    assert run(["inspect", str(tmp_path)]) == 1
    assert "no video VAE of generation 19b: give --video-vae-path FILE" in capsys.readouterr().out
    transformer = SafetensorsFile(root / list(FILES)[5])
    changed = {name: transformer.mlx(name) for name in transformer.tensors}
    write_safetensors(tmp_path / "diffusion_models/c-distilled.safetensors", changed, {})
    assert run(["inspect", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert run(["generate", *SMALL, "--checkpoint-path", str(tmp_path)]) == 1
    refused = capsys.readouterr().err
    sentence = "several transformers: "
    assert sentence in said
    assert refused.split(sentence)[1].strip() in said


VIDEO_VAE, AUDIO_VAE, VOCODER, PROJECTION, CONNECTOR_FILE, TRANSFORMER = FILES


def contexts(path: Path) -> dict[str, np.ndarray]:
    file = SafetensorsFile(path)
    return {name: file.numpy(name) for name in file.tensors}


def test_encode_takes_the_parts_that_it_reads(tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [tmp_path / f"{name}.safetensors" for name in ("whole", "named", "folder", "transformer")]
    text = ["encode", "--quiet", "a red circle", "-o"]
    assert run([*text, str(paths[0])]) == 0
    named = {
        "--transformer-path": root / TRANSFORMER,
        "--connectors-path": root / CONNECTOR_FILE,
        "--text-projection-path": root / PROJECTION,
        "--text-encoder-path": embedded.TEXT_ENCODER,
        "--tokenizer-path": embedded.TEXT_ENCODER / "tokenizer.json",
    }
    capsys.readouterr()
    assert run([*text, str(paths[1]), *(word for pair in named.items() for word in map(str, pair))]) == 0
    assert str(root) not in capsys.readouterr().err  # everything was named
    for path, given in ((paths[2], root), (paths[3], root / TRANSFORMER)):
        assert run(["encode", "a red circle", "-o", str(path), "--checkpoint-path", str(given)]) == 0
        said = capsys.readouterr().err
        assert said.count(f"ltx2rt: connectors: {root / CONNECTOR_FILE}\n") == 1
        assert said.count(f"ltx2rt: text projection: {root / PROJECTION}\n") == 1
        assert "ltx2rt: text encoder: " in said
        assert "VAE" not in said
        assert "vocoder" not in said
    expected = contexts(paths[0])
    for path in paths[1:]:
        found = contexts(path)
        assert found.keys() == expected.keys()
        for name, values in expected.items():
            np.testing.assert_array_equal(found[name], values)
    record = json.loads(Path(f"{paths[1]}.json").read_text())
    assert {str(root / name) for name in (TRANSFORMER, CONNECTOR_FILE, PROJECTION)} < record["weights"].keys()


def test_upscale_takes_a_video_vae_alone(tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    alone = tmp_path / "vae" / "video.safetensors"
    alone.parent.mkdir()
    alone.symlink_to(root / VIDEO_VAE)
    source = video_file(tmp_path / "in.mp4", frames=1, sound=False)
    words = ["upscale", str(source), "--save-latents", str(tmp_path / "l.safetensors"), "-o", str(tmp_path / "o.mp4")]
    upscaler = ["--spatial-upsampler-path", str(embedded.SPATIAL_UPSCALER)]

    def enlarged(*more: str) -> np.ndarray:
        assert run([*words, *upscaler, *more]) == 0
        return SafetensorsFile(tmp_path / "l.safetensors").numpy("video")

    expected = enlarged()
    capsys.readouterr()
    for given in (["--video-vae-path", str(alone)], ["--checkpoint-path", str(alone)]):
        np.testing.assert_array_equal(enlarged(*given), expected)
        said = capsys.readouterr().err
        assert "TOY" not in said
        assert "ltx2rt: video VAE" not in said  # it was named
    np.testing.assert_array_equal(enlarged("--checkpoint-path", str(root)), expected)
    said = capsys.readouterr().err
    assert said.count(f"ltx2rt: video VAE: {root / VIDEO_VAE}\n") == 1
    assert "audio VAE" not in said  # the input has no latent of sound
    assert run([*words, "--plan", *upscaler, "--video-vae-path", str(alone)]) == 0
    assert "video decoder" in capsys.readouterr().out


def test_a_video_decoder_that_is_asked_for(tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    video = str(root / VIDEO_VAE)
    words = ["generate", *SMALL, "--checkpoint-path", str(root), "-o", str(tmp_path / "a.mp4"), "--plan"]
    # The same file twice is one candidate.
    assert run([*words, "--video-decoder", "conv", "--video-vae-path", video, "--video-vae-path", video]) == 0
    assert "video decoder" in capsys.readouterr().out
    assert run([*words, "--video-decoder", "diffusion", "--video-vae-path", video]) == 1
    said = capsys.readouterr().err
    assert "--video-decoder diffusion asks for a video VAE with the diffusion decoder" in said
    assert "give that file with --video-vae-path FILE" in said
    assert run([*words, "--video-decoder", "diffusion"]) == 1
    assert "--video-decoder diffusion asks for a video VAE with the diffusion decoder" in capsys.readouterr().err


def test_upscale_reads_the_audio_vae_where_latents_have_sound(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = tmp_path / "in.safetensors"
    assert run(["generate", *ANY, "--skip-vae", "--save-latents", str(saved), "-o", str(tmp_path / "a.mp4")]) == 0
    words = ["upscale", str(saved), "--spatial-upsampler-path", str(embedded.SPATIAL_UPSCALER), "-o"]
    clips = [tmp_path / f"{name}.mp4" for name in ("whole", "parts", "lacking")]
    assert run([*words, str(clips[0])]) == 0
    capsys.readouterr()
    assert run([*words, str(clips[1]), "--video-vae-path", str(root / VIDEO_VAE)]) == 0
    said = capsys.readouterr().err
    for title, path in (("audio VAE", AUDIO_VAE), ("vocoder", VOCODER)):
        assert said.count(f"ltx2rt: {title}: {root / path}\n") == 1
    assert clips[0].read_bytes() == clips[1].read_bytes()
    alone = tmp_path / "video.safetensors"
    alone.write_bytes((root / VIDEO_VAE).read_bytes())
    assert run([*words, str(clips[2]), "--video-vae-path", str(alone)]) == 1
    said = capsys.readouterr().err
    assert "give --audio-vae-path FILE" in said
    assert "give --vocoder-path FILE" in said
    assert not clips[2].exists()


def test_other_verbs_take_the_options_of_generate() -> None:
    offered = {verb: {flag.name: flag for flag in verb.FLAGS if flag.target == "files"} for verb in (encode, upscale)}
    for flags in offered.values():
        assert all(flag in FLAGS for flag in flags.values())
    model = {"checkpoint", "transformer", "model_variant", "dtype"}
    texts = {"text_encoder", "tokenizer", "prompt_enhancer", "connectors", "text_projection"}
    assert offered[encode].keys() == model | texts
    pictures = {"video_vae", "video_decoder", "audio_vae", "vocoder", "spatial_upscaler", "temporal_upscaler"}
    assert offered[upscale].keys() == model | pictures


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["upscale", "in.mp4", "-o", "o.mp4", "--audio-vae-path", "{r}"],
            "--audio-vae-path goes with --checkpoint-path",
        ),
        (["encode", "a", "--connectors-path", "{r}"], "--connectors-path goes with --checkpoint-path FILE"),
    ],
)
def test_parts_of_other_verbs_without_a_model(
    tmp_path: Path,
    root: Path,
    words: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    video_file(tmp_path / "in.mp4")
    assert run([word.format(r=root / VOCODER) for word in words]) == 2
    assert message in capsys.readouterr().err


def test_parts_that_a_verb_does_not_read(root: Path) -> None:
    with pytest.raises(UsageError, match="video_vae has no meaning here; the files that are read are checkpoint, "):
        ltx2rt.encode("a", video_vae=root / VIDEO_VAE)
    with pytest.raises(
        UsageError, match=r"connectors has no meaning here; .* spatial_upscaler, temporal_upscaler, dtype"
    ):
        ltx2rt.upscale("in.mp4", connectors=root / CONNECTOR_FILE)
    with pytest.raises(UsageError, match="unknown setting 'conectors'"):
        ltx2rt.encode("a", conectors=root / CONNECTOR_FILE)
