"""Feeds damaged weight files to `ltx2rt inspect` and the loader, and counts what comes of it.

    python tools/fuzz_headers.py --count 1000000 --jobs 4        # an hour or so
    python tools/fuzz_headers.py --only 4711 --keep /tmp/mutant  # one of them again

The corpus is made here: small safetensors and GGUF files with every kind of header, marker and LoRA name. A mutant is
one of them with its tensors, names, values and markers changed, written as a file, and some bytes of its header changed
after that. Whatever happens must be a result or an error of ltx2rt, within a second and without much memory; the exit
code is 1 if anything else came out. The report says how many mutants got past the parsing of their header, and which
lines of `ltx2rt/weights` a part of them reached.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import sys
import time
from pathlib import Path

from header_fuzzing.corpus import corpus, whole_models
from header_fuzzing.mutation import Mutator
from header_fuzzing.reached_lines import READERS, lines_of
from header_fuzzing.running import Tally, prepare, run

_CHUNK = 500
# A line of progress after so many of these.
_REPORTED = 20


def _run(work: tuple[int, int, int, bool, Path | None]) -> Tally:
    return run(*work)


def report(tally: Tally, count: int, seconds: float) -> None:
    """Print the outcome."""
    print(f"{count} mutants in {seconds:.0f} s ({count / seconds:.0f} a second), {tally.parsed} with a sound header")
    print(f"({100 * tally.parsed / count:.1f} %); slowest {tally.slowest[0]:.2f} s (mutant {tally.slowest[1]});")
    print(f"peak memory of a process {tally.peak_bytes / 2**20:.0f} MiB")
    for kind, number in sorted(tally.kinds.items()):
        print(f"{number:9} {kind}")
    if tally.lines:
        print("lines reached of the readers:")
        for path in sorted(READERS.rglob("*.py")):
            every = lines_of(path)
            reached = tally.lines.get(str(path), set()) & every
            if reached:
                print(f"{len(reached):5} of {len(every):4} {path.relative_to(READERS)}")
    for where, (index, trace) in tally.failures.items():
        print(f"\nFAILED first with mutant {index}: {where}\n{trace}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000, help="mutants (10000)")
    parser.add_argument("--seed", type=int, default=0, help="of all of them together (0)")
    parser.add_argument("--first", type=int, default=0, help="number of the first mutant (0)")
    parser.add_argument("--only", type=int, help="run this mutant alone")
    parser.add_argument("--jobs", type=int, default=1, help="processes (1)")
    parser.add_argument(
        "--traced", type=int, default=2000, help="mutants whose lines are counted, which is slow (2000)"
    )
    parser.add_argument("--keep", type=Path, help="folder for the mutants that failed")
    options = parser.parse_args()
    first, count = (options.first, options.count) if options.only is None else (options.only, 1)
    if options.only is not None and options.keep is not None:
        options.keep.mkdir(parents=True, exist_ok=True)
        mutant = Mutator(random.Random(f"{options.seed}/{options.only}")).mutant(corpus(), list(whole_models()))
        (options.keep / f"{options.seed}-{options.only}.bin").write_bytes(mutant)
    start = time.perf_counter()
    bounds = [(at, min(at + _CHUNK, first + count)) for at in range(first, first + count, _CHUNK)]
    work = [(options.seed, at, stop, at < first + options.traced, options.keep) for at, stop in bounds]
    tally = Tally()
    with multiprocessing.get_context("spawn").Pool(options.jobs, prepare) as pool:
        for done, part in enumerate(pool.imap_unordered(_run, work), 1):
            tally.add(part)
            if done % _REPORTED == 0:
                seconds = time.perf_counter() - start
                print(f"{done * _CHUNK} mutants, {seconds:.0f} s, {len(tally.failures)} failures", file=sys.stderr)
    report(tally, count, time.perf_counter() - start)
    return 1 if tally.failures else 0


if __name__ == "__main__":
    sys.exit(main())
