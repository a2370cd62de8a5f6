"""Packs the package and a cross-built module into a wheel for macOS."""

from __future__ import annotations

import base64
import hashlib
import os
import sys
import zipfile
from pathlib import Path


def pack(root: Path, module: Path, metadata: Path, folder: Path) -> Path:
    """``ltx2rt-VERSION-cpXY-cpXY-macosx_14_0_arm64.whl`` in ``folder``.

    Args:
        root: the repository; everything in ltx2rt/ is packed but compiled files.
        module: the extension for macOS.
        metadata: a .dist-info folder, as the build backend makes it.
        folder: where the wheel goes.
    """
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    tag = f"{python}-{python}-macosx_14_0_arm64"
    files: dict[str, bytes] = {}
    for path in sorted((root / "ltx2rt").rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".so":
            files[path.relative_to(root).as_posix()] = path.read_bytes()
    files[f"ltx2rt/_ext.cpython-{sys.version_info.major}{sys.version_info.minor}-darwin.so"] = module.read_bytes()
    info = metadata.name
    for path in sorted(metadata.rglob("*")):
        if path.is_file() and path.name not in ("WHEEL", "RECORD"):
            files[f"{info}/{path.relative_to(metadata).as_posix()}"] = path.read_bytes()
    files[f"{info}/WHEEL"] = f"Wheel-Version: 1.0\nGenerator: ltx2rt\nRoot-Is-Purelib: false\nTag: {tag}\n".encode()
    record = [f"{name},sha256={_hash(data)},{len(data)}" for name, data in files.items()] + [f"{info}/RECORD,,"]
    files[f"{info}/RECORD"] = ("\n".join(record) + "\n").encode()
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f"{info.removesuffix('.dist-info')}-{tag}.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (0o755 if name.endswith(".so") else 0o644) << 16
            archive.writestr(entry, data)
    os.chmod(wheel, 0o644)
    return wheel


def _hash(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
