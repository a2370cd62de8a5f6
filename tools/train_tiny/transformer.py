"""The joint audio/video transformer in the 19B structure, with official tensor names."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import audio, config
from .attention import Attention, FeedForward, Rotation, modulated, rms, rotation
from .text import Context

VIDEO_USED = config.VIDEO_CHANNELS_USED
AUDIO_USED = audio.USED


@dataclass(frozen=True)
class Tokens:
    """One stream as the transformer receives it.

    Attributes:
        latent: (B, T, used channels).
        sigma: (B,) noise level of the stream.
        mask: (B, T) 1 where a token is generated and 0 where it is given; None: all generated.
        positions: (B, T, axes) middle of each token in seconds and pixels.
    """

    latent: Tensor
    sigma: Tensor
    mask: Tensor | None
    positions: Tensor


class TimestepEmbedder(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear_1, self.linear_2 = nn.Linear(256, width), nn.Linear(width, width)

    def forward(self, timestep: Tensor) -> Tensor:
        frequencies = torch.exp(-math.log(10000.0) * torch.arange(128, dtype=torch.float32) / 128)
        angles = timestep[..., None] * frequencies
        return self.linear_2(F.silu(self.linear_1(torch.cat([angles.cos(), angles.sin()], -1))))


class Embedding(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.timestep_embedder = TimestepEmbedder(width)


class AdaLayerNorm(nn.Module):
    """Rows of modulation from timesteps: (..., rows, D), and the embedding (..., D)."""

    def __init__(self, width: int, rows: int) -> None:
        super().__init__()
        self.emb = Embedding(width)
        self.linear = nn.Linear(width, rows * width)
        self._rows = rows

    def forward(self, timestep: Tensor) -> tuple[Tensor, Tensor]:
        embedded = self.emb.timestep_embedder(timestep)
        return self.linear(F.silu(embedded)).unflatten(-1, (self._rows, -1)), embedded

    def for_tokens(self, stream: Tokens) -> tuple[Tensor, Tensor]:
        """Modulation per sample (B, 1, rows, D), or per token where some tokens are given: those have timestep 0."""
        sigma = stream.sigma * 1000
        if stream.mask is None:
            return self(sigma[:, None])
        rows, embedded = self(torch.stack([torch.zeros_like(sigma), sigma], 1))
        sample = torch.arange(len(sigma))[:, None]
        index = (stream.mask > 0.5).long()
        return rows[sample, index], embedded[sample, index]


class CaptionProjection(nn.Module):
    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.linear_1, self.linear_2 = nn.Linear(channels, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(F.gelu(self.linear_1(x), approximate="tanh"))


@dataclass
class Stream:
    """A stream on its way through the blocks."""

    x: Tensor
    context: Tensor
    bias: Tensor | None
    turn: Rotation
    cross_turn: Rotation
    modulation: Tensor
    embedded: Tensor
    cross_modulation: Tensor
    gate: Tensor


class Block(nn.Module):
    def __init__(self, video: int, sound: int, heads: int) -> None:
        super().__init__()
        self.attn1, self.attn2 = (Attention(video, video, video, heads) for _ in range(2))
        self.audio_attn1, self.audio_attn2 = (Attention(sound, sound, sound, heads) for _ in range(2))
        self.audio_to_video_attn = Attention(video, sound, sound, heads)
        self.video_to_audio_attn = Attention(sound, video, sound, heads)
        self.ff, self.audio_ff = FeedForward(video), FeedForward(sound)
        self.scale_shift_table = nn.Parameter(torch.randn(6, video) / video**0.5)
        self.audio_scale_shift_table = nn.Parameter(torch.randn(6, sound) / sound**0.5)
        self.scale_shift_table_a2v_ca_video = nn.Parameter(torch.randn(5, video) / video**0.5)
        self.scale_shift_table_a2v_ca_audio = nn.Parameter(torch.randn(5, sound) / sound**0.5)

    def forward(self, video: Stream, sound: Stream, *, skip_self: bool = False, isolated: bool = False) -> None:
        self._attend(video, self.attn1, self.attn2, self.scale_shift_table, skip_self)
        self._attend(sound, self.audio_attn1, self.audio_attn2, self.audio_scale_shift_table, skip_self)
        if not isolated:
            self._exchange(video, sound)
        for stream, feed_forward, table in (
            (video, self.ff, self.scale_shift_table),
            (sound, self.audio_ff, self.audio_scale_shift_table),
        ):
            rows = (table + stream.modulation).unbind(-2)
            stream.x = torch.addcmul(stream.x, rows[5], feed_forward(modulated(stream.x, 1 + rows[4], rows[3])).float())

    def _attend(self, stream: Stream, own: Attention, text: Attention, table: Tensor, skip_self: bool) -> None:
        rows = (table + stream.modulation).unbind(-2)
        normed = modulated(stream.x, 1 + rows[1], rows[0])
        stream.x = torch.addcmul(stream.x, rows[2], own(normed, query_rotation=stream.turn, skip=skip_self).float())
        stream.x = stream.x + text(rms(stream.x), stream.context, bias=stream.bias)

    def _exchange(self, video: Stream, sound: Stream) -> None:
        tables = self.scale_shift_table_a2v_ca_video, self.scale_shift_table_a2v_ca_audio
        seen = (tables[0][:4] + video.cross_modulation).unbind(-2)
        heard = (tables[1][:4] + sound.cross_modulation).unbind(-2)
        x, y = video.x, sound.x
        to_video = self.audio_to_video_attn(
            modulated(x, 1 + seen[0], seen[1]),
            modulated(y, 1 + heard[0], heard[1]),
            query_rotation=video.cross_turn,
            key_rotation=sound.cross_turn,
        )
        to_sound = self.video_to_audio_attn(
            modulated(y, 1 + heard[2], heard[3]),
            modulated(x, 1 + seen[2], seen[3]),
            query_rotation=sound.cross_turn,
            key_rotation=video.cross_turn,
        )
        video.x = torch.addcmul(x, tables[0][4] + video.gate, to_video.float())
        sound.x = torch.addcmul(y, tables[1][4] + sound.gate, to_sound.float())


class Transformer(nn.Module):
    def __init__(self, settings: dict[str, Any] = config.TRANSFORMER) -> None:
        super().__init__()
        heads = settings["num_attention_heads"]
        video, sound = heads * settings["attention_head_dim"], heads * settings["audio_attention_head_dim"]
        channels = settings["caption_channels"]
        self._settings, self._heads, self._widths = settings, heads, (video, sound)
        self.patchify_proj = nn.Linear(settings["in_channels"], video)
        self.audio_patchify_proj = nn.Linear(settings["in_channels"], sound)
        self.adaln_single, self.audio_adaln_single = AdaLayerNorm(video, 6), AdaLayerNorm(sound, 6)
        self.av_ca_video_scale_shift_adaln_single = AdaLayerNorm(video, 4)
        self.av_ca_audio_scale_shift_adaln_single = AdaLayerNorm(sound, 4)
        self.av_ca_a2v_gate_adaln_single = AdaLayerNorm(video, 1)
        self.av_ca_v2a_gate_adaln_single = AdaLayerNorm(sound, 1)
        self.caption_projection = CaptionProjection(channels, video)
        self.audio_caption_projection = CaptionProjection(channels, sound)
        self.scale_shift_table = nn.Parameter(torch.randn(2, video) / video**0.5)
        self.audio_scale_shift_table = nn.Parameter(torch.randn(2, sound) / sound**0.5)
        self.proj_out = nn.Linear(video, settings["out_channels"])
        self.audio_proj_out = nn.Linear(sound, settings["audio_out_channels"])
        self.transformer_blocks = nn.ModuleList(Block(video, sound, heads) for _ in range(settings["num_layers"]))
        self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.dim() == 2 and "table" not in name:
                nn.init.xavier_uniform_(parameter)
        for module in self.modules():
            if isinstance(module, AdaLayerNorm):
                nn.init.normal_(module.linear.weight, std=0.02)
        for layer, used in ((self.patchify_proj, VIDEO_USED), (self.audio_patchify_proj, AUDIO_USED)):
            nn.init.normal_(layer.weight, std=used**-0.5)
            layer.weight[:, used:] = 0
        for layer in (self.proj_out, self.audio_proj_out):
            nn.init.zeros_(layer.weight)

    def forward(
        self, video: Tokens, sound: Tokens, context: Context, *, skip_self: tuple[int, ...] = (), isolated: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Velocities of the used channels of both streams, (B, T, C) and (B, L, C)."""
        seen, heard = self._stream(video, sound, context), self._stream(sound, video, context)
        for index, block in enumerate(self.transformer_blocks):
            block(seen, heard, skip_self=index in skip_self, isolated=isolated)
        return (
            self._velocity(seen, self.scale_shift_table, self.proj_out, VIDEO_USED),
            self._velocity(heard, self.audio_scale_shift_table, self.audio_proj_out, AUDIO_USED),
        )

    def _stream(self, own: Tokens, other: Tokens, context: Context) -> Stream:
        is_video = own.positions.shape[-1] == 3
        settings, sound_width = self._settings, self._widths[1]
        ends = torch.tensor([float(x) for x in settings["positional_embedding_max_pos"]][: own.positions.shape[-1]])
        if is_video:
            patchify, used, projection = self.patchify_proj, VIDEO_USED, self.caption_projection
            adaln, cross, gate = (
                self.adaln_single,
                self.av_ca_video_scale_shift_adaln_single,
                self.av_ca_a2v_gate_adaln_single,
            )
        else:
            patchify, used, projection = self.audio_patchify_proj, AUDIO_USED, self.audio_caption_projection
            adaln, cross, gate = (
                self.audio_adaln_single,
                self.av_ca_audio_scale_shift_adaln_single,
                self.av_ca_v2a_gate_adaln_single,
            )
        modulation, embedded = adaln.for_tokens(own)
        width = self._widths[0] if is_video else sound_width
        return Stream(
            x=F.linear(own.latent, patchify.weight[:, :used], patchify.bias),
            context=projection(context.video if is_video else context.audio),
            bias=context.bias,
            turn=rotation(own.positions / ends, width, self._heads),
            cross_turn=rotation(own.positions[..., :1] / ends[0], sound_width, self._heads),
            modulation=modulation,
            embedded=embedded,
            cross_modulation=cross.for_tokens(own)[0],
            gate=gate(other.sigma[:, None] * 1000)[0][..., 0, :],
        )

    def _velocity(self, stream: Stream, table: Tensor, projection: nn.Linear, used: int) -> Tensor:
        rows = table + stream.embedded[..., None, :]
        x = F.layer_norm(stream.x, (stream.x.shape[-1],), eps=1e-6) * (1 + rows[..., 1, :]) + rows[..., 0, :]
        return F.linear(x, projection.weight[:used], projection.bias[:used])
