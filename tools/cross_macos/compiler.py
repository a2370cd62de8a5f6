"""The tools that CMake calls to build for macOS: zig behind a front that speaks the words of Apple's tools."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from pathlib import Path

TARGET = "aarch64-macos.14.0"
# Headers of Apple's SDK that metal-cpp includes; only these three types are used by what we include of it.
STAND_INS = {
    "CoreFoundation/CoreFoundation.h": """
typedef double CFTimeInterval;
typedef const void* CFTypeRef;
typedef const struct __CFString* CFStringRef;
""",
    "IOSurface/IOSurfaceRef.h": """
typedef struct __IOSurface* IOSurfaceRef;
""",
}
# Apple's libc++ is older than zig's headers, which inline what it lacks when told that it is a vendor's.
_LIBRARY_FLAGS = (
    "-U_LIBCPP_HAS_VENDOR_AVAILABILITY_ANNOTATIONS",
    "-D_LIBCPP_HAS_VENDOR_AVAILABILITY_ANNOTATIONS=1",
)
_FRONT = """#!/bin/bash
# Words of Apple's compiler and linker that zig does not know are left out or put in its words.
words=(); skip=0; link=1
for word in "$@"; do
  if [ $skip = 1 ]; then skip=0; continue; fi
  case "$word" in
    -framework | -F) skip=1 ;;
    -F* | *.framework | -Wl,-x | -Wl,-S | -Wl,-headerpad_max_install_names | -Wl,-search_paths_first) ;;
    -Wl,@*) words+=(-Wl,-undefined,dynamic_lookup) ;;
    -bundle) words+=(-shared) ;;
    -march=armv8.2-a+*) words+=("-mcpu=generic+v8_2a+${{word#*+}}") ;;
    -c | -E) link=0; words+=("$word") ;;
    *) words+=("$word") ;;
  esac
done
[ $link = 1 ] && words+=(-nostdlib++ {libcxx})
exec {zig} c++ -target {target} {flags} "${{words[@]}}"
"""


def zig() -> str:
    """The program of the ziglang package."""
    found = importlib.util.find_spec("ziglang")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("the cross-build needs ziglang: pip install 'ltx2rt[metal]'")
    return str(Path(found.submodule_search_locations[0]) / "zig")


def write_stand_ins(folder: Path) -> Path:
    """A folder, made in ``folder``, with the headers of Apple's SDK that metal-cpp includes."""
    sdk = folder / "sdk"
    for name, text in STAND_INS.items():
        (sdk / name).parent.mkdir(parents=True, exist_ok=True)
        (sdk / name).write_text(f"#pragma once{text}")
    return sdk


def write_tools(folder: Path, libcxx_symbols: Iterable[str]) -> tuple[Path, Path]:
    """The compiler's front and its companions, and the stand-ins of the SDK.

    Args:
        folder: both are made in here.
        libcxx_symbols: what Apple's libc++ is known to export; the linker finds these in it.

    Returns:
        The folders of the tools and of the stand-ins.
    """
    tools, sdk = folder / "tools", write_stand_ins(folder)
    tools.mkdir(parents=True, exist_ok=True)
    libcxx = sdk / "libc++.1.tbd"
    libcxx.write_text(_library_stub("/usr/lib/libc++.1.dylib", libcxx_symbols))
    front = _FRONT.format(zig=zig(), target=TARGET, flags=" ".join(_LIBRARY_FLAGS), libcxx=libcxx)
    companions = {name: f'#!/bin/sh\nexec {zig()} {name} "$@"\n' for name in ("ar", "ranlib")}
    for name, text in {"c++": front, **companions, "install_name_tool": "#!/bin/sh\nexit 1\n"}.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    return tools, sdk


def _library_stub(install_name: str, symbols: Iterable[str]) -> str:
    names = ", ".join(f"'{name}'" for name in sorted(symbols))
    return (
        "--- !tapi-tbd\ntbd-version: 4\ntargets: [ arm64-macos ]\n"
        f"install-name: '{install_name}'\nexports:\n  - targets: [ arm64-macos ]\n    symbols: [ {names} ]\n...\n"
    )
