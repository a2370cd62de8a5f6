"""Writes HEIC photographs: one coded picture, or a grid of tiles as phones have them."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from made_clips import frame_of, planes_420


def _box(kind: bytes, *parts: bytes) -> bytes:
    content = b"".join(parts)
    return struct.pack(">I4s", 8 + len(content), kind) + content


def _full(kind: bytes, version: int, flags: int, *parts: bytes) -> bytes:
    return _box(kind, struct.pack(">I", version << 24 | flags), *parts)


def coded_picture(signal: np.ndarray, matrix: int = 6, full: bool = True, bits: int = 8) -> tuple[bytes, bytes]:
    """(hvcC record, picture with 4-byte lengths) of an (H, W, 3) signal of 0 to 1."""
    height, width = signal.shape[:2]
    pix_fmt = "yuv420p" if bits == 8 else "yuv420p10le"
    context = av.CodecContext.create("libx265", "w")
    context.width, context.height, context.pix_fmt = width, height, pix_fmt
    context.time_base, context.framerate = Fraction(1, 25), Fraction(25)
    params = f"log-level=error:keyint=1:range={'full' if full else 'limited'}:repeat-headers=1:info=0"
    context.options = {"crf": "2", "x265-params": params}
    frame = frame_of(planes_420(signal, matrix, bits, full), pix_fmt)
    frame.pts = 0
    stream = b"".join(bytes(p) for p in [*context.encode(frame), *context.encode(None)])
    units = [unit for unit in stream.replace(b"\0\0\0\1", b"\0\0\1").split(b"\0\0\1") if unit]
    kinds: dict[int, list[bytes]] = {32: [], 33: [], 34: []}
    coded = []
    for unit in units:
        kind = unit[0] >> 1 & 63
        if kind in kinds:
            kinds[kind].append(unit)
        elif kind < 32:
            coded.append(unit)
    depth = bytes([0xF8 | bits - 8])
    record = b"\1" + kinds[33][0][3:15] + b"\xf0\0\xfc\xfd" + depth + depth + b"\0\0\x0f" + bytes([len(kinds)])
    for kind, found in kinds.items():
        record += struct.pack(">BH", 0x80 | kind, len(found)) + b"".join(struct.pack(">H", len(u)) + u for u in found)
    return record, b"".join(struct.pack(">I", len(unit)) + unit for unit in coded)


def write_heic(
    path: Path,
    signal: np.ndarray,
    *,
    tile: int | None = None,
    shown: tuple[bytes, ...] = (),
    codes: tuple[int, int, int] | None = (1, 13, 6),
    full: bool = True,
    bits: int = 8,
    profile: bytes | None = None,
    brand: bytes = b"heic",
    grid_in_meta: bool = True,
) -> Path:
    """A photograph of an (H, W, 3) signal of 0 to 1.

    Args:
        tile: side of tiles; None: one picture. The last tiles reach over the border, as phones write them.
        shown: boxes of the properties that turn and mirror it, in order.
        codes: primaries, transfer and matrix of its colr box; None: there is none.
        grid_in_meta: the grid's description is in the box idat, not in mdat.
    """
    height, width = signal.shape[:2]
    matrix = 6 if codes is None else codes[2]
    rows, columns = (1, 1) if tile is None else (-(-height // tile), -(-width // tile))
    parts = [signal]
    if tile is not None:
        padded = np.pad(signal, ((0, rows * tile - height), (0, columns * tile - width), (0, 0)), mode="edge")
        parts = [
            padded[r * tile : (r + 1) * tile, c * tile : (c + 1) * tile] for r in range(rows) for c in range(columns)
        ]
    coded = [coded_picture(part, matrix, full, bits) for part in parts]
    colours = []
    if codes is not None:
        colours.append(_box(b"colr", b"nclx", struct.pack(">HHHB", *codes, 0x80 if full else 0)))
    if profile is not None:
        colours.append(_box(b"colr", b"prof", profile))
    settings = _box(b"hvcC", coded[0][0])
    size = _full(b"ispe", 0, 0, struct.pack(">II", *parts[0].shape[1::-1]))
    properties = [settings, size, *colours, *shown]
    of_tiles, of_main = [1, 2, *range(3, 3 + len(colours))], [*range(3 + len(colours), 1 + len(properties))]
    grid = struct.pack(">BBBBHH", 0, 0, rows - 1, columns - 1, width, height)
    numbers = list(range(1, len(parts) + 1))
    main = 1 if tile is None else len(parts) + 1
    links = dict.fromkeys(numbers, of_tiles)
    if tile is None:
        links[1] = [*of_tiles, *of_main]
    else:
        links[main] = [2, *range(3, 3 + len(colours)), *of_main]
    kinds = dict.fromkeys(numbers, b"hvc1") | ({} if tile is None else {main: b"grid"})
    data = {number: content for number, (_, content) in zip(numbers, coded, strict=True)}
    if tile is not None and not grid_in_meta:
        data[main] = grid

    def meta(start: int) -> bytes:
        places, offset = b"", start
        for number in kinds:
            if number in data:
                places += struct.pack(">HHHHII", number, 0, 0, 1, offset, len(data[number]))
                offset += len(data[number])
            else:
                places += struct.pack(">HHHHII", number, 1, 0, 1, 0, len(grid))
        infos = [_full(b"infe", 2, 0, struct.pack(">HH4s", n, 0, kind), b"\0") for n, kind in kinds.items()]
        associations = b"".join(struct.pack(">HB", n, len(found)) + bytes(found) for n, found in links.items())
        boxes = [
            _full(b"hdlr", 0, 0, b"\0\0\0\0pict", bytes(13)),
            _full(b"pitm", 0, 0, struct.pack(">H", main)),
            _full(b"iloc", 1, 0, b"\x44\0", struct.pack(">H", len(kinds)), places),
            _full(b"iinf", 0, 0, struct.pack(">H", len(kinds)), *infos),
            _box(
                b"iprp",
                _box(b"ipco", *properties),
                _full(b"ipma", 0, 0, struct.pack(">I", len(links)), associations),
            ),
        ]
        if tile is not None:
            of_grid = struct.pack(f">HH{len(numbers)}H", main, len(numbers), *numbers)
            boxes += [_full(b"iref", 0, 0, _box(b"dimg", of_grid)), _box(b"idat", grid)]
        return _full(b"meta", 0, 0, *boxes)

    head = _box(b"ftyp", brand, b"\0\0\0\0", b"mif1heicmiaf")
    start = len(head) + len(meta(0)) + 8
    path.write_bytes(head + meta(start) + _box(b"mdat", b"".join(data.values())))
    return path


def turned(quarter_turns: int) -> bytes:
    """The property that turns a picture counter-clockwise."""
    return _box(b"irot", bytes([quarter_turns]))


def mirrored(left_right: bool) -> bytes:
    """The property that mirrors a picture."""
    return _box(b"imir", bytes([left_right]))


def cut(width: int, height: int) -> bytes:
    """The property that shows the centre alone."""
    return _box(b"clap", struct.pack(">IIIIiIiI", width, 1, height, 1, 0, 1, 0, 1))


def auxiliary(kind: bytes) -> bytes:
    """The property that makes a picture one beside the main one: alpha, depth."""
    return _full(b"auxC", 0, 0, kind, b"\0")
