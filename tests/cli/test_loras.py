"""LoRAs from the command line: a run with one equals a run with a checkpoint that holds its changes."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_inputs import lora_file, one_file, upscaler

from ltx2rt import api, embedded
from ltx2rt.api.latent_file import read_latents
from ltx2rt.cli.main import run
from ltx2rt.errors import UsageError
from ltx2rt.weights.safetensors import SafetensorsFile, write_safetensors

Array = np.ndarray[Any, np.dtype[Any]]
SMALL = ["--prompt", "a red circle", "--height", "64", "--width", "64", "--num-frames", "9", "--dtype", "float32"]
# The quickest run with weights that LoRAs change.
ONE_STEP = ["--pipeline", "one-stage", "--steps", "1"]
PREFIX = "model.diffusion_model."
BLOCK = "transformer_blocks.0.attn1.to_q"
CONNECTOR = "video_embeddings_connector.transformer_1d_blocks.0.attn1.to_k"
PROJECTION = "text_embedding_projection.aggregate_embed"
RNG = np.random.default_rng(11)


def latents(folder: Path, *words: str) -> dict[str, Array]:
    path = folder / f"{len(list(folder.iterdir()))}.safetensors"
    output = ["--skip-vae", "--save-latents", str(path), "--no-state", "--quiet", "-o", str(folder / "clip.mp4")]
    assert run(["generate", *SMALL, *output, *words]) == 0
    found = read_latents(path)
    return {"video": np.array(found.video), "audio": np.array(found.audio)}


def largest_difference(first: dict[str, Array], second: dict[str, Array]) -> float:
    return max(float(np.abs(first[k] - second[k]).max() / np.abs(second[k]).max()) for k in first)


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory: pytest.TempPathFactory, weights: Path) -> dict[str, Array]:
    """The latents without a LoRA."""
    return latents(tmp_path_factory.mktemp("unchanged"), *one_file(weights, "distilled"), *upscaler(weights))


def shape_of(name: str) -> tuple[int, ...]:
    return SafetensorsFile(embedded.CHECKPOINT).tensors[name].shape


def merged(path: Path, deltas: dict[str, Array]) -> list[str]:
    """Options for the embedded model with these tensors changed."""
    file = SafetensorsFile(embedded.CHECKPOINT)
    tensors = {name: file.mlx(name) for name in file.tensors}
    changed = {name: file.numpy(name).astype(np.float32) + delta for name, delta in deltas.items()}
    write_safetensors(path, {**tensors, **changed}, file.metadata)
    return ["--checkpoint-path", str(path), "--model-variant", "distilled", "--gemma-root", str(embedded.TEXT_ENCODER)]


def pair(tensor: str, rank: int = 2, size: float = 0.1) -> tuple[Array, Array]:
    rows, columns = shape_of(tensor)
    a, b = RNG.normal(size=(rank, columns)), RNG.normal(size=(rows, rank)) * size
    return a.astype(np.float32), b.astype(np.float32)


def test_every_target_is_changed(tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Transformer, connector, projection and a bias, in the spellings of four programs, with a strength above 2."""
    tensors: dict[str, Array] = {}
    deltas: dict[str, Array] = {}
    for module, official in (
        (f"lora_unet_model_{BLOCK.replace('.', '_')}", f"{PREFIX}{BLOCK}"),
        ("connectors.video_connector.transformer_blocks.0.attn1.to_k", f"{PREFIX}{CONNECTOR}"),
        ("base_model.model.connectors.text_proj_in", PROJECTION),
    ):
        a, b = pair(f"{official}.weight")
        tensors |= {f"{module}.lora_A.mine.weight": a, f"{module}.lora_B.mine.weight": b}
        deltas[f"{official}.weight"] = 2.5 * b @ a
    bias = RNG.normal(size=shape_of(f"{PREFIX}{BLOCK}.bias")).astype(np.float32)
    tensors[f"diffusion_model.{BLOCK}.diff_b"] = bias
    deltas[f"{PREFIX}{BLOCK}.bias"] = 2.5 * bias
    folder = tmp_path / "adapter"
    folder.mkdir()
    write_safetensors(folder / "adapter_model.safetensors", tensors)
    out = tmp_path / "out"
    out.mkdir()
    unchanged = latents(out, *one_file(weights, "distilled"), *ONE_STEP)
    expected = latents(out, *merged(tmp_path / "merged.safetensors", deltas), *ONE_STEP)
    files = [*one_file(weights, "distilled"), *ONE_STEP]
    assert largest_difference(unchanged, expected) > 1e-2
    assert largest_difference(latents(out, *files, "--lora", str(folder), "2.5"), expected) < 1e-5
    # A budget that streams the blocks, whatever the process of the tests itself has grown to.
    monkeypatch.setattr("ltx2rt.memory.ledger._process_bytes", lambda: 100_000_000)
    monkeypatch.setattr("ltx2rt.memory.ledger.resident_bytes", lambda: 100_000_000)
    report = tmp_path / "report.json"
    words = [*files, "--lora", str(folder), "2.5", "--memory", "111MB", "--report", str(report)]
    streamed = latents(out, *words)
    stages = {stage["name"]: stage for stage in json.loads(report.read_text())["stages"]}
    assert stages["denoise"]["streamed_bytes"] > 0
    assert largest_difference(streamed, expected) < 1e-5


@pytest.mark.slow  # tests/weights/lora has what each kind does to a weight
@pytest.mark.parametrize("kind", ["dora", "lokr", "diff"])
def test_other_kinds(
    tmp_path: Path, weights: Path, unchanged: dict[str, Array], kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    name = f"{PREFIX}{BLOCK}.weight"
    weight = SafetensorsFile(embedded.CHECKPOINT).numpy(name).astype(np.float64)
    rows, columns = weight.shape
    if kind == "lokr":
        parts = {"lokr_w1": RNG.normal(size=(2, 2)), "lokr_w2": RNG.normal(size=(rows // 2, columns // 2)) * 0.1}
        delta = np.kron(*parts.values())
    elif kind == "diff":
        parts = {"diff": RNG.normal(size=weight.shape) * 0.1}
        delta = parts["diff"]
    else:
        a, b = pair(name)
        parts = {"lora_down.weight": a, "lora_up.weight": b, "dora_scale": RNG.uniform(0.5, 2, size=(rows, 1))}
        changed = weight + b.astype(np.float64) @ a
        delta = parts["dora_scale"] * changed / np.linalg.norm(changed, axis=1, keepdims=True) - weight
    lora = tmp_path / "lora.safetensors"
    write_safetensors(lora, {f"lycoris_{BLOCK.replace('.', '_')}.{k}": v.astype(np.float32) for k, v in parts.items()})
    out = tmp_path / "out"
    out.mkdir()
    files = [*one_file(weights, "distilled"), *upscaler(weights)]
    with caplog.at_level(logging.WARNING):
        found = latents(out, *files, "--lora", str(lora), "0.8")
    assert caplog.text == ""
    changed_files = merged(tmp_path / "merged.safetensors", {name: (0.8 * delta).astype(np.float32)})
    expected = latents(out, *changed_files, *upscaler(weights))
    assert largest_difference(found, expected) < 1e-4
    assert largest_difference(unchanged, expected) > 1e-4


@pytest.mark.slow
def test_alpha_beside_the_file_is_used_and_said(
    tmp_path: Path, weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, out = tmp_path / "adapter", tmp_path / "out"
    folder.mkdir()
    out.mkdir()
    lora_file(folder / "adapter_model.safetensors", rank=4)
    files = [*one_file(weights, "distilled"), *upscaler(weights)]
    plain = latents(out, *files, "--lora", str(folder), "0.5")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 2}))
    with caplog.at_level(logging.WARNING):
        scaled = latents(out, *files, "--lora", str(folder))
    (message,) = caplog.messages
    told = "its strength is multiplied by alpha / rank = 0.5 (adapter_config.json)"
    assert message == f"{folder / 'adapter_model.safetensors'}: {told}"
    assert largest_difference(scaled, plain) < 1e-6


@pytest.mark.slow
def test_the_stages_of_two_stage_hq_have_strengths_of_their_own(
    tmp_path: Path, dev: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    def strength(*words: str) -> dict[str, Array]:
        return latents(tmp_path, "--pipeline", "two-stage-hq", "--steps", "2", *dev, *words)

    usual = strength()
    assert "no effect" not in caplog.text
    assert largest_difference(usual, strength("--distilled-lora-scale", "0.5")) == 0
    told = "--distilled-lora-strength-stage-1 0.25 and --distilled-lora-strength-stage-2 0.5; 0.5 has no effect"
    assert told in caplog.text
    assert largest_difference(usual, strength("--distilled-lora-strength-stage-1", "0.125")) > 1e-4


def test_a_distilled_lora_without_a_use_is_refused_in_python() -> None:
    pipeline = api.load("distilled", distilled_lora=embedded.DISTILLED_LORA)
    with pytest.raises(
        UsageError, match="has no use for the distilled LoRA; leave distilled_lora out, or give the file"
    ):
        pipeline("a red circle", height=64, width=64, num_frames=9)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (
            {
                f"text_encoders.gemma.transformer.model.layers.0.self_attn.q_proj.lora_{x}.weight": 1
                for x in ("down", "up")
            },
            "changes a text encoder alone",
        ),
        ({"lycoris_transformer_blocks_0_attn1_to_q.oft_blocks": 1}, "OFT adapters are not supported"),
        ({f"{PREFIX}{BLOCK}.weight": 1}, "a checkpoint (it holds transformer), not a LoRA"),
    ],
)
def test_inspect_and_generate_refuse_alike(
    tmp_path: Path, weights: Path, tensors: dict[str, int], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.safetensors"
    write_safetensors(path, {name: np.ones((4, 4), np.float32) for name in tensors})
    output = ["-o", str(tmp_path / "clip.mp4")]
    assert run(["generate", *SMALL, *output, *one_file(weights, "distilled"), "--lora", str(path)]) == 1
    error = capsys.readouterr().err
    assert f"{path}: " in error
    assert message in error
    if "checkpoint" not in message:
        assert run(["inspect", str(path)]) == 1
        assert error.splitlines()[-1] == capsys.readouterr().err.splitlines()[-1]


def test_inspect_names_method_targets_rank_scale_and_generation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.safetensors"
    tensors: dict[str, Array] = {}
    for module in (BLOCK, CONNECTOR):
        tensors |= {f"{module}.lora_A.weight": np.ones((4, 8)), f"{module}.lora_B.weight": np.ones((8, 4))}
        tensors[f"{module}.alpha"] = np.array(2.0)
    tensors |= {f"{BLOCK}.dora_scale": np.ones(8), f"{BLOCK}.diff_b": np.ones(8), "adapter.extra.diff": np.ones(3)}
    tensors["lora_te_x.lora_down.weight"] = np.ones((4, 8))
    write_safetensors(path, tensors, {"base_model": "Lightricks/LTX-2.3", "ss_reference_downscale_factor": "2"})
    assert run(["inspect", str(path)]) == 0
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if line]
    found = {words[0]: words[1] for words in lines if len(words) == 2}
    assert found["generation"] == "2.3"
    assert found["lora"] == "4 weights, rank 4"
    assert found["method"] == "full difference 2, DoRA 1, LoRA 1"
    assert found["changes"] == "transformer 2, video_connector 1, unknown 1"
    assert found["scale"] == "0.5 (its alpha tensors)"
    assert found["references"] == "2 times smaller than the clip"
    assert "1 known and not used" in found["tensors"]
    assert ["adapter.extra"] in lines
    assert ["lora_te_x"] in lines


def test_inspect_takes_the_folders_that_generate_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lora_file(tmp_path / "adapter_model.safetensors", rank=4)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 2}))
    assert run(["inspect", str(tmp_path)]) == 0
    assert "0.5 (adapter_config.json)" in capsys.readouterr().out
    lora_file(tmp_path / "another.safetensors")
    assert run(["inspect", str(tmp_path)]) == 1
    assert "holds 2 LoRA files (adapter_model.safetensors, another.safetensors)" in capsys.readouterr().err


def test_nothing_is_computed_with_bad_values(tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = lora_file(tmp_path / "a.safetensors")
    file = SafetensorsFile(path)
    tensors = {name: file.numpy(name).copy() for name in file.tensors}
    last = list(tensors)[-1]
    tensors[last][0, 0] = np.nan
    write_safetensors(path, tensors)
    files = [*one_file(weights, "distilled"), *upscaler(weights), "--lora", str(path)]
    assert run(["generate", *SMALL, "-o", str(tmp_path / "clip.mp4"), *files]) == 1
    error = capsys.readouterr().err
    assert f"a.safetensors: tensor '{last}': 1 of " in error
    assert "settings:" not in error
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.slow
def test_a_lora_of_connectors_with_a_text_embedding(
    tmp_path: Path, weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    a, b = pair(f"{PREFIX}{CONNECTOR}.weight")
    lora, embedding = tmp_path / "lora.safetensors", tmp_path / "embedding.safetensors"
    write_safetensors(lora, {f"{CONNECTOR}.lora_A.weight": a, f"{CONNECTOR}.lora_B.weight": b})
    assert run(["encode", *one_file(weights, "distilled"), "--prompt", "a red circle", "-o", str(embedding)]) == 0
    out = tmp_path / "out"
    out.mkdir()
    with caplog.at_level(logging.WARNING):
        words = [*one_file(weights, "distilled")[:2], *upscaler(weights), "--embedding", str(embedding)]
        output = ["--skip-vae", "--save-latents", str(out / "l.safetensors"), "--no-state", "-o", str(out / "c.mp4")]
        assert run(["generate", *SMALL[2:], *output, *words, "--lora", str(lora)]) == 0
    assert f"is not applied, 1 modules ({CONNECTOR}): the text embedding was made without it" in caplog.text


def test_the_factor_of_references(tmp_path: Path, weights: Path, media: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Stated by the official key, a trainer's or the option, it is the same; where it is not stated, that is said."""
    large = ["--height", "128", "--width", "128", "--skip-stage-2"]
    files = [*one_file(weights, "distilled"), *upscaler(weights), "--pipeline", "ic-lora", *large]
    files += ["--control-video", str(media / "clip.mp4")]
    loras = {
        "official": lora_file(tmp_path / "1.safetensors", reference_downscale_factor="2"),
        "trainer": lora_file(tmp_path / "2.safetensors", ss_reference_downscale_factor="2"),
        "nothing": lora_file(tmp_path / "3.safetensors"),
    }
    out = tmp_path / "out"
    out.mkdir()

    def with_lora(name: str, *words: str) -> dict[str, Array]:
        caplog.clear()
        return latents(out, *files, "--lora", str(loras[name]), *words)

    official = with_lora("official")
    assert caplog.text == ""
    assert largest_difference(with_lora("trainer"), official) == 0
    assert largest_difference(with_lora("nothing", "--reference-downscale-factor", "2"), official) == 0
    assert "is assumed" not in caplog.text
    assumed = with_lora("nothing")
    assert "3.safetensors: states no reference_downscale_factor; 1 is assumed" in caplog.text
    assert "--reference-downscale-factor N says otherwise" in caplog.text
    assert largest_difference(assumed, official) > 1e-3


def test_plan_takes_the_manifest_of_a_lora(tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lora = lora_file(tmp_path / "a.safetensors")
    listed = {name: [info.dtype, list(info.shape)] for name, info in SafetensorsFile(lora).tensors.items()}
    manifest = tmp_path / "m.json"
    manifest.write_text(json.dumps({"tensors": listed}))
    files = [*one_file(weights, "distilled"), *upscaler(weights)]
    pipelines = [api.load("distilled", loras=[(path, 1.0)]) for path in (lora, manifest)]
    plans = [pipeline.plan("a red circle", height=64, width=64, num_frames=9)[0] for pipeline in pipelines]
    needs = [[(stage.need.weights, stage.need.working) for stage in plan.stages] for plan in plans]
    assert needs[0] == needs[1]
    assert run(["plan", *SMALL, *files, "--lora", str(manifest)]) == 0
    capsys.readouterr()
    assert run(["generate", *SMALL, "-o", str(tmp_path / "c.mp4"), *files, "--lora", str(manifest)]) == 1
    error = capsys.readouterr().err
    assert "m.json: a manifest lists tensors without their data; give the LoRA file" in error
    assert "settings:" not in error
