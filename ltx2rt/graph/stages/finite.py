"""What a stage hands on are finite numbers, or the run ends with the stage's name."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from ltx2rt.errors import NotFiniteError
from ltx2rt.kernels.host import to_numpy
from ltx2rt.types import Array


def require_finite(stage: str, what: str, values: mx.array | Array) -> None:
    """Check what a stage has computed. It costs two passes over the values, without temporary arrays in numpy.

    Args:
        stage: name of the stage, with the step if there is one.
        what: the values in words: ``the video latent``.
        values: of any shape, floating point.

    Raises:
        NotFiniteError: a value is not a number or infinite.
    """
    count = _not_finite(values)
    if count:
        raise NotFiniteError(
            f"stage {stage}: {count} of {values.size} values of {what} are not finite numbers; "
            "look for damaged weights with `ltx2rt inspect --deep FILE`, or compute in float32 if the model overflows."
        )


def _not_finite(values: mx.array | Array) -> int:
    if isinstance(values, mx.array):
        return int(to_numpy((~mx.isfinite(values)).sum()))
    # The smallest and the largest value show NaN and infinities, too.
    if values.size == 0 or (np.isfinite(values.min()) and np.isfinite(values.max())):
        return 0
    return int(np.count_nonzero(~np.isfinite(values)))
