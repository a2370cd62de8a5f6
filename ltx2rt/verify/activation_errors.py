"""What 8-bit weights lose, and what 8-bit activations lose beside them: the two choices of ``--activations``."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import get_args

import mlx.core as mx

from ltx2rt.kernels import quantized_linear, reference
from ltx2rt.kernels.host import to_numpy
from ltx2rt.kernels.proof_store import Outcome
from ltx2rt.kernels.selection import forced
from ltx2rt.types import Activations, LinearWeight

ROWS, COLUMNS, DEPTH = 96, 256, 1024
# The published form of 8-bit integers, plain and rotated.
ROTATIONS = {"int8": 0, "int8 convrot": 256}


def activation_errors(form: str) -> Iterator[tuple[Activations, Outcome]]:
    """Errors of a product with weights of a form of `ROTATIONS`, for each choice.

    A weight of normal numbers is rounded to 8 bits, rows of bfloat16 are multiplied with it as they are and as codes,
    and both results are compared with the float32 product of what the weight was: the root mean square of the
    difference, relative to that product. Without codes it may be twice what the weight itself has lost, with them twice
    what it is without.
    """
    exact = mx.random.normal((COLUMNS, DEPTH), key=mx.random.key(1))
    weight = _eight_bits(exact, ROTATIONS[form])
    x = mx.random.normal((ROWS, DEPTH), key=mx.random.key(2)).astype(mx.bfloat16)
    wanted = x.astype(mx.float32) @ exact.T
    tolerance = 2 * _relative(reference.dequantise(weight), exact)
    for activations in get_args(Activations):
        with forced("kernel"):
            found = quantized_linear(x, weight._replace(activations=activations)).astype(mx.float32)
        error = _relative(found, wanted)
        sound = math.isfinite(error) and error <= tolerance
        yield activations, Outcome("kernel", error, tolerance, fault="" if sound else f"error {error:.2e}")
        tolerance = 2 * error


def _eight_bits(exact: mx.array, rotation: int) -> LinearWeight:
    turned = reference.rotate_groups(exact, rotation) if rotation else exact
    scale = mx.abs(turned).max(axis=1) / 127
    codes = mx.round(turned / scale[:, None]).astype(mx.int8)
    return LinearWeight("int8", codes, scale, rotation=rotation)


def _relative(found: mx.array, wanted: mx.array) -> float:
    energies = mx.stack([mx.square(found - wanted).mean(), mx.square(wanted).mean()])
    difference, size = (float(value) for value in to_numpy(energies))
    return math.sqrt(difference / size)
