"""Operations of the video VAE's encoder and decoder without tiles."""

from __future__ import annotations

from math import prod

from ltx2rt.graph.models.video_vae.config import VideoVaeConfig
from ltx2rt.graph.models.video_vae.decoder import decoder_layers
from ltx2rt.graph.models.video_vae.encoder import encoder_layers
from ltx2rt.graph.models.video_vae.layers import Convolution, Downsample, Layer, Upsample


def video_decode_flops(config: VideoVaeConfig, latent: tuple[int, int, int]) -> float:
    """Operations of decoding latent cells (f, h, w) without tiles."""
    return _layer_flops(decoder_layers(config.require_decoder()), latent)


def video_encode_flops(config: VideoVaeConfig, frames: tuple[int, int, int]) -> float:
    """Operations of encoding (F, H, W) pixels without tiles."""
    encoder = config.require_encoder()
    patch = encoder.patch_size
    return _layer_flops(encoder_layers(encoder), (frames[0], frames[1] // patch, frames[2] // patch))


def _layer_flops(layers: list[Layer], grid: tuple[int, int, int]) -> float:
    total = 0.0
    for layer in layers:
        weights = sum(prod(spec.shape) for spec in layer.specs() if spec.layout in ("conv", "linear"))
        after = grid
        if isinstance(layer, Upsample):
            f, h, w = (cells * factor for cells, factor in zip(grid, layer.stride, strict=True))
            after = (f - (layer.stride[0] - 1), h, w)
        elif isinstance(layer, (Convolution, Downsample)):
            f, h, w = (-(-cells // factor) for cells, factor in zip(grid, layer.stride, strict=True))
            after = (f, h, w)
        # A strided convolution works on the cells it gives, a `Downsample` on those it folds.
        total += 2.0 * weights * prod(after if isinstance(layer, Convolution) else grid)
        grid = after
    return total
