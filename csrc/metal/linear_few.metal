// quantized_linear for few rows; the pass that expands a slab of quantised weights for linear_tile; and the one that adds
// up sums that linear_tile has made in parts. Nothing here needs simdgroup matrices.
#include <metal_stdlib>

#include "csrc/metal/elements.h"
#include "csrc/metal/linear_epilogue.h"
#include "csrc/metal/quantized_linear_params.h"
#include "csrc/metal/weight_codec.h"

using namespace metal;
using namespace ltx2rt;
using namespace ltx2rt::metal_shared;

constant int few_rows [[function_constant(11)]];  // rows per threadgroup of linear_few, at most kFewRowsMost

// What a lane adds up at a time: eight neighbouring values of depth or, where bytes hold low bits of two eights, those
// two. The first eight of unit number i begin with this value.
METAL_FUNC int first_of_unit(uint i) {
  if (!has_pairs()) return int(8 * i);
  const uint distance = pair_distance(WeightFormat(format)), eights = distance / 8;
  return int(i / eights * 2 * distance + i % eights * 8);
}

// Up to few_rows rows of x: each simdgroup makes kFewRowsColumns columns, its lanes share the sum over k.
// x (M, K): T; weight (N, K) in `format`, with those of scale, zero and table that it has.
// Grid: (tiles of few_rows rows and kFewRowsColumns * kFewRowsSimdgroups columns, 1, 1), or a part of it, of
// 32 * kFewRowsSimdgroups threads.
template <typename T>
[[kernel, max_total_threads_per_threadgroup(32 * kFewRowsSimdgroups)]] void linear_few(
    const device T* x [[buffer(0)]], const device uchar* weight [[buffer(1)]], const device uchar* bias [[buffer(2)]],
    const device T* residual [[buffer(3)]], const device uchar* gate [[buffer(4)]],
    const device int* gate_index [[buffer(5)]], const device float* factor [[buffer(6)]], device T* out [[buffer(7)]],
    constant LinearParams& params [[buffer(8)]], const device uchar* scale [[buffer(9)]],
    const device uchar* zero [[buffer(10)]], constant float* table [[buffer(11)]],
    uint3 group [[threadgroup_position_in_grid]], uint lane [[thread_index_in_simdgroup]],
    uint simdgroup [[simdgroup_index_in_threadgroup]]) {
  threadgroup float levels[kTableSize];
  stage_table(levels, table, simdgroup * 32 + lane, 32 * kFewRowsSimdgroups);
  const TilePosition tile = tile_position(params.first_tile + int(group.x), params.row_blocks, params.column_blocks);
  const int first_row = tile.row_block * few_rows;
  const int first_column = (tile.column_block * kFewRowsSimdgroups + int(simdgroup)) * kFewRowsColumns;
  const int rows = min(few_rows, params.rows - first_row);
  const int columns = min(int(kFewRowsColumns), params.columns - first_column);
  if (columns <= 0) return;
  const int depth = params.depth;
  x += int64(first_row) * params.x_row_stride;
  const int x_row_stride = params.x_row_stride;
  const StoredWeight stored =
      from_row({weight, scale, zero, levels, params.group_size, params.group_shift, aligned_w}, first_column, depth);

  float sums[kFewRowsMost][kFewRowsColumns] = {};
  for (uint unit = lane; first_of_unit(unit) < depth; unit += 32) {
    const int first = first_of_unit(unit);
    EightPair pairs[kFewRowsColumns];
    if (has_pairs()) {
      LTX2RT_UNROLL
      for (int c = 0; c < kFewRowsColumns; c++) {
        pairs[c] = read_pair(WeightFormat(format), stored.values, min(c, columns - 1) * depth + first, aligned_w);
      }
    }
    LTX2RT_UNROLL
    for (int number = 0; number < 2; number++) {
      if (number > 0 && !has_pairs()) break;
      const int k = first + number * pair_distance(WeightFormat(format));
      Eight values[kFewRowsMost];
      float total[kFewRowsMost];
      LTX2RT_UNROLL
      for (int r = 0; r < kFewRowsMost; r++) {
        if (r >= few_rows) break;
        values[r] = read_up_to_eight<T>(x, min(r, rows - 1) * x_row_stride + k, depth - k, aligned_x);
        total[r] = has_zeros() ? dot(values[r].low + values[r].high, float4(1.0f)) : 0.0f;
      }
      LTX2RT_UNROLL
      for (int c = 0; c < kFewRowsColumns; c++) {
        CodedEight w;
        if (has_pairs()) {
          w = coded_of(pairs[c], number);
        } else {
          w = read_coded(stored, min(c, columns - 1) * depth + k, depth - k);
        }
        LTX2RT_UNROLL
        for (int r = 0; r < kFewRowsMost; r++) {
          if (r >= few_rows) break;
          const float product = dot(values[r].low, w.codes.low) + dot(values[r].high, w.codes.high);
          if (has_zeros()) {
            sums[r][c] += w.scale * product + w.zero * total[r];
          } else {
            sums[r][c] += has_scales() ? w.scale * product : product;
          }
        }
      }
    }
  }

  const float of_codes = has_format(WeightFormat::e4m3) ? kE4m3Factor : 1.0f;
  const Epilogue epilogue = {bias, gate, gate_index, factor, has_factor() ? factor[0] : 1.0f};
  LTX2RT_UNROLL
  for (int r = 0; r < kFewRowsMost; r++) {
    if (r >= few_rows) break;
    float4 row_sums;
    LTX2RT_UNROLL
    for (int c = 0; c < kFewRowsColumns; c++) row_sums[c] = simd_sum(sums[r][c]) * of_codes;
    if (int(lane) == r && r < rows) {
      row_sums *= factors_of(first_column, columns, epilogue);
      finish_four<T>(row_sums, first_row + r, first_column, columns, epilogue, residual, out, params);
    }
  }
}

// Rows of W (N, K), quantised, in type T, but for factors of a row or of all of W, which are left to the epilogue. One
// thread per kDequantisePerThread values; out begins with row params.first_weight_row of W.
template <typename T>
[[kernel, max_total_threads_per_threadgroup(kRowThreads)]] void dequantise(
    const device uchar* weight [[buffer(0)]], const device uchar* scale [[buffer(1)]],
    const device uchar* zero [[buffer(2)]], device T* out [[buffer(3)]],
    constant DequantiseParams& params [[buffer(4)]], constant float* table [[buffer(5)]],
    uint2 thread_at [[thread_position_in_grid]], uint2 threads [[threads_per_grid]],
    uint2 group_threads [[threads_per_threadgroup]], uint thread_index [[thread_index_in_threadgroup]]) {
  threadgroup float levels[kTableSize];
  stage_table(levels, table, thread_index, group_threads.x);
  const int i = params.first + int(thread_at.y * threads.x + thread_at.x) * kDequantisePerThread;
  if (i >= params.end) return;
  const int count = min(params.end - i, int(kDequantisePerThread));
  const StoredWeight whole = {weight, scale, zero, levels, params.group_size, params.group_shift, aligned_w};
  const StoredWeight stored = from_row(whole, params.first_weight_row, params.depth);
  const Eight w = read_values(stored, i, count);
  write_up_to_four<T>(out, i, count, true, w.low);
  write_up_to_four<T>(out, i + 4, count - 4, true, w.high);
}

// Adds up the parts of a product, (parts, M, N), in their order, and finishes it. One thread per four columns of a row.
template <typename T>
[[kernel, max_total_threads_per_threadgroup(kRowThreads)]] void linear_join(
    const device float* sums [[buffer(0)]], const device uchar* bias [[buffer(2)]],
    const device T* residual [[buffer(3)]], const device uchar* gate [[buffer(4)]],
    const device int* gate_index [[buffer(5)]], const device float* factor [[buffer(6)]], device T* out [[buffer(7)]],
    constant JoinParams& params [[buffer(8)]], uint2 thread_at [[thread_position_in_grid]],
    uint2 threads [[threads_per_grid]]) {
  const int number = params.first + int(thread_at.y * threads.x + thread_at.x);
  if (number >= params.end) return;
  const int columns = params.linear.columns, fours = (columns + 3) / 4;
  const int row = number / fours, column = number % fours * 4, count = columns - column;
  sums += int64(row) * columns;
  float4 sum = float4(0.0f);
  for (int part = 0; part < params.parts; part++) {
    sum += read_up_to_four<float>(sums, column, count, aligned_out);
    sums += int64(params.linear.rows) * columns;
  }
  const Epilogue epilogue = {bias, gate, gate_index, factor, has_factor() ? factor[0] : 1.0f};
  sum *= factors_of(column, count, epilogue);
  finish_four<T>(sum, row, column, count, epilogue, residual, out, params.linear);
}

LTX2RT_KERNEL(linear_few_float32, linear_few<float>)
LTX2RT_KERNEL(linear_few_float16, linear_few<half>)
LTX2RT_KERNEL(linear_few_bfloat16, linear_few<bfloat>)
LTX2RT_KERNEL(dequantise_float32, dequantise<float>)
LTX2RT_KERNEL(dequantise_float16, dequantise<half>)
LTX2RT_KERNEL(dequantise_bfloat16, dequantise<bfloat>)
LTX2RT_KERNEL(linear_join_float32, linear_join<float>)
LTX2RT_KERNEL(linear_join_float16, linear_join<half>)
LTX2RT_KERNEL(linear_join_bfloat16, linear_join<bfloat>)
