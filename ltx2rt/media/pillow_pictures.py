"""Pictures of every kind that Pillow opens as 8-bit sRGB: deep values, colour profiles, transparency."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageCms

from ltx2rt.errors import MediaError

BACKGROUND = (255, 255, 255)  # what transparent pictures are laid on
BACKGROUND_NAME = "white"

_SIXTEEN_BITS = 65535
# The modes that a colour profile of a kind can describe.
_PROFILE_MODES = {"RGB": ("RGB", "RGBA"), "GRAY": ("L", "LA"), "CMYK": ("CMYK",), "Lab": ("LAB",)}


def to_srgb(image: Image.Image, file_format: str | None, name: str, notes: list[str]) -> Image.Image:
    """An opened picture as RGB in sRGB, 8 bits.

    Deep whole numbers are shifted down, floating point of 0 to 1 is scaled up; a colour profile is converted; what is
    transparent is laid on `BACKGROUND`.

    Args:
        image: loaded and upright.
        file_format: Pillow's name of the kind of file; None: it comes from none.
        name: for errors and notes.
        notes: gets a line about everything that is guessed, left out or changed.

    Raises:
        MediaError: values of a kind that has no scale.
    """
    profile = image.info.get("icc_profile")
    image = _eight_bits(image, file_format, name, notes)
    alpha = None
    if image.has_transparency_data:
        image = image.convert("LA" if image.mode in ("L", "LA") and "transparency" not in image.info else "RGBA")
        alpha = image.getchannel("A")
        image = image.convert("L" if image.mode == "LA" else "RGB")
    elif image.mode in ("P", "1", "PA"):
        image = image.convert("RGB" if image.mode != "1" else "L")
    image = _converted(image, profile, name, notes)
    if alpha is not None and alpha.getextrema() != (255, 255):
        notes.append(f"{name} has transparent parts; they are laid on {BACKGROUND_NAME}")
        below = Image.new("RGB", image.size, BACKGROUND)
        below.paste(image, mask=alpha)
        return below
    return image


def _eight_bits(image: Image.Image, file_format: str | None, name: str, notes: list[str]) -> Image.Image:
    """The picture with 8 bits per value."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode not in ("I", "F"):
        return image
    values = np.asarray(image)
    if not np.isfinite(values).all():
        raise MediaError(f"image {name} holds values that are not finite; save it as PNG with 8 or 16 bits.")
    low, high = float(values.min()), float(values.max())
    if image.mode == "I":
        small = file_format != "PPM" and high <= 255  # Pillow scales what .pgm files hold to 16 bits
        full = 255 if small else _SIXTEEN_BITS
        if small:
            notes.append(f"{name} holds whole numbers of 32 bits; they are taken as 0 to 255")
        if low < 0 or high > full:
            raise MediaError(
                f"image {name} holds whole numbers of 32 bits, {low:g} to {high:g}, whose white is not known; "
                "save it as PNG with 8 or 16 bits."
            )
    else:
        # Programs write floating point with white at 1, or what had been bytes or 16 bits as it was.
        full = next((white for white in (1, 255, _SIXTEEN_BITS) if high <= white), 0)
        if 1 < high < 2:
            full = 1
        if low < -1 or full == 0:
            raise MediaError(
                f"image {name} holds floating point of {low:g} to {high:g}, whose white is not known; "
                "save it as PNG with 8 or 16 bits."
            )
        if full != 1:
            notes.append(f"{name} holds floating point up to {high:g}; it is taken as 0 to {full}")
        elif low < 0 or high > 1:
            notes.append(f"{name} holds floating point of {low:g} to {high:g}; it is clipped to 0 to 1")
    scaled = np.rint(np.clip(values.astype(np.float64) / full, 0, 1) * 255)
    return Image.fromarray(scaled.astype(np.uint8))


def _converted(image: Image.Image, profile: bytes | None, name: str, notes: list[str]) -> Image.Image:
    """RGB in sRGB of a picture without transparency."""
    if profile:
        try:
            described = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            kind = described.profile.xcolor_space.strip()
            if kind == "RGB" and image.mode == "L":
                image = image.convert("RGB")
            if image.mode in _PROFILE_MODES.get(kind, ()):
                srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
                converted = ImageCms.profileToProfile(image, described, srgb, outputMode="RGB")
                if converted is not None:
                    return converted
            notes.append(f"colour profile of {name} ignored: it is one of {kind} colours, the picture is {image.mode}")
        except (ImageCms.PyCMSError, OSError, ValueError) as error:
            notes.append(f"colour profile of {name} ignored: {error}")
    if image.mode == "LAB":
        lab, srgb = (ImageCms.ImageCmsProfile(ImageCms.createProfile(space)) for space in ("LAB", "sRGB"))
        image = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB") or image
    return image.convert("RGB")
