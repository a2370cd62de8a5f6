"""Operations of the video VAE's encoder and decoder."""

from __future__ import annotations

from ltx2rt.graph.models.video_vae.config import VideoVaeConfig
from ltx2rt.graph.models.video_vae.decoder import decoder_layers
from ltx2rt.graph.models.video_vae.encoder import encoder_layers
from ltx2rt.graph.models.video_vae.layer import ClipShape, Layer
from ltx2rt.graph.models.video_vae.tiling import AxisTile, FrameGrid, Tiling, encode_plan


def video_decode_flops(config: VideoVaeConfig, latent: tuple[int, int, int]) -> float:
    """Operations of decoding latent cells (f, h, w) without tiles."""
    decoder = config.require_decoder()
    return _layer_flops(decoder_layers(decoder), ClipShape(*latent, decoder.latent_channels))


def video_encode_flops(config: VideoVaeConfig, frames: FrameGrid, tiling: Tiling | None = None) -> float:
    """Operations of encoding (F, H, W) pixels, in tiles or in one piece."""
    encoder = config.require_encoder()
    patch, layers = encoder.patch_size, encoder_layers(encoder)
    factors = {"temporal_factor": config.temporal_factor, "spatial_factor": config.spatial_factor}
    pieces = [frames]
    if tiling is not None:
        tiles = encode_plan(frames, tiling, **factors).tiles
        pieces = [(_length(t.frames), _length(t.height), _length(t.width)) for t in tiles]
    patched = encoder.pixel_channels * patch**2
    return sum(
        _layer_flops(layers, ClipShape(count, height // patch, width // patch, patched))
        for count, height, width in pieces
    )


def _length(axis: AxisTile) -> int:
    return axis.source[1] - axis.source[0]


def _layer_flops(layers: list[Layer], clip: ClipShape) -> float:
    total = 0.0
    for layer in layers:
        total += layer.flops(clip)
        clip = layer.after(clip)
    return total
