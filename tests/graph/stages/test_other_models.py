"""Stages work with any text encoder, video decoder and geometry that the component table and the configs give them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from ltx2rt import embedded
from ltx2rt.errors import CheckpointError
from ltx2rt.graph import components
from ltx2rt.graph.components import AUDIO_VAE, VIDEO_VAE
from ltx2rt.graph.diffusion.latent_geometry import AudioScale, VideoScale
from ltx2rt.graph.models.layers.decode_way import DecodeWay
from ltx2rt.graph.models.layers.footprint import Footprint
from ltx2rt.graph.models.layers.params import Params
from ltx2rt.graph.models.text.gemma3_encoder import Gemma3Encoder
from ltx2rt.graph.models.video_vae.config import VideoVaeConfig
from ltx2rt.graph.models.video_vae.statistics import statistics_specs
from ltx2rt.graph.settings.settings import Settings
from ltx2rt.graph.settings.weight_files import WeightFiles
from ltx2rt.graph.stages.decode.stage import decode_video
from ltx2rt.graph.stages.inputs import GenerationInputs
from ltx2rt.graph.stages.run import Run
from ltx2rt.graph.stages.targets import targets
from ltx2rt.graph.stages.text.stage import encode_prompts
from ltx2rt.graph.stages.weight_set import WeightSet
from ltx2rt.types import ParamSpec

INPUTS = GenerationInputs(Settings(prompt="a dog"), 64, 64, 9, Fraction(25))


def weights() -> WeightSet:
    return WeightSet.open(WeightFiles(checkpoint=embedded.CHECKPOINT, text_encoder=embedded.TEXT_ENCODER))


@dataclass(frozen=True)
class GreyDecoder:
    """Every frame of a clip is grey, one after the other."""

    config: VideoVaeConfig

    def specs(self) -> list[ParamSpec]:
        return statistics_specs(self.config.latent_channels)

    def flops(self, latent: tuple[int, int, int], keyframes: int = 0) -> float:
        return 1.0

    def ways(self, latent: tuple[int, int, int], tiling: Any, itemsize: int, keyframes: int = 0) -> Iterator[DecodeWay]:
        yield DecodeWay({"grey": 0.25}, {"frames": "grey"}, Footprint(1000), 1)

    def frames(
        self,
        params: Params,
        dtype: mx.Dtype,
        latent: mx.array,
        settings: Mapping[str, Any],
        noise: Any,
        keyframes: Any = None,
    ) -> Iterator[np.ndarray]:
        for _ in range(self.config.pixel_frames(latent.shape[1])):
            yield np.full((1, 64, 64, 3), settings["grey"], np.float32)


def test_another_video_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(components.VIDEO_DECODERS, "CausalVideoAutoencoder", GreyDecoder)
    run = Run(weights(), INPUTS)
    frames = np.concatenate(list(decode_video(run, np.zeros((1, 2, 2, 2, 128), np.float32))()))
    assert frames.shape == (9, 64, 64, 3)
    assert (frames == 0.25).all()
    assert run.ledger.needs[-1].choice == {"frames": "grey"}


@dataclass(frozen=True)
class OnesEncoder(Gemma3Encoder):
    """The tensors of Gemma 3, whose states are all ones."""

    def model(self, params: Params, dtype: mx.Dtype, **options: Any) -> Any:
        encoder = self

        class Model:
            def hidden_states(self, input_ids: np.ndarray) -> Iterator[mx.array]:
                for _ in range(encoder.num_states):
                    yield mx.ones((1, len(input_ids), encoder.hidden_size), dtype)

        return Model()


def test_another_text_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    (gemma,) = encode_prompts(Run(weights(), INPUTS), ["a dog"])
    for model_type in ("gemma3", "gemma3_text"):
        monkeypatch.setitem(components.TEXT_ENCODERS, model_type, OnesEncoder.from_dict)
    ones, same = encode_prompts(Run(weights(), INPUTS), ["a dog", "a cat"])
    assert ones.video.shape == gemma.video.shape
    assert mx.array_equal(ones.video, same.video)
    assert not mx.array_equal(ones.video, gemma.video)


def test_text_encoders_and_decoders_of_no_known_kind() -> None:
    with pytest.raises(CheckpointError, match=r"model_type 'llama' is not supported, only gemma3, .*Gemma 3 12B"):
        components.text_encoder({"model_type": "llama"})
    diffusion = replace(weights().config(VIDEO_VAE), decoder=None, decoder_class="AnotherVAE")
    with pytest.raises(CheckpointError, match="holds no convolutional decoder"):
        components.video_decoder(diffusion)


def test_targets_have_the_geometry_of_the_vaes(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(weights(), INPUTS)
    video, audio = targets(run, 64, 64)
    assert (video.shape.array_shape, video.scale) == ((1, 2, 2, 2, 128), VideoScale(8, 32, 32))
    assert (audio.shape.frames, audio.shape.features, audio.scale) == (9, 128, AudioScale(16000, 160, 4))
    finer = replace(run.files.config(VIDEO_VAE), spatial_factor=16, temporal_factor=4, latent_channels=64)
    sound = run.files.config(AUDIO_VAE)
    slower = sound._replace(mel=replace(sound.mel, hop=320))
    configs = {VIDEO_VAE.name: finer, AUDIO_VAE.name: slower}
    monkeypatch.setattr(WeightSet, "config", lambda self, component: configs[component.name])
    video, audio = targets(run, 64, 64)
    assert (video.shape.array_shape, video.scale) == ((1, 3, 4, 4, 64), VideoScale(4, 16, 16))
    assert (audio.shape.frames, audio.scale) == (4, AudioScale(16000, 320, 4))
