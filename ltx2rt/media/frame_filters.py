"""FFmpeg's filters between a decoded picture and RGB: deinterlacing, colours, square pixels, turning and mirroring."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator

import av
import av.error
import av.filter
from av.video.frame import VideoFrame

from ltx2rt.media.colour import ClipColour
from ltx2rt.media.orientation import UPRIGHT, Orientation

# What a frame takes inside the graph: FFmpeg keeps the fields before and after one that it deinterlaces, and a table
# works on planes of 16 bits.
DEINTERLACER_FRAMES = 3
TABLE_BYTES_PER_PIXEL = 6


class FrameFilters:
    """Turns decoded pictures into upright RGB of BT.709 with square pixels.

    Args:
        first: a decoded picture; the others must be of its size and format.
        colour: what its values mean.
        size: (width, height) with square pixels, before turning.
        orientation: how it is shown.
        interlaced: pictures that are marked as interlaced are deinterlaced, one picture for one.
    """

    def __init__(
        self,
        first: VideoFrame,
        colour: ClipColour,
        *,
        size: tuple[int, int],
        orientation: Orientation = UPRIGHT,
        interlaced: bool = False,
    ) -> None:
        self._colour = colour
        graph = av.filter.Graph()
        chain = [
            graph.add_buffer(width=first.width, height=first.height, format=first.format, time_base=first.time_base)
        ]
        if interlaced:
            chain.append(graph.add("bwdif", "mode=send_frame:parity=auto:deint=interlaced"))
        # While it resizes, the scaler is two levels too dark unless it is told to be exact.
        exact = "" if size == (first.width, first.height) else "+accurate_rnd+full_chroma_int"
        scale = f"{size[0]}:{size[1]}:flags=bicubic{exact}:out_range=pc:in_range={'pc' if colour.full_range else 'tv'}"
        if colour.matrix is not None:
            scale += f":in_color_matrix={colour.matrix}"
        chain.append(graph.add("scale", scale))
        table = ""
        if colour.needs_table:
            with tempfile.NamedTemporaryFile("w", suffix=".cube", delete=False) as file:
                file.write(colour.cube())
            table = file.name
            chain.append(graph.add("format", "pix_fmts=gbrp16"))
        try:
            if table:
                chain.append(graph.add("lut3d", file=table, interp="tetrahedral"))
        finally:
            if table:
                os.unlink(table)
        chain.append(graph.add("format", "pix_fmts=rgb24"))
        chain += [graph.add(name, arguments or None) for name, arguments in orientation.filters]
        chain.append(graph.add("buffersink"))
        graph.link_nodes(*chain).configure()
        self._graph = graph

    def pictures(self, frames: Iterator[VideoFrame]) -> Iterator[VideoFrame]:
        """The filtered pictures, with the stamps that they had."""
        for frame in frames:
            self._graph.vpush(frame)
            yield from self._ready()
        self._graph.vpush(None)
        yield from self._ready()

    def _ready(self) -> Iterator[VideoFrame]:
        while True:
            try:
                yield self._graph.vpull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
