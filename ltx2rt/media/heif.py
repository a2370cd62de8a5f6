"""HEIC photographs: one HEVC picture, or a grid of tiles as phones write them, turned and mirrored as the file says."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import NamedTuple

import av
import av.error
import numpy as np
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from PIL import Image

from ltx2rt.media.colour import BT601, BT709, FULL, UNSPECIFIED, ClipColour, stated_colour
from ltx2rt.media.frame_filters import FrameFilters
from ltx2rt.types import Array

BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_MOST_PIXELS = 178_956_970  # Pillow's limit
_MOST_TILES = 4096
_ALPHA = (b"urn:mpeg:hevc:2015:auxid:1", b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha")


class HeifError(ValueError):
    """A file that is damaged, or of a kind that is not read; the message says how."""


class _Box(NamedTuple):
    kind: bytes
    start: int
    end: int


@dataclass
class _Item:
    """One picture, or what a picture is made of.

    Attributes:
        kind: ``hvc1``: a coded picture; ``grid``: of others; ``iden``: another one, turned.
        extents: (offset, length) of its data.
        in_meta: offsets count in the box ``idat``.
        properties: (kind, content), in order.
        parts: items that it is made of.
    """

    kind: bytes = b""
    extents: list[tuple[int, int]] = field(default_factory=list)
    in_meta: bool = False
    properties: list[tuple[bytes, bytes]] = field(default_factory=list)
    parts: list[int] = field(default_factory=list)

    def property(self, kind: bytes, begins: bytes = b"") -> bytes | None:
        """The content of the first property of a kind; of several, that which begins so."""
        return next((c for k, c in self.properties if k == kind and c.startswith(begins)), None)


def is_heif(start: bytes) -> bool:
    """Whether the first 12 bytes are those of a HEIC file."""
    return start[4:8] == b"ftyp" and start[8:12] in BRANDS


def read_heif(path: str | os.PathLike[str], notes: list[str]) -> Image.Image:
    """The main picture of a HEIC file, upright, RGB; its colour profile is in ``info["icc_profile"]``.

    HDR is tone-mapped, primaries that the file states without a profile come to those of BT.709; ``notes`` gets a line.

    Raises:
        HeifError: the file is damaged, or its picture is of a kind that is not read.
        OSError: the file cannot be read.

    Source: ISO/IEC 23008-12 (HEIF) and 14496-12 (boxes).
    """
    with open(path, "rb") as file:
        data = file.read()
    try:
        heif = _HeifFile(data)
        image = heif.picture()
        if heif.has_alpha:
            notes.append(f"{os.fspath(path)} has an alpha channel, which is left out")
        if heif.converted:
            notes.append(f"{os.fspath(path)} is {heif.converted}; it is converted to BT.709")
        return image
    except (struct.error, IndexError, KeyError, av.error.FFmpegError) as error:
        raise HeifError(f"it is damaged ({type(error).__name__})") from error


class _HeifFile:
    """The items of a file.

    Args:
        data: of the file.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        meta = next((box for box in self._boxes(0, len(data)) if box.kind == b"meta"), None)
        if meta is None:
            raise HeifError("it has no list of pictures")
        inside = {box.kind: box for box in self._boxes(meta.start + 4, meta.end)}
        self._idat = inside.get(b"idat")
        self._items: dict[int, _Item] = {}
        self.has_alpha = False
        self.converted = ""  # which colours a table converted
        for kind, read in (
            (b"iinf", self._read_kinds),
            (b"iloc", self._read_places),
            (b"iprp", self._read_properties),
            (b"iref", self._read_references),
        ):
            if kind in inside:
                read(inside[kind])
        if b"pitm" not in inside:
            raise HeifError("it names no main picture")
        start = inside[b"pitm"].start
        wide = data[start] > 0
        (self._primary,) = struct.unpack_from(">I" if wide else ">H", data, start + 4)

    def picture(self) -> Image.Image:
        pixels = self._pixels(self._primary, 0)
        image = Image.fromarray(pixels)
        profile = self._profile(self._primary)
        if profile:
            image.info["icc_profile"] = profile
        return image

    # Boxes

    def _boxes(self, start: int, end: int) -> Iterator[_Box]:
        while start + 8 <= end:
            size, kind = struct.unpack_from(">I4s", self._data, start)
            head = 8
            if size == 1:
                (size,) = struct.unpack_from(">Q", self._data, start + 8)
                head = 16
            stop = end if size == 0 else start + size
            if stop > end or stop < start + head:
                raise HeifError("it breaks off")
            yield _Box(kind, start + head, stop)
            start = stop

    def _item(self, number: int) -> _Item:
        return self._items.setdefault(number, _Item())

    def _read_kinds(self, box: _Box) -> None:
        start = box.start + (6 if self._data[box.start] == 0 else 8)
        for entry in self._boxes(start, box.end):
            version = self._data[entry.start]
            if entry.kind == b"infe" and version >= 2:
                form = ">HH4s" if version == 2 else ">IH4s"
                number, _, kind = struct.unpack_from(form, self._data, entry.start + 4)
                self._item(number).kind = kind

    def _read_places(self, box: _Box) -> None:
        version, at = self._data[box.start], box.start + 4
        sizes = struct.unpack_from(">BB", self._data, at)
        offset_size, length_size = sizes[0] >> 4, sizes[0] & 15
        base_size, index_size = sizes[1] >> 4, sizes[1] & 15 if version else 0
        at += 2

        def number(size: int) -> int:
            nonlocal at
            value = int.from_bytes(self._data[at : at + size], "big")
            at += size
            return value

        wide = 4 if version == 2 else 2
        for _ in range(number(wide)):
            item = self._item(number(wide))
            item.in_meta = bool(version and number(2) & 15 == 1)
            number(2)
            base = number(base_size)
            for _ in range(number(2)):
                number(index_size)
                offset = base + number(offset_size)
                item.extents.append((offset, number(length_size)))
            if at > box.end:
                raise HeifError("it breaks off")

    def _read_properties(self, box: _Box) -> None:
        parts = list(self._boxes(box.start, box.end))
        known = [
            (prop.kind, self._data[prop.start : prop.end])
            for part in parts
            if part.kind == b"ipco"
            for prop in self._boxes(part.start, part.end)
        ]
        kinds = [content[4:].split(b"\0")[0] for kind, content in known if kind == b"auxC"]
        self.has_alpha = any(kind in _ALPHA for kind in kinds)
        for part in parts:
            if part.kind != b"ipma":
                continue
            version, flags = self._data[part.start], self._data[part.start + 3]
            (count,) = struct.unpack_from(">I", self._data, part.start + 4)
            at = part.start + 8
            for _ in range(count):
                number, links = struct.unpack_from(">HB" if version < 1 else ">IB", self._data, at)
                at += 3 if version < 1 else 5
                for _ in range(links):
                    (link,) = struct.unpack_from(">H" if flags & 1 else ">B", self._data, at)
                    at += 2 if flags & 1 else 1
                    index = link & (0x7FFF if flags & 1 else 0x7F)
                    if index:
                        self._item(number).properties.append(known[index - 1])

    def _read_references(self, box: _Box) -> None:
        wide = self._data[box.start] > 0
        form = ">I" if wide else ">H"
        for reference in self._boxes(box.start + 4, box.end):
            if reference.kind == b"dimg":
                numbers = list(self._numbers(form, reference))
                self._item(numbers[0]).parts = numbers[1:]

    def _numbers(self, form: str, box: _Box) -> Iterator[int]:
        """The item that refers, and those that it refers to."""
        size = struct.calcsize(form)
        yield struct.unpack_from(form, self._data, box.start)[0]
        (count,) = struct.unpack_from(">H", self._data, box.start + size)
        for index in range(count):
            yield struct.unpack_from(form, self._data, box.start + size + 2 + index * size)[0]

    def _content(self, item: _Item) -> bytes:
        if item.in_meta and self._idat is None:
            raise HeifError("it breaks off")
        start, end = (self._idat.start, self._idat.end) if item.in_meta and self._idat else (0, len(self._data))
        parts = []
        for offset, length in item.extents:
            begin = start + offset
            stop = end if length == 0 else begin + length
            if stop > end:
                raise HeifError("it breaks off")
            parts.append(self._data[begin:stop])
        return b"".join(parts)

    # Pictures

    def _pixels(self, number: int, depth: int) -> Array:
        """(H, W, 3) uint8 of an item, as shown."""
        item = self._items.get(number)
        if item is None or depth > 3:
            raise HeifError("its main picture is missing")
        makers: dict[bytes, Callable[[_Item, int], Array]] = {
            b"hvc1": lambda item, _: self._decoded(item),
            b"grid": self._grid,
            b"iden": lambda item, depth: self._pixels(item.parts[0], depth + 1),
        }
        if item.kind not in makers:
            raise HeifError(f"its main picture is of the kind {item.kind.decode('latin1')!r}")
        return np.ascontiguousarray(_shown(makers[item.kind](item, depth), item))

    def _grid(self, item: _Item, depth: int) -> Array:
        content = self._content(item)
        rows, columns = content[2] + 1, content[3] + 1
        width, height = struct.unpack_from(">II" if content[1] & 1 else ">HH", content, 4)
        if rows * columns > _MOST_TILES or len(item.parts) < rows * columns or not 0 < width * height <= _MOST_PIXELS:
            raise HeifError(f"its {rows}x{columns} tiles do not make a picture of {width}x{height}")
        first = self._pixels(item.parts[0], depth + 1)
        tall, wide = first.shape[:2]
        if rows * tall < height or columns * wide < width:
            raise HeifError(f"its {rows}x{columns} tiles do not fill a picture of {width}x{height}")
        whole = np.empty((height, width, 3), np.uint8)
        for index, part in enumerate(item.parts[: rows * columns]):
            top, left = index // columns * tall, index % columns * wide
            tile = first if index == 0 else self._pixels(part, depth + 1)
            if tile.shape != first.shape:
                raise HeifError("its tiles are of different sizes")
            target = whole[top : top + tall, left : left + wide]
            target[...] = tile[: target.shape[0], : target.shape[1]]
        return whole

    def _decoded(self, item: _Item) -> Array:
        record = item.property(b"hvcC")
        if record is None:
            raise HeifError("a picture has no decoder settings")
        context = VideoCodecContext.create("hevc", "r")
        assert isinstance(context, VideoCodecContext)
        context.extradata = record
        frames = [*context.decode(av.Packet(self._content(item))), *context.decode(None)]
        if not frames:
            raise HeifError("a picture cannot be decoded")
        frame = frames[0]
        if frame.width * frame.height > _MOST_PIXELS:
            raise HeifError(f"it is too large, {frame.width}x{frame.height}")
        frame.pts, frame.time_base = 0, Fraction(1)
        colour = self._colour(item, context, frame)
        self.converted = colour.words
        filters = FrameFilters(frame, colour, size=(frame.width, frame.height))
        return next(filters.pictures(iter([frame]))).to_ndarray()

    def _colour(self, item: _Item, context: VideoCodecContext, frame: VideoFrame) -> ClipColour:
        """By the file's statement, else by the stream's; pictures without any are BT.601 of full range."""
        stated = item.property(b"colr", b"nclx") or self._items[self._primary].property(b"colr", b"nclx")
        if stated:
            primaries, transfer, matrix, flags = struct.unpack_from(">HHHB", stated, 4)
            full = bool(flags & 0x80)
        else:
            primaries, transfer = int(context.color_primaries), int(context.color_trc)
            matrix = int(frame.colorspace)
            full = context.color_range == FULL or matrix == UNSPECIFIED
        if matrix == UNSPECIFIED:
            matrix = BT601
        if self._profile(self._primary):
            primaries = transfer = BT709  # the profile says more
        return stated_colour(matrix, full, primaries, transfer)

    def _profile(self, number: int) -> bytes | None:
        """The ICC profile of an item, or of the first that it is made of."""
        item = self._items.get(number, _Item())
        for kind in (b"prof", b"rICC"):
            for candidate in (item, *(self._items.get(part, _Item()) for part in item.parts[:1])):
                if profile := candidate.property(b"colr", kind):
                    return profile[4:]
        return None


def _shown(pixels: Array, item: _Item) -> Array:
    """Cut, turned and mirrored by the item's properties, in their order."""
    for kind, content in item.properties:
        if kind == b"clap":
            pixels = _clean_aperture(pixels, content)
        elif kind == b"irot":
            pixels = np.rot90(pixels, content[0] & 3)
        elif kind == b"imir":
            pixels = pixels[:, ::-1] if content[0] & 1 else pixels[::-1]
    return pixels


def _clean_aperture(pixels: Array, content: bytes) -> Array:
    numbers = struct.unpack_from(">IIIIiIiI", content)
    if 0 in numbers[1::2]:
        raise HeifError("it breaks off")
    width, height, right, down = (a / b for a, b in zip(numbers[::2], numbers[1::2], strict=True))
    rows, columns = pixels.shape[:2]
    left = round((columns - width) / 2 + right)
    top = round((rows - height) / 2 + down)
    cut = pixels[max(top, 0) : max(top, 0) + round(height), max(left, 0) : max(left, 0) + round(width)]
    return cut if cut.size else pixels
