"""The decoders that diffusers has: video VAE and both vocoders."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from ltx2rt.bench.bandwidth_case import Bandwidth, BandwidthCase
from ltx2rt.bench.case import TORCH, Call, Way
from ltx2rt.bench.decoder_cases import VideoDecode, VideoDecodeCase, Vocode, VocoderCase

from .arrays import installed, to_torch, torch_module, torch_weights

_RENAMED = {
    "conv_pre": "conv_in",
    "conv_post": "conv_out",
    "act_post": "act_out",
    "ups": "upsamplers",
    "resblocks": "resnets",
}


def _with_diffusers(make: Callable[[Any], Call]) -> Callable[[Any, Any], dict[str, Way]]:
    """The way that ``make`` prepares from a part, where diffusers is installed."""
    return lambda case, part: {TORCH: Way(lambda share: make(part))} if installed("diffusers") else {}


def video_call(part: VideoDecode) -> Call:
    """The video decoder of diffusers."""
    from diffusers.models.autoencoders.autoencoder_kl_ltx2 import LTX2VideoDecoder3d

    torch = torch_module()
    section = part.config.require_decoder()
    residual = [block for block in section.blocks if block.kind != "resample"]
    widths = tuple(section.base_channels * 2**level for level in range(1, len(residual)))
    with torch.device("meta"):
        model = LTX2VideoDecoder3d(
            in_channels=section.latent_channels,
            block_out_channels=widths,
            layers_per_block=tuple(block.num_layers for block in residual),
            inject_noise=False,
        )
    own = {n: a for n, a in part.params.items() if n.startswith("decoder.")}
    model.load_state_dict(torch_weights(own, part.specs, _torch_video_name, part.dtype), strict=True, assign=True)
    model.eval()
    # diffusers leaves the statistics to its pipeline.
    latent = to_torch(part.decoder.statistics.un_normalise(part.latent)).permute(0, 4, 1, 2, 3).contiguous()

    def call() -> Any:
        with torch.inference_mode():
            return model(latent).permute(0, 2, 3, 4, 1)

    return call


def _torch_video_name(name: str) -> str:
    name = name.removeprefix("decoder.").replace("res_blocks", "resnets")
    block = re.match(r"up_blocks\.(\d+)\.", name)
    if block is None:
        return name
    number, rest = int(block[1]), name[block.end() :]
    if number == 0:
        return f"mid_block.{rest}"
    level = (number - 1) // 2
    return f"up_blocks.{level}.upsamplers.0.{rest}" if number % 2 else f"up_blocks.{level}.{rest}"


def vocoder_call(part: Vocode) -> Call:
    """The vocoder of LTX-2 in diffusers."""
    from diffusers.pipelines.ltx2.vocoder import LTX2Vocoder

    torch = torch_module()
    with torch.device("meta"):
        model = LTX2Vocoder(hidden_channels=part.channels)
    weights = torch_weights(part.params, part.specs, _torch_vocoder_name, "f32")
    model.load_state_dict(weights, strict=False, assign=True)
    model.eval()
    log_mel = to_torch(part.log_mel).permute(0, 3, 1, 2).contiguous()

    def call() -> Any:
        with torch.inference_mode():
            return model(log_mel).transpose(1, 2)

    return call


def _torch_vocoder_name(name: str) -> str:
    renamed = (("conv_pre", "conv_in"), ("conv_post", "conv_out"), ("ups.", "upsamplers."), ("resblocks.", "resnets."))
    for ours, theirs in renamed:
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name


def bandwidth_call(part: Bandwidth) -> Call:
    """The vocoder of LTX-2.3 in diffusers."""
    from diffusers.pipelines.ltx2.vocoder import LTX2VocoderWithBWE, UpSample1d

    torch = torch_module()
    with torch.device("meta"):
        model = LTX2VocoderWithBWE(hidden_channels=part.widths[0], bwe_hidden_channels=part.widths[1])
    model.load_state_dict(
        torch_weights(part.params, part.specs, _torch_bandwidth_name, "f32"), strict=True, assign=True
    )
    # The one filter that no file stores.
    model.resampler = UpSample1d(ratio=3, window_type="hann", persistent=False)
    model.eval()
    log_mel = to_torch(part.log_mel).permute(0, 3, 1, 2).contiguous()

    def call() -> Any:
        with torch.inference_mode():
            return model(log_mel).transpose(1, 2)

    return call


def _torch_bandwidth_name(name: str) -> str:
    renamed = ".".join(_RENAMED.get(part, part) for part in name.split("."))
    return renamed.replace("downsample.lowpass.filter", "downsample.filter")


WAYS: dict[type, Any] = {
    VideoDecodeCase: _with_diffusers(video_call),
    VocoderCase: _with_diffusers(vocoder_call),
    BandwidthCase: _with_diffusers(bandwidth_call),
}
