"""Operations of the video VAE's encoder and decoder without tiles."""

from __future__ import annotations

from ltx2rt.graph.models.video_vae.config import VideoVaeConfig
from ltx2rt.graph.models.video_vae.decoder import decoder_layers
from ltx2rt.graph.models.video_vae.encoder import encoder_layers
from ltx2rt.graph.models.video_vae.layer import ClipShape, Layer


def video_decode_flops(config: VideoVaeConfig, latent: tuple[int, int, int]) -> float:
    """Operations of decoding latent cells (f, h, w) without tiles."""
    decoder = config.require_decoder()
    return _layer_flops(decoder_layers(decoder), ClipShape(*latent, decoder.latent_channels))


def video_encode_flops(config: VideoVaeConfig, frames: tuple[int, int, int]) -> float:
    """Operations of encoding (F, H, W) pixels without tiles."""
    encoder = config.require_encoder()
    patch = encoder.patch_size
    patched = encoder.pixel_channels * patch**2
    return _layer_flops(encoder_layers(encoder), ClipShape(frames[0], frames[1] // patch, frames[2] // patch, patched))


def _layer_flops(layers: list[Layer], clip: ClipShape) -> float:
    total = 0.0
    for layer in layers:
        total += layer.flops(clip)
        clip = layer.after(clip)
    return total
