"""Arrays of ours as torch tensors and back, bit by bit; torch is imported only here and in the cases that compare."""

from __future__ import annotations

import importlib.util
from types import ModuleType
from typing import Any

import mlx.core as mx
import numpy as np

from ltx2rt.errors import UsageError
from ltx2rt.kernels import host


def torch_module() -> ModuleType:
    """The torch package.

    Raises:
        UsageError: when it is not installed.
    """
    if importlib.util.find_spec("torch") is None:
        raise UsageError("torch is not installed, so it cannot be compared; pip install 'ltx2rt[parity]'.")
    import torch

    return torch


def diffusers_installed() -> bool:
    """Whether the models to compare with are there."""
    return importlib.util.find_spec("diffusers") is not None


def to_torch(array: mx.array) -> Any:
    """A torch tensor with the values and the dtype of ``array``; uint8 stays uint8."""
    torch = torch_module()
    if array.dtype == mx.bfloat16:
        return torch.from_numpy(host.to_numpy(array.view(mx.uint16)).view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(host.to_numpy(array))


def to_numpy(result: Any) -> np.ndarray[Any, Any]:
    """Float32 values of an MLX array or a torch tensor."""
    if isinstance(result, mx.array):
        return host.to_numpy(result.astype(mx.float32))
    values: np.ndarray[Any, Any] = result.detach().float().numpy()
    return values
