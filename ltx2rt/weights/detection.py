"""What kind of weight file or folder a path is, and a clear refusal of the kinds that cannot be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ltx2rt.errors import CheckpointError

OFFICIAL = "the official .safetensors file"


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``; `CheckpointError` if it cannot be read or is something else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}).") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not valid JSON ({error}).") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: must hold a JSON object, got a {type(value).__name__}.")
    return value
