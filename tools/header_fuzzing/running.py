"""Makes mutants one after the other, gives them to the readers, and counts what comes of it."""

from __future__ import annotations

import logging
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from header_fuzzing.corpus import corpus, whole_models
from header_fuzzing.mutation import Mutator
from header_fuzzing.reached_lines import tracer
from header_fuzzing.reading import read

# For one mutant.
_SECONDS = 20
_BYTES = 2 << 30


@dataclass
class Tally:
    """What came of some mutants.

    Attributes:
        kinds: outcome -> how many.
        parsed: how many had a sound header.
        failures: where something else than an error of ltx2rt came from -> (first mutant, traceback).
        slowest: seconds, and the mutant.
        lines: file of `ltx2rt/weights` -> lines reached.
        peak_bytes: of memory, in the process that ran them.
    """

    kinds: Counter[str] = field(default_factory=Counter)
    parsed: int = 0
    failures: dict[str, tuple[int, str]] = field(default_factory=dict)
    slowest: tuple[float, int] = (0.0, -1)
    lines: dict[str, set[int]] = field(default_factory=dict)
    peak_bytes: int = 0

    def add(self, other: Tally) -> None:
        self.kinds += other.kinds
        self.parsed += other.parsed
        for where, failure in other.failures.items():
            self.failures.setdefault(where, failure)
        self.slowest = max(self.slowest, other.slowest)
        for name, lines in other.lines.items():
            self.lines.setdefault(name, set()).update(lines)
        self.peak_bytes = max(self.peak_bytes, other.peak_bytes)


def run(seed: int, first: int, stop: int, traced: bool, keep: Path | None) -> Tally:
    """The mutants from ``first`` to before ``stop``; ``traced`` records the lines that they reach."""
    small, whole, tally = corpus(), list(whole_models()), Tally()
    before = signal.signal(signal.SIGPROF, _too_long)
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
        for index in range(first, stop):
            # Of its own, so that no file beside it is read with it.
            path = Path(folder) / f"{index}" / "mutant-dev.safetensors"
            path.parent.mkdir()
            path.write_bytes(Mutator(random.Random(f"{seed}/{index}")).mutant(small, whole))
            start = time.process_time()
            signal.setitimer(signal.ITIMER_PROF, _SECONDS * (5 if traced else 1))  # of this process
            if traced:
                sys.settrace(tracer(tally.lines))
            try:
                file, kinds = read(path)
                tally.kinds.update(kinds)
                tally.parsed += file is not None
                if file is not None:
                    file.close()
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                tally.kinds["FAILED"] += 1
                place = traceback.extract_tb(error.__traceback__)[-1]
                ours = [frame for frame in traceback.extract_tb(error.__traceback__) if "ltx2rt" in frame.filename]
                where = f"{type(error).__name__} at {(ours or [place])[-1].filename}:{(ours or [place])[-1].lineno}"
                if where not in tally.failures and keep is not None:
                    keep.mkdir(parents=True, exist_ok=True)
                    (keep / f"{seed}-{index}.bin").write_bytes(path.read_bytes())
                tally.failures.setdefault(where, (index, traceback.format_exc(limit=-6)))
            finally:
                sys.settrace(None)
                signal.setitimer(signal.ITIMER_PROF, 0)
            tally.slowest = max(tally.slowest, (time.process_time() - start, index))
            path.unlink()
            path.parent.rmdir()
    signal.signal(signal.SIGPROF, before)
    tally.peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return tally


def _too_long(number: int, frame: FrameType | None) -> None:
    raise TimeoutError(f"a mutant took more than {_SECONDS} s")


def prepare() -> None:
    """A process of its own: quiet, and with little memory."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore", RuntimeWarning)  # of numpy, where values of mutants overflow
    with open("/proc/self/statm", encoding="ascii") as statm:
        now = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + _BYTES, now + _BYTES))
