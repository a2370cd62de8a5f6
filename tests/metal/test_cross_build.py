"""The checks of the cross-build and what they refuse, on small files; .ci/cross-build-macos applies them to ours."""

from __future__ import annotations

import base64
import csv
import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tools.check_apple_sources import ROOT, faults, sources
from tools.cross_macos.compiler import TARGET, write_tools, zig
from tools.cross_macos.mach_o import MachO, read_mach_o
from tools.cross_macos.symbols import libcxx_symbols, python_symbols, system_symbols, unexplained
from tools.cross_macos.wheel import pack

CODE = """
#include <string>
extern "C" int from_python();
extern "C" __attribute__((visibility("default"))) int ours(const char* text) {
  return from_python() + int(std::stoi(text));
}
"""


def test_symbols_of_a_mach_o_file(tmp_path: Path) -> None:
    """A library for macOS made by the very tools that CMake is given."""
    stoi = "__ZNSt3__14stoiERKNS_12basic_stringIcNS_11char_traitsIcEENS_9allocatorIcEEEEPmi"
    tools, _ = write_tools(tmp_path, {stoi})
    source, library = tmp_path / "ours.cpp", tmp_path / "ours.so"
    source.write_text(CODE)
    compiled, compiler = tmp_path / "ours.o", tools / "c++"
    subprocess.run([compiler, "-fvisibility=hidden", "-O2", "-c", source, "-o", compiled], check=True)
    options = ["-bundle", "-Wl,@symbols.sym", "-framework", "Metal", "-Wl,-rpath,@loader_path/here"]
    subprocess.run([compiler, *options, compiled, "-o", library], check=True)
    made = read_mach_o(library)
    assert "_ours" in made.exported
    assert made.undefined["_from_python"] == "flat lookup"
    assert made.undefined[stoi] == "/usr/lib/libc++.1.dylib"
    assert made.libraries == ["/usr/lib/libSystem.B.dylib", "/usr/lib/libc++.1.dylib"]
    assert made.run_paths == ["@loader_path/here"]
    assert made.macos == (14, 0)
    assert TARGET.endswith("14.0")
    assert made.signed


def test_the_check_of_apple_sources_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good, bad = tmp_path / "good.cpp", tmp_path / "bad.cpp"
    good.write_text("int one() { return LTX2RT_ONE; }\n")
    bad.write_text("int one() { int unused; return 1; }\n")
    monkeypatch.chdir(tmp_path)
    (fault,) = faults([good, bad], ["-DLTX2RT_ONE=1"])
    assert fault.startswith("bad.cpp:")
    assert "unused" in fault
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.cpp", "good.cpp"]


def test_the_check_of_apple_sources_knows_every_source_of_the_launch_code() -> None:
    assert set((ROOT / "csrc/metal").glob("*.cpp")) < set(sources())
    assert all(path.is_file() for path in sources())


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a Mach-O file for arm64"):
        read_mach_o(Path(sys.executable))
    empty = tmp_path / "empty"
    empty.touch()
    with pytest.raises(ValueError, match="is not a Mach-O file"):
        read_mach_o(empty)


def test_symbols_of_unknown_origin_are_named(tmp_path: Path) -> None:
    mlx = MachO(
        exported={"_mlx"}, undefined={"_cxx": "/usr/lib/libc++.1.dylib", "_malloc": "/usr/lib/libSystem.B.dylib"}
    )
    listed = tmp_path / "python.sym"
    listed.write_text("-U _PyLong_FromLong\n-U _PyNothing_LikeThis\n")
    needed = ["_mlx", "_cxx", "_malloc", "_PyLong_FromLong", "_PyNothing_LikeThis", "_objc_msgSend", "_absent"]
    module = MachO(undefined=dict.fromkeys(needed, "flat lookup"))
    libcxx = libcxx_symbols([mlx])
    counts, unknown = unexplained(module, mlx, libcxx, {"_malloc"}, python_symbols(listed))
    assert counts == {"libmlx": 1, "libc++": 1, "libSystem": 1, "Python": 1, "Objective-C": 1}
    assert unknown == ["_PyNothing_LikeThis (flat lookup)", "_absent (flat lookup)"]
    assert "_malloc" not in libcxx


def test_the_stub_of_the_system_lists_its_symbols() -> None:
    system = system_symbols(Path(zig()).parent / "lib/libc/darwin/libSystem.tbd")
    assert {"_malloc", "_pthread_create", "_dladdr", "dyld_stub_binder"} <= system
    assert "_no_such_function" not in system


def test_the_wheel(tmp_path: Path) -> None:
    root, info = tmp_path / "root", tmp_path / "ltx2rt-1.2.3.dist-info"
    (root / "ltx2rt/__pycache__").mkdir(parents=True)
    for name in ("__init__.py", "_ext.cpython-311-x86_64-linux-gnu.so", "__pycache__/a.pyc"):
        (root / "ltx2rt" / name).write_text("# text\n")
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ltx2rt\nVersion: 1.2.3\n")
    (info / "WHEEL").write_text("Tag: none")
    module = tmp_path / "module.so"
    module.write_bytes(b"module")
    wheel = pack(root, module, info, tmp_path / "dist")
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    assert wheel.name == f"ltx2rt-1.2.3-{python}-{python}-macosx_14_0_arm64.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        assert f"ltx2rt/_ext.cpython-{python[2:]}-darwin.so" in names
        assert sum(name.endswith((".so", ".pyc")) for name in names) == 1
        assert f"Tag: {python}-{python}-macosx_14_0_arm64" in archive.read(f"{info.name}/WHEEL").decode()
        recorded = {row[0]: row for row in csv.reader(archive.read(f"{info.name}/RECORD").decode().splitlines())}
        assert sorted(recorded) == sorted(names)
        for name in names:
            if not name.endswith("RECORD"):
                digest = hashlib.sha256(archive.read(name)).digest()
                expected = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
                assert recorded[name][1:] == [f"sha256={expected}", str(len(archive.read(name)))]
    target = tmp_path / "installed"
    options = [
        "--no-deps",
        "--only-binary=:all:",
        "--platform",
        "macosx_14_0_arm64",
        "--no-index",
        "--target",
        str(target),
    ]
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", *options, str(wheel)], check=True, env=environment)
    assert (target / "ltx2rt" / f"_ext.cpython-{python[2:]}-darwin.so").read_bytes() == b"module"
