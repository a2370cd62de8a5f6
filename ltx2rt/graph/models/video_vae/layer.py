"""What a layer of the video VAE states about itself: tensors, sizes, arithmetic, bytes, and how it runs in pieces."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from math import prod
from typing import NamedTuple

import mlx.core as mx

from ltx2rt.graph.models.layers.params import Params
from ltx2rt.graph.models.video_vae.config import Stride
from ltx2rt.graph.models.video_vae.streaming import Context, FrameStream
from ltx2rt.graph.models.video_vae.surroundings import Conditions
from ltx2rt.kernels.working_memory import convolution_bytes
from ltx2rt.types import ParamSpec

FLOAT32 = 4
WHOLE: Stride = (1, 1, 1)


class ClipShape(NamedTuple):
    """Frames between two layers; ``kept`` counts those that their buffer holds besides."""

    frames: int
    height: int
    width: int
    channels: int
    kept: int = 0

    @property
    def cells(self) -> int:
        """Of one frame."""
        return self.height * self.width

    def plane(self, itemsize: int) -> int:
        """Bytes of one frame."""
        return self.cells * self.channels * itemsize

    def bytes(self, itemsize: int) -> int:
        return (self.frames + self.kept) * self.plane(itemsize)

    def piece(self, limit: int) -> ClipShape:
        """The longest piece of at most ``limit`` frames."""
        return self._replace(frames=min(limit, self.frames), kept=0)

    def recent(self, itemsize: int) -> int:
        """Bytes of the last two frames. Of a single frame, what its buffer holds besides is kept with it."""
        return min(2, self.frames + self.kept) * self.plane(itemsize)

    def folded(self, stride: Stride, channels: int) -> ClipShape:
        """After a step of ``stride``; what does not fill one is padded."""
        return ClipShape(
            -(-self.frames // stride[0]), -(-self.height // stride[1]), -(-self.width // stride[2]), channels
        )


class Share(NamedTuple):
    """What one layer of a streamed run takes, in bytes.

    Attributes:
        recent: frames that it keeps between pieces.
        rest: of a piece longer than a step, kept while later layers work.
        ready: results too few for a piece, kept while earlier layers work.
        work: while it works, besides ``recent``.
    """

    recent: int = 0
    rest: int = 0
    ready: int = 0
    work: int = 0


class Layer(ABC):
    """One step of the encoder or decoder.

    Attributes:
        path: name in the file below ``encoder.`` or ``decoder.``.
    """

    path: str

    @abstractmethod
    def specs(self) -> list[ParamSpec]:
        """The tensors the layer needs, named below ``encoder.`` or ``decoder.``."""

    @abstractmethod
    def __call__(self, x: mx.array, params: Params, conditions: Conditions) -> mx.array:
        """(B, F, H, W, C) -> (B, F', H', W', C')."""

    @abstractmethod
    def stream(self, source: FrameStream, context: Context, size: tuple[int, int]) -> FrameStream:
        """The layer's results for a clip that arrives in pieces.

        Args:
            source: the clip.
            context: what `__call__` reads besides.
            size: height and width of the clip.

        Raises:
            UsageError: the layer needs the whole clip at once.
        """

    def resized(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the result for those of the input."""
        after = self.after(ClipShape(1, *size, 1))
        return after.height, after.width

    @property
    def looks_at_whole_clip(self) -> bool:
        """Whether it cannot run in pieces."""
        return False

    def completed(self, clip: ClipShape) -> ClipShape:
        """The clip with the frames that the layer puts in front of it."""
        return clip

    @abstractmethod
    def after(self, clip: ClipShape) -> ClipShape:
        """The shape of the result."""

    def flops(self, clip: ClipShape) -> float:
        """Operations for a clip without what `completed` adds."""
        return 2.0 * matrix_values(self.specs()) * (clip.frames * clip.cells)

    def work(self, clip: ClipShape, itemsize: int) -> int:
        """Most bytes that it takes besides its input, its result included; the clip is `completed`."""
        return self.after(clip).bytes(itemsize)

    @abstractmethod
    def kernel_bytes(self, clip: ClipShape, itemsize: int) -> int:
        """Working memory of its kernel that takes most; the clip is what the results belong to."""

    def share(self, clip: ClipShape, itemsize: int, limit: int) -> tuple[Share, int]:
        """What it takes when it reads pieces of up to ``limit`` frames, and the longest pieces that it gives."""
        recent, piece = clip.recent(itemsize), clip.piece(limit)
        return Share(recent, work=piece.bytes(itemsize) + recent + self.work(piece, itemsize)), limit


def matrix_values(specs: Iterable[ParamSpec]) -> int:
    """Values of the convolutions and matrices."""
    return sum(prod(spec.shape) for spec in specs if spec.layout in ("conv", "linear"))


def folding_share(layer: Layer, stride: Stride, clip: ClipShape, itemsize: int, limit: int) -> tuple[Share, int]:
    """`Layer.share` of a layer that makes one frame of ``stride[0]``."""
    recent, piece, plane = clip.recent(itemsize), clip.piece(limit), clip.plane(itemsize)
    # A frame may wait for its partner, if pieces are odd; results arrive by half pieces.
    waiting = piece.frames % stride[0]
    whole = piece._replace(frames=(piece.frames + waiting) // stride[0] * stride[0])
    after = layer.after(clip)
    ready = min(limit - max(1, limit // stride[0]), after.frames) * after.plane(itemsize)
    work = (piece.frames + waiting) * plane + recent + layer.work(whole, itemsize) + ready
    return Share(recent + waiting * plane, ready=ready, work=work), limit


def convolution_kernel_bytes(
    specs: Iterable[ParamSpec], clip: ClipShape, itemsize: int, stride: Stride = WHOLE, *, activated: bool = False
) -> int:
    """Working memory of the largest convolution among ``specs``; those of 1x1x1 are not activated."""
    outputs = clip.folded(stride, clip.channels)
    sizes = [0]
    for spec in specs:
        if spec.layout != "conv":
            continue
        out, channels, *taps = spec.shape
        silu = activated and taps != [1, 1, 1]
        sizes.append(
            convolution_bytes(
                (outputs.frames, outputs.height, outputs.width),
                (out, taps[0], taps[1], taps[2], channels),
                itemsize,
                stride=stride,
                activation="silu" if silu else None,
            )
        )
    return max(sizes)
