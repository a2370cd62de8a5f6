"""Sources of Gaussian noise, among them one that repeats the stream of PyTorch's CPU generator."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ltx2rt.errors import UsageError
from ltx2rt.graph.diffusion.precision import round_to

NoiseDtype = Literal["float32", "bfloat16", "float16", "float64"]

_GROUP = 16
# Words that are drawn and dropped at a time.
_SKIPPED_AT_ONCE = 1 << 20
_UNIT_24 = np.float32(2.0**-24)
_UNIT_53 = 2.0**-53


@runtime_checkable
class NoiseSource(Protocol):
    """Anything that yields standard normal values, one array per call, in an order that a seed fixes."""

    def normal(self, shape: tuple[int, ...], dtype: NoiseDtype = "float32") -> NDArray[Any]:
        """Standard normal values.

        Args:
            shape: shape of the array.
            dtype: precision of the draw; bfloat16 and float16 come as float32 arrays of rounded values.

        Returns:
            float64 array for ``float64``, else float32.
        """
        ...

    def fork(self) -> NoiseSource:
        """A source that gives, from here on, the values that this one would give; neither moves the other."""
        ...


class TorchCpuNoise:
    """The values of ``torch.randn`` with a seeded CPU generator, call after call.

    The uniform draws are the same bits as PyTorch's. The normal values agree to float32 rounding (logarithm and
    cosine come from another library), in float64 to the last bits.

    Draws of 16 values or more use PyTorch's blocked transform, smaller ones its value-by-value transform, which keeps
    the second value of a pair for the next small draw.

    Source: PyTorch 2.13 aten/src/ATen/native/cpu/DistributionTemplates.h, ATen/core/DistributionsHelper.h.
    """

    def __init__(self, seed: int) -> None:
        """Start the stream of ``torch.Generator().manual_seed(seed)``; only the low 32 bits of the seed count."""
        self._words = np.random.RandomState(seed & 0xFFFFFFFF)
        self._pending: float | None = None

    def normal(self, shape: tuple[int, ...], dtype: NoiseDtype = "float32") -> NDArray[Any]:
        """See `NoiseSource.normal`."""
        count = math.prod(shape)
        if count < _GROUP:
            values = self._one_by_one(count)
        elif dtype == "float64":
            values = _fill(count, count, self._uniform64, _transform64)
        else:
            # For float32 PyTorch draws one uniform per value, for the half types only whole groups of them.
            drawn = count if dtype == "float32" else count // _GROUP * _GROUP
            values = _fill(count, drawn, self._uniform32, _transform32)
        return values.reshape(shape) if dtype == "float64" else round_to(values, dtype).reshape(shape)

    def fork(self) -> TorchCpuNoise:
        """See `NoiseSource.fork`."""
        return copy.deepcopy(self)

    def skip(self, shape: tuple[int, ...]) -> None:
        """Pass over a float32 draw."""
        count = math.prod(shape)
        if count < _GROUP:
            self._one_by_one(count)
        else:
            self._pass(count if count % _GROUP == 0 else count + _GROUP)

    def _pass(self, count: int) -> None:
        """Pass over ``count`` words."""
        while count:
            step = min(count, _SKIPPED_AT_ONCE)
            self._draw32(step)
            count -= step

    def _draw32(self, count: int) -> NDArray[np.uint32]:
        return self._words.randint(0, 2**32, size=count, dtype=np.uint32)

    def _uniform32(self, count: int) -> NDArray[np.float32]:
        result: NDArray[np.float32] = (self._draw32(count) & np.uint32(0xFFFFFF)).astype(np.float32) * _UNIT_24
        return result

    def _uniform64(self, count: int) -> NDArray[np.float64]:
        words = self._draw32(2 * count).astype(np.uint64).reshape(count, 2)
        bits = ((words[:, 0] << np.uint64(32)) | words[:, 1]) & np.uint64(2**53 - 1)
        result: NDArray[np.float64] = bits.astype(np.float64) * _UNIT_53
        return result

    def _one_by_one(self, count: int) -> NDArray[np.float64]:
        values = np.empty(count, np.float64)
        for i in range(count):
            if self._pending is not None:
                values[i], self._pending = self._pending, None
                continue
            angle_unit, radius_unit = self._uniform64(2)
            radius = math.sqrt(-2 * math.log1p(-radius_unit))
            angle = 2 * math.pi * angle_unit
            values[i] = radius * math.cos(angle)
            self._pending = radius * math.sin(angle)
        return values


def _fill(
    count: int,
    drawn: int,
    draw: Callable[[int], NDArray[Any]],
    transform: Callable[[NDArray[Any]], NDArray[np.float64]],
) -> NDArray[np.float64]:
    """``count`` normal values from ``drawn`` uniforms; a ragged end is redone by 16 fresh draws reaching back."""
    whole = count // _GROUP * _GROUP
    values = np.empty(count, np.float64)
    values[:whole] = transform(draw(drawn)[:whole])
    if whole != count:
        values[count - _GROUP :] = transform(draw(_GROUP))
    return values


def _transform32(uniform: NDArray[Any]) -> NDArray[np.float64]:
    halves = uniform.reshape(-1, 2, _GROUP // 2)
    radius = np.sqrt(-2 * np.log((np.float32(1) - halves[:, 0]).astype(np.float64)))
    # PyTorch forms the angle in float32; from there float64 rounds like any good float32 library.
    angle = (np.float32(2 * math.pi) * halves[:, 1]).astype(np.float64)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(-1)


def _transform64(uniform: NDArray[Any]) -> NDArray[np.float64]:
    halves = uniform.reshape(-1, 2, _GROUP // 2)
    radius = np.sqrt(-2 * np.log(1 - halves[:, 0]))
    angle = 2 * math.pi * halves[:, 1]
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(-1)


class FrameNoise:
    """The draws of a source for a decoder: whole, or frame by frame.

    Args:
        source: of the draws.
    """

    def __init__(self, source: NoiseSource) -> None:
        self._source = source.rest if isinstance(source, StartingNoise) else source

    def normal(self, shape: tuple[int, ...]) -> NDArray[Any]:
        """The next draw, float32."""
        return self._source.normal(shape)

    def skip(self, shape: tuple[int, ...]) -> None:
        """Pass over the next draw."""
        if isinstance(self._source, (TorchCpuNoise, RecordedNoise)):
            self._source.skip(shape)
        else:
            self._source.normal(shape)

    def frames(self, shape: tuple[int, int, int, int, int]) -> Callable[[int], NDArray[Any]]:
        """The next draw (B, C, F, H, W), float32; what is returned gives the next n frames (B, C, n, H, W) of it.

        Of PyTorch's stream only these frames are made: for every channel the generator goes on from its own place.
        """
        batch, channels, count, height, width = shape
        plane = height * width
        if not isinstance(self._source, TorchCpuNoise) or plane % _GROUP:
            whole = self._source.normal(shape)
            position = 0

            def part(frames: int) -> NDArray[Any]:
                nonlocal position
                position += frames
                return whole[:, :, position - frames : position]

            return part
        places = []
        for _ in range(batch * channels):
            places.append(self._source.fork())
            self._source.skip((count, plane))

        def drawn(frames: int) -> NDArray[Any]:
            parts = [place.normal((frames, height, width)) for place in places]
            return np.stack(parts).reshape(batch, channels, frames, height, width)

        return drawn


class RecordedNoise:
    """Plays back saved draws in order; for golden files and for repeating runs made with another generator."""

    def __init__(self, draws: Iterable[NDArray[Any]]) -> None:
        self._draws = list(draws)
        self._count = 0

    @property
    def left(self) -> int:
        """How many saved draws were not asked for yet."""
        return len(self._draws) - self._count

    @property
    def draws(self) -> tuple[NDArray[Any], ...]:
        """The saved draws that were not asked for yet."""
        return tuple(self._draws[self._count :])

    def normal(self, shape: tuple[int, ...], dtype: NoiseDtype = "float32") -> NDArray[Any]:
        """The next saved draw.

        Raises:
            UsageError: none is left, or the next one has another shape.
        """
        draw = self._next(shape)
        return draw.astype(np.float64) if dtype == "float64" else round_to(draw, dtype)

    def skip(self, shape: tuple[int, ...]) -> None:
        """Pass over the next saved draw; raises as `normal` does."""
        self._next(shape)

    def fork(self) -> RecordedNoise:
        """See `NoiseSource.fork`."""
        return copy.copy(self)

    def _next(self, shape: tuple[int, ...]) -> NDArray[Any]:
        if not self.left:
            raise UsageError(
                f"Only {self._count} noise draws were recorded, but another {shape} was asked for; give one more."
            )
        draw = self._draws[self._count]
        if draw.shape != shape:
            raise UsageError(
                f"Recorded noise {self._count} has shape {draw.shape}, but {shape} was asked for; give that one."
            )
        self._count += 1
        return draw


class StartingNoise:
    """Given values in the place of the first draw, everything later from another source.

    Args:
        first: (1, T, C). Where the first draw asks for more than T tokens, which conditions have appended, the rest
            comes from ``later``.
        later: gives the rest.
    """

    def __init__(self, first: NDArray[Any], later: NoiseSource) -> None:
        self._first: NDArray[Any] | None = first
        self._later = later

    def normal(self, shape: tuple[int, ...], dtype: NoiseDtype = "float32") -> NDArray[Any]:
        """See `NoiseSource.normal`.

        Raises:
            UsageError: the first draw is smaller than the given values, or of other channels.
        """
        if self._first is None:
            return self._later.normal(shape, dtype)
        first = self._first
        batch, tokens, channels = first.shape
        if len(shape) != 3 or (shape[0], shape[2]) != (batch, channels) or shape[1] < tokens:
            raise UsageError(f"The noise to start from has shape {first.shape}, but {shape} was asked for; give that.")
        self._first = None
        values = first if dtype == "float64" else round_to(first, dtype)
        if shape[1] == tokens:
            return values
        return np.concatenate([values, self._later.normal((batch, shape[1] - tokens, channels), dtype)], axis=1)

    @property
    def rest(self) -> NoiseSource:
        """What gives the draws from here on: the later source alone, once the given values are used."""
        return self if self._first is not None else self._later

    def fork(self) -> StartingNoise:
        """See `NoiseSource.fork`."""
        other = copy.copy(self)
        other._later = self._later.fork()
        return other


class StandardizedNoise:
    """Noise of another source shifted and scaled to mean 0 and deviation 1 per draw, then per batch row (res_2s)."""

    def __init__(self, source: NoiseSource) -> None:
        self._source = source

    def normal(self, shape: tuple[int, ...], dtype: NoiseDtype = "float32") -> NDArray[Any]:
        """Draw in ``dtype`` and standardise; shape (B, T, C).

        Source: Lightricks/LTX-2 ltx_pipelines/utils/samplers.py @ v1.2.0.
        """
        noise = self._source.normal(shape, dtype)
        noise = (noise - noise.mean()) / noise.std(ddof=1)
        rows = tuple(range(len(shape) - 2, len(shape)))
        result: NDArray[Any] = (noise - noise.mean(axis=rows, keepdims=True)) / noise.std(
            axis=rows, ddof=1, keepdims=True
        )
        return result

    def fork(self) -> StandardizedNoise:
        """See `NoiseSource.fork`."""
        return StandardizedNoise(self._source.fork())
