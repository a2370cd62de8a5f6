"""Whether everything that the cross-built module needs exists on a Mac, as far as that can be known from here."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterable
from pathlib import Path

from tools.cross_macos.mach_o import MachO

# What our code uses of Apple's libc++ that neither of MLX's binaries does. All of it is older than macOS 14: the sized
# and aligned forms of delete came with macOS 10.13, waiting on an atomic with macOS 11, the rest with the first libc++.
STATED_LIBCXX = frozenset(
    {
        "__ZdlPvm",  # operator delete(void*, unsigned long)
        "__ZdlPvmSt11align_val_t",
        "__ZNSt3__19to_stringEx",  # std::to_string(long long)
        "__ZNSt3__19to_stringEf",
        "__ZNSt3__19to_stringEd",
        "__ZNSt11logic_errorC1EPKc",  # std::logic_error: of libc++abi, which libc++ exports again
        "__ZNSt11logic_errorD1Ev",
        "__ZTISt11logic_error",
        "__ZNSt3__113basic_istreamIcNS_11char_traitsIcEEE6sentryC1ERS3_b",  # std::istringstream
        "__ZTTNSt3__119basic_istringstreamIcNS_11char_traitsIcEENS_9allocatorIcEEEE",
        "__ZTVNSt3__119basic_istringstreamIcNS_11char_traitsIcEENS_9allocatorIcEEEE",
        "__ZNSt3__120__libcpp_atomic_waitEPVKvx",  # std::atomic::wait and notify_one
        "__ZNSt3__123__cxx_atomic_notify_oneEPVKv",
        "__ZNSt3__123__libcpp_atomic_monitorEPVKv",
        # Of std::string, what a build for size does not inline: templates that libc++ has always held instantiated.
        "__ZNKSt3__112basic_stringIcNS_11char_traitsIcEENS_9allocatorIcEEE4findEcm",
        "__ZNSt3__112basic_stringIcNS_11char_traitsIcEENS_9allocatorIcEEE21__grow_by_and_replaceEmmmmmmPKc",
        "__ZNSt3__112basic_stringIcNS_11char_traitsIcEENS_9allocatorIcEEE9__grow_byEmmmmmm",
        "__ZNSt3__112basic_stringIcNS_11char_traitsIcEENS_9allocatorIcEEEC2ERKS5_mmRKS4_",
        "__ZNSt3__112basic_stringIcNS_11char_traitsIcEENS_9allocatorIcEEEaSERKS5_",
        "__ZNSt3__15mutex8try_lockEv",
        "__ZNSt3__16thread6detachEv",
    }
)
# Of the Objective-C runtime, which libmlx has loaded: metal-cpp's calls.
STATED_OBJC = frozenset({"_objc_msgSend", "_sel_registerName", "_objc_lookUpClass", "_objc_getProtocol"})


def libcxx_symbols(binaries: Iterable[MachO]) -> set[str]:
    """What Apple's libc++ exports: what MLX's binaries, built with Apple's tools, take from it, and STATED_LIBCXX."""
    return {s for b in binaries for s, library in b.undefined.items() if "libc++" in library} | STATED_LIBCXX


def system_symbols(stub: Path) -> set[str]:
    """What libSystem exports: every symbol of the .tbd file that zig brings."""
    return set(re.findall(r"[\w$.]+", stub.read_text()))


def python_symbols(linker_list: Path) -> set[str]:
    """Names that CPython exports, by nanobind's list for Apple's linker (lines ``-U _PyName``)."""
    return set(re.findall(r"-U (\S+)", linker_list.read_text()))


def unexplained(
    module: MachO, mlx: MachO, libcxx: set[str], system: set[str], python: set[str]
) -> tuple[dict[str, int], list[str]]:
    """How many symbols come from where, and those of which nothing is known."""
    counts = {"libmlx": 0, "libc++": 0, "libSystem": 0, "Python": 0, "Objective-C": 0}
    unknown = []
    for symbol in sorted(module.undefined):
        if symbol in mlx.exported:
            counts["libmlx"] += 1
        elif symbol in libcxx:
            counts["libc++"] += 1
        elif symbol in python and hasattr(ctypes.pythonapi, symbol.removeprefix("_")):
            counts["Python"] += 1
        elif symbol in STATED_OBJC:
            counts["Objective-C"] += 1
        elif symbol in system:
            counts["libSystem"] += 1
        else:
            unknown.append(f"{symbol} ({module.undefined[symbol]})")
    return counts, unknown
