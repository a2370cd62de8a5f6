// Parameters of the shader strided_copy, shared with the code that launches it.
#pragma once
#include "csrc/metal/shared_types.h"

namespace ltx2rt {
namespace metal_shared {

enum { kCopyAxes = 6 };

// Axes from the innermost outwards; unused ones have size 1.
struct StridedCopyParams {
  int64 strides[kCopyAxes];  // of the source, elements
  int64 end;                 // of this dispatch
  int64 first;
  int32 sizes[kCopyAxes];
};
static_assert(sizeof(StridedCopyParams) == 88, "the shader and its host must agree");

}  // namespace metal_shared
}  // namespace ltx2rt
