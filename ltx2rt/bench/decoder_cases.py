"""The decoders: video VAE (whole, and layer by layer), audio VAE and vocoder of LTX-2 19B."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx

from ltx2rt.bench.case import DTYPES, normal
from ltx2rt.bench.stage import Part, StageCase, random_params
from ltx2rt.graph.models.audio.vae import AudioDecoder, AudioVaeConfig
from ltx2rt.graph.models.audio.vae import decoder_specs as audio_decoder_specs
from ltx2rt.graph.models.audio.vocoder import Vocoder, VocoderConfig
from ltx2rt.graph.models.audio.vocoder import param_specs as vocoder_specs
from ltx2rt.graph.models.layers.params import Params
from ltx2rt.graph.models.video_vae.decoder import VideoDecoder
from ltx2rt.graph.models.video_vae.specs import VideoVaeConfig, statistics_specs
from ltx2rt.graph.models.video_vae.specs import decoder_specs as video_decoder_specs
from ltx2rt.graph.models.video_vae.surroundings import Conditions

MEL_FRAMES = 501  # five seconds


def _video_section(base_channels: int, layers: int) -> dict[str, Any]:
    residual: list[Any] = ["res_x", {"num_layers": layers, "inject_noise": False}]
    upsampling: list[Any] = ["compress_all", {"residual": True, "multiplier": 2}]
    return {
        "_class_name": "CausalVideoAutoencoder",
        "dims": 3,
        "latent_channels": 128,
        "decoder_base_channels": base_channels,
        "decoder_blocks": [residual, upsampling] * 3 + [residual],
        "norm_layer": "pixel_norm",
        "patch_size": 4,
        "causal_decoder": False,
        "timestep_conditioning": False,
    }


class _VideoPart:
    """Decoder and weights that the cases of the video VAE share."""

    def __init__(self, dtype: str, small: bool) -> None:
        self.config = VideoVaeConfig.from_dict(_video_section(8 if small else 128, 1 if small else 5))
        self.specs = [*video_decoder_specs(self.config), *statistics_specs(self.config.latent_channels)]
        self.params = random_params(self.specs, dtype)
        self.decoder = VideoDecoder(self.config, Params(self.params), DTYPES[dtype])


@dataclass(frozen=True)
class VideoDecodeCase(StageCase):
    """The whole decoder on one latent clip."""

    frames: int
    height: int
    width: int
    dtype: str = "bf16"
    small: bool = False

    @property
    def name(self) -> str:
        return f"video_decoder/{self.dtype}/{self.frames}x{self.height}x{self.width}"

    def reduced(self) -> VideoDecodeCase:
        return replace(self, frames=9, height=64, width=64, small=True)

    def part(self) -> Part:
        return VideoDecode(self)


class VideoDecode(_VideoPart):
    def __init__(self, case: VideoDecodeCase) -> None:
        super().__init__(case.dtype, case.small)
        shape = (1, (case.frames - 1) // 8 + 1, case.height // 32, case.width // 32, 128)
        self.latent = normal(shape, 1, DTYPES[case.dtype])
        self.dtype = case.dtype

    def build(self) -> mx.array:
        return self.decoder(self.latent)


@dataclass(frozen=True)
class VideoLayerCase(StageCase):
    """One layer of the video decoder at its size within a clip of 25 frames of 256 x 256."""

    path: str
    size: tuple[int, int, int]
    dtype: str = "bf16"
    small: bool = False

    @property
    def name(self) -> str:
        return f"video_layer/{self.dtype}/{self.path}/{'x'.join(map(str, self.size))}"

    def reduced(self) -> VideoLayerCase:
        return replace(self, size=(2, 4, 4), small=True)

    def part(self) -> Part:
        return _VideoLayer(self)


class _VideoLayer(_VideoPart):
    def __init__(self, case: VideoLayerCase) -> None:
        super().__init__(case.dtype, case.small)
        layers: list[Any] = self.decoder.layers
        self._layer = next(layer for layer in layers if layer.path == case.path)
        own = {f"decoder.{spec.name}" for spec in self._layer.specs()}
        self.params = {name: array for name, array in self.params.items() if name in own}
        self._x = normal((1, *case.size, self._layer.in_channels), 1, DTYPES[case.dtype])

    def build(self) -> mx.array:
        out: mx.array = self._layer(self._x, Params(self.params, "decoder."), Conditions())
        return out


@dataclass(frozen=True)
class AudioDecodeCase(StageCase):
    """Audio latents to a log-mel spectrogram."""

    latents: int
    dtype: str = "bf16"
    small: bool = False

    @property
    def name(self) -> str:
        return f"audio_decoder/{self.dtype}/{self.latents}"

    def reduced(self) -> AudioDecodeCase:
        return replace(self, latents=4, small=True)

    def part(self) -> Part:
        return _AudioDecode(self)


class _AudioDecode:
    def __init__(self, case: AudioDecodeCase) -> None:
        ddconfig = {
            "double_z": True,
            "mel_bins": 64,
            "z_channels": 8,
            "in_channels": 2,
            "out_ch": 2,
            "ch": 8 if case.small else 128,
            "ch_mult": [1, 2, 4],
            "num_res_blocks": 2,
            "attn_resolutions": [],
            "mid_block_add_attention": False,
            "norm_type": "pixel",
            "causality_axis": "height",
        }
        section = {"model": {"params": {"ddconfig": ddconfig, "sampling_rate": 16000}}}
        config = AudioVaeConfig.from_dict(section)
        self._decoder = AudioDecoder(
            config, Params(random_params(audio_decoder_specs(config), case.dtype)), DTYPES[case.dtype]
        )
        self._tokens = normal((1, case.latents, config.token_width), 1, DTYPES[case.dtype])

    def build(self) -> mx.array:
        return self._decoder(self._tokens)


@dataclass(frozen=True)
class VocoderCase(StageCase):
    """A log-mel spectrogram to stereo sound, in float32 as always."""

    frames: int
    dtype: str = "f32"
    small: bool = False

    @property
    def name(self) -> str:
        return f"vocoder/{self.dtype}/{self.frames}"

    def reduced(self) -> VocoderCase:
        return replace(self, frames=5, small=True)

    def part(self) -> Part:
        return Vocode(self)


class Vocode:
    def __init__(self, case: VocoderCase) -> None:
        self.channels = 64 if case.small else 1024
        section = {
            "upsample_initial_channel": self.channels,
            "resblock": "1",
            "upsample_rates": [6, 5, 2, 2, 2],
            "upsample_kernel_sizes": [16, 15, 8, 4, 4],
            "resblock_kernel_sizes": [3, 7, 11],
            "resblock_dilation_sizes": [[1, 3, 5], [1, 3, 5], [1, 3, 5]],
            "stereo": True,
        }
        config = VocoderConfig.from_dict(section)
        self.specs = vocoder_specs(config)
        self.params = random_params(self.specs, case.dtype)
        self._vocoder = Vocoder(config, Params(self.params))
        self.log_mel = normal((1, case.frames, 64, 2), 1, mx.float32)

    def build(self) -> mx.array:
        return self._vocoder(self.log_mel)


def decoder_cases() -> list[StageCase]:
    layers: Iterable[tuple[str, tuple[int, int, int]]] = (
        ("up_blocks.0.res_blocks.0", (4, 8, 8)),
        ("up_blocks.1", (4, 8, 8)),
        ("up_blocks.2.res_blocks.0", (7, 16, 16)),
        ("up_blocks.3", (7, 16, 16)),
        ("up_blocks.4.res_blocks.0", (13, 32, 32)),
        ("up_blocks.5", (13, 32, 32)),
        ("up_blocks.6.res_blocks.0", (25, 64, 64)),
    )
    return [
        *(VideoLayerCase(path, size) for path, size in layers),
        AudioDecodeCase(126),
        VocoderCase(MEL_FRAMES),
        VideoDecodeCase(25, 256, 256),
        VideoDecodeCase(25, 256, 256, dtype="f32"),
    ]
