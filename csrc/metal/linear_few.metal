// quantized_linear for few rows, and the pass that expands a slab of quantised weights for linear_tile. Nothing here
// needs simdgroup matrices.
#include <metal_stdlib>

#include "csrc/metal/elements.h"
#include "csrc/metal/linear_epilogue.h"
#include "csrc/metal/quantized_linear_params.h"
#include "csrc/metal/weight_codec.h"

using namespace metal;
using namespace ltx2rt;
using namespace ltx2rt::metal_shared;

constant int few_rows [[function_constant(11)]];  // rows per threadgroup of linear_few, at most kFewRowsMost

// Up to few_rows rows of x: each simdgroup makes kFewRowsColumns columns, its lanes share the sum over k.
// x (M, K): T; weight (N, K) in `format`; scale, zero (N, K / group_size): group_type.
// Grid: (ceil(N / (kFewRowsColumns * kFewRowsSimdgroups)), ceil(M / few_rows), 1), or a part of it, of
// 32 * kFewRowsSimdgroups threads.
template <typename T>
[[kernel, max_total_threads_per_threadgroup(32 * kFewRowsSimdgroups)]] void linear_few(
    const device T* x [[buffer(0)]], const device uchar* weight [[buffer(1)]], const device uchar* bias [[buffer(2)]],
    const device T* residual [[buffer(3)]], const device uchar* gate [[buffer(4)]],
    const device int* gate_index [[buffer(5)]], const device float* factor [[buffer(6)]], device T* out [[buffer(7)]],
    constant LinearParams& params [[buffer(8)]], const device uchar* scale [[buffer(9)]],
    const device uchar* zero [[buffer(10)]], uint3 group [[threadgroup_position_in_grid]],
    uint lane [[thread_index_in_simdgroup]], uint simdgroup [[simdgroup_index_in_threadgroup]]) {
  const bool affine = is_affine();
  const int first_row = (params.first_row_block + group.y) * few_rows;
  const int first_column = ((params.first_column_block + group.x) * kFewRowsSimdgroups + simdgroup) * kFewRowsColumns;
  const int rows = min(few_rows, params.rows - first_row);
  const int columns = min(int(kFewRowsColumns), params.columns - first_column);
  if (columns <= 0) return;
  const int depth = params.depth;
  x += first_row * params.x_row_stride;

  float sums[kFewRowsMost][kFewRowsColumns] = {};
  for (int k = 8 * int(lane); k < depth; k += 8 * 32) {
    float4 low[kFewRowsMost], high[kFewRowsMost];
    float total[kFewRowsMost];
    LTX2RT_UNROLL
    for (int r = 0; r < kFewRowsMost; r++) {
      if (r >= few_rows) break;
      const int64 at = min(r, rows - 1) * params.x_row_stride + k;
      low[r] = read_up_to_four<T>(x, at, depth - k, aligned_x);
      high[r] = read_up_to_four<T>(x, at + 4, depth - k - 4, aligned_x);
      total[r] = affine ? dot(low[r] + high[r], float4(1.0f)) : 0.0f;
    }
    LTX2RT_UNROLL
    for (int c = 0; c < kFewRowsColumns; c++) {
      const int64 row_of_w = first_column + min(c, columns - 1);
      const Eight w = read_eight(weight, row_of_w * depth + k, depth - k, aligned_w);
      const int64 group_of_w = row_of_w * (depth >> params.group_shift) + (k >> params.group_shift);
      const float s = affine ? read_element(scale, group_type, group_of_w) : 1.0f;
      const float z = affine ? read_element(zero, group_type, group_of_w) : 0.0f;
      LTX2RT_UNROLL
      for (int r = 0; r < kFewRowsMost; r++) {
        if (r >= few_rows) break;
        const float product = dot(low[r], w.low) + dot(high[r], w.high);
        sums[r][c] += affine ? s * product + z * total[r] : product;
      }
    }
  }

  const float of_codes = WeightFormat(format) == WeightFormat::e4m3 ? kE4m3Factor : 1.0f;
  const Epilogue epilogue = {bias, gate, gate_index, has_factor ? factor[0] * of_codes : of_codes};
  LTX2RT_UNROLL
  for (int r = 0; r < kFewRowsMost; r++) {
    if (r >= few_rows) break;
    float4 row_sums;
    LTX2RT_UNROLL
    for (int c = 0; c < kFewRowsColumns; c++) row_sums[c] = simd_sum(sums[r][c]);
    if (int(lane) == r && r < rows) {
      finish_four<T>(row_sums, first_row + r, first_column, columns, epilogue, residual, out, params);
    }
  }
}

// Rows of W (N, K), quantised, in type T: E4M3 codes without their factor, which is left to the epilogue; affine
// weights complete. One thread per kDequantisePerThread values; out begins with value params.slab of W.
template <typename T>
[[kernel, max_total_threads_per_threadgroup(kRowThreads)]] void dequantise(
    const device uchar* weight [[buffer(0)]], const device uchar* scale [[buffer(1)]],
    const device uchar* zero [[buffer(2)]], device T* out [[buffer(3)]],
    constant DequantiseParams& params [[buffer(4)]], uint2 thread_at [[thread_position_in_grid]],
    uint2 threads [[threads_per_grid]]) {
  const int64 i = params.first + (int64(thread_at.y) * threads.x + thread_at.x) * kDequantisePerThread;
  if (i >= params.end) return;
  const int count = params.end - i < kDequantisePerThread ? int(params.end - i) : int(kDequantisePerThread);
  const Eight w = read_values(weight, scale, zero, i, i >> params.group_shift, count, aligned_w);
  write_up_to_four<T>(out, i - params.slab, count, true, w.low);
  write_up_to_four<T>(out, i - params.slab + 4, count - 4, true, w.high);
}

LTX2RT_KERNEL(linear_few_float32, linear_few<float>)
LTX2RT_KERNEL(linear_few_float16, linear_few<half>)
LTX2RT_KERNEL(linear_few_bfloat16, linear_few<bfloat>)
LTX2RT_KERNEL(dequantise_float32, dequantise<float>)
LTX2RT_KERNEL(dequantise_float16, dequantise<half>)
LTX2RT_KERNEL(dequantise_bfloat16, dequantise<bfloat>)
