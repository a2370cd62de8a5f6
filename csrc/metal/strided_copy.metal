// An array of any strides as a contiguous one: for operands whose layout a kernel does not read in place.
#include <metal_stdlib>

#include "csrc/metal/elements.h"
#include "csrc/metal/strided_copy_params.h"

using namespace metal;
using namespace ltx2rt;
using namespace ltx2rt::metal_shared;

// T has the size of the elements. One thread per element, in rows of threads of any length.
// Where element `rest` of the copy lies in the source. Divisions of 64 bits are many instructions: Index is narrower
// where it can be. Axes of one element, which come last, cost nothing.
template <typename Index>
METAL_FUNC int64 source_of(Index rest, constant StridedCopyParams& params) {
  int64 source = 0;
  for (int axis = 0; axis < kCopyAxes && params.sizes[axis] > 1; axis++) {
    const Index size = Index(params.sizes[axis]);
    source += int64(rest % size) * params.strides[axis];
    rest /= size;
  }
  return source;
}

template <typename T>
[[kernel, max_total_threads_per_threadgroup(kRowThreads)]] void strided_copy(
    const device T* from [[buffer(0)]], device T* to [[buffer(1)]], constant StridedCopyParams& params [[buffer(2)]],
    uint2 thread_at [[thread_position_in_grid]], uint2 threads [[threads_per_grid]]) {
  const int64 i = params.first + int64(thread_at.y) * threads.x + thread_at.x;
  if (i >= params.end) return;
  to[i] = from[params.end <= 0x7fffffff ? source_of(uint(i), params) : source_of(i, params)];
}

LTX2RT_KERNEL(strided_copy_2, strided_copy<ushort>)
LTX2RT_KERNEL(strided_copy_4, strided_copy<uint>)
