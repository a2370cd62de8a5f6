"""Bilinear image resizing as torch does it, with the crops and paddings of the conditioning inputs."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from PIL import Image

from ltx2rt.errors import UsageError
from ltx2rt.types import Array


def bilinear(image: Array, height: int, width: int) -> Array:
    """Resize without antialiasing, pixel centres at half positions (``align_corners=False``).

    Args:
        image: (..., H, W, C), any real dtype.
        height, width: the new size, positive.

    Returns:
        (..., height, width, C) float32.

    Raises:
        UsageError: for an empty image or size.

    Source: torch.nn.functional.interpolate(mode="bilinear", antialias=False).
    """
    if height < 1 or width < 1 or 0 in image.shape[-3:-1]:
        raise UsageError(f"cannot resize {image.shape[-3:-1]} to ({height}, {width}); sides must be at least 1.")
    low, high, weight = _taps(image.shape[-2], width)
    across = image.astype(np.float32)
    across = across[..., low, :] * (1 - weight[:, None]) + across[..., high, :] * weight[:, None]
    low, high, weight = _taps(image.shape[-3], height)
    column = weight[:, None, None]
    result: Array = across[..., low, :, :] * (1 - column) + across[..., high, :, :] * column
    return result


def _taps(source: int, target: int) -> tuple[Array, Array, Array]:
    """For each target position the two source positions and the weight of the second."""
    step = np.float32(source / target)
    position = np.maximum(step * (np.arange(target, dtype=np.float32) + np.float32(0.5)) - np.float32(0.5), 0)
    low = np.minimum(position.astype(np.int64), source - 1)
    return low, np.minimum(low + 1, source - 1), (position - low).astype(np.float32)


def resize_to_cover(
    image: Array, height: int, width: int, scaled: Callable[[Array, int, int], Array] = bilinear
) -> Array:
    """Scale until both sides cover the target, then cut the centre (offsets rounded down).

    Args:
        image: (..., H, W, C).
        height, width: the target.
        scaled: how a picture is brought to a height and a width.

    Returns:
        (..., height, width, C) float32.

    Source: Lightricks/LTX-2 ltx_pipelines/utils/media_io/resize.py @ v1.2.0.
    """
    rows, columns = image.shape[-3], image.shape[-2]
    scale = max(height / rows, width / columns)
    tall, wide = math.ceil(rows * scale), math.ceil(columns * scale)
    top, left = (tall - height) // 2, (wide - width) // 2
    return scaled(image, tall, wide)[..., top : top + height, left : left + width, :]


def resize_to_fit(image: Array, height: int, width: int) -> Array:
    """Shrink until the image fits into the target (never enlarge), then fill the right and the bottom by mirroring.

    Where the margin is not smaller than the image, the border is repeated instead.

    Args:
        image: (..., H, W, C).
        height, width: the target.

    Returns:
        (..., height, width, C) float32.

    Source: Lightricks/LTX-2 ltx_pipelines/utils/media_io/resize.py @ v1.2.0 (resize_and_reflect_pad).
    """
    rows, columns = image.shape[-3], image.shape[-2]
    scale = min(height / rows, width / columns, 1.0)
    tall, wide = round(rows * scale), round(columns * scale)
    inside = bilinear(image, tall, wide)
    below, right = height - tall, width - wide
    margins = [(0, 0)] * (image.ndim - 3) + [(0, below), (0, right), (0, 0)]
    if below < tall and right < wide:
        return np.pad(inside, margins, mode="reflect")
    return np.pad(inside, margins, mode="edge")


def lanczos(picture: Array, height: int, width: int) -> Array:
    """A picture (H, W, 3) uint8 at another size, (height, width, 3) uint8, as Pillow resizes it."""
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS))
