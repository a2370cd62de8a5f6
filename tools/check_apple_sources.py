"""``python -m tools.check_apple_sources [FOLDER]``: whether the Metal launch code compiles for a Mac; nothing is built.

Each source that only a Mac compiles goes through ``zig c++`` with MLX's macOS headers, and the code of LTX2RT_METALLIB,
which no build on Linux reaches, too. FOLDER keeps MLX's wheels (that of .ci/cross-build-macos will do); everything
else, objects included, is in a temporary folder.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tools.cross_macos.__main__ import ROOT, mlx_for_macos
from tools.cross_macos.compiler import TARGET, write_stand_ins, zig

# Sources outside csrc/metal with code for a Mac alone.
OTHERS = ("csrc/fallback_primitive.cpp",)


def sources() -> list[Path]:
    """The launch code, as CMakeLists.txt lists it, and OTHERS."""
    listed = re.search(r"set\(LTX2RT_METAL_SOURCES\s+([^)]*)\)", (ROOT / "CMakeLists.txt").read_text())
    if listed is None:
        raise SystemExit("CMakeLists.txt has no LTX2RT_METAL_SOURCES")
    return [ROOT / name for name in (*listed[1].split(), *OTHERS)]


def faults(files: Sequence[Path], options: Sequence[str]) -> Iterator[str]:
    """The compiler's messages for each file that it refuses."""
    # Not -fsyntax-only: zig takes it for a link, compiles its C++ library first and leaves an empty object.
    command = [zig(), "c++", "-target", TARGET, "-std=c++20", "-O0", "-Wall", "-Wextra", "-Werror", *options]
    with tempfile.TemporaryDirectory() as scratch:
        for file in files:
            words = [*command, "-c", str(file), "-o", str(Path(scratch) / "made.o")]
            done = subprocess.run(words, cwd=scratch, capture_output=True, text=True, check=False)
            if done.returncode:
                yield f"{file.name}:\n{done.stderr[:6000]}"


def main(arguments: Sequence[str]) -> int:
    """1, with the compiler's messages, when a source does not compile."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", help="keeps MLX's wheels; none: they are fetched and dropped")
    kept = parser.parse_args(arguments).folder
    with tempfile.TemporaryDirectory() as scratch:
        folder = kept.resolve() if kept is not None else Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        mlx = mlx_for_macos(folder)
        include = [write_stand_ins(Path(scratch)), mlx / "include", mlx / "include/metal_cpp"]
        options = ["-D_METAL_", "-DLTX2RT_METAL", "-I", str(ROOT)]
        options += [word for path in include for word in ("-isystem", str(path))]
        found = list(faults(sources(), options))
        found += faults([ROOT / "csrc/metal/kernel_library.cpp"], [*options, "-DLTX2RT_METALLIB"])
    sys.stdout.write("\n".join(found) or f"{len(sources())} sources compile for {TARGET}\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
