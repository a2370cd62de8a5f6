"""The ways in which LoRA files change a tensor, one object each: what it needs, its delta, its bytes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ltx2rt.errors import CheckpointError
from ltx2rt.types import Array
from ltx2rt.weights.lora.factor import Factor
from ltx2rt.weights.lora.scale import Scale

Shape = tuple[int, ...]
# Rows [first, last) -> what is added to them, float32.
Delta = Callable[[slice], Array]


class Change(ABC):
    """What a file does to one tensor of the model.

    Attributes:
        method: what people call it.
        parts: what its tensors are called in `keys`.
        factors: part -> tensor.
        rank: of the product; 0 for kinds without one.
        scale: that the product is multiplied by.
    """

    method: str
    rank: int = 0
    scale: Scale = Scale(1.0)

    def __init__(self, factors: Mapping[str, Factor]) -> None:
        self.factors = factors

    @property
    def replaces(self) -> bool:
        """Whether its delta is the new value of the tensor rather than added to it."""
        return False

    @property
    @abstractmethod
    def shape(self) -> Shape:
        """Of the tensor that it changes."""

    @abstractmethod
    def begin(self, strength: float, base: Array, first: int = 0) -> Delta:
        """Read the factors.

        Args:
            strength: that the change is multiplied by.
            base: float32 values of the tensor, or of some of its rows, unchanged until the delta of a slab is there.
            first: row of the tensor that is row 0 of ``base``.

        Returns:
            Rows of ``base`` -> their delta.

        Raises:
            CheckpointError: values that are not finite, or the file is only a manifest.
        """

    @property
    def held_bytes(self) -> int:
        """Of float32 factors, from `begin` until the tensor is done."""
        return sum(factor.nbytes for factor in self.factors.values())

    @property
    def slab_arrays(self) -> int:
        """How many float32 arrays of the size of a slab its delta takes at most, the result included."""
        return 1

    def check(self, shape: Shape, where: str, known: str = "") -> None:
        """Raise CheckpointError when the tensor has another shape.

        Args:
            shape: of the tensor.
            where: names file and module.
            known: what explains it.
        """
        if self.shape != shape:
            raise CheckpointError(
                f"{where}: the LoRA is for a weight of {_by(self.shape)}, the model has {_by(shape)}"
                f"{f': {known}' if known else ''}; "
                "use a LoRA made for this generation of the model."
            )


class PlainLora(Change):
    """t * s * B @ A, with A (rank, in) and B (out, rank).

    Source: Lightricks/LTX-2 ltx_core/loader/fuse_loras.py @ v1.2.0; an alpha, which that code ignores, scales here as
    in the tools that write it.
    """

    method = "LoRA"

    def __init__(self, factors: Mapping[str, Factor], scale: Scale) -> None:
        super().__init__(factors)
        self.scale = scale
        self.rank = factors["A"].shape[0]

    @property
    def shape(self) -> Shape:
        return self.factors["B"].shape[0], self.factors["A"].shape[1]

    def begin(self, strength: float, base: Array, first: int = 0) -> Delta:
        b = self.factors["B"].matrix() * np.float32(strength * self.scale.value)
        a = self.factors["A"].matrix()

        def delta(rows: slice) -> Array:
            result: Array = np.matmul(b[first + rows.start : first + rows.stop], a)
            return result

        return delta


class LoHa(Change):
    """t * s * (w1_a @ w1_b) * (w2_a @ w2_b), element by element.

    Source: KohakuBlueleaf/LyCORIS lycoris/modules/loha.py; its merge applies s twice, its forward once, as here.
    """

    method = "LoHa"

    def __init__(self, factors: Mapping[str, Factor], scale: Scale) -> None:
        super().__init__(factors)
        self.scale = scale
        self.rank = factors["hada_w1_b"].shape[0]

    @property
    def shape(self) -> Shape:
        return self.factors["hada_w1_a"].shape[0], self.factors["hada_w1_b"].shape[1]

    def begin(self, strength: float, base: Array, first: int = 0) -> Delta:
        a1, b1, a2, b2 = (self.factors[part].matrix() for part in ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"))
        a1 *= np.float32(strength * self.scale.value)

        def delta(rows: slice) -> Array:
            here = slice(first + rows.start, first + rows.stop)
            result: Array = np.matmul(a1[here], b1)
            result *= np.matmul(a2[here], b2)
            return result

        return delta

    @property
    def slab_arrays(self) -> int:
        return 2


class LoKr(Change):
    """t * s * kron(w1, w2); each of them whole, or a product itself. Of two whole ones s is 1.

    Source: KohakuBlueleaf/LyCORIS lycoris/modules/lokr.py; its merge applies s twice, its forward once, as here.
    """

    method = "LoKr"

    def __init__(self, factors: Mapping[str, Factor], scale: Scale, rank: int) -> None:
        super().__init__(factors)
        self.scale = scale
        self.rank = rank
        self._shapes = [_product_shape(factors, f"lokr_w{i}") for i in (1, 2)]

    @property
    def shape(self) -> Shape:
        (m, n), (p, q) = self._shapes
        return m * p, n * q

    @property
    def held_bytes(self) -> int:
        return super().held_bytes + sum(4 * rows * columns for rows, columns in self._shapes)

    def begin(self, strength: float, base: Array, first: int = 0) -> Delta:
        w1, w2 = (_product(self.factors, f"lokr_w{i}") for i in (1, 2))
        w1 = w1 * np.float32(strength * self.scale.value)

        def delta(rows: slice) -> Array:
            upper, lower = np.divmod(np.arange(first + rows.start, first + rows.stop), len(w2))
            result: Array = (w1[upper][:, :, None] * w2[lower][:, None, :]).reshape(len(upper), -1)
            return result

        return delta

    @property
    def slab_arrays(self) -> int:
        return 3  # the rows of both factors, each at most as large as the result


class DoRA(Change):
    """Another kind, after which every row (or column) gets a length of its own: W' = m * V / |V|, V = W + s * delta.

    Args:
        inner: the other kind.
        magnitude: m; (out,), (out, 1) or (1, in).

    Source: huggingface/peft tuners/lora/dora.py and KohakuBlueleaf/LyCORIS, which agree: |V| is that of the changed
    weight. A strength t adds t * (W' - W).
    """

    def __init__(self, inner: Change, magnitude: Factor) -> None:
        super().__init__({**inner.factors, "magnitude": magnitude})
        self._inner = inner
        self.rank, self.scale = inner.rank, inner.scale
        self.by_columns = _is_row(magnitude, inner.shape)
        self.method = "DoRA" if isinstance(inner, PlainLora) else f"DoRA over {inner.method}"

    @property
    def shape(self) -> Shape:
        return self._inner.shape

    @property
    def held_bytes(self) -> int:
        return self._inner.held_bytes + self.factors["magnitude"].nbytes

    @property
    def slab_arrays(self) -> int:
        return self._inner.slab_arrays + 1

    def begin(self, strength: float, base: Array, first: int = 0) -> Delta:
        inner = self._inner.begin(1.0, base, first)
        magnitude = self.factors["magnitude"].read().reshape(-1)
        columns = _over(magnitude, self._lengths_of_columns(inner, base)) if self.by_columns else None

        def delta(rows: slice) -> Array:
            # W' - W = k * V - W = (k - 1) * W + k * D, in which nothing large cancels out.
            added = inner(rows)
            changed = base[rows] + added
            if columns is None:
                lengths = np.sqrt(_squares(changed, axis=1))
                factor = _over(magnitude[first + rows.start : first + rows.stop], lengths)[:, None]
            else:
                factor = columns
            np.multiply(base[rows], (strength * (factor - 1)).astype(np.float32), out=changed)
            added *= (strength * factor).astype(np.float32)
            added += changed
            return added

        return delta

    def _lengths_of_columns(self, inner: Delta, base: Array) -> Array:
        squares = np.zeros(base.shape[1])
        for start in range(0, len(base), _ROWS_AT_A_TIME):
            rows = slice(start, min(start + _ROWS_AT_A_TIME, len(base)))
            changed = inner(rows)
            changed += base[rows]
            squares += _squares(changed, axis=0)
        result: Array = np.sqrt(squares)
        return result


class Difference(Change):
    """t * diff, of the tensor's own shape."""

    method = "full difference"

    @property
    def _values(self) -> Factor:
        return next(iter(self.factors.values()))

    @property
    def shape(self) -> Shape:
        shape = self._values.stored_shape
        while len(shape) > 2 and shape[-1] == 1:
            shape = shape[:-1]
        return shape

    @property
    def held_bytes(self) -> int:
        return 0 if self._values.is_read_by_rows else self._values.nbytes

    @property
    def slab_arrays(self) -> int:
        return 2  # as stored, and float32

    def begin(self, strength: float, base: Array, first: int = 0) -> Delta:
        values, t = self._values, np.float32(strength * self.scale.value)
        whole = None if values.is_read_by_rows else values.read()

        def delta(rows: slice) -> Array:
            start, stop = first + rows.start, first + rows.stop
            part = values.rows(start, stop) if whole is None else whole[start:stop]
            result: Array = part.reshape(len(part), *self.shape[1:]) * t
            return result

        return delta


class Bias(Difference):
    """t * s * the bias that goes with the factor B, in the way of PEFT's ``lora_bias``."""

    method = "LoRA"

    def __init__(self, factors: Mapping[str, Factor], scale: Scale) -> None:
        super().__init__(factors)
        self.scale = scale


class Replacement(Difference):
    """The new value of the tensor; there is no part of it, so the strength must be 1."""

    method = "set_weight"

    @property
    def replaces(self) -> bool:
        return True

    def begin(self, strength: float, base: Array, first: int = 0) -> Delta:
        return super().begin(1.0, base, first)


_ROWS_AT_A_TIME = 512
_SUMMED_IN_FLOAT32 = 128


def _product_shape(factors: Mapping[str, Factor], name: str) -> tuple[int, int]:
    if name in factors:
        return factors[name].shape
    return factors[f"{name}_a"].shape[0], factors[f"{name}_b"].shape[1]


def _product(factors: Mapping[str, Factor], name: str) -> Array:
    """The matrix ``name``, whole or of two factors."""
    if name in factors:
        return factors[name].matrix()
    result: Array = np.matmul(factors[f"{name}_a"].matrix(), factors[f"{name}_b"].matrix())
    return result


def _is_row(magnitude: Factor, shape: Shape) -> bool:
    """Whether the magnitudes are those of the columns of a matrix.

    Raises:
        CheckpointError: they are neither of its rows nor of its columns.
    """
    given = magnitude.stored_shape
    while len(given) > 2 and given[-1] == 1:
        given = given[:-1]
    if given in ((shape[0],), (shape[0], 1)):
        return False
    if given == (1, shape[1]):
        return True
    raise CheckpointError(
        f"{magnitude.where} is {list(given)}; expected are [{shape[0]}], [{shape[0]}, 1] or [1, {shape[1]}]; "
        "convert or download the file again."
    )


def _squares(values: Array, axis: int) -> Array:
    """Sums of squares of a float32 matrix along an axis, float64; short runs are summed in float32, which is fast."""
    total = np.zeros(values.shape[1 - axis])
    for start in range(0, values.shape[axis], _SUMMED_IN_FLOAT32):
        run = slice(start, start + _SUMMED_IN_FLOAT32)
        part = values[:, run] if axis else values[run]
        with np.errstate(over="ignore"):
            sums = np.einsum("ij,ij->i" if axis else "ij,ij->j", part, part)
        if not np.isfinite(sums).all():  # too large for float32
            sums = np.square(part, dtype=np.float64).sum(axis)
        total += sums
    return total


def _over(magnitude: Array, lengths: Array) -> Array:
    """magnitude / lengths, float64; 0 where there is no direction that could be given a length."""
    return np.divide(magnitude, lengths, out=np.zeros_like(lengths), where=lengths != 0)


def _by(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
