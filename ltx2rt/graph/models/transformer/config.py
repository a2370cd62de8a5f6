"""The configuration of the joint audio/video transformer and the tensors it implies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ltx2rt.errors import CheckpointError
from ltx2rt.graph.models.layers.adaln import SINUSOID_WIDTH
from ltx2rt.types import ParamSpec

# Values that the code below relies on. A file that states another value is another model.
_FIXED_VALUES: dict[str, Any] = {
    "dropout": 0.0,
    "attention_bias": True,
    "num_vector_embeds": None,
    "activation_fn": "gelu-approximate",
    "num_embeds_ada_norm": 1000,
    "use_linear_projection": False,
    "only_cross_attention": False,
    "cross_attention_norm": True,
    "double_self_attention": False,
    "upcast_attention": False,
    "standardization_norm": "rms_norm",
    "norm_elementwise_affine": False,
    "qk_norm": "rms_norm",
    "positional_embedding_type": "rope",
    "use_audio_video_cross_attention": True,
    "share_ff": False,
    "av_cross_ada_norm": True,
    "use_middle_indices_grid": True,
}


@dataclass(frozen=True)
class StreamConfig:
    """What differs between the video and the audio stream.

    Attributes:
        num_heads, head_dim: of the self- and text attention; their product is the width D of the stream.
        in_channels, out_channels: of a token before the first and after the last projection.
        context_dim: width of the text tokens inside the blocks.
        max_positions: coordinate per axis (time in seconds, height and width in pixels) at the end of the rotary range.
        ff_bias: whether the feed-forward layers have biases.
    """

    num_heads: int
    head_dim: int
    in_channels: int
    out_channels: int
    context_dim: int
    max_positions: tuple[float, ...]
    ff_bias: bool

    @property
    def width(self) -> int:
        return self.num_heads * self.head_dim


@dataclass(frozen=True)
class TransformerConfig:
    """The transformer of one generation; the generations differ in these values only.

    Attributes:
        num_layers: number of blocks.
        video, audio: the two streams.
        norm_eps: of every norm.
        rope_theta, rope_layout, rope_float64: rotary embedding; layout ``split`` or ``interleaved``, frequency grid in
            float64 or float32.
        timestep_scale: factor from sigma to timestep.
        cross_gate_timestep_scale: the same for the gates of the exchange between the streams.
        text_modulation: N = 9 modulation rows instead of 6; the text attention and its context are modulated.
        prompt_adaln: the context modulation depends on sigma (only with text_modulation).
        gated_attention: every attention has a gate per head.
        caption_channels: width of the context before ``caption_projection``; None: the text path delivers it projected.
        keyframe_embedding: a learnt vector marks tokens of single pixel frames.
    """

    num_layers: int
    video: StreamConfig
    audio: StreamConfig
    norm_eps: float
    rope_theta: float
    rope_layout: str
    rope_float64: bool
    timestep_scale: float
    cross_gate_timestep_scale: float
    text_modulation: bool
    prompt_adaln: bool
    gated_attention: bool
    caption_channels: int | None
    keyframe_embedding: bool

    @property
    def modulation_rows(self) -> int:
        return 9 if self.text_modulation else 6

    @property
    def cross_max_time(self) -> float:
        """End of the rotary range of the exchange between the streams, seconds."""
        return max(self.video.max_positions[0], self.audio.max_positions[0])

    @classmethod
    def from_dict(cls, section: Mapping[str, Any]) -> TransformerConfig:
        """Read ``config["transformer"]`` of a checkpoint.

        Raises:
            CheckpointError: if a value is one that this model cannot have.

        Source: Lightricks/LTX-2 ltx_core/model/transformer/model_configurator.py @ v1.2.0. One default differs from
        it: av_ca_timestep_scale_multiplier is 1000, the value in every published file, where the library has 1.
        """
        for key, expected in _FIXED_VALUES.items():
            if key in section and section[key] != expected:
                raise CheckpointError(
                    f"transformer config: {key} is {section[key]!r}; only {expected!r} is supported. "
                    "The file holds another kind of model."
                )

        def number(key: str, default: float) -> float:
            value = section.get(key, default)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
                raise CheckpointError(f"transformer config: {key} is {value!r}; it must be a positive number.")
            return value

        def count(key: str, default: int) -> int:
            value = number(key, default)
            if value != int(value):
                raise CheckpointError(f"transformer config: {key} is {value!r}; it must be a whole number.")
            return int(value)

        def flag(key: str, default: bool) -> bool:
            value = section.get(key, default)
            if not isinstance(value, bool):
                raise CheckpointError(f"transformer config: {key} is {value!r}; it must be true or false.")
            return value

        def positions(key: str, default: list[int]) -> tuple[float, ...]:
            value = section.get(key, default)
            if not isinstance(value, list) or len(value) != len(default) or any(not v > 0 for v in value):
                raise CheckpointError(
                    f"transformer config: {key} is {value!r}; it must be {len(default)} positive numbers."
                )
            return tuple(float(v) for v in value)

        rope_layout = section.get("rope_type", "split")
        if rope_layout not in ("split", "interleaved"):
            raise CheckpointError(f"transformer config: rope_type is {rope_layout!r}; it must be split or interleaved.")
        video = StreamConfig(
            num_heads=count("num_attention_heads", 32),
            head_dim=count("attention_head_dim", 128),
            in_channels=count("in_channels", 128),
            out_channels=count("out_channels", 128),
            context_dim=count("cross_attention_dim", 4096),
            max_positions=positions("positional_embedding_max_pos", [20, 2048, 2048]),
            ff_bias=flag("ff_bias", True),
        )
        audio = StreamConfig(
            num_heads=count("audio_num_attention_heads", 32),
            head_dim=count("audio_attention_head_dim", 64),
            in_channels=count("audio_in_channels", 128),
            out_channels=count("audio_out_channels", 128),
            context_dim=count("audio_cross_attention_dim", 2048),
            max_positions=positions("audio_positional_embedding_max_pos", [20]),
            ff_bias=flag("audio_ff_bias", True),
        )
        if video.num_heads != audio.num_heads:
            raise CheckpointError(
                f"transformer config: num_attention_heads is {video.num_heads} and audio_num_attention_heads is "
                f"{audio.num_heads}; the exchange between the streams needs equal numbers."
            )
        projected = flag("caption_proj_before_connector", False)
        if audio.context_dim != audio.width or (video.context_dim != video.width and not projected):
            raise CheckpointError(
                f"transformer config: cross_attention_dim is {video.context_dim} and audio_cross_attention_dim is "
                f"{audio.context_dim}; with these heads they must be {video.width} and {audio.width}."
            )
        text_modulation = flag("cross_attention_adaln", False)
        return cls(
            num_layers=count("num_layers", 48),
            video=video,
            audio=audio,
            norm_eps=number("norm_eps", 1e-6),
            rope_theta=number("positional_embedding_theta", 10000.0),
            rope_layout=rope_layout,
            rope_float64=section.get("frequencies_precision") == "float64",
            timestep_scale=number("timestep_scale_multiplier", 1000),
            cross_gate_timestep_scale=number("av_ca_timestep_scale_multiplier", 1000),
            text_modulation=text_modulation,
            prompt_adaln=text_modulation and flag("use_prompt_adaln_single", True),
            gated_attention=flag("apply_gated_attention", False),
            caption_channels=None if projected else count("caption_channels", 3840),
            keyframe_embedding=flag("use_keyframes_abs_pos_embedding", False),
        )


def _linear(name: str, out_features: int, in_features: int, bias: bool = True) -> list[ParamSpec]:
    specs = [ParamSpec(f"{name}.weight", (out_features, in_features), layout="linear")]
    return [*specs, ParamSpec(f"{name}.bias", (out_features,))] if bias else specs


def _adaln(name: str, rows: int, width: int) -> list[ParamSpec]:
    return [
        *_linear(f"{name}.emb.timestep_embedder.linear_1", width, SINUSOID_WIDTH),
        *_linear(f"{name}.emb.timestep_embedder.linear_2", width, width),
        *_linear(f"{name}.linear", rows * width, width),
    ]


def _table(name: str, rows: int, width: int) -> ParamSpec:
    return ParamSpec(name, (rows, width), dtype="F32")


def _attention(name: str, config: TransformerConfig, *, q_dim: int, kv_dim: int, inner: int) -> list[ParamSpec]:
    specs = [
        *_linear(f"{name}.to_q", inner, q_dim),
        *_linear(f"{name}.to_k", inner, kv_dim),
        *_linear(f"{name}.to_v", inner, kv_dim),
        *_linear(f"{name}.to_out.0", q_dim, inner),
        ParamSpec(f"{name}.q_norm.weight", (inner,)),
        ParamSpec(f"{name}.k_norm.weight", (inner,)),
    ]
    if config.gated_attention:
        specs += _linear(f"{name}.to_gate_logits", config.video.num_heads, q_dim)
    return specs


def _stream_specs(config: TransformerConfig, stream: StreamConfig, prefix: str) -> list[ParamSpec]:
    """Outside the blocks; ``prefix`` is empty for video and ``audio_`` for audio."""
    width = stream.width
    specs = [
        *_linear(f"{prefix}patchify_proj", width, stream.in_channels),
        *_linear(f"{prefix}proj_out", stream.out_channels, width),
        *_adaln(f"{prefix}adaln_single", config.modulation_rows, width),
        _table(f"{prefix}scale_shift_table", 2, width),
    ]
    if config.prompt_adaln:
        specs += _adaln(f"{prefix}prompt_adaln_single", 2, width)
    if config.caption_channels is not None:
        specs += _linear(f"{prefix}caption_projection.linear_1", width, config.caption_channels)
        specs += _linear(f"{prefix}caption_projection.linear_2", width, width)
    return specs


def _stream_block_specs(config: TransformerConfig, stream: StreamConfig, block: str, prefix: str) -> list[ParamSpec]:
    width = stream.width
    specs = [
        *_attention(f"{block}{prefix}attn1", config, q_dim=width, kv_dim=width, inner=width),
        *_attention(f"{block}{prefix}attn2", config, q_dim=width, kv_dim=stream.context_dim, inner=width),
        *_linear(f"{block}{prefix}ff.net.0.proj", 4 * width, width, stream.ff_bias),
        *_linear(f"{block}{prefix}ff.net.2", width, 4 * width, stream.ff_bias),
        _table(f"{block}{prefix}scale_shift_table", config.modulation_rows, width),
    ]
    if config.text_modulation:
        specs.append(_table(f"{block}{prefix}prompt_scale_shift_table", 2, width))
    return specs


def _cross_specs(config: TransformerConfig) -> list[ParamSpec]:
    video, audio = config.video.width, config.audio.width
    return [
        *_adaln("av_ca_video_scale_shift_adaln_single", 4, video),
        *_adaln("av_ca_audio_scale_shift_adaln_single", 4, audio),
        *_adaln("av_ca_a2v_gate_adaln_single", 1, video),
        *_adaln("av_ca_v2a_gate_adaln_single", 1, audio),
    ]


def _cross_block_specs(config: TransformerConfig, block: str) -> list[ParamSpec]:
    video, audio = config.video.width, config.audio.width
    return [
        *_attention(f"{block}audio_to_video_attn", config, q_dim=video, kv_dim=audio, inner=audio),
        *_attention(f"{block}video_to_audio_attn", config, q_dim=audio, kv_dim=video, inner=audio),
        _table(f"{block}scale_shift_table_a2v_ca_video", 5, video),
        _table(f"{block}scale_shift_table_a2v_ca_audio", 5, audio),
    ]


def block_param_specs(
    config: TransformerConfig, index: int, *, video: bool = True, audio: bool = True
) -> list[ParamSpec]:
    """Tensors of block ``index``, named ``transformer_blocks.<index>.*``; see `param_specs`."""
    return list(_block_param_specs(config, index, video, audio))


@lru_cache(maxsize=512)  # every way of running a stage asks for those of all blocks
def _block_param_specs(config: TransformerConfig, index: int, video: bool, audio: bool) -> tuple[ParamSpec, ...]:
    block = f"transformer_blocks.{index}."
    specs = _stream_block_specs(config, config.video, block, "") if video else []
    specs += _stream_block_specs(config, config.audio, block, "audio_") if audio else []
    return (*specs, *(_cross_block_specs(config, block) if video and audio else ()))


def param_specs(config: TransformerConfig, *, video: bool = True, audio: bool = True) -> list[ParamSpec]:
    """Every tensor of the transformer, or of one of its streams alone, under its official name.

    Args:
        video, audio: the streams that will be run; what only the other one needs is left out.
    """
    specs = _stream_specs(config, config.video, "") if video else []
    specs += _stream_specs(config, config.audio, "audio_") if audio else []
    if video and config.keyframe_embedding:
        specs.append(ParamSpec("keyframes_abs_pos_embedding", (1, config.video.width)))
    if video and audio:
        specs += _cross_specs(config)
    for index in range(config.num_layers):
        specs += block_param_specs(config, index, video=video, audio=audio)
    return specs
