"""``python -m tools.cross_macos [FOLDER]``: the macOS arm64 wheel, built and checked on Linux; nothing of it is run."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from tools.cross_macos.compiler import write_tools, zig
from tools.cross_macos.mach_o import MachO, read_mach_o
from tools.cross_macos.symbols import libcxx_symbols, python_symbols, system_symbols, unexplained
from tools.cross_macos.wheel import pack
from tools.embed_shaders import inline_headers, split_kernels

ROOT = Path(__file__).parents[2]
TOOLS = ("cmake", "ninja")
PLATFORM = "macosx_14_0_arm64"
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"


def run(*command: str | Path, **environment: str) -> str:
    """Standard output of a command; ends this program with its messages when it fails."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{(done.stdout + done.stderr)[-8000:]}")
    return done.stdout


def mlx_for_macos(folder: Path) -> Path:
    """MLX's macOS wheels of the version that pyproject.toml pins, unpacked together."""
    (version,) = set(re.findall(r'"mlx==([\d.]+); sys_platform == .darwin.', (ROOT / "pyproject.toml").read_text()))
    site, wheels = folder / f"mlx-{version}-{VERSION}", folder / "wheels"
    if not site.exists():
        pip = (sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "--dest", wheels)
        run(*pip, "--platform", PLATFORM, "--python-version", VERSION, f"mlx=={version}", f"mlx-metal=={version}")
        partial = folder / "unpacking"
        shutil.rmtree(partial, ignore_errors=True)
        for wheel in wheels.glob(f"mlx*-{version}-*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(partial)
        partial.rename(site)
    return site / "mlx"


def build(folder: Path, mlx: Path, libcxx: set[str]) -> Path:
    """The extension module, by the CMakeLists.txt that a Mac would use."""
    tools, sdk = write_tools(folder, libcxx)
    cmake, ninja = (shutil.which(name, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}") for name in TOOLS)
    if cmake is None or ninja is None:
        raise SystemExit("the cross-build needs cmake and ninja: pip install 'ltx2rt[metal]'")
    generator = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
    made = folder / "build"
    run(
        *(cmake, *generator, "-S", ROOT, "-B", made),
        *("--toolchain", Path(__file__).parent / "toolchain.cmake", f"-DCROSS_TOOLS={tools}", f"-DCROSS_SDK={sdk}"),
        f"-DMLX_ROOT={mlx / 'share/cmake/MLX'}",
        f"-DPython_EXECUTABLE={sys.executable}",
        *("-DLTX2RT_STUBS=OFF", "-DLTX2RT_WERROR=ON"),
    )
    run(cmake, "--build", made, "-j", str(os.cpu_count() or 2))
    (module,) = made.glob("_ext*.so")
    return module


def check(module: MachO, mlx: MachO, libcxx: set[str]) -> None:
    """Ends this program when something that the module needs is not known to exist, or a Mac would refuse it."""
    nanobind = Path(run(sys.executable, "-m", "nanobind", "--cmake_dir").strip())
    system = system_symbols(Path(zig()).parent / "lib/libc/darwin/libSystem.tbd")
    counts, unknown = unexplained(module, mlx, libcxx, system, python_symbols(nanobind / "darwin-ld-cpython.sym"))
    print("needs " + ", ".join(f"{count} symbols of {name}" for name, count in counts.items()))
    faults = [f"not known to exist on a Mac: {symbol}" for symbol in unknown]
    if counts["libmlx"] == 0:
        faults.append("no symbol of libmlx: this cannot be the module")
    if not any("mlx4core5metal6device" in symbol for symbol in module.undefined):
        faults.append("mlx::core::metal::device is not called: the Metal launch code is missing")
    if module.run_paths != ["@loader_path/../mlx/lib"]:
        faults.append(f"run paths are {module.run_paths}")
    if set(module.libraries) != {"/usr/lib/libSystem.B.dylib", "@rpath/libmlx.dylib", "/usr/lib/libc++.1.dylib"}:
        faults.append(f"it loads {module.libraries}")
    if not module.signed or module.macos > mlx.macos or "_PyInit__ext" not in module.exported:
        faults.append(f"signed: {module.signed}, macOS {module.macos}, exports {sorted(module.exported)[:5]}")
    if faults:
        raise SystemExit("\n".join(faults))


def check_installed(wheel: Path, folder: Path) -> None:
    """Installs the wheel as pip would for a Mac and looks for the module and every shader in it."""
    shutil.rmtree(folder, ignore_errors=True)
    pip = (sys.executable, "-m", "pip", "install", "-q", "--target", folder, "--no-deps", "--only-binary=:all:")
    run(*pip, "--platform", PLATFORM, "--python-version", VERSION, wheel)
    (module,) = (folder / "ltx2rt").glob("_ext.*.so")
    if module.name != f"_ext.cpython-{VERSION.replace('.', '')}-darwin.so":
        raise SystemExit(f"a Mac's Python would not import {module.name}")
    content = module.read_bytes()
    shaders = sorted((ROOT / "csrc/metal").glob("*.metal"))
    absent = []
    for shader in shaders:
        body, kernels = split_kernels(inline_headers(shader, ROOT))
        absent += [shader.name] * (body.encode() not in content)
        absent += [name for name, line in kernels.items() if line.encode() not in content]
    if absent:
        raise SystemExit(f"the module lacks the text of {', '.join(absent)}")
    size = f"{wheel.stat().st_size / 1e6:.1f} MB"
    print(f"{wheel.name}: {size}, {len(shaders)} shaders in it, pip installs it for {PLATFORM}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=ROOT / "build/cross_macos", help="keeps what is built")
    folder = parser.parse_args().folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    mlx = mlx_for_macos(folder)
    library, core = read_mach_o(mlx / "lib/libmlx.dylib"), read_mach_o(next(mlx.glob("core.*.so")))
    libcxx = libcxx_symbols((library, core))
    module = build(folder, mlx, libcxx)
    check(read_mach_o(module), library, libcxx)
    backend = folder / "backend"
    if not backend.exists():
        run(sys.executable, "-m", "pip", "install", "-q", "--target", backend, "scikit-build-core>=0.11,<2")
    metadata = folder / "metadata"
    shutil.rmtree(metadata, ignore_errors=True)
    metadata.mkdir()
    hook = "import sys, scikit_build_core.build as b; print(b.prepare_metadata_for_build_wheel(sys.argv[1]))"
    name = run(sys.executable, "-c", hook, metadata, PYTHONPATH=str(backend)).splitlines()[-1]
    wheel = pack(ROOT, module, metadata / name, folder / "dist")
    check_installed(wheel, folder / "installed")


if __name__ == "__main__":
    main()
