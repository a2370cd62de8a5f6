"""A long clip as windows that are made one after the other: where they lie, and what each takes from the one before.

Frames are those of the clip unless a name says otherwise; a latent frame holds ``step`` of them, the first of a window
one.

Source: Lightricks/LTX-2 ltx_pipelines chunking @ 1.4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ltx2rt.errors import UsageError
from ltx2rt.graph.diffusion.precision import Float32Array
from ltx2rt.spelling import spelled

DEFAULT_WINDOW, DEFAULT_CARRY = 97, 25
# The fewest frames of one window that the next one sees.
_LEAST_CARRY = 17


@dataclass(frozen=True)
class Window:
    """One window of a clip.

    Attributes:
        index: from 0.
        count: how many windows the clip has.
        start: its first frame, counted in the clip.
        frames: how many it has, ``step``*k + 1.
        carry: its first frames, which are the last ones of the window before.
        carry_out: its last frames, which the next window begins with.
        blend: its last frames, into which the next window's picture is blended.
    """

    index: int
    count: int
    start: int
    frames: int
    carry: int = 0
    carry_out: int = 0
    blend: int = 0

    @classmethod
    def whole(cls, num_frames: int) -> Window:
        """The one window of a clip that is made at once."""
        return cls(0, 1, 0, num_frames)

    @property
    def stop(self) -> int:
        """The frame of the clip that follows its last one."""
        return self.start + self.frames

    @property
    def owned(self) -> range:
        """Frames of the clip that no window before it has."""
        return range(self.start + self.carry, self.stop)

    def owns(self, frame: int) -> bool:
        return frame in self.owned

    def local(self, frame: int) -> int:
        """A frame of the clip, counted in the window."""
        return frame - self.start


def window_plan(num_frames: int, *, window: int, carry: int, blend: int, step: int) -> tuple[Window, ...]:
    """The windows of a clip.

    Args:
        num_frames: of the clip; what goes beyond ``step``*k + 1 is left out.
        window: frames of a window, ``step``*k + 1. A last one may have fewer.
        carry: frames that a window begins with and has from the one before, ``step``*k + 1.
        blend: of these, the last ones, in which the picture changes from one window to the next.
        step: frames of a latent frame.

    Raises:
        UsageError: the sizes do not fit each other or the clip.
    """
    window_name, carry_name = spelled("chunk_pixel_frames"), spelled("chunk_carry_frames")
    blend_name = spelled("chunk_blend_frames")
    if blend < 0:
        raise UsageError(f"{blend_name} ({blend}) must be >= 0; 0 cuts from one window to the next.")
    if blend > carry:
        raise UsageError(
            f"{blend_name} ({blend}) must be <= {carry_name} ({carry}): only frames that both windows have can be "
            f"blended; give {carry} or fewer."
        )
    _check_grid(window_name, window, step, 1)
    _check_grid(carry_name, carry, step, 0)
    if carry >= window:
        raise UsageError(f"{carry_name} ({carry}) must be < chunk pixel frames ({window}): each window adds frames.")
    cells, cells_of_window, cells_of_carry = ((n - 1) // step + 1 for n in (num_frames, window, carry))
    if cells <= cells_of_window:
        return (Window.whole(step * (cells - 1) + 1),)
    if carry < _LEAST_CARRY:
        raise UsageError(
            f"{carry_name} ({carry}) must be >= {_LEAST_CARRY} on the causal grid when chunking; with fewer the next "
            f"window does not see how things move. Give {_LEAST_CARRY} or more."
        )
    lengths, left = [cells_of_window], cells - cells_of_window
    while left:
        new = min(left, cells_of_window - cells_of_carry)
        lengths.append(cells_of_carry + new)
        left -= new
    windows: list[Window] = []
    for index, length in enumerate(lengths):
        incoming, is_last = carry if index else 0, index == len(lengths) - 1
        start = windows[-1].stop - carry if windows else 0
        outgoing = (0, 0) if is_last else (carry, blend)
        windows.append(Window(index, len(lengths), start, step * (length - 1) + 1, incoming, *outgoing))
        kept = len(windows[-1].owned)
        if windows[-1].blend >= kept:
            raise UsageError(
                f"{blend_name} ({blend}) must be < kept pixel frames ({kept}), those that a window adds; give fewer, "
                f"less {carry_name}, or more {window_name}."
            )
    return tuple(windows)


def _check_grid(name: str, frames: int, step: int, least: int) -> None:
    if frames >= least and (frames == 0 or frames % step == 1 % step):
        return
    below = max((frames - 1) // step * step + 1, 1)
    raise UsageError(
        f"{name} ({frames}) must be on the causal grid ((n - 1) % {step} == 0, e.g. {DEFAULT_WINDOW}), or 0; use "
        f"{below + step} or {below}."
    )


def window_keyframes(windows: Sequence[Window], count: int) -> tuple[int, ...]:
    """Frames of the clip at which ``count`` key frames per window stand.

    Every window but the last has one of them at its end, where the next one begins.

    Raises:
        UsageError: a window adds too few frames for so many.
    """
    places: list[int] = []
    for window in windows:
        owned, is_last = window.owned, window.index == window.count - 1
        between = count if is_last else count - 1
        if between and len(owned) < between + 2:
            raise UsageError(
                f"{spelled('num_generated_keyframes')}={count} does not fit in chunk owned pixel range "
                f"[{owned.start}, {owned.stop}); give fewer, or another number of frames."
            )
        places += [owned.start + place for place in evenly_spaced(between, len(owned))]
        if not is_last:
            places.append(owned.stop - 1)
    return tuple(places)


def evenly_spaced(count: int, num_frames: int) -> tuple[int, ...]:
    """``count`` frames between the first and the last of ``num_frames``, evenly spaced; ties go to the even frame."""
    places = np.rint(np.linspace(0, num_frames - 1, count + 2, dtype=np.float32))
    return tuple(int(place) for place in places[1:-1])


def reference_prefix(carry: int, temporal_scale: int, step: int) -> int:
    """Leading latent frames of a reference video that a window drops, because they reach into what it carries.

    Args:
        carry: frames that the window has from the one before; 0: of the first window, which drops nothing.
        temporal_scale: target frame rate divided by the reference's.
        step: frames of a latent frame.
    """
    if carry == 0:
        return 0
    stride = step * temporal_scale
    return 1 + (carry + stride - 2) // stride


def require_reference(prefix: int, latents: int) -> None:
    """Raise UsageError where nothing of a window's reference would be left."""
    if prefix >= latents:
        raise UsageError(
            f"reference_prefix_frames ({prefix}) removes the entire reference window ({latents} latent frames): the "
            f"reference ends where the window begins. Give a longer reference, or fewer frames or other "
            f"{spelled('chunk_pixel_frames')}."
        )


def carried_sound(carry: int, frame_rate: float, latents_per_second: float) -> int:
    """Latents of sound that a window takes over together with ``carry`` frames."""
    return max(1, round(carry / frame_rate * latents_per_second))


def sound_of_window(tokens: Float32Array, window: Window, frame_rate: float, latents_per_second: float) -> Float32Array:
    """The part of a clip's sound that belongs to a window; zeros beyond its end.

    Args:
        tokens: (1, L, C) of the whole clip.
        window: of the clip.
        frame_rate, latents_per_second: of pictures and sound.

    Returns:
        (1, round(frames / frame_rate * latents_per_second), C).
    """
    first = round(window.start / frame_rate * latents_per_second)
    count = round(window.frames / frame_rate * latents_per_second)
    part = tokens[:, first : first + count]
    return np.pad(part, ((0, 0), (0, count - part.shape[1]), (0, 0)))


@dataclass(frozen=True, eq=False)
class Planes:
    """Single frames as latents, and where they stand.

    Attributes:
        latents: (1, K, h, w, C), normalised.
        positions: pixel frame of each in a window, rising.
    """

    latents: Float32Array
    positions: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Carried:
    """What a stage of one window leaves to the same stage of the next one.

    Attributes:
        video: (1, c, h, w, C), its last latent frames.
        audio: (1, n, C), its last latents of sound.
        planes: key frames that it generated within the carried frames, counted in the next window; None: there are
            none.
    """

    video: Float32Array
    audio: Float32Array
    planes: Planes | None = None

    @classmethod
    def of(
        cls,
        window: Window,
        video: Float32Array,
        audio: Float32Array,
        keyframes: Planes | None,
        *,
        step: int,
        sound: int,
    ) -> Carried:
        """From the results of a window.

        Args:
            window: whose results they are.
            video, audio: (1, f, h, w, C) and (1, L, C).
            keyframes: those that the window generated itself.
            step: frames of a latent frame.
            sound: how many latents of sound, see `carried_sound`.
        """
        cells = (window.carry_out - 1) // step + 1
        planes = None
        if keyframes is not None:
            offset = window.frames - window.carry_out
            inside = [index for index, position in enumerate(keyframes.positions) if position >= offset]
            if inside:
                positions = tuple(keyframes.positions[index] - offset for index in inside)
                planes = Planes(keyframes.latents[:, inside], positions)
        return cls(video[:, -cells:].copy(), audio[:, -sound:].copy(), planes)

    @property
    def nbytes(self) -> int:
        planes = 0 if self.planes is None else self.planes.latents.nbytes
        return int(self.video.nbytes + self.audio.nbytes + planes)


def joined_latents(parts: Sequence[Float32Array], carried: Sequence[int]) -> Float32Array:
    """The latents of a clip: those of its windows without what each has from the one before.

    Args:
        parts: (1, n, ...) of each window, in order.
        carried: how many of the first ones of each are those of the window before.
    """
    own = [part[:, count:] for part, count in zip(parts, carried, strict=True)]
    return np.concatenate(own, axis=1)
