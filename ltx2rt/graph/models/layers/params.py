"""How a model sees its weights: a mapping under a name prefix that it reads and never keeps."""

from __future__ import annotations

from collections.abc import Mapping

import mlx.core as mx

from ltx2rt.kernels import quantized_linear
from ltx2rt.types import Activations, LinearWeight

Array = mx.array | LinearWeight


class Params:
    """Read-only view of a component's arrays under a prefix.

    The arrays belong to the stage that loaded them; when the stage empties its mapping, every view is empty too.
    Models therefore hold a `Params`, never an array.

    Args:
        arrays: by full name.
        prefix: what the names of this view begin with.
        activations: how 8-bit weights are multiplied (see `LinearWeight`).
    """

    def __init__(self, arrays: Mapping[str, Array], prefix: str = "", activations: Activations = "float") -> None:
        self._arrays = arrays
        self._prefix = prefix
        self._activations = activations

    def __getitem__(self, name: str) -> mx.array:
        """The array stored under prefix + name."""
        value = self._arrays[self._prefix + name]
        assert not isinstance(value, LinearWeight), f"{self._prefix}{name} is a linear weight"
        return value

    def get(self, name: str) -> mx.array | None:
        if name not in self:
            return None
        return self[name]

    def weight(self, name: str) -> LinearWeight:
        """The linear weight stored under prefix + name."""
        value = self._arrays[self._prefix + name]
        assert isinstance(value, LinearWeight), f"{self._prefix}{name} is not a linear weight"
        return value._replace(activations=self._activations) if value.mode == "int8" else value

    def __contains__(self, name: str) -> bool:
        return self._prefix + name in self._arrays

    def at(self, prefix: str) -> Params:
        """The view of ``prefix`` + '.' below this one."""
        return Params(self._arrays, f"{self._prefix}{prefix}.", self._activations)


def linear(
    x: mx.array,
    params: Params,
    *,
    activation: str | None = None,
    residual: mx.array | None = None,
    gate: mx.array | None = None,
    gate_index: mx.array | None = None,
) -> mx.array:
    """`quantized_linear` with the ``weight`` and, if stored, the ``bias`` of ``params``."""
    return quantized_linear(
        x,
        params.weight("weight"),
        params.get("bias"),
        activation=activation,
        residual=residual,
        gate=gate,
        gate_index=gate_index,
    )
