// out = norm(x) * (1 + scale[index]) + shift[index], one threadgroup per row. A row is read once and kept in registers.
#include <metal_stdlib>

#include "csrc/metal/elements.h"
#include "csrc/metal/modulated_norm_params.h"

using namespace metal;
using namespace ltx2rt;
using namespace ltx2rt::metal_shared;

constant int norm_kind [[function_constant(0)]];
constant int scale_type [[function_constant(1)]];
constant int shift_type [[function_constant(2)]];
constant bool has_index [[function_constant(3)]];
constant bool aligned [[function_constant(4)]];  // four elements at once: width and strides are multiples of 4

// The sum over the threadgroup, in every thread. `partial` holds one float per simdgroup.
METAL_FUNC float sum_over_threadgroup(float value, threadgroup float* partial, uint lane, uint simdgroup,
                                      uint simdgroups) {
  const float sum = simd_sum(value);
  if (simdgroups == 1) return sum;
  if (lane == 0) partial[simdgroup] = sum;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  return simd_sum(lane < simdgroups ? partial[lane] : 0.0f);
}

// x, out: T; scale, shift: of their function constants' types; index: the row of scale and shift for each row of x.
// Grid: one threadgroup per row, of at least width / kNormValuesPerThread threads, whole simdgroups.
template <typename T>
[[kernel, max_total_threads_per_threadgroup(kNormMostThreads)]] void modulated_norm(
    const device T* x [[buffer(0)]], const device uchar* scale [[buffer(1)]], const device uchar* shift [[buffer(2)]],
    const device int* index [[buffer(3)]], device T* out [[buffer(4)]],
    constant ModulatedNormParams& params [[buffer(5)]], uint row [[threadgroup_position_in_grid]],
    uint thread_index [[thread_index_in_threadgroup]], uint threads [[threads_per_threadgroup]],
    uint lane [[thread_index_in_simdgroup]], uint simdgroup [[simdgroup_index_in_threadgroup]],
    uint simdgroups [[simdgroups_per_threadgroup]]) {
  constexpr int kFours = kNormValuesPerThread / 4;
  threadgroup float partial_mean[32];
  threadgroup float partial_square[32];

  const int width = params.width;
  x += int64(row) * params.x_row_stride;
  out += int64(row) * width;

  float4 values[kFours];
  float sum = 0.0f;
  LTX2RT_UNROLL
  for (int i = 0; i < kFours; i++) {
    const int at = (i * int(threads) + int(thread_index)) * 4;
    values[i] = read_up_to_four<T>(x, at, width - at, aligned);
    if (NormKind(norm_kind) == NormKind::layer) sum += values[i].x + values[i].y + values[i].z + values[i].w;
  }
  if (NormKind(norm_kind) == NormKind::layer) {
    const float mean = sum_over_threadgroup(sum, partial_mean, lane, simdgroup, simdgroups) / float(width);
    LTX2RT_UNROLL
    for (int i = 0; i < kFours; i++) {
      const int at = (i * int(threads) + int(thread_index)) * 4;
      LTX2RT_UNROLL
      for (int j = 0; j < 4; j++) values[i][j] = at + j < width ? values[i][j] - mean : 0.0f;
    }
  }
  float factor = 1.0f;
  if (NormKind(norm_kind) != NormKind::none) {
    float square = 0.0f;
    LTX2RT_UNROLL
    for (int i = 0; i < kFours; i++) square += dot(values[i], values[i]);
    const float mean = sum_over_threadgroup(square, partial_square, lane, simdgroup, simdgroups) / float(width);
    factor = precise::rsqrt(mean + params.eps);
  }

  const int64 modulation = has_index ? int64(table_row(index[row], params.table_rows)) * width : 0;
  if (scale_type != kAbsent) scale = from_element(scale, scale_type, modulation);
  if (shift_type != kAbsent) shift = from_element(shift, shift_type, modulation);
  LTX2RT_UNROLL
  for (int i = 0; i < kFours; i++) {
    const int at = (i * int(threads) + int(thread_index)) * 4;
    if (at >= width) continue;
    float4 v = values[i] * factor;
    if (scale_type != kAbsent) v *= 1.0f + read_up_to_four_of(scale, scale_type, at, width - at, aligned);
    if (shift_type != kAbsent) v += read_up_to_four_of(shift, shift_type, at, width - at, aligned);
    write_up_to_four<T>(out, at, width - at, aligned, v);
  }
}

LTX2RT_KERNEL(modulated_norm_float32, modulated_norm<float>)
LTX2RT_KERNEL(modulated_norm_float16, modulated_norm<half>)
LTX2RT_KERNEL(modulated_norm_bfloat16, modulated_norm<bfloat>)
