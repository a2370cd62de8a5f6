"""The video VAE and the latent upscalers in float64 numpy, written from the formulas with weights in torch layout."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import mlx.core as mx
import numpy as np

from ltx2rt.types import LinearWeight, ParamSpec

Array = np.ndarray[Any, np.dtype[Any]]
Weights = dict[str, Array]
Stride = tuple[int, int, int]

NUMPY_MODE = {"zeros": "constant", "reflect": "reflect", "replicate": "edge"}


def random_weights(specs: Iterable[ParamSpec], seed: int) -> Weights:
    """Float32 arrays in the official layout; fans keep activations near 1."""
    rng = np.random.default_rng(seed)
    weights: Weights = {}
    for spec in specs:
        values = rng.standard_normal(spec.shape)
        if len(spec.shape) > 1 and spec.layout != "as_stored":
            values /= np.sqrt(np.prod(spec.shape[1:]))
        if spec.name.endswith(("std-of-means", "norm.weight", "gamma")):
            values = 1 + 0.2 * values
        if spec.name.endswith("timestep_scale_multiplier"):
            values = np.array(1000.0)
        weights[spec.name] = np.asarray(0.3 * values if spec.name.endswith("bias") else values, np.float32)
    return weights


def as_loaded(specs: Iterable[ParamSpec], weights: Mapping[str, Array]) -> dict[str, mx.array | LinearWeight]:
    """What the loader makes of them."""
    loaded: dict[str, mx.array | LinearWeight] = {}
    for spec in specs:
        value = weights[spec.name]
        if spec.layout == "conv":
            loaded[spec.name] = mx.array(np.ascontiguousarray(np.moveaxis(value, 1, -1)))
        elif spec.layout == "linear":
            loaded[spec.name] = LinearWeight("dense", mx.array(value))
        else:
            loaded[spec.name] = mx.array(value)
    return loaded


def silu(x: Array) -> Array:
    return x / (1 + np.exp(-x))


def pixel_norm(x: Array) -> Array:
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + 1e-8)


def group_norm(x: Array, weight: Array, bias: Array, groups: int, eps: float) -> Array:
    """x (F, H, W, C) of one clip."""
    split = x.reshape(-1, groups, x.shape[-1] // groups)
    mean, var = split.mean(axis=(0, 2), keepdims=True), split.var(axis=(0, 2), keepdims=True)
    return ((split - mean) / np.sqrt(var + eps)).reshape(x.shape) * weight + bias


def correlate(x: Array, weight: Array, bias: Array, stride: Stride = (1, 1, 1)) -> Array:
    """x (F, H, W, C) already padded, weight (O, C, kt, kh, kw)."""
    kernel = weight.shape[2:]
    size = [(length - k) // s + 1 for length, k, s in zip(x.shape, kernel, stride, strict=False)]
    out = np.zeros((*size, weight.shape[0])) + bias
    for tap in np.ndindex(*kernel):
        window = tuple(slice(t, t + s * (n - 1) + 1, s) for t, n, s in zip(tap, size, stride, strict=True))
        out += x[window] @ weight[(slice(None), slice(None), *tap)].T.astype(np.float64)
    return out


def fold(x: Array, stride: Stride) -> Array:
    """Space to depth, one output channel at a time: index c*P + it*(sh*sw) + ih*sw + iw."""
    st, sh, sw = stride
    parts = [
        x[it::st, ih::sh, iw::sw, c]
        for c in range(x.shape[-1])
        for it in range(st)
        for ih in range(sh)
        for iw in range(sw)
    ]
    return np.stack(parts, axis=-1)


def unfold(x: Array, stride: Stride) -> Array:
    """Depth to space, one input channel at a time."""
    st, sh, sw = stride
    frames, height, width, packed = x.shape
    out = np.zeros((frames * st, height * sh, width * sw, packed // (st * sh * sw)))
    for index in range(packed):
        c, rest = divmod(index, st * sh * sw)
        it, rest = divmod(rest, sh * sw)
        ih, iw = divmod(rest, sw)
        out[it::st, ih::sh, iw::sw, c] = x[..., index]
    return out


class NumpyVideoVae:
    """Encoder and decoder of one clip; ``config`` is an official ``config.vae``."""

    def __init__(self, config: Mapping[str, Any], weights: Weights, causal_decoder: bool = False) -> None:
        self.config = config
        self.weights = weights
        self.causal_decoder = causal_decoder
        self.mode = "constant"
        self.causal = True

    def encode(self, frames: Array) -> Array:
        """(F, H, W, 3) -> normalised latent (f, h, w, C)."""
        self.mode, self.causal = NUMPY_MODE[self.config.get("spatial_padding_mode", "zeros")], True
        p = self.config["patch_size"]
        x = np.stack([frames[:, q::p, r::p, c] for c in range(3) for r in range(p) for q in range(p)], axis=-1)
        x = self.conv(x.astype(np.float64), "encoder.conv_in.conv")
        for index, (name, params) in enumerate(self.config["encoder_blocks"]):
            path = f"encoder.down_blocks.{index}"
            if name.endswith("_res"):
                stride = {"time": (2, 1, 1), "space": (1, 2, 2), "all": (2, 2, 2)}[name.split("_")[1]]
                if stride[0] == 2:
                    x = np.concatenate([x[:1], x])
                out = x.shape[-1] * params["multiplier"]
                skip = fold(x, stride)
                skip = skip.reshape(*skip.shape[:3], out, -1).mean(axis=-1)
                x = fold(self.conv(x, f"{path}.conv.conv"), stride) + skip
            elif name.startswith("compress"):
                stride = {"time": (2, 1, 1), "space": (1, 2, 2), "all": (2, 2, 2)}[name.split("_")[1]]
                x = self.conv(x, f"{path}.conv", stride)
            else:
                x = self.same_size(x, name, params, path)
        moments = self.conv(silu(pixel_norm(x)), "encoder.conv_out.conv")
        mean, std = self.statistics()
        return (moments[..., : len(mean)] - mean) / std

    def decode(
        self, latent: Array, draw: Callable[[tuple[int, ...]], Array] | None = None, timestep: float = 0.05
    ) -> Array:
        """Normalised latent (f, h, w, C) -> (F, H, W, 3)."""
        self.mode = NUMPY_MODE[self.config.get("spatial_padding_mode", "reflect")]
        self.causal = self.causal_decoder
        sinusoid = None
        x = latent.astype(np.float64)
        if self.config["timestep_conditioning"]:
            assert draw is not None
            noise = draw((1, x.shape[3], *x.shape[:3]))[0].transpose(1, 2, 3, 0)
            x = 0.025 * noise + 0.975 * x
            angles = timestep * 1000.0 * np.exp(-np.log(10000.0) * np.arange(128) / 128)
            sinusoid = np.concatenate([np.cos(angles), np.sin(angles)])
        mean, std = self.statistics()
        x = self.conv(x * std + mean, "decoder.conv_in.conv")
        for index, (name, params) in enumerate(reversed(self.config["decoder_blocks"])):
            path = f"decoder.up_blocks.{index}"
            if name.startswith("compress"):
                stride = {"time": (2, 1, 1), "space": (1, 2, 2), "all": (2, 2, 2)}[name.split("_")[1]]
                out = unfold(self.conv(x, f"{path}.conv.conv"), stride)
                if params.get("residual"):
                    copy = unfold(x, stride)
                    out = out + np.concatenate([copy] * (out.shape[-1] // copy.shape[-1]), axis=-1)
                x = out[1:] if stride[0] == 2 else out
            else:
                x = self.same_size(x, name, params, path, sinusoid, draw)
        x = pixel_norm(x)
        if sinusoid is not None:
            embedded = self.embed(sinusoid, "decoder.last_time_embedder")
            shift, scale = self.weights["decoder.last_scale_shift_table"] + embedded.reshape(2, -1)
            x = x * (1 + scale) + shift
        x = self.conv(silu(x), "decoder.conv_out.conv")
        p = self.config["patch_size"]
        out = np.zeros((x.shape[0], x.shape[1] * p, x.shape[2] * p, 3))
        for index in range(x.shape[-1]):
            c, rest = divmod(index, p * p)
            r, q = divmod(rest, p)
            out[:, q::p, r::p, c] = x[..., index]
        return out

    def same_size(
        self,
        x: Array,
        name: str,
        params: Mapping[str, Any],
        path: str,
        sinusoid: Array | None = None,
        draw: Callable[[tuple[int, ...]], Array] | None = None,
    ) -> Array:
        if name == "attn":
            return x + np.stack([self.attention(frame, path) for frame in x])
        if name == "res_x_y":
            return self.residual(x, path, None, None)
        embedded = None if sinusoid is None else self.embed(sinusoid, f"{path}.time_embedder").reshape(4, -1)
        settings = {"num_layers": params} if isinstance(params, int) else params
        draw = draw if settings.get("inject_noise") else None
        for layer in range(settings["num_layers"]):
            x = self.residual(x, f"{path}.res_blocks.{layer}", embedded, draw)
        return x

    def residual(
        self, x: Array, path: str, embedded: Array | None, draw: Callable[[tuple[int, ...]], Array] | None
    ) -> Array:
        h = x
        for number in (1, 2):
            h = pixel_norm(h)
            if embedded is not None:
                shift, scale = (self.weights[f"{path}.scale_shift_table"] + embedded)[2 * number - 2 : 2 * number]
                h = h * (1 + scale) + shift
            h = self.conv(silu(h), f"{path}.conv{number}.conv")
            if draw is not None:
                scale = self.weights[f"{path}.per_channel_scale{number}"].reshape(-1)
                h = h + draw((h.shape[1], h.shape[2]))[..., None] * scale
        if f"{path}.conv_shortcut.weight" in self.weights:
            x = group_norm(x, self.weights[f"{path}.norm3.weight"], self.weights[f"{path}.norm3.bias"], 1, 1e-6)
            x = correlate(x, self.weights[f"{path}.conv_shortcut.weight"], self.weights[f"{path}.conv_shortcut.bias"])
        return x + h

    def attention(self, frame: Array, path: str) -> Array:
        channels = frame.shape[-1]
        flat = frame.reshape(-1, channels)
        normed = flat / np.linalg.norm(flat, axis=1, keepdims=True) * np.sqrt(channels)
        normed = normed * self.weights[f"{path}.norm.gamma"].reshape(-1)
        q, k, v = np.split(self.pointwise(normed, f"{path}.to_qkv"), 3, axis=1)
        scores = q @ k.T / np.sqrt(channels)
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        return self.pointwise(scores / scores.sum(axis=1, keepdims=True) @ v, f"{path}.proj").reshape(frame.shape)

    def pointwise(self, x: Array, path: str) -> Array:
        return x @ self.weights[f"{path}.weight"][:, :, 0, 0].T + self.weights[f"{path}.bias"]

    def embed(self, sinusoid: Array, path: str) -> Array:
        w = {n: self.weights[f"{path}.timestep_embedder.{n}"] for n in ("linear_1.weight", "linear_2.weight")}
        b = {n: self.weights[f"{path}.timestep_embedder.{n}"] for n in ("linear_1.bias", "linear_2.bias")}
        hidden = silu(w["linear_1.weight"] @ sinusoid + b["linear_1.bias"])
        return w["linear_2.weight"] @ hidden + b["linear_2.bias"]

    def conv(self, x: Array, path: str, stride: Stride = (1, 1, 1)) -> Array:
        time = (2, 0) if self.causal else (1, 1)
        x = np.pad(x, (time, (0, 0), (0, 0), (0, 0)), mode="edge")
        x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode=self.mode)  # type: ignore[call-overload]
        return correlate(x, self.weights[f"{path}.weight"], self.weights[f"{path}.bias"], stride)

    def statistics(self) -> tuple[Array, Array]:
        return (
            self.weights["per_channel_statistics.mean-of-means"].astype(np.float64),
            self.weights["per_channel_statistics.std-of-means"].astype(np.float64),
        )


def upscale(latent: Array, weights: Weights, blocks: int, stride: Stride, down: int = 1) -> Array:
    """A latent upscaler: (f, h, w, C) un-normalised -> un-normalised."""

    def conv(x: Array, name: str) -> Array:
        return correlate(
            np.pad(x, ((1, 1), (1, 1), (1, 1), (0, 0))), weights[f"{name}.weight"], weights[f"{name}.bias"]
        )

    def norm(x: Array, name: str) -> Array:
        return group_norm(x, weights[f"{name}.weight"], weights[f"{name}.bias"], 32, 1e-5)

    def block(x: Array, name: str) -> Array:
        h = silu(norm(conv(x, f"{name}.conv1"), f"{name}.norm1"))
        return silu(norm(conv(h, f"{name}.conv2"), f"{name}.norm2") + x)

    x = silu(norm(conv(latent.astype(np.float64), "initial_conv"), "initial_norm"))
    for index in range(blocks):
        x = block(x, f"res_blocks.{index}")
    name = "upsampler.conv" if "upsampler.conv.weight" in weights else "upsampler.0"
    weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
    if weight.ndim == 4:
        x = correlate(np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), weight[:, :, None], bias)
    else:
        x = conv(x, name)
    x = unfold(x, stride)[stride[0] - 1 :]
    if down > 1:
        taps = np.array([1, 4, 6, 4, 1]) / 16
        kernel = np.zeros((x.shape[-1], x.shape[-1], 1, 5, 5))
        kernel[np.arange(x.shape[-1]), np.arange(x.shape[-1]), 0] = np.outer(taps, taps)
        x = correlate(np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0))), kernel, np.zeros(1), (1, down, down))
    for index in range(blocks):
        x = block(x, f"post_upsample_res_blocks.{index}")
    return conv(x, "final_conv")
