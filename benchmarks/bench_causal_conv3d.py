"""causal_conv3d and its 1-D cases beside the reference, at the channel counts of the VAEs and the vocoder."""

from __future__ import annotations

import functools

import mlx.core as mx
import pytest

from ltx2rt.kernels import causal_conv3d, conv1d, reference

# name: frames, height, width, channels, out channels
VIDEO = {
    "48 to 128": (3, 32, 32, 48, 128),
    "128": (3, 32, 32, 128, 128),
    "256": (3, 16, 16, 256, 256),
    "512": (2, 8, 16, 512, 512),
    "1024": (1, 8, 12, 1024, 1024),
    "128 to 512, upsampling": (2, 16, 16, 128, 512),
    "128 to 48": (3, 32, 32, 128, 48),
}
REFERENCE_CASES = ("48 to 128",)  # the reference takes seconds for the others
# name: samples, channels, out channels, taps, dilation
AUDIO = {
    "vocoder 512 k3": (500, 512, 512, 3, 1),
    "vocoder 128 k7": (4000, 128, 128, 7, 3),
    "vocoder 32 k11": (24000, 32, 32, 11, 5),
    "vocoder to stereo": (24000, 32, 2, 7, 1),
}


def normal(shape: tuple[int, ...], seed: int, dtype: mx.Dtype) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(seed)).astype(dtype)


def run_reference(x: mx.array, weight: mx.array, bias: mx.array, **arguments: object) -> mx.array:
    absent = {
        "stride": (1,) * 3,
        "dilation": (1,) * 3,
        "scale": None,
        "shift": None,
        "negative_slope": 0.1,
        "halo": None,
    }
    return reference.causal_conv3d(x, weight, bias, **absent, **arguments)  # type: ignore[arg-type]


def evaluated(call, *arrays):
    def run():
        y = call(*arrays)
        mx.eval(y)
        return y

    return run


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16], ids=["f32", "bf16"])
@pytest.mark.parametrize(
    ("name", "impl"),
    [(name, causal_conv3d) for name in VIDEO] + [(name, run_reference) for name in REFERENCE_CASES],
    ids=[f"{name} kernel" for name in VIDEO] + [f"{name} reference" for name in REFERENCE_CASES],
)
def bench_causal_conv3d(benchmark, name, impl, dtype):
    frames, height, width, channels, out_channels = VIDEO[name]
    x = normal((1, frames, height, width, channels), 0, dtype)
    weight = normal((out_channels, 3, 3, 3, channels), 1, dtype)
    bias = normal((out_channels,), 2, dtype)
    residual = normal((1, frames, height, width, out_channels), 3, dtype)
    mx.eval(x, weight, bias, residual)
    call = functools.partial(
        impl,
        padding=((1, 1), (1, 1), (1, 1)),
        padding_mode=("edge", "zeros", "zeros"),
        pixel_norm_eps=1e-8,
        activation="silu",
        residual=residual,
    )
    benchmark.group = f"causal_conv3d {name} {dtype}"
    benchmark.extra_info["flop"] = 54 * frames * height * width * channels * out_channels
    result = benchmark.pedantic(evaluated(call, x, weight, bias), rounds=5, warmup_rounds=1).astype(mx.float32)
    assert result.shape == residual.shape
    assert mx.isfinite(result).all()
    if name in REFERENCE_CASES:
        wide = [a.astype(mx.float32) for a in (x, weight, bias)]
        exact = run_reference(*wide, **(call.keywords | {"residual": residual.astype(mx.float32)}))
        tolerance = 2**-6 if dtype == mx.bfloat16 else 1e-4
        assert mx.abs(result - exact).max() <= tolerance * mx.abs(exact).max()


@pytest.mark.parametrize("name", AUDIO)
def bench_conv1d(benchmark, name):
    samples, channels, out_channels, taps, dilation = AUDIO[name]
    x = normal((1, samples, channels), 0, mx.float32)
    weight, bias = normal((out_channels, taps, channels), 1, mx.float32), normal((out_channels,), 2, mx.float32)
    mx.eval(x, weight, bias)
    width = (taps - 1) * dilation // 2
    call = functools.partial(conv1d, dilation=dilation, padding=(width, width), activation="leaky_relu")
    benchmark.group = f"conv1d {name}"
    benchmark.extra_info["flop"] = 2 * samples * channels * out_channels * taps
    result = benchmark.pedantic(evaluated(call, x, weight, bias), rounds=5, warmup_rounds=1)
    # The last sample, by the formula; the activation stands before the convolution.
    padded = mx.pad(mx.where(x > 0, x, 0.1 * x), [(0, 0), (width, width), (0, 0)])
    exact = (weight * padded[:, samples - 1 :: dilation]).sum((1, 2)) + bias
    assert result.shape == (1, samples, out_channels)
    assert mx.abs(result[0, -1] - exact).max() <= 1e-4 * mx.abs(exact).max()
