"""Predicted activations of the small models against MLX's own peak: every array between is free in time."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import pytest

from ltx2rt.graph.models.audio import vae, vocoder
from ltx2rt.graph.models.audio.footprint import audio_decode_footprint, sound_encode_footprint, vocoder_footprint
from ltx2rt.graph.models.layers.footprint import Footprint
from ltx2rt.graph.models.layers.params import Params
from ltx2rt.graph.models.text import connector
from ltx2rt.graph.models.text.footprint import connector_footprint
from ltx2rt.graph.models.upscaler import model as upscaler
from ltx2rt.graph.models.upscaler.footprint import upscaler_footprint
from ltx2rt.types import FLOAT32_BYTES, LinearWeight, ParamSpec

SOUND = vae.AudioVaeConfig(
    channels=24,
    multipliers=(1, 2, 4),
    blocks=2,
    latent_channels=8,
    mel_bins=64,
    in_channels=2,
    out_channels=2,
    double_z=True,
)
TOKENS, MEL_FRAMES = 80, 317
CONTEXT = connector.ConnectorConfig(
    num_heads=2,
    head_dim=32,
    num_layers=3,
    num_registers=128,
    max_position=4096.0,
    gated=True,
    ff_bias=True,
    rope_layout="split",
    rope_float64=True,
)


def params(specs: list[ParamSpec]) -> Params:
    arrays = {}
    for spec in specs:
        shape = spec.shape
        if spec.layout == "conv":
            shape = (shape[0], *shape[2:], shape[1])
        elif spec.layout == "conv_transpose1d":
            shape = (shape[1], shape[2], shape[0])
        array = mx.full(shape, 0.01)
        arrays[spec.name] = LinearWeight("dense", array) if spec.layout == "linear" else array
    mx.eval([array.values if isinstance(array, LinearWeight) else array for array in arrays.values()])
    return Params(arrays)


def sound_vocoder(activation: str) -> tuple[vocoder.Vocoder, Footprint]:
    core = vocoder.GeneratorConfig(
        width=64,
        rates=(5, 4, 2),
        kernels=(11, 8, 4),
        block_kernels=(3, 7, 11),
        dilations=((1, 3, 5),) * 3,
        activation=activation,  # type: ignore[arg-type]
        final_bias=True,
        final="tanh",
    )
    config = vocoder.VocoderConfig(core, None, None, 4000)
    return vocoder.Vocoder(config, params(vocoder.param_specs(config))), vocoder_footprint(config, MEL_FRAMES)


# (f, h, w) of a latent.
LATENT = (5, 12, 8)


def latent_upscaler(kind: str) -> tuple[upscaler.LatentUpscaler, Footprint]:
    config = upscaler.LatentUpscalerConfig.from_dict(
        {
            "_class_name": "LatentUpsampler",
            "in_channels": 128,
            "mid_channels": 128,
            "num_blocks_per_stage": 2,
            "dims": 3,
            "spatial_upsample": kind != "temporal",
            "temporal_upsample": kind == "temporal",
            "rational_resampler": kind == "1.5",
            "spatial_scale": 1.5 if kind == "1.5" else 2.0,
        }
    )
    model = upscaler.LatentUpscaler(config, params(upscaler.param_specs(config)), mx.float32)
    return model, upscaler_footprint(config, LATENT, FLOAT32_BYTES)


def case(name: str) -> tuple[Callable[[mx.array], mx.array], tuple[int, ...], Footprint]:
    """A model, the shape of its input and its footprint."""
    if name == "connector":
        footprint = connector_footprint(CONTEXT, FLOAT32_BYTES)
        model = connector.Connector(CONTEXT, params(connector.param_specs(CONTEXT)), mx.float32)
        return model, (1, 20, CONTEXT.width), footprint
    if name == "audio decoder":
        decoder = vae.AudioDecoder(SOUND, params(list(vae.decoder_specs(SOUND))), mx.float32)
        return decoder, (1, TOKENS, SOUND.token_width), audio_decode_footprint(SOUND, TOKENS)
    if name == "audio encoder":
        encoder = vae.AudioEncoder(SOUND, params(list(vae.encoder_specs(SOUND))), mx.float32)
        return encoder, (1, MEL_FRAMES, SOUND.mel_bins, 2), sound_encode_footprint(SOUND, MEL_FRAMES)
    if name.startswith("upscaler"):
        upscale, footprint = latent_upscaler(name.removeprefix("upscaler, "))
        return upscale, (1, *LATENT, 128), footprint
    generator, footprint = sound_vocoder(name.removeprefix("vocoder, "))
    return generator, (1, MEL_FRAMES, 64, 2), footprint


@pytest.mark.parametrize(
    "name",
    [
        "connector",
        "audio decoder",
        "audio encoder",
        "vocoder, leaky_relu",
        "vocoder, snakebeta",
        "upscaler, 2",
        pytest.param("upscaler, 1.5", marks=pytest.mark.slow),
        "upscaler, temporal",
    ],
)
def test_activations_are_those_predicted(name: str) -> None:
    model, shape, footprint = case(name)
    given = mx.zeros(shape)
    mx.eval(given)
    peak = 0
    for _ in range(3):  # where MLX's thread is held up, a buffer may be given back before the next one is asked for
        mx.clear_cache()
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        mx.eval(model(given))
        peak = max(peak, mx.get_peak_memory() - before)
        if peak > 0.95 * footprint.activations:
            break
    assert peak == pytest.approx(footprint.activations, rel=0.1)
