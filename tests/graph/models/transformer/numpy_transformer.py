"""The audio/video transformer in float64 numpy, token by token and head by head, as the judge of the real one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Array = np.ndarray
F32_MAX = float(np.finfo(np.float32).max)


def sigmoid(x: Array) -> Array:
    return 1.0 / (1.0 + np.exp(-x))


def gelu(x: Array) -> Array:
    return 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))


def rms(x: Array, eps: float) -> Array:
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps)


class NumpyTransformer:
    """``config`` is the official section, ``w`` maps official names to arrays, inputs are dicts of numpy arrays."""

    def __init__(self, config: dict[str, Any], w: dict[str, Array]) -> None:
        self.c = config
        self.w = {name: value.astype(np.float64) for name, value in w.items()}
        self.eps = config["norm_eps"]
        self.heads = config["num_attention_heads"]

    def linear(self, name: str, x: Array) -> Array:
        y = x @ self.w[name + ".weight"].T
        return y + self.w[name + ".bias"] if name + ".bias" in self.w else y

    def adaln(self, name: str, timestep: Array) -> tuple[Array, Array]:
        """timestep (...,) -> modulation (..., k, D) and embedding (..., D)."""
        frequency = np.exp(-math.log(10000.0) * np.arange(128) / 128).astype(np.float32)
        angle = (timestep.astype(np.float32)[..., None] * frequency).astype(np.float64)
        h = self.linear(f"{name}.emb.timestep_embedder.linear_1", np.concatenate([np.cos(angle), np.sin(angle)], -1))
        emb = self.linear(f"{name}.emb.timestep_embedder.linear_2", h * sigmoid(h))
        mod = self.linear(f"{name}.linear", emb * sigmoid(emb))
        return mod.reshape(*timestep.shape, -1, emb.shape[-1]), emb

    def angles(self, middle: Array, dim: int, max_pos: list[float]) -> Array:
        """middle (B, P, T) -> (B, T, dim/2) angles, identity lanes in front."""
        axes = middle.shape[1]
        m = dim // (2 * axes)
        grid = (self.c["positional_embedding_theta"] ** np.linspace(0, 1, m) * (math.pi / 2)).astype(np.float32)
        lanes = []
        for j in range(m):
            for p in range(axes):
                fraction = middle[:, p].astype(np.float32) / np.float32(max_pos[p])
                lanes.append(grid[j] * (np.float32(2) * fraction - np.float32(1)))
        pad = [np.zeros_like(middle[:, 0])] * (dim // 2 - m * axes)
        return np.stack(pad + lanes, axis=-1).astype(np.float64)

    def rotate(self, x: Array, angles: Array) -> Array:
        """x (B, T, N*K)."""
        out = np.empty_like(x)
        half = x.shape[-1] // self.heads // 2
        for head in range(self.heads):
            cos = np.cos(angles[..., head * half : (head + 1) * half])
            sin = np.sin(angles[..., head * half : (head + 1) * half])
            start = head * 2 * half
            if self.c["rope_type"] == "split":
                first, second = slice(start, start + half), slice(start + half, start + 2 * half)
            else:
                first, second = slice(start, start + 2 * half, 2), slice(start + 1, start + 2 * half, 2)
            a, b = x[..., first], x[..., second]
            out[..., first], out[..., second] = a * cos - b * sin, b * cos + a * sin
        return out

    def attention(
        self,
        name: str,
        query: Array,
        other: Array,
        angles_q: Array | None = None,
        angles_k: Array | None = None,
        bias: Array | None = None,
        keep: Array | None = None,
    ) -> Array:
        """``keep`` (B,): 0 puts the values in the place of the attention output."""
        q, k, v = (self.linear(f"{name}.{p}", x) for p, x in (("to_q", query), ("to_k", other), ("to_v", other)))
        q = rms(q, self.eps) * self.w[f"{name}.q_norm.weight"]
        k = rms(k, self.eps) * self.w[f"{name}.k_norm.weight"]
        if angles_q is not None and angles_k is not None:
            q, k = self.rotate(q, angles_q), self.rotate(k, angles_k)
        size = q.shape[-1] // self.heads
        out = np.empty_like(q)
        for head in range(self.heads):
            own = slice(head * size, (head + 1) * size)
            scores = q[..., own] @ k[..., own].swapaxes(1, 2) / math.sqrt(size)
            if bias is not None:
                scores = scores + bias
            scores = np.exp(scores - scores.max(-1, keepdims=True))
            out[..., own] = scores / scores.sum(-1, keepdims=True) @ v[..., own]
        if keep is not None:
            out = np.stack([o if kept else values for o, values, kept in zip(out, v, keep, strict=True)])
        if self.c["apply_gated_attention"]:
            gates = 2.0 * sigmoid(self.linear(f"{name}.to_gate_logits", query))
            out = out * np.repeat(gates, size, axis=-1)
        return self.linear(f"{name}.to_out.0", out)

    def prepare(self, name: str, own: dict[str, Any], other: dict[str, Any] | None) -> dict[str, Any]:
        c, prefix = self.c, "audio_" if name == "audio" else ""
        scale = c["timestep_scale_multiplier"]
        max_pos = c[f"{prefix}positional_embedding_max_pos"]
        width = c[f"{prefix}num_attention_heads"] * c[f"{prefix}attention_head_dim"]
        x = self.linear(f"{prefix}patchify_proj", own["latent"])
        if "keyframes_abs_pos_embedding" in self.w and name == "video" and own.get("keyframes_mask") is not None:
            x = x + (own["keyframes_mask"] > 0)[..., None] * self.w["keyframes_abs_pos_embedding"]
        context = own["context"].astype(np.float64)
        if not c["caption_proj_before_connector"]:
            context = gelu(self.linear(f"{prefix}caption_projection.linear_1", context))
            context = self.linear(f"{prefix}caption_projection.linear_2", context)
        middle = own["positions"].mean(axis=-1)
        s: dict[str, Any] = {"name": name, "prefix": prefix, "x": x, "context": context}
        s["enabled"] = own.get("enabled", True)
        s["angles"] = self.angles(middle, width, max_pos)
        s["mod"], s["emb"] = self.adaln(f"{prefix}adaln_single", own["timesteps"] * scale)
        mask = own.get("attention_mask")
        s["bias"] = None if mask is None else np.where(mask > 0, np.log(np.maximum(mask, 1e-30)), -F32_MAX)
        mask = own.get("context_mask")
        s["text_bias"] = None if mask is None else ((mask - 1.0) * F32_MAX)[:, None]
        if f"{prefix}prompt_adaln_single.linear.weight" in self.w:
            s["prompt"] = self.adaln(f"{prefix}prompt_adaln_single", own["sigma"] * scale)[0]
        if other is not None:
            cross_max = [max(c["positional_embedding_max_pos"][0], c["audio_positional_embedding_max_pos"][0])]
            s["cross_angles"] = self.angles(middle[:, :1], c["audio_cross_attention_dim"], cross_max)
            s["cross_mod"] = self.adaln(f"av_ca_{name}_scale_shift_adaln_single", own["timesteps"] * scale)[0]
            gate = "av_ca_a2v_gate_adaln_single" if name == "video" else "av_ca_v2a_gate_adaln_single"
            s["cross_gate"] = self.adaln(gate, other["sigma"] * c["av_ca_timestep_scale_multiplier"])[0]
        return s

    def block(self, index: int, streams: dict[str, dict[str, Any]], keep: dict[str, Array]) -> None:
        b = f"transformer_blocks.{index}."
        mods = {}
        for name, s in streams.items():
            if not s["enabled"]:
                continue
            p = b + s["prefix"]
            m = mods[name] = self.w[f"{p}scale_shift_table"] + s["mod"]
            h = rms(s["x"], self.eps) * (1 + m[:, :, 1]) + m[:, :, 0]
            kept = keep[f"skip_{name}_self_attn"]
            s["x"] = s["x"] + m[:, :, 2] * self.attention(f"{p}attn1", h, h, s["angles"], s["angles"], s["bias"], kept)
            h, context = rms(s["x"], self.eps), s["context"]
            if self.c["cross_attention_adaln"]:
                h = h * (1 + m[:, :, 7]) + m[:, :, 6]
                table = self.w[f"{p}prompt_scale_shift_table"][None]
                prompt = table + s["prompt"] if "prompt" in s else table
                context = context * (1 + prompt[:, 1:2]) + prompt[:, 0:1]
            out = self.attention(f"{p}attn2", h, context, bias=s["text_bias"])
            s["x"] = s["x"] + (m[:, :, 8] * out if self.c["cross_attention_adaln"] else out)
        if len(streams) == 2:
            before = {name: rms(s["x"], self.eps) for name, s in streams.items()}
            directions = (("audio_to_video_attn", "video", "audio", 0), ("video_to_audio_attn", "audio", "video", 2))
            for attention, target, source, row in directions:
                t = streams[target]
                if not t["enabled"]:
                    continue
                inputs = {}
                for name in (target, source):
                    m = self.w[f"{b}scale_shift_table_a2v_ca_{name}"][:4] + streams[name]["cross_mod"]
                    inputs[name] = before[name] * (1 + m[:, :, row]) + m[:, :, row + 1]
                gate = self.w[f"{b}scale_shift_table_a2v_ca_{target}"][4] + t["cross_gate"]
                out = self.attention(
                    b + attention,
                    inputs[target],
                    inputs[source],
                    t["cross_angles"],
                    streams[source]["cross_angles"],
                )
                kept = keep["skip_a2v_cross_attn" if target == "video" else "skip_v2a_cross_attn"]
                t["x"] = t["x"] + gate * out * kept[:, None, None]
        for name, s in streams.items():
            if s["enabled"]:
                m, p = mods[name], b + s["prefix"]
                h = rms(s["x"], self.eps) * (1 + m[:, :, 4]) + m[:, :, 3]
                h = self.linear(f"{p}ff.net.2", gelu(self.linear(f"{p}ff.net.0.proj", h)))
                s["x"] = s["x"] + m[:, :, 5] * h

    def __call__(
        self,
        video: dict[str, Any] | None,
        audio: dict[str, Any] | None,
        perturbations: list[list[tuple[str, set[int] | None]]] | None = None,
    ) -> tuple[Array | None, Array | None]:
        streams = {}
        if video is not None:
            streams["video"] = self.prepare("video", video, audio)
        if audio is not None:
            streams["audio"] = self.prepare("audio", audio, video)
        batch = next(iter(streams.values()))["x"].shape[0]
        kinds = ("skip_video_self_attn", "skip_audio_self_attn", "skip_a2v_cross_attn", "skip_v2a_cross_attn")
        for index in range(self.c["num_layers"]):
            keep = {kind: np.ones(batch) for kind in kinds}
            for sample, listed in enumerate(perturbations or []):
                for kind, blocks in listed:
                    if blocks is None or index in blocks:
                        keep[kind][sample] = 0.0
            self.block(index, streams, keep)
        return self.head(streams.get("video")), self.head(streams.get("audio"))

    def head(self, s: dict[str, Any] | None) -> Array | None:
        if s is None:
            return None
        shift, scale = (self.w[f"{s['prefix']}scale_shift_table"][row] + s["emb"] for row in (0, 1))
        x = s["x"] - s["x"].mean(axis=-1, keepdims=True)
        return self.linear(f"{s['prefix']}proj_out", rms(x, self.eps) * (1 + scale) + shift)
