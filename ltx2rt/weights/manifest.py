"""Tensor manifests: the names, dtypes and shapes of a checkpoint without its data."""

from __future__ import annotations

import json
from pathlib import Path

from ltx2rt.errors import CheckpointError
from ltx2rt.weights.detection import read_json
from ltx2rt.weights.tensor_source import DTYPES, TensorInfo, entry


def read_manifest(path: Path) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """Tensors and metadata of a manifest: ``{"tensors": {name: [dtype, shape]}, "metadata": {...}}``.

    Raises:
        CheckpointError: not such a file.
    """
    manifest = read_json(path)
    listed = manifest.get("tensors")
    if not isinstance(listed, dict):
        raise CheckpointError(f"{path}: not a tensor manifest: it has no object named 'tensors'.")
    tensors = {}
    for name, listing in listed.items():
        valid = (
            isinstance(listing, list)
            and len(listing) == 2
            and listing[0] in DTYPES
            and isinstance(listing[1], list)
            and all(isinstance(n, int) and n >= 0 for n in listing[1])
        )
        if not valid:
            raise CheckpointError(f"{path}: tensor {name!r} must be [dtype, shape], got {listing!r}.")
        tensors[name] = entry(listing[0], tuple(listing[1]))
    metadata = manifest.get("metadata") or {}
    return tensors, {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}
