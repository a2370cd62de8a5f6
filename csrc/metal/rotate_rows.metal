// The rotation of quantized_linear (csrc/quantized_linear.h): groups of G neighbouring values of x times a matrix.
#include <metal_stdlib>

#include "csrc/metal/elements.h"
#include "csrc/metal/rotate_rows_params.h"

using namespace metal;
using namespace ltx2rt;
using namespace ltx2rt::metal_shared;

constant int rotation [[function_constant(0)]];  // G: 4, 16, 64 or 256
constant bool aligned [[function_constant(1)]];  // the row stride of x is a multiple of 4

// One factor of the matrix: of four values, half their sum minus the value opposite. Each of these is a value of v and
// those of the lanes whose numbers differ in `first`, `second` or both; the sum has the same bits in all four.
METAL_FUNC float4 rotated_across(float4 v, ushort first, ushort second) {
  const float4 a = simd_shuffle_xor(v, first), b = simd_shuffle_xor(v, second);
  const float4 opposite = simd_shuffle_xor(v, ushort(first | second));
  return 0.5f * ((v + a) + (b + opposite)) - opposite;
}

// x (M, K): T, in rows of params.x_row_stride; out (M, K): T. A thread takes kRotatePerThread values, so that two
// factors are its own and two are shuffles among sixteen lanes, all of one group.
// Grid: (ceil(K / (kRotatePerThread * params.threads)), M, 1), or a part of it.
template <typename T>
[[kernel, max_total_threads_per_threadgroup(kRowThreads)]] void rotate_rows(
    const device T* x [[buffer(0)]], device T* out [[buffer(1)]], constant RotateParams& params [[buffer(2)]],
    uint3 group [[threadgroup_position_in_grid]], uint thread_index [[thread_index_in_threadgroup]]) {
  const int64 row = params.first_row + int(group.y);
  const int first = ((params.first_block + int(group.x)) * params.threads + int(thread_index)) * kRotatePerThread;
  const int count = params.depth - first;  // negative beyond the row: such threads only take part in shuffles
  x += row * params.x_row_stride;
  out += row * params.depth;
  float4 v[4];
  LTX2RT_UNROLL
  for (int j = 0; j < 4; j++) {
    v[j] = read_up_to_four<T>(x, first + 4 * j, count - 4 * j, aligned);
    v[j] = 0.5f * ((v[j].x + v[j].y) + (v[j].z + v[j].w)) - v[j].wzyx;
  }
  if (rotation >= 16) {
    const float4 half_sum = 0.5f * ((v[0] + v[1]) + (v[2] + v[3]));
    const float4 a = v[0], b = v[1];
    v[0] = half_sum - v[3];
    v[1] = half_sum - v[2];
    v[2] = half_sum - b;
    v[3] = half_sum - a;
  }
  LTX2RT_UNROLL
  for (int j = 0; j < 4; j++) {
    if (rotation >= 64) v[j] = rotated_across(v[j], 1, 2);
    if (rotation >= 256) v[j] = rotated_across(v[j], 4, 8);
    write_up_to_four<T>(out, first + 4 * j, count - 4 * j, true, v[j]);
  }
}

LTX2RT_KERNEL(rotate_rows_float32, rotate_rows<float>)
LTX2RT_KERNEL(rotate_rows_float16, rotate_rows<half>)
LTX2RT_KERNEL(rotate_rows_bfloat16, rotate_rows<bfloat>)
