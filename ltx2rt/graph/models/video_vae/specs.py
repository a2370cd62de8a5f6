"""What the video VAE needs from a checkpoint: its configuration and tensors."""

from __future__ import annotations

from dataclasses import replace

from ltx2rt.graph.models.video_vae.config import VideoVaeConfig
from ltx2rt.graph.models.video_vae.decoder import decoder_layers
from ltx2rt.graph.models.video_vae.diffusion_decoder import diffusion_specs
from ltx2rt.graph.models.video_vae.encoder import encoder_layers
from ltx2rt.graph.models.video_vae.layer import Layer
from ltx2rt.graph.models.video_vae.statistics import statistics_specs
from ltx2rt.types import ParamSpec

__all__ = ["VideoVaeConfig", "decoder_specs", "encoder_specs", "param_specs", "statistics_specs"]


def encoder_specs(config: VideoVaeConfig) -> list[ParamSpec]:
    """Tensors of the encoder alone (``encoder.*``); CheckpointError if the file has none."""
    return _under("encoder", encoder_layers(config.require_encoder()))


def decoder_specs(config: VideoVaeConfig) -> list[ParamSpec]:
    """Tensors of the decoder alone (``decoder.*``), of whichever kind; CheckpointError if the file has none."""
    if config.diffusion is not None:
        return [replace(spec, name=f"decoder.{spec.name}") for spec in diffusion_specs(config.diffusion)]
    return _under("decoder", decoder_layers(config.require_decoder()))


def param_specs(config: VideoVaeConfig) -> list[ParamSpec]:
    """All tensors of a complete file: encoder, decoder, statistics; CheckpointError without a decoder."""
    specs = statistics_specs(config.latent_channels)
    if config.encoder is not None:
        specs += encoder_specs(config)
    return specs + decoder_specs(config)


def _under(prefix: str, layers: list[Layer]) -> list[ParamSpec]:
    return [replace(spec, name=f"{prefix}.{spec.name}") for layer in layers for spec in layer.specs()]
