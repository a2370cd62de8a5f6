"""Instructions that NEON needs to expand a weight, beside the plain loops, counted by qemu-aarch64.

Run `python benchmarks/neon_expansion.py --least 5` on any machine with qemu-aarch64 and aarch64-linux-gnu-g++. Times
under emulation say nothing about vectors: the emulator computes every lane's float operation by itself.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Instruction set, flags of the compiler as in CMakeLists.txt, processor of the emulator, words.
SETS = {
    "neonbf16": ("-march=armv8.2-a+bf16+dotprod+i8mm", "max", ("float32", "pairs")),
    "neon": ("-march=armv8-a", "cortex-a72", ("float32",)),
}
FORMATS = ("e4m3", "int8", "int4", "bf16")
BARRED = FORMATS[:3]
PANEL = 256 * 8


def build(name: str, folder: Path) -> Path:
    """The program for one instruction set."""
    flags = f"-std=c++20 -O3 {SETS[name][0]} -DLTX2RT_ISA={name} -ffp-contract=fast -fno-math-errno -fno-trapping-math"
    program = folder / name
    source = ROOT / "benchmarks" / "neon_expansion.cpp"
    command = ["aarch64-linux-gnu-g++", *flags.split(), "-static", f"-I{ROOT}", str(source), "-o", str(program)]
    subprocess.run(command, check=True)
    return program


def instructions(program: Path, cpu: str, *arguments: str) -> int:
    """That one more round of the program runs."""

    def executed(rounds: int) -> int:
        log = program.with_suffix(".log")
        # Blocks of one instruction each, every one of them a line.
        emulator = ["qemu-aarch64", "-cpu", cpu, "-singlestep", "-d", "exec,nochain", "-D", str(log)]
        subprocess.run([*emulator, str(program), *arguments, str(rounds)], check=True)
        with log.open("rb") as lines:
            return sum(line.startswith(b"Trace") for line in lines)

    return executed(2) - executed(1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--least", type=float, default=0.0, help="fail where e4m3, int8 or int4 gains less than this")
    least = parser.parse_args().least
    short = False
    with tempfile.TemporaryDirectory() as folder:
        for name, (_, cpu, all_words) in SETS.items():
            program = build(name, Path(folder))
            subprocess.run(["qemu-aarch64", "-cpu", cpu, str(program)], check=True)
            for form in FORMATS:
                for words in all_words:
                    plain, fast = (instructions(program, cpu, form, words, way) for way in ("plain", "fast"))
                    gain = plain / fast
                    short = short or (form in BARRED and gain < least)
                    per_weight = f"{plain / PANEL:6.2f} -> {fast / PANEL:5.2f} instructions per weight"
                    print(f"{name:8} {form} as {words:7} {per_weight}, {gain:4.1f} times")
    return int(short)


if __name__ == "__main__":
    sys.exit(main())
