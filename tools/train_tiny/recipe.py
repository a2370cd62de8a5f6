"""Which recipe the embedded files were made by; this module needs no torch."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ltx2rt import embedded

FOLDER = Path(__file__).parent
# Modules that decide nothing about the weights.
_OTHERS = ("evaluate.py", "export.py", "parity.py", "recipe.py")


def recipe_hash() -> str:
    """SHA-256 over the recipe's modules and the world's vocabulary."""
    digest = hashlib.sha256()
    for path in (*sorted(FOLDER.glob("*.py")), Path(embedded.__file__).parent / "world.py"):
        if path.name not in _OTHERS:
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
