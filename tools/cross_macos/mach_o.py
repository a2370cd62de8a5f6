"""Reads the symbols of a 64-bit Mach-O file: what it needs, from where, and what it exports."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path

_MAGIC = 0xFEEDFACF
_ARM64 = 0x0100000C
_LC_SYMTAB = 0x2
_LC_ID_DYLIB = 0xD
_LC_CODE_SIGNATURE = 0x1D
_LC_RPATH = 0x8000001C
_LC_BUILD_VERSION = 0x32
_LOAD_DYLIB = {0xC, 0x80000018, 0x8000001F, 0x80000023}  # plain, weak, re-exported, upward
_STAB, _TYPE, _EXTERNAL = 0xE0, 0x0E, 0x01
# Zig's linker writes 0 for what it binds by flat lookup, Apple's writes 254.
_NO_LIBRARY = {0xFE: "flat lookup", 0xFF: "executable", 0: "flat lookup"}


@dataclass
class MachO:
    """A file's symbols.

    Attributes:
        libraries: install names of the libraries it loads.
        undefined: symbol -> the library that has it, or ``flat lookup`` for any.
        exported: symbols that others may use.
        run_paths: where ``@rpath`` is looked for.
        macos: least version, as (15, 0).
        signed: whether it carries a code signature, which Apple silicon insists on.
    """

    libraries: list[str] = field(default_factory=list)
    undefined: dict[str, str] = field(default_factory=dict)
    exported: set[str] = field(default_factory=set)
    run_paths: list[str] = field(default_factory=list)
    macos: tuple[int, int] = (0, 0)
    signed: bool = False


def read_mach_o(path: Path) -> MachO:
    """The symbols of an arm64 file.

    Raises:
        ValueError: for any other file.
    """
    data = path.read_bytes()
    if len(data) < 32 or struct.unpack_from("<II", data) != (_MAGIC, _ARM64):
        raise ValueError(f"{path.name} is not a Mach-O file for arm64.")
    result = MachO()
    at, symbols = 32, (0, 0, 0, 0)
    for _ in range(struct.unpack_from("<I", data, 16)[0]):
        command, size = struct.unpack_from("<II", data, at)
        if command in _LOAD_DYLIB:
            result.libraries.append(_text(data, at + struct.unpack_from("<I", data, at + 8)[0]))
        elif command == _LC_RPATH:
            result.run_paths.append(_text(data, at + struct.unpack_from("<I", data, at + 8)[0]))
        elif command == _LC_SYMTAB:
            symbols = struct.unpack_from("<IIII", data, at + 8)
        elif command == _LC_BUILD_VERSION:
            version = struct.unpack_from("<I", data, at + 12)[0]
            result.macos = (version >> 16, version >> 8 & 0xFF)
        elif command == _LC_CODE_SIGNATURE:
            result.signed = True
        at += size
    table, count, strings, _ = symbols
    for i in range(count):
        name_at, kind, _, description, _ = struct.unpack_from("<IBBHQ", data, table + 16 * i)
        if kind & _STAB or not kind & _EXTERNAL:
            continue
        name = _text(data, strings + name_at)
        if kind & _TYPE:
            result.exported.add(name)
        else:
            ordinal = description >> 8
            known = _NO_LIBRARY.get(ordinal)
            result.undefined[name] = known or result.libraries[ordinal - 1]
    return result


def _text(data: bytes, at: int) -> str:
    return data[at : data.index(b"\0", at)].decode()
