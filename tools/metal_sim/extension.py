"""Builds and loads _ext_metal_sim: the ops of ltx2rt, evaluated by their Metal launch code in the simulator."""

from __future__ import annotations

import fcntl
import importlib.util
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from types import ModuleType

from tools.metal_sim.build import cache_folder

ROOT = Path(__file__).parents[2]
NEEDS = ("ziglang", "cmake", "ninja", "nanobind")


class BuildError(RuntimeError):
    """The extension does not compile; the message is the compiler's."""


def missing() -> list[str]:
    """What of ``NEEDS`` is not installed."""
    return [name for name in NEEDS if importlib.util.find_spec(name) is None]


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"{' '.join(command)}:\n{done.stdout[-6000:]}{done.stderr[-6000:]}")


@lru_cache
def simulated_extension() -> ModuleType:
    """The module, built first where its sources have changed; a build from nothing takes about a minute.

    Raises:
        BuildError: if CMake or the compiler fails.
    """
    folder = cache_folder() / f"extension-{sys.implementation.cache_tag}"
    with open(cache_folder() / "extension.lock", "w") as lock:  # two test runs may start at once
        fcntl.flock(lock, fcntl.LOCK_EX)
        _build(folder)
    (path,) = (folder / "metal_sim").glob("_ext_metal_sim*.so")
    spec = importlib.util.spec_from_file_location("_ext_metal_sim", path)
    if spec is None or spec.loader is None:
        raise BuildError(f"{path} is not a Python module.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _build(folder: Path) -> None:
    import ninja  # of the packages in NEEDS, which tests are skipped without

    cmake = [sys.executable, "-m", "cmake"]
    if not (folder / "CMakeCache.txt").exists():
        # The package's program: an environment that is not activated has none on the path.
        program = Path(ninja.BIN_DIR) / "ninja"
        generator = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={program}"]
        options = ["-DLTX2RT_METAL_SIM=ON", "-DLTX2RT_ISAS=portable", "-DLTX2RT_STUBS=OFF"]
        _run(*cmake, *generator, "-S", str(ROOT), "-B", str(folder), f"-DPython_EXECUTABLE={sys.executable}", *options)
    _run(*cmake, "--build", str(folder), "--target", "_ext_metal_sim", "-j2")
