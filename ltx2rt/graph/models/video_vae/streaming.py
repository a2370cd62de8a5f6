"""Runs the layers of the video VAE over a clip piece by piece, with the bits of the run over the whole clip.

Every layer becomes a stream that reads pieces from the one before it. A convolution keeps the last two frames it has
read; where it looks one frame ahead, its results lag one frame behind. Nothing else is kept, so memory does not grow
with the clip.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Protocol

import mlx.core as mx

from ltx2rt.errors import UsageError
from ltx2rt.graph.models.layers.params import Params
from ltx2rt.graph.models.video_vae.surroundings import Conditions, Neighbours

if TYPE_CHECKING:  # the layers, which state how they stream, import this module
    from ltx2rt.graph.models.video_vae.layer import Layer
    from ltx2rt.graph.models.video_vae.layers import (
        Convolution,
        Downsample,
        FrameAttention,
        OutputConvolution,
        ResidualLayer,
        Upsample,
    )

FRAMES_PER_PUSH = 4
# What a budget chooses from.
PUSHES = (4, 2, 1)

Piece = tuple[mx.array, bool]
Context = tuple[Params, Conditions]


class FrameStream(Protocol):
    """A clip that arrives in pieces.

    Attributes:
        limit: most frames of a piece.
    """

    limit: int

    def read(self) -> Piece:
        """The next frames (B, n, H, W, C), n > 0, and whether they are the last; after those it must not be called."""


class ClipStream:
    """Pieces of an array."""

    def __init__(self, clip: mx.array, limit: int) -> None:
        self.limit = limit
        self._clip = clip
        self._start = 0

    def read(self) -> Piece:
        start = self._start
        self._start = min(start + self.limit, self._clip.shape[1])
        return self._clip[:, start : self._start], self._start == self._clip.shape[1]


class IteratedStream:
    """The items of an iterator, of at most ``limit`` frames each.

    Raises:
        UsageError: there are none.
    """

    def __init__(self, pieces: Iterator[mx.array], limit: int) -> None:
        self.limit = limit
        self._pieces = pieces
        self._next = next(pieces, None)
        if self._next is None:
            raise UsageError("there are no frames to read; give at least one.")
        self.size = self._next.shape[2], self._next.shape[3]

    def read(self) -> Piece:
        piece = self._next
        assert piece is not None  # read ends with the last piece
        self._next = next(self._pieces, None)
        return piece, self._next is None


class _Recent:
    """The last two frames that a convolution has read."""

    def __init__(self, causal: bool) -> None:
        self.frames: mx.array | None = None
        self._causal = causal

    @property
    def count(self) -> int:
        return 0 if self.frames is None else self.frames.shape[1]

    def padding(self, *, last: bool) -> tuple[int, int]:
        """Copies of the border frames before what is kept, and after the next frames."""
        if self._causal:
            return 2 - self.count, 0
        return min(1, 2 - self.count), int(last)

    def neighbours(self, *, last: bool) -> Neighbours:
        """Of the next frames."""
        return Neighbours(self.frames, *self.padding(last=last))

    def remember(self, x: mx.array) -> mx.array:
        """Keep the last two frames of what is kept and x; copied, so that x itself can go."""
        kept = x[:, -2:] if self.frames is None else mx.concatenate([self.frames[:, -1:], x[:, -1:]], axis=1)
        if x.shape[1] >= 2:
            kept = mx.concatenate([x[:, -2:-1], x[:, -1:]], axis=1)
        self.frames = kept
        return kept


class _LaggingStream(ABC):
    """A layer whose result for a frame needs up to ``lag`` frames after it.

    Args:
        source: what to read.
        lag: frames.
        step: frames of the source that are worked on at a time.
        limit: most frames of a result.
    """

    def __init__(self, source: FrameStream, lag: int, step: int, limit: int) -> None:
        self.limit = limit
        self._source = source
        self._lag = lag
        self._step = step
        self._recent = _Recent(causal=lag == 0)
        self._arrived: mx.array | None = None
        self._rest: Piece | None = None
        self._waiting = 0  # frames that were read and have no result yet
        self._closing = False

    def read(self) -> Piece:
        while True:
            last = self._closing or self._arrive()
            arrived = 0 if self._arrived is None else self._arrived.shape[1]
            if last and arrived and self._waiting + arrived > self._step:
                # The results of the last frames would make the piece longer: they follow on their own.
                last, self._closing = False, True
            waiting = 0 if last else min(self._lag, self._waiting + arrived)
            out = self._run(self._waiting + arrived - waiting, last)
            self._waiting = waiting
            if out is not None:
                return out, last

    def _arrive(self) -> bool:
        """Read the next frames; whether they are the last."""
        x, last = self._rest or self._source.read()
        self._rest = None
        if x.shape[1] > self._step:
            self._rest = x[:, self._step :], last
            x, last = x[:, : self._step], False
        self._arrived = x
        return last

    def _join(self, last: bool) -> tuple[mx.array, Neighbours]:
        """What was kept and the frames that have arrived, as one array, and what surrounds it; the last are kept."""
        recent, x, self._arrived = self._recent, self._arrived, None
        around = Neighbours(None, *recent.padding(last=last))
        parts = [part for part in (recent.frames, x) if part is not None]
        joined = parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=1)
        if x is not None:
            recent.remember(x)
        mx.eval(joined, recent.frames)
        return joined, around

    @abstractmethod
    def _run(self, results: int, last: bool) -> mx.array | None:
        """Take in the frames that have arrived, and give the results of ``results`` frames, None if there are none."""


class ConvolutionStream(_LaggingStream):
    """One convolution of stride 1."""

    def __init__(self, source: FrameStream, layer: Convolution | OutputConvolution, context: Context) -> None:
        super().__init__(source, 0 if layer.causal else 1, source.limit, source.limit)
        self._layer = layer
        self._context = context

    def _run(self, results: int, last: bool) -> mx.array | None:
        if self._arrived is None:
            x, around = self._join(last)
        else:
            x, around = self._arrived, self._recent.neighbours(last=last)
            mx.eval(self._recent.remember(x))
            self._arrived = None
        if not results:
            return None
        out = self._layer(x, *self._context, around)
        mx.eval(out)
        return out


class ResidualStream(_LaggingStream):
    """A residual layer: two convolutions, and the input delayed by what they lag."""

    def __init__(self, source: FrameStream, layer: ResidualLayer, context: Context, size: tuple[int, int]) -> None:
        lag = 0 if layer.causal else 2
        super().__init__(source, lag, source.limit, max(source.limit, lag))
        self._layer = layer
        self._context = context
        self._planes = layer.draw_noise(context[1], size)
        self._recent_hidden = _Recent(layer.causal)

    def _run(self, results: int, last: bool) -> mx.array | None:
        first = self._recent.count - self._waiting
        joined, around = self._join(last)
        if joined.shape[1] + around.before + around.after < 3:
            return None
        hidden = self._layer.inner(joined, *self._context, self._planes, around)
        mx.eval(hidden)
        around = self._recent_hidden.neighbours(last=last)
        mx.eval(self._recent_hidden.remember(hidden))
        if not results:
            return None
        out = self._layer.outer(hidden, joined[:, first : first + results], *self._context, self._planes, around)
        mx.eval(out)
        return out


class UpsampleStream(_LaggingStream):
    """A depth-to-space layer; where time is doubled, the first frame of the clip's results is dropped."""

    def __init__(self, source: FrameStream, layer: Upsample, context: Context) -> None:
        growth = layer.stride[0]
        step = max(1, source.limit // growth)
        super().__init__(source, 0 if layer.causal else 1, step, step * growth)
        self._layer = layer
        self._context = context
        self._begins = True

    def _run(self, results: int, last: bool) -> mx.array | None:
        first = self._recent.count - self._waiting
        joined, around = self._join(last)
        if not results:
            return None
        residual = joined[:, first : first + results]
        out = self._layer.unfold(joined, residual, *self._context, around, begins=self._begins)
        mx.eval(out)
        self._begins = False
        return out


class FoldingStream:
    """A layer that makes one frame of one or two, as the encoder's do; its convolution is causal."""

    def __init__(self, source: FrameStream, layer: Downsample | Convolution, context: Context) -> None:
        self.limit = source.limit
        self._source = source
        self._layer = layer
        self._context = context
        self._recent = _Recent(causal=True)
        self._rest: mx.array | None = None  # a frame whose partner is still to come

    def read(self) -> Piece:
        ready: list[mx.array] = []
        last = False
        while not last and sum(piece.shape[1] for piece in ready) < self.limit:
            last = self._fold(ready)
        out = ready[0] if len(ready) == 1 else mx.concatenate(ready, axis=1)
        mx.eval(out)
        return out, last

    def _fold(self, ready: list[mx.array]) -> bool:
        x, last = self._source.read()
        if self._rest is not None:
            x = mx.concatenate([self._rest, x], axis=1)
        elif self._recent.count == 0:
            x = self._layer.begun(x)
        mx.eval(x)
        surplus = 0 if last else x.shape[1] % self._layer.stride[0]
        whole = x.shape[1] - surplus
        # Multiplying copies the frame, so that the piece can go.
        self._rest = x[:, whole:] * 1 if surplus else None
        x = x[:, :whole]
        if whole:
            around = self._recent.neighbours(last=last)
            out = self._layer.fold(x, *self._context, around)
            mx.eval(out, self._recent.remember(x))
            ready.append(out)
        if self._rest is not None:
            mx.eval(self._rest)
        return last


class FrameWiseStream:
    """A layer that looks at one frame at a time."""

    def __init__(self, source: FrameStream, layer: FrameAttention, context: Context) -> None:
        self.limit = source.limit
        self._source = source
        self._layer = layer
        self._context = context

    def read(self) -> Piece:
        x, last = self._source.read()
        out = self._layer(x, *self._context)
        mx.eval(out)
        return out, last


def stream_layers(
    source: FrameStream, layers: Iterable[Layer], params: Params, conditions: Conditions, size: tuple[int, int]
) -> FrameStream:
    """The result of running ``layers`` one after the other over a clip that arrives in pieces.

    Args:
        source: the clip that the first layer reads.
        layers: of a decoder or an encoder.
        params: the tensors the layers name.
        conditions: random numbers are drawn here, in the order of the layers.
        size: height and width of the source.

    Raises:
        UsageError: for a layer that needs the whole clip at once.
    """
    for layer in layers:
        source = layer.stream(source, (params, conditions), size)
        size = layer.resized(size)
    return source
