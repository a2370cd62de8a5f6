"""How a picture of other proportions comes to the size of a clip: cut, filled, stretched, or refused."""

from __future__ import annotations

import numpy as np
from PIL import Image

from ltx2rt.errors import UsageError
from ltx2rt.media.resize import bilinear, resize_to_cover
from ltx2rt.types import Array

FITS = ("crop", "pad", "stretch", "error")
# Bilinear interpolation looks at two pixels: where there are more than two for a new one, it leaves some out.
_MUCH_LARGER = 2


def fitted(image: Array, height: int, width: int, way: str = "crop", *, antialias: bool = False) -> Array:
    """A picture, or a stack of them, at another size.

    ``crop`` scales it to cover the size and cuts the centre, ``pad`` scales it to lie inside and fills the rest with
    black, ``stretch`` scales each side for itself; ``error`` takes pictures of these proportions alone.

    Args:
        image: (..., H, W, 3) uint8, or float32 in 0 to 255.
        height, width: the target.
        way: one of `FITS`.
        antialias: pictures that are more than twice as large as needed are reduced with a filter as wide as their
            pixels lie close (Pillow's bilinear one); else as the official code does it, without antialiasing.

    Returns:
        (..., height, width, 3) float32 in 0 to 255.

    Raises:
        UsageError: ``error``, and the proportions are others.
    """
    rows, columns = image.shape[-3:-1]
    if way == "error" and fit_words(rows, columns, height, width, "crop"):
        raise UsageError(
            f"a picture of {columns}x{rows} has not the proportions of {width}x{height}; cut it, or choose the fit "
            "crop, pad or stretch."
        )
    scaled = _reduced if antialias else bilinear
    if way == "stretch":
        return scaled(image, height, width)
    if way == "pad":
        tall, wide = inner_size(rows, columns, height, width)
        top, left = (height - tall) // 2, (width - wide) // 2
        result = np.zeros((*image.shape[:-3], height, width, image.shape[-1]), np.float32)
        result[..., top : top + tall, left : left + wide, :] = scaled(image, tall, wide)
        return result
    return resize_to_cover(image, height, width, scaled)


def inner_size(rows: int, columns: int, height: int, width: int) -> tuple[int, int]:
    """(height, width) of a picture that is scaled to lie inside a size."""
    scale = min(height / rows, width / columns)
    return max(1, round(rows * scale)), max(1, round(columns * scale))


def fit_words(rows: int, columns: int, height: int, width: int, way: str) -> str:
    """What a fit costs, for one line to the user; empty: less than a pixel.

    Args:
        rows, columns: of the picture.
        height, width: of the clip.
        way: ``crop``, ``pad`` or ``stretch``.
    """
    across, down = width / columns, height / rows
    larger, smaller = max(across, down), min(across, down)
    surplus = max(columns * larger - width, rows * larger - height)
    if surplus < 1:
        return ""
    sizes = f"{columns}x{rows} becomes {width}x{height}"
    wider = down > across  # what covers the height is too wide
    if way == "stretch":
        return f"{sizes}, stretched by {larger / smaller:.2f} {'down' if wider else 'across'}"
    side = "width" if wider else "height"
    if way == "crop":
        return f"{sizes}, {1 - smaller / larger:.0%} of its {side} is cut away, half at each end"
    places = "above and below" if wider else "left and right"
    return f"{sizes}, {1 - smaller / larger:.0%} of it black {places}"


def is_much_larger(rows: int, columns: int, height: int, width: int) -> bool:
    """Whether bilinear interpolation of a picture would leave some of its pixels out."""
    return rows > _MUCH_LARGER * height or columns > _MUCH_LARGER * width


def _reduced(image: Array, height: int, width: int) -> Array:
    """`bilinear`, antialiased where the picture is much larger."""
    rows, columns = image.shape[-3:-1]
    if not is_much_larger(rows, columns, height, width):
        return bilinear(image, height, width)
    pictures = image.reshape(-1, rows, columns, 3)
    size = (width, height)
    small = [_filtered(picture, size) for picture in pictures]
    return np.stack(small).reshape(*image.shape[:-3], height, width, 3).astype(np.float32)


def _filtered(picture: Array, size: tuple[int, int]) -> Array:
    """(H, W, 3) reduced by Pillow, which takes bytes together and floats one channel after the other."""
    if picture.dtype == np.uint8:
        return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR))
    planes = (Image.fromarray(picture[..., channel].astype(np.float32)) for channel in range(3))
    return np.stack([np.asarray(plane.resize(size, Image.Resampling.BILINEAR)) for plane in planes], axis=-1)
