// Parameters of the shader modulated_norm, shared with the code that launches it.
#pragma once
#include "csrc/metal/shared_types.h"
#include "csrc/op_types.h"

namespace ltx2rt {
namespace metal_shared {

struct ModulatedNormParams {
  int64 x_row_stride;  // elements between rows of x; scale, shift and out are contiguous
  int32 width;         // values per row, at most kMaxNormWidth
  float eps;
  int32 table_rows;  // of scale and shift
  int32 unused;
};
static_assert(sizeof(ModulatedNormParams) == 24, "the shader and its host must agree");

// A thread keeps this many values of its row in registers, so that the largest threadgroup serves rows up to
// kMaxNormWidth.
enum { kNormValuesPerThread = 16, kNormMostThreads = 1024, kMaxNormWidth = kNormValuesPerThread * kNormMostThreads };

// Function constants: an element type or kAbsent for scale and shift.
enum ModulatedNormConstant {
  kNormKindId = 0,
  kNormScaleId = 1,
  kNormShiftId = 2,
  kNormHasIndexId = 3,
  kNormAlignedId = 4,
};

}  // namespace metal_shared
}  // namespace ltx2rt
