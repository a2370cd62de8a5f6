"""Launches one kernel in the simulator and gives back its outputs, what it counted and what it found."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np

from tools.metal_sim.bfloat16 import FLOAT_TYPES, storage_dtype
from tools.metal_sim.build import build_kernel, build_runtime

KINDS = ("race", "bounds", "alignment", "uninitialised", "divergence", "limit", "binding", "nan", "unwritten", "crash")
_MAX_BUFFERS, _MAX_FINDINGS = 31, 64


@dataclass(frozen=True)
class In:
    """A device buffer that the kernel only reads; the argument starts ``offset`` bytes into it."""

    array: np.ndarray
    offset: int = 0


@dataclass(frozen=True)
class Out:
    """A device buffer that the kernel writes completely, filled with NaN before.

    ``dtype`` is a numpy name or ``bfloat16``. With ``partial`` some elements may stay unwritten.
    """

    shape: Sequence[int]
    dtype: str
    offset: int = 0
    partial: bool = False


@dataclass(frozen=True)
class InOut:
    """A device buffer that the kernel reads and writes; ``dtype`` says what it holds, by default as numpy has it."""

    array: np.ndarray
    dtype: str = ""
    offset: int = 0


@dataclass(frozen=True)
class Inline:
    """Bytes set with the dispatch, as a parameter struct is."""

    data: bytes


Argument = In | Out | InOut | Inline


class Counters(ctypes.Structure):
    """What one launch did. Bytes and accesses are requests of the threads: no cache, nothing merged."""

    device_load_bytes: int
    device_store_bytes: int
    constant_load_bytes: int
    threadgroup_load_bytes: int
    threadgroup_store_bytes: int
    loads: int
    stores: int
    multiplies: int
    shuffles: int
    reductions: int
    threadgroup_barriers: int
    simdgroup_barriers: int
    atomics: int
    threadgroups: int
    threadgroup_bytes: int
    device_lines: int
    threadgroup_cycles: int
    wide_integer_operations: int
    narrow_integer_operations: int
    wave_lines: int
    _fields_ = [
        (name, ctypes.c_uint64)
        for name in (
            "device_load_bytes",
            "device_store_bytes",
            "constant_load_bytes",
            "threadgroup_load_bytes",
            "threadgroup_store_bytes",
            "loads",
            "stores",
            "multiplies",
            "shuffles",
            "reductions",
            "threadgroup_barriers",
            "simdgroup_barriers",
            "atomics",
            "threadgroups",
            "threadgroup_bytes",
            "device_lines",
            "threadgroup_cycles",
            "wide_integer_operations",
            "narrow_integer_operations",
            "wave_lines",
        )
    ]

    def as_dict(self) -> dict[str, int]:
        return {name: getattr(self, name) for name, *_ in self._fields_}

    @property
    def device_bytes(self) -> int:
        return self.device_load_bytes + self.device_store_bytes


@dataclass(frozen=True)
class Finding:
    """A defect: one of `KINDS`, and where."""

    kind: str
    message: str


class SimulationError(AssertionError):
    """A launch had findings that were not allowed."""


@dataclass
class Result:
    """Outputs by buffer index, in the storage dtype (bfloat16 as uint16); counters; findings, at most 64 in full."""

    outputs: dict[int, np.ndarray]
    counters: Counters
    findings: list[Finding]
    found: dict[str, int] = field(default_factory=dict)  # how many of each kind there were

    def check(self) -> Result:
        """Itself.

        Raises:
            SimulationError: if anything was found.
        """
        if self.found:
            text = "\n".join(f"  {f.kind}: {f.message}" for f in self.findings[:12])
            raise SimulationError(f"{sum(self.found.values())} findings {self.found}\n{text}")
        return self


class _Finding(ctypes.Structure):
    _fields_ = [("kind", ctypes.c_int32), ("message", ctypes.c_char * 508)]


class _Report(ctypes.Structure):
    _fields_ = [
        ("counters", Counters),
        ("found", ctypes.c_uint64 * len(KINDS)),
        ("kept", ctypes.c_int32),
        ("findings", _Finding * _MAX_FINDINGS),
    ]


class _Parameter(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int) for name in ("kind", "index", "reference", "writable")),
        *((name, ctypes.c_int64) for name in ("size", "alignment")),
    ]


_THREADGROUP = 2  # the kind of a threadgroup argument


class _Dispatch(ctypes.Structure):
    _fields_ = [
        ("kernel", ctypes.c_void_p),
        ("parameters", ctypes.c_void_p),
        ("grid", ctypes.c_uint32 * 3),
        ("group", ctypes.c_uint32 * 3),
        *(
            (name, ctypes.c_int32)
            for name in ("grid_is_threads", "processes", "seed", "timeout_s", "trace", "checked", "wave")
        ),
    ]


@lru_cache
def _runtime() -> ctypes.CDLL:
    library = ctypes.CDLL(str(build_runtime()), mode=ctypes.RTLD_GLOBAL)
    library.msim_report.restype = ctypes.POINTER(_Report)
    return library


@lru_cache(maxsize=256)
def _load(path: Path) -> ctypes.CDLL:
    _runtime()
    return ctypes.CDLL(str(path))


_CONSTANT_FORMATS = {"bool": "?", "char": "b", "uchar": "B", "short": "h", "ushort": "H", "int": "i", "uint": "I"}
_CONSTANT_FORMATS |= {"float": "f", "long": "q", "ulong": "Q", "int32_t": "i", "uint32_t": "I", "half": "e"}


def _set_constants(
    library: ctypes.CDLL, declared: Mapping[str, tuple[int, str]], values: Mapping[str | int, bool | int | float]
) -> None:
    by_index = {index: (name, type_) for name, (index, type_) in declared.items()}
    given: dict[int, bool | int | float] = {}
    for key, value in values.items():
        index = declared[key][0] if isinstance(key, str) and key in declared else key
        if not isinstance(index, int) or index not in by_index:
            names = ", ".join(f"{n} ({i})" for n, (i, _) in declared.items()) or "none"
            raise ValueError(f"the shader has no function constant {key!r}; it has: {names}.")
        given[index] = value
    for index, (_, type_) in by_index.items():
        packed = struct.pack("<" + _CONSTANT_FORMATS[type_], given.get(index, 0)).ljust(8, b"\0")
        ctypes.memmove(ctypes.addressof(ctypes.c_char.in_dll(library, f"msim_constant_{index}")), packed, 8)
        defined = bytes([index in given]).ljust(8, b"\0")
        ctypes.memmove(ctypes.addressof(ctypes.c_char.in_dll(library, f"msim_defined_{index}")), defined, 8)


def _literal(value: bool | int | float) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _bind(index: int, argument: Argument) -> np.ndarray:
    """Binds one argument; the array that holds its bytes must stay alive until the launch is over."""
    partial, element = 0, 0
    if isinstance(argument, Inline):
        host, mode, offset = np.frombuffer(bytearray(argument.data), np.uint8), 0, 0
    elif isinstance(argument, In):
        host, mode, offset = np.ascontiguousarray(argument.array), 1, argument.offset
    else:
        if isinstance(argument, Out):
            host, mode = np.zeros(tuple(argument.shape), storage_dtype(argument.dtype)), 2
            partial = int(argument.partial)
        else:
            host, mode = argument.array.copy(), 3
        offset = argument.offset
        name = argument.dtype or str(host.dtype)
        element = FLOAT_TYPES.index(name) + 1 if name in FLOAT_TYPES else 0
    _runtime().msim_bind(
        index,
        ctypes.c_void_p(host.ctypes.data),
        ctypes.c_uint64(host.nbytes),
        ctypes.c_uint64(offset),
        mode,
        element,
        partial,
    )
    return host


@dataclass(frozen=True)
class Prepared:
    """A kernel compiled and loaded, and the function constants that each launch sets."""

    library: ctypes.CDLL
    declared: Mapping[str, tuple[int, str]]
    constants: Mapping[str | int, bool | int | float]
    specialised: bool
    checked: bool

    def buffers(self) -> set[int]:
        """The buffer indices of the kernel's arguments."""
        indices, at = set(), ctypes.addressof(ctypes.c_char.in_dll(self.library, "msim_parameters"))
        while (parameter := _Parameter.from_address(at)).kind >= 0:
            if parameter.kind != _THREADGROUP:
                indices.add(parameter.index)
            at += ctypes.sizeof(_Parameter)
        return indices


def prepare(
    source: Path | str,
    kernel: str,
    constants: Mapping[str | int, bool | int | float] | None = None,
    *,
    mode: str = "checked",
    specialise: bool = False,
    strict: bool = False,
    arithmetic: bool = False,
    include: Sequence[Path] = (),
    defines: Mapping[str, str] | None = None,
) -> Prepared:
    """Compiles and loads a kernel for `run_prepared`; arguments and errors are those of `run`."""
    if mode not in ("checked", "unchecked"):
        raise ValueError(f'mode must be "checked" or "unchecked" but is {mode!r}.')
    constants = constants or {}
    values = {str(key): _literal(value) for key, value in constants.items()} if specialise else None
    checked = mode == "checked"
    built = build_kernel(
        source,
        kernel,
        include=include,
        defines=defines,
        values=values,
        checked=checked,
        strict=strict,
        arithmetic=arithmetic,
    )
    return Prepared(_load(built.library), built.constants, constants, specialise, checked)


def run_prepared(
    prepared: Prepared,
    buffers: Mapping[int, Argument],
    grid: tuple[int, int, int],
    group: tuple[int, int, int],
    *,
    grid_is_threads: bool = False,
    threadgroup_memory: Mapping[int, int] | None = None,
    trace: bool = False,
    wave: int = 0,
    seed: int = 0,
    processes: int = 1,
    timeout_s: int = 120,
    allow: Iterable[str] = (),
) -> Result:
    """One dispatch of a prepared kernel; arguments are those of `run`."""
    allowed = set(allow)
    if not allowed <= set(KINDS):
        raise ValueError(
            f"allow must name kinds of findings, {', '.join(KINDS)}, but has {sorted(allowed - set(KINDS))}."
        )
    if wave and (processes > 1 or seed):
        raise ValueError("waves are counted with one process and no seed.")
    library, runtime = prepared.library, _runtime()
    if not prepared.specialised:
        _set_constants(library, prepared.declared, prepared.constants)
    runtime.msim_reset()
    hosts = {index: _bind(index, argument) for index, argument in buffers.items()}
    for index, length in (threadgroup_memory or {}).items():
        runtime.msim_set_threadgroup_memory(index, ctypes.c_uint64(length))
    dispatch = _Dispatch(
        ctypes.cast(library.msim_kernel, ctypes.c_void_p),
        ctypes.addressof(ctypes.c_char.in_dll(library, "msim_parameters")),
        (ctypes.c_uint32 * 3)(*grid),
        (ctypes.c_uint32 * 3)(*group),
        int(grid_is_threads),
        processes,
        seed,
        timeout_s,
        int(trace),
        int(prepared.checked),
        wave,
    )
    runtime.msim_launch(ctypes.byref(dispatch))
    report = runtime.msim_report().contents
    counters = Counters.from_buffer_copy(report.counters)
    found = {kind: int(n) for kind, n in zip(KINDS, report.found, strict=True) if n and kind not in allowed}
    findings = [
        Finding(KINDS[f.kind], f.message.decode(errors="replace"))
        for f in report.findings[: report.kept]
        if KINDS[f.kind] not in allowed
    ]
    outputs = {i: hosts[i] for i, argument in buffers.items() if isinstance(argument, Out | InOut)}
    runtime.msim_reset()
    return Result(outputs, counters, findings, found)


def run(
    source: Path | str,
    kernel: str,
    buffers: Mapping[int, Argument],
    grid: tuple[int, int, int],
    group: tuple[int, int, int],
    constants: Mapping[str | int, bool | int | float] | None = None,
    mode: str = "checked",
    *,
    grid_is_threads: bool = False,
    threadgroup_memory: Mapping[int, int] | None = None,
    specialise: bool = False,
    strict: bool = False,
    arithmetic: bool = False,
    trace: bool = False,
    wave: int = 0,
    seed: int = 0,
    processes: int = 1,
    timeout_s: int = 120,
    include: Sequence[Path] = (),
    defines: Mapping[str, str] | None = None,
    allow: Iterable[str] = (),
) -> Result:
    """Runs one dispatch of a Metal kernel.

    Args:
        source: path of a .metal file, or the text of a shader.
        kernel: host name of the kernel.
        buffers: argument of each buffer index.
        grid: threadgroups, or threads with ``grid_is_threads`` (dispatchThreads).
        group: threads per threadgroup.
        constants: function constants by name or index.
        mode: ``checked``, or ``unchecked``: several times faster, without memory checks and without counters of memory.
        threadgroup_memory: bytes of each threadgroup argument.
        specialise: compile the function constants in, as Metal does. Without it one compiled kernel serves all values,
            and code that they switch off may still be counted.
        strict: treat ``thread`` as an address space, as Metal does.
        arithmetic: count integer operations, as clang leaves them after its optimisations for this machine.
        wave: count the lines that so many threadgroups in a row load between them: what must come from memory if caches
            hold what one wave reads, and nothing longer. One process, no seed.
        trace: also count distinct lines and bank cycles (slower).
        seed: other than 0 runs threads, simdgroups and threadgroups in a random order.
        processes: worker processes among which the threadgroups are divided.
        timeout_s: ends a kernel that does not end itself.
        include, defines: as for a compiler.
        allow: kinds of findings to leave out of the result.

    Raises:
        CompileError, TranslationError: for a shader that is refused.
        ValueError: for an unknown mode, kind or function constant.
    """
    return run_prepared(
        prepare(
            source,
            kernel,
            constants,
            mode=mode,
            specialise=specialise,
            strict=strict,
            arithmetic=arithmetic,
            include=include,
            defines=defines,
        ),
        buffers,
        grid,
        group,
        grid_is_threads=grid_is_threads,
        threadgroup_memory=threadgroup_memory,
        trace=trace,
        wave=wave,
        seed=seed,
        processes=processes,
        timeout_s=timeout_s,
        allow=allow,
    )
