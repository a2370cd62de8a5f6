"""The training recipe runs from the first stage to exported files, which the package reads as PyTorch computes them."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

from ltx2rt.weights.safetensors import SafetensorsFile

torch = pytest.importorskip("torch", reason="needs pip install 'ltx2rt[parity]'")
pytest.importorskip("safetensors")
sys.path.insert(0, str(Path(__file__).parents[2]))

from tools.train_tiny import (  # noqa: E402
    audio,
    config,
    dataset,
    export,
    flow_matching,
    loras,
    parity,
    sampler,
    text,
    tokenizer,
    train,
    transformer,
    upscaler,
    video_vae,
)

pytestmark = [pytest.mark.parity, pytest.mark.slow]


def test_recipe_runs_and_exports(tmp_path: Path) -> None:
    torch.set_num_threads(1)  # two threads that wait for each other are slow on a busy machine
    recorder = train.Recorder(tmp_path, "test")

    def saver(name: str):
        return train.Recorder(tmp_path, name).save

    (tmp_path / "tokenizer.json").write_text(tokenizer.build().to_str(pretty=False), encoding="utf-8")
    video_vae.train_decoder(2, 0, recorder.report, saver("video_decoder"))
    drawn = train.load(video_vae.VideoVae().decoder, tmp_path / "video_decoder.pt").train().requires_grad_(True)
    video_vae.finish_decoder(drawn, 1, 0, recorder.report, saver("video_decoder_finish"))
    video_vae.train_encoder(2, 0, recorder.report, saver("video_encoder"))
    read = train.load(video_vae.VideoVae().encoder, tmp_path / "video_encoder.pt").train().requires_grad_(True)
    video_vae.finish_encoder(read, 1, 0, recorder.report, saver("video_encoder_finish"))
    video_vae.read_whole_clips(read, drawn, 1, 0, recorder.report, saver("video_encoder_clips"))
    sound = audio.train_vae(2, 0, recorder.report, saver("audio_vae"))
    audio.train_vocoder(2, 0, sound, recorder.report, saver("vocoder"))
    prompts = text.Prompts(tmp_path / "tokenizer.json")
    path = text.train(2, 0, prompts, recorder.report, saver("text"))

    with torch.no_grad():
        pool = flow_matching.CaptionPool(path.eval(), prompts)
    group = dataset.make_group(128, 9, 32, seed=0)
    shard = flow_matching.make_shard(group, pool, seed=0, batch=4, weight=1.0, refining=0.5, muddled=0.5)

    def trained(steps: int, resume: str):
        return flow_matching.train(
            transformer.Transformer(), [shard], pool, steps=steps, fall=2, seed=0, rate=0.5, negative="blurry",
            report=recorder.report, save=saver("transformer_guided"), resume=tmp_path / resume, save_every=4,
        )  # fmt: skip

    torch.manual_seed(0)
    model = trained(6, "state.pt")
    torch.manual_seed(0)
    resumed = trained(6, "state.pt")  # from the state of step 4
    for first, second in zip(model.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(first, second)
    for name, settings, high in (
        ("temporal_upscaler", config.TEMPORAL_UPSCALER, dataset.video(group.clips, 17, 128)),
        ("spatial_upscaler", config.SPATIAL_UPSCALER, dataset.video(group.clips, 9, 256)),
    ):
        upscaler.train(settings, group.video, high, steps=1, seed=0, report=recorder.report, save=saver(name))
    references = group.control()
    tensors = loras.train(
        model, loras.CONTROL_TARGETS, 4, lambda rng: loras.control_batch(shard, references, pool, rng), steps=2, seed=0,
        report=recorder.report,
    )  # fmt: skip
    torch.save(tensors, tmp_path / "control_lora.pt")

    latent, tokens = sampler.Sampler(tmp_path, registers=8).run(["a red circle moves left"], frames=9)
    assert latent.shape == (1, 2, 4, 4, config.VIDEO_CHANNELS_USED)
    assert tokens.shape == (1, 9, 32)
    export.export(tmp_path, tmp_path / "out")
    errors = parity.compare(tmp_path / "out")
    assert len(errors) >= 10
    assert all(error < 1e-4 for error in errors.values()), errors  # NaN is not

    export.restore(tmp_path / "out", tmp_path / "restored")
    export.export(tmp_path / "restored", tmp_path / "again")
    paths = list((tmp_path / "out").rglob("*.safetensors"))
    assert paths
    for path in paths:
        again = tmp_path / "again" / path.relative_to(tmp_path / "out")
        assert SafetensorsFile(path).metadata == SafetensorsFile(again).metadata
        torch.testing.assert_close(export.read_exported(again), export.read_exported(path), rtol=0, atol=0)


def test_training_never_sees_held_out_combinations() -> None:
    from tools.train_tiny import world

    for seed in range(400):
        clip = world.sample_clip(random.Random(seed), two=0.5)
        for thing in clip.things:
            assert not world.is_held_out(thing.color, thing.shape, thing.motion, clip.background)
    for seed in range(50):
        clip = world.sample_clip(random.Random(seed), held_out=True, two=0.0)
        assert world.is_held_out(clip.first.color, clip.first.shape, clip.first.motion, clip.background)
