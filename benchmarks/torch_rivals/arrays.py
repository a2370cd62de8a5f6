"""Arrays and weights of ours as torch tensors and back, bit by bit."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

import mlx.core as mx
import numpy as np

from ltx2rt.bench.case import DTYPES
from ltx2rt.graph.models.layers.params import Array
from ltx2rt.kernels import host
from ltx2rt.types import LinearWeight, ParamSpec


def torch_module() -> ModuleType:
    import torch

    module: ModuleType = torch
    return module


def installed(package: str) -> bool:
    """Whether a library with models to compare with is there."""
    return importlib.util.find_spec(package) is not None


def to_torch(array: mx.array) -> Any:
    """A torch tensor with the values and the dtype of ``array``; uint8 stays uint8."""
    torch = torch_module()
    if array.dtype == mx.bfloat16:
        return torch.from_numpy(host.to_numpy(array.view(mx.uint16)).view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(host.to_numpy(array))


def to_numpy(tensor: Any) -> np.ndarray[Any, Any]:
    """Float32 values of a torch tensor."""
    values: np.ndarray[Any, Any] = tensor.detach().float().numpy()
    return values


def official_layout(name: str, array: Array, specs: dict[str, ParamSpec]) -> mx.array:
    """A parameter as it stands in the official file."""
    if isinstance(array, LinearWeight):
        return array.values
    layout = specs[name].layout
    if layout == "conv":
        return mx.contiguous(mx.moveaxis(array, -1, 1))
    return mx.contiguous(array.transpose(2, 0, 1)) if layout == "conv_transpose1d" else array


def torch_weights(
    params: dict[str, Array], specs: Iterable[ParamSpec], rename: Callable[[str], str], dtype: str
) -> dict[str, Any]:
    """A state dict: every parameter in ``dtype`` under its name in the other implementation."""
    by_name = {spec.name: spec for spec in specs}
    return {
        rename(name): to_torch(official_layout(name, array, by_name).astype(DTYPES[dtype]))
        for name, array in params.items()
    }
