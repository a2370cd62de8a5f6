"""x @ W.T + bias in a graph of ggml, on its CPU backend."""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import numpy as np

from ltx2rt.types import GGML_BLOCKS

Floats = np.ndarray[Any, np.dtype[np.float32]]


@functools.cache
def ggml_module() -> Any:
    import ggml

    _silent.append(ggml.ggml_log_callback(lambda level, text, data: None))
    ggml.ggml_log_set(_silent[0], None)
    return ggml


# What ggml calls with each tensor that it packs; kept, since ggml keeps no reference.
_silent: list[Any] = []


def is_of_blocks(form: str) -> bool:
    """Whether ``form`` names a type of GGML's blocks."""
    return form in GGML_BLOCKS


def _type_of(form: str) -> int:
    return int(getattr(ggml_module(), f"GGML_TYPE_{form[:-2].upper()}_{form[-1].upper()}"))


def as_blocks(values: Floats, form: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A matrix (N, K) in GGML's blocks, (N, bytes of a row), rounded by ggml."""
    ggml, (rows, depth) = ggml_module(), values.shape
    blocks = np.empty((rows, ggml.ggml_row_size(_type_of(form), depth)), np.uint8)
    source = np.ascontiguousarray(values).ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    ggml.ggml_quantize_chunk(_type_of(form), source, blocks.ctypes.data, 0, rows, depth, None)
    return blocks


class Product:
    """The product of rows with one weight; calling it computes (M, N) float32.

    The weight lies in the first kind of memory whose kernels take it, as llama.cpp chooses: packed for several rows at
    a time, or else as it is.
    """

    def __init__(self, form: str, blocks: np.ndarray[Any, Any], x: Floats, bias: Floats, threads: int) -> None:
        ggml, (rows, depth) = ggml_module(), x.shape
        columns = len(blocks)
        self._backend = ggml.ggml_backend_cpu_init()
        ggml.ggml_backend_cpu_set_n_threads(self._backend, threads)
        self._contexts = [ggml.ggml_init(ggml.ggml_init_params(1 << 20, None, True)) for _ in range(2)]
        held, own = self._contexts
        weight = ggml.ggml_new_tensor_2d(held, _type_of(form), depth, columns)
        tensor_x = ggml.ggml_new_tensor_2d(own, ggml.GGML_TYPE_F32, depth, rows)
        tensor_bias = ggml.ggml_new_tensor_1d(own, ggml.GGML_TYPE_F32, columns)
        product = ggml.ggml_mul_mat(own, weight, tensor_x)
        self._out = ggml.ggml_add(own, product, tensor_bias)
        self._buffers = [
            _allocated_for(weight, product, held, self._backend),
            ggml.ggml_backend_alloc_ctx_tensors(own, self._backend),
        ]
        for tensor, values in ((weight, blocks), (tensor_x, x), (tensor_bias, bias)):
            whole = np.ascontiguousarray(values)
            ggml.ggml_backend_tensor_set(tensor, whole.ctypes.data, 0, whole.nbytes)
        self._graph = ggml.ggml_new_graph(own)
        ggml.ggml_build_forward_expand(self._graph, self._out)
        self._result = np.empty((rows, columns), np.float32)

    def __call__(self) -> Floats:
        ggml = ggml_module()
        status = ggml.ggml_backend_graph_compute(self._backend, self._graph)
        if status != ggml.GGML_STATUS_SUCCESS:
            raise RuntimeError(f"ggml gave up with status {status}")
        ggml.ggml_backend_tensor_get(self._out, self._result.ctypes.data, 0, self._result.nbytes)
        return self._result

    def __del__(self) -> None:
        ggml = ggml_module()
        for buffer in self._buffers:
            ggml.ggml_backend_buffer_free(buffer)
        for context in self._contexts:
            ggml.ggml_free(context)
        ggml.ggml_backend_free(self._backend)


def _allocated_for(weight: Any, product: Any, context: Any, backend: Any) -> Any:
    """A buffer with the weight, in the first kind of memory with kernels for this product."""
    ggml = ggml_module()
    device = ggml.ggml_backend_get_device(backend)
    for kind in _extra_kinds(device):
        # Whether a kind takes a product is asked with the weight in a buffer of that kind, here an empty one.
        probe = ggml.ggml_backend_buft_alloc_buffer(kind, 0)
        weight.contents.buffer = probe
        takes = ggml.ggml_backend_dev_supports_op(device, product)
        weight.contents.buffer = None
        ggml.ggml_backend_buffer_free(probe)
        if takes:
            return ggml.ggml_backend_alloc_ctx_tensors_from_buft(context, kind)
    return ggml.ggml_backend_alloc_ctx_tensors(context, backend)


def _extra_kinds(device: Any) -> list[int]:
    """The kinds of memory in which the CPU backend holds weights in an order of its own, but the one for AMX tiles.

    GCC 12 leaves out most of what ggml stores for the instruction that configures tiles; the next one is illegal then.
    Ours are without tiles, too, with LTX2RT_ISA=avx512bf16.
    """
    ggml = ggml_module()
    registry = ggml.ggml_backend_dev_backend_reg(device)
    address = ggml.ggml_backend_reg_get_proc_address(registry, b"ggml_backend_dev_get_extra_bufts")
    if not address:
        return []
    listed = ctypes.CFUNCTYPE(ctypes.POINTER(ctypes.c_void_p), ctypes.c_void_p)(address)(device)
    kinds: list[int] = []
    while listed and listed[len(kinds)]:
        kinds.append(listed[len(kinds)])
    return [kind for kind in kinds if ggml.ggml_backend_buft_name(kind) != b"AMX"]
