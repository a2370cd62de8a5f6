"""The video VAE's configuration: official ``config.vae`` sections resolved into block lists with channel counts."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

from ltx2rt.errors import CheckpointError
from ltx2rt.graph.models.video_vae.diffusion_config import DiffusionDecoderConfig

Stride = tuple[int, int, int]
BlockKind = Literal["residual", "resample", "strided", "attention"]

# Class names of the decoders.
CONVOLUTIONAL, DIFFUSION = "CausalVideoAutoencoder", "CausalDiffusionVAE"

_STRIDES: dict[str, Stride] = {"time": (2, 1, 1), "space": (1, 2, 2), "all": (2, 2, 2)}
# Official name of a spatial padding mode -> the kernels' name.
_PADDING_MODES = {"zeros": "zeros", "reflect": "reflect", "replicate": "edge"}
# Channels of conv_out per latent channel, and channels added once: only the first latent_channels are used.
_LOG_VARIANCE = {"uniform": (1, 1), "constant": (1, 1), "per_channel": (2, 0)}


@dataclass(frozen=True)
class Block:
    """One entry of an encoder or decoder block list, in execution order.

    Attributes:
        path: name in the file below ``encoder.`` or ``decoder.`` (``up_blocks.3``).
        kind: ``residual`` group, ``resample`` (space-to-depth or depth-to-space with a convolution), ``strided``
            convolution (encoder only) or per-frame ``attention``.
        in_channels, out_channels: width before and after.
        num_layers: residual layers of the group; 0 for ``res_x_y``, which is one layer stored without a list.
        stride: resampling along (F, H, W).
        residual: the upsampled input is added (decoder ``compress_all`` of 19B).
        inject_noise: noise is added after each convolution of the group.
    """

    path: str
    kind: BlockKind
    in_channels: int
    out_channels: int
    num_layers: int = 0
    stride: Stride = (1, 1, 1)
    residual: bool = False
    inject_noise: bool = False


@dataclass(frozen=True)
class EncoderConfig:
    """Encoder: ``moment_channels`` leave conv_out, the first ``latent_channels`` are the means."""

    blocks: tuple[Block, ...]
    pixel_channels: int
    latent_channels: int
    base_channels: int
    moment_channels: int
    patch_size: int
    padding_mode: str

    @property
    def out_channels(self) -> int:
        """Width before conv_out."""
        return self.blocks[-1].out_channels if self.blocks else self.base_channels


@dataclass(frozen=True)
class DecoderConfig:
    """Convolutional decoder: conv_in widens to ``bottleneck_channels``, the blocks end at ``base_channels``."""

    blocks: tuple[Block, ...]
    pixel_channels: int
    latent_channels: int
    base_channels: int
    bottleneck_channels: int
    patch_size: int
    padding_mode: str
    causal: bool
    timestep_conditioning: bool

    @property
    def needs_noise(self) -> bool:
        """Whether decoding draws random numbers."""
        return self.timestep_conditioning or any(block.inject_noise for block in self.blocks)


@dataclass(frozen=True)
class VideoVaeConfig:
    """Resolved ``config.vae``.

    Attributes:
        encoder: None when the section lists no encoder blocks.
        decoder: the convolutional one; None when the file holds another one or the section lists no decoder blocks.
        decoder_class: official class name of the decoder, for messages.
        latent_channels: width of a latent cell.
        spatial_factor: pixels per latent cell along H and along W.
        temporal_factor: pixel frames per latent frame (the first latent frame is one pixel frame).
        diffusion: the diffusion decoder; None when the file holds another one.
    """

    encoder: EncoderConfig | None
    decoder: DecoderConfig | None
    decoder_class: str
    latent_channels: int
    spatial_factor: int
    temporal_factor: int
    diffusion: DiffusionDecoderConfig | None = None

    @property
    def least_side(self) -> int:
        """Pixels that each side must have: a decoder that mirrors at the borders needs two latent cells."""
        mirrors = self.decoder is not None and self.decoder.padding_mode == "reflect"
        return self.spatial_factor * (2 if mirrors else 1)

    @classmethod
    def from_dict(cls, section: Mapping[str, Any], tensor_names: Collection[str] | None = None) -> VideoVaeConfig:
        """Read an official ``config["vae"]``, flat (19B, 2.3, 2.5-conv) or with a nested encoder (2.5).

        Args:
            section: the official object.
            tensor_names: names in the weight file, to check ``timestep_conditioning`` against the stored tensors
                (any spelling of the prefix). None: the section alone decides, true when it says nothing.

        Raises:
            CheckpointError: for an unknown block, class, padding mode or value that this code does not implement.

        Source: Lightricks/LTX-2 ltx_core/model/video_vae/model_configurator.py @ v1.2.0.
        """
        if not isinstance(section, Mapping):
            raise CheckpointError(f"config.vae must be an object, got {type(section).__name__}.")
        _require(section, "dims", 3)
        decoder_class = str(section.get("_class_name", CONVOLUTIONAL))
        encoder = _encoder_config(section)
        decoder, diffusion = None, None
        if decoder_class == CONVOLUTIONAL:
            decoder = _decoder_config(section, tensor_names)
        elif decoder_class == DIFFUSION:
            diffusion = DiffusionDecoderConfig.from_dict(section)
        else:
            raise CheckpointError(
                f"config.vae._class_name is {decoder_class!r}; expected {CONVOLUTIONAL} or {DIFFUSION}."
            )
        halves = [half for half in (encoder, decoder) if half is not None]
        if not halves and diffusion is None:
            raise CheckpointError("config.vae lists neither encoder_blocks nor decoder_blocks; nothing can be built.")
        factors = {(half.latent_channels, *_factors(half)) for half in halves}
        if diffusion is not None:
            frames, height, width = diffusion.factors
            if height != width:
                raise CheckpointError(f"config.vae.decoder makes {height}x{width} pixels of a cell; only squares work.")
            factors.add((diffusion.latent_channels, height, frames))
        if len(factors) > 1:
            raise CheckpointError(
                "encoder and decoder of config.vae disagree on (latent channels, pixels, frames) per cell: "
                f"{sorted(factors)}."
            )
        latent_channels, spatial_factor, temporal_factor = factors.pop()
        return cls(encoder, decoder, decoder_class, latent_channels, spatial_factor, temporal_factor, diffusion)

    def require_encoder(self) -> EncoderConfig:
        """The encoder's part, or CheckpointError."""
        if self.encoder is None:
            raise CheckpointError("config.vae lists no encoder_blocks; this file cannot encode images or video.")
        return self.encoder

    def require_decoder(self) -> DecoderConfig:
        """The convolutional decoder's part, or CheckpointError."""
        if self.decoder is None:
            raise CheckpointError(
                f"config.vae._class_name is {self.decoder_class!r}: this file holds no convolutional decoder; "
                f"use the file whose class is {CONVOLUTIONAL} (ltx-2.5-video-vae-conv)."
            )
        return self.decoder

    def require_diffusion(self) -> DiffusionDecoderConfig:
        """The diffusion decoder's part, or CheckpointError."""
        if self.diffusion is None:
            raise CheckpointError(
                f"config.vae._class_name is {self.decoder_class!r}: this file holds no diffusion decoder; "
                f"use the file whose class is {DIFFUSION} (ltx-2.5-video-vae)."
            )
        return self.diffusion

    def latent_frames(self, frames: int) -> int:
        """Latent frames of a clip of 1 + k * temporal_factor pixel frames."""
        return (frames - 1) // self.temporal_factor + 1

    def pixel_frames(self, latent_frames: int) -> int:
        """Pixel frames of a latent clip."""
        return (latent_frames - 1) * self.temporal_factor + 1


def _encoder_config(section: Mapping[str, Any]) -> EncoderConfig | None:
    nested = section.get("encoder")
    if isinstance(nested, Mapping):
        _require(nested, "dims", 3)
        # In the nested object out_channels is the latent width; in the flat one it is RGB.
        latent_channels = _integer(nested, "out_channels", 128)
        entries = nested.get("blocks", [])
        base_channels = _integer(nested, "base_channels", latent_channels)
        own: Mapping[str, Any] = nested
        mode = nested.get("spatial_padding_mode", section.get("spatial_padding_mode"))
    else:
        latent_channels = _integer(section, "latent_channels", 128)
        entries = section.get("encoder_blocks", [])
        base_channels = _integer(section, "encoder_base_channels", latent_channels)
        own = section
        mode = section.get("spatial_padding_mode")
    if not entries:
        return None
    _require(own, "norm_layer", "pixel_norm")
    if mode is None:
        mode = section.get("encoder_spatial_padding_mode", "zeros")
    log_variance = own.get("latent_log_var", "uniform")
    if log_variance not in _LOG_VARIANCE:
        raise CheckpointError(
            f"config.vae latent_log_var is {log_variance!r}; supported are {', '.join(sorted(_LOG_VARIANCE))}."
        )
    factor, extra = _LOG_VARIANCE[log_variance]
    return EncoderConfig(
        blocks=_encoder_blocks(entries, base_channels),
        pixel_channels=_integer(own, "in_channels", 3),
        latent_channels=latent_channels,
        base_channels=base_channels,
        moment_channels=factor * latent_channels + extra,
        patch_size=_integer(own, "patch_size", 4),
        padding_mode=_padding_mode(mode),
    )


def _decoder_config(section: Mapping[str, Any], tensor_names: Collection[str] | None) -> DecoderConfig | None:
    entries = section.get("decoder_blocks", [])
    if not entries:
        return None
    _require(section, "norm_layer", "pixel_norm")
    base_channels = _integer(section, "decoder_base_channels", 128)
    parsed = _entries(entries, "decoder_blocks")
    bottleneck = base_channels * prod(_decoder_multiplier(name, params) for name, params in parsed)
    mode = section.get("spatial_padding_mode", section.get("decoder_spatial_padding_mode", "reflect"))
    return DecoderConfig(
        blocks=_decoder_blocks(parsed, bottleneck),
        pixel_channels=_integer(section, "out_channels", 3),
        latent_channels=_integer(section, "latent_channels", 128),
        base_channels=base_channels,
        bottleneck_channels=bottleneck,
        patch_size=_integer(section, "patch_size", 4),
        padding_mode=_padding_mode(mode),
        causal=bool(section.get("causal_decoder", False)),
        timestep_conditioning=_timestep_conditioning(section, tensor_names),
    )


def _timestep_conditioning(section: Mapping[str, Any], tensor_names: Collection[str] | None) -> bool:
    stated = section.get("timestep_conditioning")
    names = [name for name in tensor_names or () if not name.startswith("audio_vae.")]
    if not any("decoder.conv_in." in name for name in names):
        return True if stated is None else bool(stated)
    stored = any("decoder.last_time_embedder." in name for name in names)
    if stated is not None and bool(stated) != stored:
        raise CheckpointError(
            f"config.vae.timestep_conditioning is {stated!r} but the file has "
            f"{'' if stored else 'no '}decoder.last_time_embedder tensors; the file contradicts itself."
        )
    return stored


def _encoder_blocks(entries: Any, channels: int) -> tuple[Block, ...]:
    blocks: list[Block] = []
    for index, (name, params) in enumerate(_entries(entries, "encoder_blocks")):
        path = f"down_blocks.{index}"
        axes = name.split("_")[1] if name.startswith("compress_") else ""
        multiplier = _integer(params, "multiplier", 2)
        if name == "res_x":
            block = Block(path, "residual", channels, channels, _num_layers(params))
        elif name == "res_x_y":
            block = Block(path, "residual", channels, channels * multiplier)
        elif name in ("compress_time_res", "compress_space_res", "compress_all_res"):
            stride = _STRIDES[axes]
            out = channels * multiplier
            if out % prod(stride) or channels * prod(stride) % out:
                raise CheckpointError(
                    f"encoder block {path} ({name}) cannot fold {channels} channels with multiplier {multiplier}."
                )
            block = Block(path, "resample", channels, out, stride=stride)
        elif name in ("compress_time", "compress_space", "compress_all"):
            block = Block(path, "strided", channels, channels, stride=_STRIDES[axes])
        elif name == "compress_all_x_y":
            block = Block(path, "strided", channels, channels * multiplier, stride=_STRIDES["all"])
        elif name == "attn":
            block = Block(path, "attention", channels, channels)
        else:
            raise CheckpointError(f"config.vae.encoder_blocks[{index}] is {name!r}, which is not a known block.")
        _no_noise(block, params, allowed=False)
        blocks.append(block)
        channels = block.out_channels
    return tuple(blocks)


def _decoder_blocks(entries: list[tuple[str, Mapping[str, Any]]], channels: int) -> tuple[Block, ...]:
    blocks: list[Block] = []
    # The list is written in encoder order; the decoder runs it backwards.
    for index, (name, params) in enumerate(reversed(entries)):
        path = f"up_blocks.{index}"
        multiplier = _decoder_multiplier(name, params)
        if name == "res_x":
            block = Block(
                path,
                "residual",
                channels,
                channels,
                _num_layers(params),
                inject_noise=bool(params.get("inject_noise", False)),
            )
        elif name == "res_x_y":
            block = Block(path, "residual", channels, channels // multiplier)
        elif name in ("compress_time", "compress_space", "compress_all"):
            stride = _STRIDES[name.split("_")[1]]
            residual = name == "compress_all" and bool(params.get("residual", False))
            if residual and prod(stride) % multiplier:
                raise CheckpointError(
                    f"decoder block {path} ({name}): {prod(stride)} copies of the input cannot be repeated to fill "
                    f"1/{multiplier} of {channels} channels."
                )
            block = Block(path, "resample", channels, channels // multiplier, stride=stride, residual=residual)
        else:
            block = Block(path, "attention", channels, channels)
        _no_noise(block, params, allowed=name == "res_x")
        blocks.append(block)
        channels = block.out_channels
    return tuple(blocks)


def _decoder_multiplier(name: str, params: Mapping[str, Any]) -> int:
    """Factor by which a decoder block narrows; also the check of the block's name."""
    if name in ("compress_time", "compress_space", "compress_all"):
        return _integer(params, "multiplier", 1)
    if name == "res_x_y":
        return _integer(params, "multiplier", 2)
    if name in ("res_x", "attn"):
        return 1
    raise CheckpointError(f"config.vae.decoder_blocks contains {name!r}, which is not a known block.")


def _no_noise(block: Block, params: Mapping[str, Any], *, allowed: bool) -> None:
    if params.get("inject_noise", False) and not allowed:
        raise CheckpointError(f"block {block.path} asks for inject_noise; only decoder res_x blocks can do that.")


def _entries(entries: Any, key: str) -> list[tuple[str, Mapping[str, Any]]]:
    parsed: list[tuple[str, Mapping[str, Any]]] = []
    for entry in entries:
        if not isinstance(entry, (list, tuple)) or len(entry) != 2 or not isinstance(entry[0], str):
            raise CheckpointError(f"config.vae.{key} must list [name, params] pairs, got {entry!r}.")
        name, params = entry
        if isinstance(params, int):
            params = {"num_layers": params}
        if not isinstance(params, Mapping):
            raise CheckpointError(f"config.vae.{key}: params of {name} must be an object, got {params!r}.")
        parsed.append((name, params))
    return parsed


def _factors(half: EncoderConfig | DecoderConfig) -> tuple[int, int]:
    spatial = half.patch_size * prod(block.stride[1] for block in half.blocks)
    return spatial, prod(block.stride[0] for block in half.blocks)


def _num_layers(params: Mapping[str, Any]) -> int:
    if "num_layers" not in params:
        raise CheckpointError(f"a res_x block of config.vae lacks num_layers: {dict(params)!r}.")
    return _integer(params, "num_layers", 1)


def _integer(section: Mapping[str, Any], key: str, default: int) -> int:
    value = section.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise CheckpointError(f"config.vae: {key} must be a positive integer, got {value!r}.")
    return value


def _require(section: Mapping[str, Any], key: str, expected: Any) -> None:
    value = section.get(key, expected)
    if value != expected:
        raise CheckpointError(f"config.vae: {key} is {value!r}; only {expected!r} is supported.")


def _padding_mode(mode: Any) -> str:
    if mode not in _PADDING_MODES:
        raise CheckpointError(
            f"config.vae spatial padding mode is {mode!r}; supported are {', '.join(sorted(_PADDING_MODES))}."
        )
    return _PADDING_MODES[mode]
