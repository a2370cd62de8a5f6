// Parameters of the shaders of quantized_linear, shared with the code that launches them.
#pragma once
#include "csrc/metal/shared_types.h"

namespace ltx2rt {
namespace metal_shared {

enum LinearActivation { kLinearNone = 0, kLinearGeluTanh = 1, kLinearSilu = 2 };

// How weights are stored; the first three are ElementType.
enum WeightFormat { kE4m3 = 3, kInt8 = 4, kInt4 = 5 };

struct LinearParams {
  int64 x_row_stride;         // elements
  int64 residual_row_stride;  // elements; out is contiguous
  int32 rows;                 // M
  int32 columns;              // N
  int32 depth;                // K
  int32 group_shift;          // log2 of the group size of affine weights
  int32 first_row_block;      // of this dispatch: its threadgroups are a slice of all row blocks
  int32 unused;
};
static_assert(sizeof(LinearParams) == 40, "the shader and its host must agree");

struct DequantiseParams {
  int64 values;  // N * K
  int32 group_shift;
  int32 unused;
};
static_assert(sizeof(DequantiseParams) == 16, "the shader and its host must agree");

enum {
  kLinearDepthBlock = 32,    // k per step of linear_tile
  kFewRowsColumns = 4,       // output columns per simdgroup of linear_few
  kFewRowsMost = 4,          // rows per threadgroup of linear_few
  kFewRowsSimdgroups = 4,    // per threadgroup of linear_few
  kDequantisePerThread = 8,  // values per thread of dequantise
};

}  // namespace metal_shared
}  // namespace ltx2rt
