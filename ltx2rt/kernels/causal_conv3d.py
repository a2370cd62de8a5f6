"""3-D convolution with in-place padding, fused pixel norm and activation before it, bias and residual after it."""

from __future__ import annotations

import mlx.core as mx

from ltx2rt.kernels import mlx_ops, reference
from ltx2rt.kernels.kernel_choice import built
from ltx2rt.kernels.selection import Implementation, ext, spread
from ltx2rt.kernels.variants import ConvVariant

Pair = tuple[int, int]


def causal_conv3d(
    x: mx.array,
    weight: mx.array,
    bias: mx.array | None = None,
    *,
    stride: tuple[int, int, int] = (1, 1, 1),
    dilation: tuple[int, int, int] = (1, 1, 1),
    padding: tuple[Pair, Pair, Pair] = ((0, 0), (0, 0), (0, 0)),
    padding_mode: tuple[str, str, str] = ("edge", "zeros", "zeros"),
    pixel_norm_eps: float | None = None,
    scale: mx.array | None = None,
    shift: mx.array | None = None,
    activation: str | None = None,
    negative_slope: float = 0.1,
    residual: mx.array | None = None,
    halo: mx.array | None = None,
) -> mx.array:
    """``residual + bias + conv(pad(activation(pixel_norm(x) * (1 + scale) + shift)))``.

    Padding follows the prologue, so zeros stay zeros; a causal convolution pads time with ``(kt - 1, 0)``.

    Args:
        x: (B, F, H, W, C) float32 | float16 | bfloat16.
        weight: (O, kt, kh, kw, C), any float dtype.
        bias: (O,), any float dtype.
        stride: along (F, H, W).
        dilation: along (F, H, W).
        padding: (before, after) along (F, H, W); nothing is copied.
        padding_mode: per axis ``zeros``, ``edge`` (repeat the border) or ``reflect`` (mirror without the border).
        pixel_norm_eps: when given, x is divided by sqrt(mean over C of x**2 + eps) first.
        scale: (B, C), any float dtype, factor (1 + scale) after the norm.
        shift: (B, C), any float dtype.
        activation: None, ``silu`` or ``leaky_relu``.
        negative_slope: of leaky_relu.
        residual: shape of the result, dtype of x.
        halo: (B, f, H, W, C), dtype of x: frames that precede x in time (streaming); padding applies beyond them.

    Returns:
        (B, F', H', W', O), dtype of x. Sums are float32. A bfloat16 x is rounded again after the prologue where the
        processor multiplies bfloat16; 3x3 taps over a 16-bit x may be computed in the Winograd form. The error stays
        below that of the same steps in the dtype of x. Indices are 64-bit.

    Raises:
        ValueError: for shapes or dtypes that do not fit, naming the argument and what was received.

    Source: CausalConv3d and PixelNorm of Lightricks/LTX-2 ltx_core/model/video_vae @ v1.2.0.
    """
    optional = (bias, scale, shift, residual, halo)
    present = tuple(a is not None for a in optional)

    def build(chosen: Implementation) -> mx.array:
        formula = mlx_ops.causal_conv3d if chosen == "mlx" else reference.causal_conv3d

        def graph(x: mx.array, weight: mx.array, *others: mx.array) -> mx.array:
            bias, scale, shift, residual, halo = spread(others, present)
            return formula(
                x,
                weight,
                bias,
                stride=stride,
                dilation=dilation,
                padding=padding,
                padding_mode=padding_mode,
                pixel_norm_eps=pixel_norm_eps,
                scale=scale,
                shift=shift,
                activation=activation,
                negative_slope=negative_slope,
                residual=residual,
                halo=halo,
            )

        if ext is None:
            return graph(x, weight, *(a for a in optional if a is not None))
        made: mx.array = ext.causal_conv3d(
            x,
            weight,
            bias,
            stride=stride,
            dilation=dilation,
            padding=padding,
            padding_mode=padding_mode,
            pixel_norm_eps=pixel_norm_eps,
            scale=scale,
            shift=shift,
            activation=activation,
            negative_slope=negative_slope,
            residual=residual,
            halo=halo,
            reference=graph,
            use_reference=chosen not in ("kernel", "fenced"),
            fenced=chosen == "fenced",
        )
        return made

    return built(
        causal_conv3d,
        build,
        lambda: ConvVariant.of(
            x,
            weight,
            bias,
            stride,
            dilation,
            padding,
            padding_mode,
            pixel_norm_eps,
            scale,
            shift,
            activation,
            residual,
            halo,
        ),
    )


def conv2d(
    x: mx.array,
    weight: mx.array,
    bias: mx.array | None = None,
    *,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[Pair, Pair] = ((0, 0), (0, 0)),
    padding_mode: tuple[str, str] = ("zeros", "zeros"),
    pixel_norm_eps: float | None = None,
    activation: str | None = None,
    residual: mx.array | None = None,
) -> mx.array:
    """The 2-D case: x (B, H, W, C), weight (O, kh, kw, C); see `causal_conv3d`."""
    out = causal_conv3d(
        x[:, None],
        weight[:, None],
        bias,
        stride=(1, *stride),
        padding=((0, 0), *padding),
        padding_mode=("zeros", *padding_mode),
        pixel_norm_eps=pixel_norm_eps,
        activation=activation,
        residual=None if residual is None else residual[:, None],
    )
    return out[:, 0]


def conv1d(
    x: mx.array,
    weight: mx.array,
    bias: mx.array | None = None,
    *,
    stride: int = 1,
    dilation: int = 1,
    padding: Pair = (0, 0),
    padding_mode: str = "zeros",
    activation: str | None = None,
    negative_slope: float = 0.1,
    residual: mx.array | None = None,
) -> mx.array:
    """The 1-D case: x (B, S, C), weight (O, k, C); see `causal_conv3d`."""
    out = causal_conv3d(
        x[:, None, None],
        weight[:, None, None],
        bias,
        stride=(1, 1, stride),
        dilation=(1, 1, dilation),
        padding=((0, 0), (0, 0), padding),
        padding_mode=("zeros", "zeros", padding_mode),
        activation=activation,
        negative_slope=negative_slope,
        residual=None if residual is None else residual[:, None, None],
    )
    return out[:, 0, 0]


def conv_transpose1d(
    x: mx.array,
    weight: mx.array,
    bias: mx.array | None = None,
    *,
    stride: int,
    padding: int,
    activation: str | None = None,
    negative_slope: float = 0.1,
) -> mx.array:
    """Transposed 1-D convolution as one ordinary convolution whose output channels are the ``stride`` phases.

    Args:
        x: (B, S, C).
        weight: (O, k, C).
        bias: (O,).
        stride: upsampling factor.
        padding: cut from both ends of the full result.
        activation, negative_slope: applied to x first, as in `causal_conv3d`.

    Returns:
        (B, (S - 1) * stride - 2 * padding + k, O), dtype of x.

    Raises:
        ValueError: for shapes that do not fit, and as `causal_conv3d`.

    Source: torch.nn.functional.conv_transpose1d.
    """
    if x.ndim != 3 or weight.ndim != 3:
        raise ValueError(
            "[conv_transpose1d] x must have shape (B,S,C) and weight (O,k,C) "
            f"but they have {x.shape} and {weight.shape}."
        )
    if stride < 1:
        raise ValueError(f"[conv_transpose1d] stride must be positive but is {stride}.")
    batch, samples, _ = x.shape
    out_channels, k, channels = weight.shape
    length = (samples - 1) * stride - 2 * padding + k
    if padding < 0 or length < 1:
        raise ValueError(
            f"[conv_transpose1d] padding must leave samples of the {length + 2 * padding} of the full result but is "
            f"{padding} at both ends."
        )
    taps = -(-k // stride)
    # Full result sample n = i*stride + r collects weight tap r + stride*m at input i - m.
    unused = mx.zeros((out_channels, taps * stride - k, channels), dtype=weight.dtype)
    filled = mx.concatenate([weight, unused], axis=1)
    phases = filled.reshape(out_channels, taps, stride, channels)[:, ::-1].transpose(2, 0, 1, 3)
    full = conv1d(
        x,
        phases.reshape(stride * out_channels, taps, channels),
        None if bias is None else mx.tile(bias, stride),
        padding=(taps - 1, taps - 1),
        activation=activation,
        negative_slope=negative_slope,
    ).reshape(batch, (samples + taps - 1) * stride, out_channels)
    return full[:, padding : padding + length]
