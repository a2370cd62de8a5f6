// Parameters of the shader rotate_rows, shared with the code that launches it.
#pragma once
#include "csrc/metal/shared_types.h"

namespace ltx2rt {
namespace metal_shared {

struct RotateParams {
  int64 x_row_stride;  // elements; out is contiguous
  int32 depth;
  int32 threads;    // per threadgroup
  int32 first_row;  // of this dispatch: its threadgroups are a part of all
  int32 first_block;
};
static_assert(sizeof(RotateParams) == 24, "the shader and its host must agree");

// Function constants.
enum RotateConstant {
  kRotateGroupId = 0,
  kRotateAlignedId = 1,
};

enum {
  kRotatePerThread = 16,  // neighbouring values
  kRotateMost = 256,      // values that are multiplied by one matrix: those of half a simdgroup
};

}  // namespace metal_shared
}  // namespace ltx2rt
