"""Arrays that somebody else fills."""

from __future__ import annotations

import mlx.core as mx

from ltx2rt.kernels.selection import ext


def uninitialized(shape: tuple[int, ...], dtype: mx.Dtype) -> mx.array:
    """An evaluated array of any contents (zeros without the compiled kernels).

    Its pages come with the first write, in the thread that writes; those of a large array are large ones where Linux
    allows that (``/sys/kernel/mm/transparent_hugepage/enabled``: ``madvise`` or ``always``).
    """
    if ext is not None:
        array: mx.array = ext.uninitialized(list(shape), dtype)
        return array
    array = mx.zeros(shape, dtype=dtype)
    mx.eval(array)
    return array
