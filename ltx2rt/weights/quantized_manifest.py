"""The manifest that a dense checkpoint would have with MLX int8 or int4 weights in its transformer blocks."""

from __future__ import annotations

from ltx2rt.weights.checkpoint import Checkpoint
from ltx2rt.weights.formats import AFFINE
from ltx2rt.weights.tensor_source import TensorInfo

GROUP_SIZE = 64
_DENSE = ("BF16", "F16", "F32")


def affine_manifest(checkpoint: Checkpoint, bits: int) -> Checkpoint:
    """``checkpoint`` with every matrix of the transformer blocks in MLX's affine form; names and shapes only.

    Args:
        checkpoint: dense, of one file or a manifest.
        bits: 4 or 8.
    """
    tensors: dict[str, TensorInfo] = {}
    for name, info in checkpoint.tensors.items():
        dense = info.dtype in _DENSE and len(info.shape) == 2 and info.shape[1] % GROUP_SIZE == 0
        if "transformer_blocks." not in name or not name.endswith(".weight") or not dense:
            tensors[name] = info
            continue
        rows, columns = info.shape
        tensors |= AFFINE.entries(name.removesuffix(".weight"), (rows, columns), bits, GROUP_SIZE)
    return Checkpoint(checkpoint.path, (), checkpoint.metadata, listed=tensors)
