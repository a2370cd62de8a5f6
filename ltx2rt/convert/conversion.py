"""A weight file in another format: read, encoded and written some rows at a time, the error measured on the way."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ltx2rt.convert.encoders.encoder import Piece
from ltx2rt.convert.formats import TARGETS
from ltx2rt.convert.growing_file import GrowingFile
from ltx2rt.convert.plan import Plan, Write, make_plan
from ltx2rt.errors import CheckpointError, UsageError
from ltx2rt.hub.weight_path import resolve_weight_path
from ltx2rt.memory.measure import reset_resident_peak, resident_peak_bytes
from ltx2rt.paths import expanded
from ltx2rt.weights.checkpoint import Checkpoint
from ltx2rt.weights.formats import DENSE

# Tensors at a time; each takes a few hundred rows of memory.
_MOST_THREADS = 4
# At a time, of a tensor that stays as it is.
_COPIED_BYTES = 16 << 20

# Called with the bytes of the input that are done, and all of them.
Observer = Callable[[int, int], None]


@dataclass
class ClassReport:
    """What the conversion did to one class of layers.

    Attributes:
        layers: component and module.
        written_as: the format they have now.
        tensors: how many.
        error: relative RMS error of all of them together, against the input as it is decoded.
        worst: the largest error of a single tensor, and the tensor.
    """

    layers: str
    written_as: str
    tensors: int = 0
    error: float = 0.0
    worst: float = 0.0
    worst_tensor: str = ""
    _energy: float = field(default=0.0, repr=False)
    _lost: float = field(default=0.0, repr=False)

    def add(self, name: str, energy: float, lost: float) -> None:
        """Count one tensor."""
        self.tensors += 1
        self._energy += energy
        self._lost += lost
        self.error = _relative(self._energy, self._lost)
        error = _relative(energy, lost)
        if error > self.worst or not self.worst_tensor:
            self.worst, self.worst_tensor = error, name


@dataclass(frozen=True)
class ConversionReport:
    """A finished conversion.

    Attributes:
        source, target, format: what was asked for.
        source_bytes: of the tensors that were read, ``target_bytes`` of the new file.
        seconds: it took.
        peak_bytes: largest resident memory of the process meanwhile; None where the system does not tell.
        classes: per class of layers and format.
        requantised: format -> number of weights that were stored in it and now have another; the errors come on top of
            what that format has lost already.
        left_out: what was not written.
    """

    source: str
    target: str
    format: str
    source_bytes: int
    target_bytes: int
    seconds: float
    peak_bytes: int | None
    classes: list[ClassReport]
    requantised: dict[str, int]
    left_out: list[str]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        values = asdict(self)
        for row in values["classes"]:
            del row["_energy"], row["_lost"]
        return values


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    format_name: str,
    *,
    only: Collection[str] = (),
    observer: Observer | None = None,
) -> ConversionReport:
    """Write the weights of ``source`` to ``target`` in another format.

    Args:
        source: whatever `Checkpoint.open` reads, with its data; or a reference to a file in the hub's cache.
        target: the new file; it appears complete or not at all.
        format_name: one of `TARGETS`.
        only: components to write; empty: all that a file of the format holds.
        observer: told about the progress.

    Raises:
        UsageError: the format, the components or the target cannot be.
        CheckpointError: the source is damaged or cannot be read.
        OutOfSpace: the disk has not enough room.
        MediaError: the target cannot be written.
    """
    source, target = resolve_weight_path(expanded(source)), expanded(target)
    if format_name not in TARGETS:
        raise UsageError(f"format must be one of {', '.join(TARGETS)}, got {format_name!r}.")
    form = TARGETS[format_name]
    if target.suffix != form.container.suffix:
        raise UsageError(f"the output {target} must end in {form.container.suffix} for the format {format_name}.")
    checkpoint = Checkpoint.open(source)
    if checkpoint.is_manifest:
        raise CheckpointError(f"{source}: a manifest lists tensors without their data; give the weight file.")
    _require_other_file(checkpoint, target)
    plan = make_plan(checkpoint, format_name, form, only)
    arrangement = form.container.arrange(plan.entries, plan.metadata)
    start = time.perf_counter()
    reset_resident_peak()
    with GrowingFile(target, plan.entries, arrangement) as out:
        classes = _write_all(checkpoint, plan, out, observer)
    return ConversionReport(
        source=str(source),
        target=str(target),
        format=format_name,
        source_bytes=plan.source_bytes,
        target_bytes=arrangement.size,
        seconds=time.perf_counter() - start,
        peak_bytes=resident_peak_bytes(),
        classes=classes,
        requantised=_requantised(plan),
        left_out=plan.left_out,
    )


def _write_all(checkpoint: Checkpoint, plan: Plan, out: GrowingFile, observer: Observer | None) -> list[ClassReport]:
    classes: dict[tuple[str, str], ClassReport] = {}
    total, done = plan.source_bytes, 0
    for name, data in plan.files.items():
        out.append(name, data)
    for name, file in plan.copies.items():
        nbytes = file.tensors[name].nbytes
        for start in range(0, nbytes, _COPIED_BYTES):
            out.append(name, file.bytes(name, start, start + _COPIED_BYTES))
        done += nbytes
    with ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1), "convert") as pool:
        try:
            written = pool.map(partial(_write, checkpoint, out), plan.writes)
            for write, (energy, lost) in zip(plan.writes, written, strict=True):
                if write.encoder is not None:
                    key = write.layers, write.encoder.name
                    classes.setdefault(key, ClassReport(*key)).add(write.name, energy, lost)
                done += write.source_bytes
                if observer is not None:
                    observer(done, total)
        except BaseException:
            pool.shutdown(cancel_futures=True)  # what has begun ends with its tensor
            raise
    return sorted(classes.values(), key=lambda row: (row.written_as in ("bf16", "f32", "f16"), row.layers))


def _write(checkpoint: Checkpoint, out: GrowingFile, write: Write) -> tuple[float, float]:
    """Write one tensor; the sums of the squares of its values and of what changed."""
    energy = lost = 0.0
    for piece in _pieces(checkpoint, write):
        for suffix, items in piece.items.items():
            out.append(write.written_name(suffix), items)
        energy += piece.energy
        lost += piece.lost
    return energy, lost


def _pieces(checkpoint: Checkpoint, write: Write) -> Iterator[Piece]:
    if write.encoder is None:
        yield Piece({"": checkpoint.bytes(write.component, write.spec.name)})
        return
    where = f"{checkpoint.path}: {write.component}: {write.spec.name}"
    shape = write.spec.shape
    yield from write.encoder.pieces(lambda: checkpoint.value_slabs(write.component, write.spec), shape, where)


def _requantised(plan: Plan) -> dict[str, int]:
    """Format -> how many weights were stored in it and are written in another quantised one."""
    counts: dict[str, int] = {}
    for write in plan.writes:
        quantised = write.encoder is not None and ".weight" in write.entries
        if quantised and write.stored_as != DENSE.name:
            counts[write.stored_as] = counts.get(write.stored_as, 0) + 1
    return counts


def _require_other_file(checkpoint: Checkpoint, target: Path) -> None:
    """Raise `UsageError` when the target is a file that is read, whatever it is called, or lies among those."""
    if target.is_dir():
        raise UsageError(f"the output {target} is a folder; name a file.")
    if not target.parent.is_dir():
        raise UsageError(f"the output folder {target.parent} does not exist; create it or choose another path.")
    if target.exists() and any(os.path.samefile(target, file.path) for file in checkpoint.files):
        raise UsageError(f"the output {target} is the file that is converted; name another one.")
    if checkpoint.path.is_dir() and os.path.samefile(checkpoint.path, target.parent):
        raise UsageError(f"the output {target} would lie among the files that are converted; choose another folder.")


def _relative(energy: float, lost: float) -> float:
    return math.sqrt(lost / energy) if energy > 0 else 0.0
