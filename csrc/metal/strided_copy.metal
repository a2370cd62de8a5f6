// An array of any strides as a contiguous one: for operands whose layout a kernel does not read in place.
#include <metal_stdlib>

#include "csrc/metal/elements.h"
#include "csrc/metal/strided_copy_params.h"

using namespace metal;
using namespace ltx2rt;
using namespace ltx2rt::metal_shared;

// T has the size of the elements. One thread per element, in rows of threads of any length.
template <typename T>
[[kernel, max_total_threads_per_threadgroup(kRowThreads)]] void strided_copy(
    const device T* from [[buffer(0)]], device T* to [[buffer(1)]], constant StridedCopyParams& params [[buffer(2)]],
    uint2 thread_at [[thread_position_in_grid]], uint2 threads [[threads_per_grid]]) {
  const int64 i = params.first + int64(thread_at.y) * threads.x + thread_at.x;
  if (i >= params.end) return;
  int64 rest = i, source = 0;
  LTX2RT_UNROLL
  for (int axis = 0; axis < kCopyAxes; axis++) {
    source += rest % params.sizes[axis] * params.strides[axis];
    rest /= params.sizes[axis];
  }
  to[i] = from[source];
}

LTX2RT_KERNEL(strided_copy_2, strided_copy<ushort>)
LTX2RT_KERNEL(strided_copy_4, strided_copy<uint>)
