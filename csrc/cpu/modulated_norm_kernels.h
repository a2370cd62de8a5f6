// The inner loops of modulated_norm, chosen by instruction set.
#pragma once

#include "csrc/cpu/float_type.h"
#include "csrc/cpu/isa.h"
#include "csrc/op_types.h"

namespace ltx2rt::cpu {

struct NormKernels {
  // Widens n contiguous values.
  void (*widen)(FloatType type, const void* from, float* to, int64_t n);
  // out = norm(x) * (1 + scale) + shift over one row x of n float32 values, which is overwritten; scale and shift may
  // be null. Sums run in an order that depends on n alone.
  void (*row)(NormKind kind, float eps, float* x, const float* scale, const float* shift, FloatType type, void* out,
              int64_t n);
};

LTX2RT_DISPATCH(const NormKernels&, norm_kernels)

}  // namespace ltx2rt::cpu
