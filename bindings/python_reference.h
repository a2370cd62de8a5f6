// A Python function as the reference graph of an op.
#pragma once

#include <nanobind/nanobind.h>

#include "csrc/fallback_primitive.h"
#include "mlx/array.h"

namespace ltx2rt {

// As an argument of a binding, for the generated stub: Callable[..., mlx.core.array].
using PythonReference = nanobind::typed<nanobind::callable, mx::array(...)>;

// reference(*inputs) -> mx.array. The result may be copied and dropped on any thread, with or without the GIL, and
// outlive the interpreter, in which case the function is left to the operating system.
Reference python_reference(nanobind::callable reference);

// The three arguments that every binding ends with, and `fenced` of the ops that have matrix kernels.
OpContext op_context(nanobind::callable reference, bool use_reference, const mx::StreamOrDevice& stream,
                     bool fenced = false);

}  // namespace ltx2rt
