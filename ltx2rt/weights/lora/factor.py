"""One stored tensor of a LoRA file, decoded to float32 when it is read: factors may be quantised as weights are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path

import numpy as np

from ltx2rt.errors import CheckpointError
from ltx2rt.kernels.host import to_numpy
from ltx2rt.types import FLOAT32_BYTES, Array
from ltx2rt.weights.block_types import BLOCK_TYPES
from ltx2rt.weights.finite import require_finite
from ltx2rt.weights.formats import fault_of, format_of
from ltx2rt.weights.formats.linear_format import CURE, FLOATS, Encoding, Stored
from ltx2rt.weights.tensor_source import DTYPES, WeightFile, bytes_of, widen

NO_VALUES = "a manifest lists tensors without their data; give the LoRA file"
_WHOLE = ("I64", "I32", "I16", "I8", "U8")


@dataclass(frozen=True)
class Factor:
    """A tensor and what accompanies it.

    Attributes:
        path: of the file, for errors.
        file: that it is read from; None for a manifest.
        name: in the file.
        encoding: how it is stored.
        companions: suffix -> name of the tensors that accompany it.
    """

    path: Path
    file: WeightFile | None
    name: str
    encoding: Encoding
    companions: Mapping[str, str]

    @property
    def where(self) -> str:
        return f"{self.path}: tensor {self.name!r}"

    @cached_property
    def stored_shape(self) -> tuple[int, ...]:
        """Of the values, with every axis that the file has.

        Raises:
            CheckpointError: no format takes the tensor, or it is packed so that its shape is not known.
        """
        form, encoding = format_of(self.encoding), self.encoding
        fault = fault_of(encoding)
        if fault is not None:
            raise CheckpointError(f"{self.where}: {fault}; {CURE}.")
        shapes = form.shapes(encoding)
        if len(shapes) != 1:
            raise CheckpointError(
                f"{self.where}: stored as {form.name}, which does not tell the shape of a factor; use the LoRA in bf16."
            )
        return shapes[0]

    @property
    def shape(self) -> tuple[int, int]:
        """As a matrix: what follows the second axis must be ones, and is dropped.

        Raises:
            CheckpointError: it is no such tensor, or as `stored_shape`.
        """
        shape = self.stored_shape
        if len(shape) < 2 or any(n != 1 for n in shape[2:]):
            raise CheckpointError(
                f"{self.where} is {list(shape)}; only LoRA factors of linear layers are supported, which are matrices."
            )
        return shape[0], shape[1]

    @property
    def nbytes(self) -> int:
        """Of its float32 values."""
        return FLOAT32_BYTES * prod(self.stored_shape)

    def read(self) -> Array:
        """The values, float32, of the shape in the file.

        Raises:
            CheckpointError: values that are not finite, or a manifest.
        """
        file = self._opened()
        if self.is_read_by_rows:
            return file.numpy(self.name, finite=True).astype(np.float32)
        found = {suffix: (file, name) for suffix, name in self.companions.items()}
        stored = Stored(file, self.name, found, self.encoding.marker)
        values = to_numpy(format_of(self.encoding).values(stored, self.stored_shape))
        require_finite(values, "F32", self.where)
        return values

    def matrix(self) -> Array:
        """The values as a matrix (see `shape`). Errors as of `read`."""
        return self.read().reshape(self.shape)

    def number(self) -> float | None:
        """The only value, which may be a whole number; None for a manifest.

        Raises:
            CheckpointError: there are several, or it is not finite.
        """
        info = self.encoding.info
        if info.size != 1 or info.dtype not in (*FLOATS, *_WHOLE):
            raise CheckpointError(f"{self.where} must be one number, is {info.dtype} {list(info.shape)}; {CURE}.")
        return None if self.file is None else float(self.read().reshape(()))

    @property
    def is_read_by_rows(self) -> bool:
        """Whether the values are stored as they are, so that some rows can be read alone."""
        plain = self.encoding.info.dtype not in BLOCK_TYPES
        return plain and not self.encoding.companions and not self.encoding.marker

    def rows(self, first: int, last: int) -> Array:
        """Some rows of the values, float32, of which nothing else is read. For tensors with `is_read_by_rows`.

        Raises:
            CheckpointError: as `read`.
        """
        file, info = self._opened(), self.encoding.info
        items = np.empty((last - first, *info.shape[1:]), DTYPES[info.dtype].numpy)
        if items.size:
            file.read_into(self.name, bytes_of(items), first * (info.nbytes // info.shape[0]))
            require_finite(items, info.dtype, self.where)
        return widen(items, info.dtype).astype(np.float32, copy=False)

    def _opened(self) -> WeightFile:
        if self.file is None:
            raise CheckpointError(f"{self.path}: {NO_VALUES}.")
        return self.file
