"""The noise that goldens of the diffusion video decoder were saved with: a hash of each value's number."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ltx2rt.graph.diffusion.noise import NoiseDtype
from ltx2rt.graph.diffusion.precision import round_to


class HashNoise:
    """Values of mean 0 and deviation 1 that depend on their place in the array alone."""

    def normal(self, shape: tuple[int, ...], dtype: NoiseDtype = "float32") -> NDArray[Any]:
        """See `NoiseSource.normal`; every draw begins anew."""
        hashed = np.arange(prod(shape), dtype=np.uint32) * np.uint32(2654435761)
        hashed ^= hashed >> np.uint32(16)
        hashed *= np.uint32(2246822519)
        hashed ^= hashed >> np.uint32(13)
        values = ((hashed.astype(np.float64) / 2**32 - 0.5) * 3.4641016).astype(np.float32).reshape(shape)
        return values.astype(np.float64) if dtype == "float64" else round_to(values, dtype)

    def fork(self) -> HashNoise:
        """See `NoiseSource.fork`."""
        return HashNoise()
