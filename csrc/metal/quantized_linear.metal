// out = residual + gate[gate_index] * activation(x W^T + bias): tiles for many rows, a reduction for few, and the pass
// that expands quantised weights once for the tiles.
#include <metal_stdlib>

#include "csrc/metal/elements.h"
#include "csrc/metal/fragments.h"
#include "csrc/metal/quantized_linear_params.h"

using namespace metal;
using namespace ltx2rt;
using namespace ltx2rt::metal_shared;

constant int bias_type [[function_constant(0)]];
constant int activation [[function_constant(1)]];
constant bool has_residual [[function_constant(2)]];
constant int gate_type [[function_constant(3)]];
constant bool has_gate_index [[function_constant(4)]];
constant bool has_factor [[function_constant(5)]];   // one float multiplies all of W (E4M3)
constant bool aligned_x [[function_constant(6)]];    // K and the row stride of x are multiples of 4
constant bool aligned_w [[function_constant(7)]];    // K is a multiple of 4
constant bool aligned_out [[function_constant(8)]];  // N and the row stride of the residual are multiples of 4
constant int format [[function_constant(9)]];        // of the weights of linear_few and dequantise
constant int group_type [[function_constant(10)]];   // of the scales and zeros of affine weights
constant int few_rows [[function_constant(11)]];     // rows per threadgroup of linear_few, at most kFewRowsMost

// Operands of the epilogue; their presence is in the function constants.
struct Epilogue {
  const device uchar* bias;
  const device uchar* gate;
  const device int* gate_index;
  float factor;
};

METAL_FUNC float activated(float v) {
  if (Activation(activation) == Activation::gelu_tanh) {
    const float inner = 0.7978845608028654f * (v + 0.044715f * v * v * v);
    return 0.5f * v * (1.0f + precise::tanh(inner));
  }
  if (Activation(activation) == Activation::silu) return v / (1.0f + precise::exp(-v));
  return v;
}

// Finishes and stores the sums of four neighbouring columns of a row, of which `count` exist.
template <typename T>
METAL_FUNC void finish_four(float4 sums, int row, int column, int count, const thread Epilogue& epilogue,
                            const device T* residual, device T* out, constant LinearParams& params) {
  if (has_factor) sums *= epilogue.factor;
  if (bias_type != kAbsent) sums += read_up_to_four_of(epilogue.bias, bias_type, column, count, aligned_out);
  LTX2RT_UNROLL
  for (int j = 0; j < 4; j++) sums[j] = activated(sums[j]);
  if (gate_type != kAbsent) {
    const int64 gate_row = has_gate_index ? table_row(epilogue.gate_index[row], params.gate_rows) : 0;
    sums *= read_up_to_four_of(epilogue.gate, gate_type, gate_row * params.columns + column, count, aligned_out);
  }
  if (has_residual) {
    sums += read_up_to_four<T>(residual, row * params.residual_row_stride + column, count, aligned_out);
  }
  write_up_to_four<T>(out, int64(row) * params.columns + column, count, aligned_out, sums);
}

// Copies `rows` rows of 32 values of a matrix, from value k0 on, into a tile with rows of `Pitch` values; beyond the
// matrix, zeros.
template <typename T, int Rows, int Pitch, int Threads>
METAL_FUNC void stage_rows(threadgroup T* tile, const device T* matrix, int64 row_stride, int rows, int k0, int depth,
                           bool aligned, uint thread_index) {
  constexpr int kFours = kLinearDepthBlock / 4;
  for (int unit = thread_index; unit < Rows * kFours; unit += Threads) {
    const int row = unit / kFours;
    const int k = unit % kFours * 4;
    vec<T, 4> values = vec<T, 4>(T(0), T(0), T(0), T(0));
    const int count = row < rows ? depth - k0 - k : 0;
    if (aligned && count >= 4) {
      values = ((const device vec<T, 4>*)matrix)[(row * row_stride + k0 + k) / 4];
    } else {
      LTX2RT_UNROLL
      for (int j = 0; j < 4; j++) {
        if (j < count) values[j] = matrix[row * row_stride + k0 + k + j];
      }
    }
    ((threadgroup vec<T, 4>*)tile)[(row * Pitch + k) / 4] = values;
  }
}

// A tile of kRows x kColumns outputs, by kDown x kAcross simdgroups of 32 x 32 each.
// x (M, K): T; weight (N, K): W. Grid: (ceil(N / kColumns), ceil(M / kRows), 1), or a part of it.
template <typename T, typename W, int kDown, int kAcross>
[[kernel, max_total_threads_per_threadgroup(kDown * kAcross * 32)]] void linear_tile(
    const device T* x [[buffer(0)]], const device W* weight [[buffer(1)]], const device uchar* bias [[buffer(2)]],
    const device T* residual [[buffer(3)]], const device uchar* gate [[buffer(4)]],
    const device int* gate_index [[buffer(5)]], const device float* factor [[buffer(6)]], device T* out [[buffer(7)]],
    constant LinearParams& params [[buffer(8)]], uint3 group [[threadgroup_position_in_grid]],
    uint thread_index [[thread_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]],
    uint simdgroup [[simdgroup_index_in_threadgroup]]) {
  constexpr int kRows = 32 * kDown, kColumns = 32 * kAcross, kThreads = 32 * kDown * kAcross;
  constexpr int kLeftPitch = kLinearDepthBlock + (sizeof(T) == 2 ? 8 : 4);
  constexpr int kRightPitch = kLinearDepthBlock + 4;
  threadgroup float4 left_storage[kRows * kLeftPitch * sizeof(T) / 16];
  threadgroup float4 right_storage[kColumns * kRightPitch * sizeof(W) / 16];
  threadgroup T* left = (threadgroup T*)left_storage;
  threadgroup W* right = (threadgroup W*)right_storage;

  const int first_row = (params.first_row_block + group.y) * kRows, first_column = (params.first_column_block + group.x) * kColumns;
  const int rows = min(kRows, params.rows - first_row), columns = min(kColumns, params.columns - first_column);
  x += first_row * params.x_row_stride;
  weight += first_column * int64(params.depth);

  const LanePosition at = lane_position(lane);
  const short tile_row = 32 * (simdgroup / kAcross), tile_column = 32 * (simdgroup % kAcross);
  simdgroup_float8x8 sums[4][4];
  LTX2RT_UNROLL
  for (short i = 0; i < 4; i++) {
    LTX2RT_UNROLL
    for (short j = 0; j < 4; j++) sums[i][j] = fragment_of(0.0f, 0.0f);
  }

  for (int k0 = 0; k0 < params.depth; k0 += kLinearDepthBlock) {
    threadgroup_barrier(mem_flags::mem_threadgroup);
    stage_rows<T, kRows, kLeftPitch, kThreads>(left, x, params.x_row_stride, rows, k0, params.depth, aligned_x,
                                               thread_index);
    stage_rows<W, kColumns, kRightPitch, kThreads>(right, weight, params.depth, columns, k0, params.depth, aligned_w,
                                                   thread_index);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    LeftFragments<T, 4> rows_of_x[4];
    LTX2RT_UNROLL
    for (short i = 0; i < 4; i++) {
      rows_of_x[i] = load_left<T, 4>(left + (tile_row + 8 * i + at.row) * kLeftPitch, at);
    }
    LTX2RT_UNROLL
    for (short j = 0; j < 4; j++) {
      const threadgroup W* column = right + (tile_column + column_in_block(j, at.column)) * kRightPitch;
      const RightFragments<W, 4> columns_of_w = load_right<W, 4>(column, column + kRightPitch, at);
      LTX2RT_UNROLL
      for (short f = 0; f < 4; f++) {
        const simdgroup_float8x8 w = columns_of_w.fragment(f);
        LTX2RT_UNROLL
        for (short i = 0; i < 4; i++) simdgroup_multiply_accumulate(sums[i][j], rows_of_x[i].fragment(f), w, sums[i][j]);
      }
    }
  }

  const Epilogue epilogue = {bias, gate, gate_index, has_factor ? factor[0] : 1.0f};
  const int column = first_column + tile_column + 4 * at.column;
  LTX2RT_UNROLL
  for (short i = 0; i < 4; i++) {
    const int row = first_row + tile_row + 8 * i + at.row;
    if (row >= params.rows) continue;
    LTX2RT_UNROLL
    for (short half_ = 0; half_ < 2; half_++) {
      const float2 a = elements_of(sums[i][2 * half_]), b = elements_of(sums[i][2 * half_ + 1]);
      const int count = params.columns - column - 4 * half_;
      if (count > 0) {
        finish_four<T>(float4(a.x, a.y, b.x, b.y), row, column + 4 * half_, count, epilogue, residual, out, params);
      }
    }
  }
}

// Value of an E4M3 code times 2^-8, as the half with the same exponent and mantissa bits.
METAL_FUNC float e4m3_small(uint code) {
  if ((code & 0x7f) == 0x7f) return NAN;
  return float(as_type<half>(ushort((code & 0x80) << 8 | (code & 0x7f) << 7)));
}
constant constexpr float kE4m3Factor = 256.0f;

// Eight neighbouring weights from value i on (a multiple of 8), before scales: the values of dense weights, E4M3 values
// times 2^-8, codes of affine ones. Beyond `count` zeros.
struct Eight {
  float4 low, high;
};
METAL_FUNC Eight read_eight(const device uchar* weight, int64 i, int count) {
  Eight w;
  if (WeightFormat(format) == WeightFormat::int8 || WeightFormat(format) == WeightFormat::e4m3) {
    uchar codes[8];
    if (aligned_w && count >= 8) {
      const uchar4 low = ((const device uchar4*)weight)[i / 4], high = ((const device uchar4*)weight)[i / 4 + 1];
      LTX2RT_UNROLL
      for (int j = 0; j < 4; j++) {
        codes[j] = low[j];
        codes[4 + j] = high[j];
      }
    } else {
      LTX2RT_UNROLL
      for (int j = 0; j < 8; j++) codes[j] = j < count ? weight[i + j] : uchar(0);
    }
    LTX2RT_UNROLL
    for (int j = 0; j < 4; j++) {
      w.low[j] = WeightFormat(format) == WeightFormat::e4m3 ? e4m3_small(codes[j]) : float(codes[j]);
      w.high[j] = WeightFormat(format) == WeightFormat::e4m3 ? e4m3_small(codes[4 + j]) : float(codes[4 + j]);
    }
  } else if (WeightFormat(format) == WeightFormat::int4) {
    const uint codes = ((const device uint*)weight)[i / 8];
    LTX2RT_UNROLL
    for (int j = 0; j < 4; j++) {
      w.low[j] = float(codes >> 4 * j & 15);
      w.high[j] = float(codes >> 4 * (4 + j) & 15);
    }
  } else {
    w.low = read_up_to_four_of(weight, format, i, count, aligned_w);
    w.high = read_up_to_four_of(weight, format, i + 4, count - 4, aligned_w);
  }
  return w;
}

// Up to few_rows rows of x: each simdgroup makes kFewRowsColumns columns, its lanes share the sum over k.
// x (M, K): T; weight (N, K) in `format`; scale, zero (N, K / group_size): group_type.
// Grid: (ceil(N / (kFewRowsColumns * kFewRowsSimdgroups)), ceil(M / few_rows), 1), or a part of it, of 32 * kFewRowsSimdgroups threads.
template <typename T>
[[kernel, max_total_threads_per_threadgroup(32 * kFewRowsSimdgroups)]] void linear_few(
    const device T* x [[buffer(0)]], const device uchar* weight [[buffer(1)]], const device uchar* bias [[buffer(2)]],
    const device T* residual [[buffer(3)]], const device uchar* gate [[buffer(4)]],
    const device int* gate_index [[buffer(5)]], const device float* factor [[buffer(6)]], device T* out [[buffer(7)]],
    constant LinearParams& params [[buffer(8)]], const device uchar* scale [[buffer(9)]],
    const device uchar* zero [[buffer(10)]], uint3 group [[threadgroup_position_in_grid]],
    uint lane [[thread_index_in_simdgroup]], uint simdgroup [[simdgroup_index_in_threadgroup]]) {
  const bool affine = WeightFormat(format) == WeightFormat::int8 || WeightFormat(format) == WeightFormat::int4;
  const int first_row = (params.first_row_block + group.y) * few_rows;
  const int first_column = ((params.first_column_block + group.x) * kFewRowsSimdgroups + simdgroup) * kFewRowsColumns;
  const int rows = min(few_rows, params.rows - first_row), columns = min(int(kFewRowsColumns), params.columns - first_column);
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
      const Eight w = read_eight(weight, row_of_w * depth + k, depth - k);
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

  const Epilogue epilogue = {bias, gate, gate_index,
                             (has_factor ? factor[0] : 1.0f) * (WeightFormat(format) == WeightFormat::e4m3 ? kE4m3Factor : 1.0f)};
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

// W (N, K) of quantised weights in type T, for linear_tile: E4M3 codes without their factor, which is left to the
// epilogue, so that they are exact; affine weights complete. One thread per kDequantisePerThread values.
template <typename T>
[[kernel]] void dequantise(const device uchar* weight [[buffer(0)]], const device uchar* scale [[buffer(1)]],
                           const device uchar* zero [[buffer(2)]], device T* out [[buffer(3)]],
                           constant DequantiseParams& params [[buffer(4)]], uint2 thread_at [[thread_position_in_grid]],
                           uint2 threads [[threads_per_grid]]) {
  const int64 i = params.first + (int64(thread_at.y) * threads.x + thread_at.x) * kDequantisePerThread;
  if (i >= params.end) return;
  const int count = int(min(params.end - i, int64(kDequantisePerThread)));
  Eight w = read_eight(weight, i, count);
  if (WeightFormat(format) == WeightFormat::e4m3) {
    w.low *= kE4m3Factor;
    w.high *= kE4m3Factor;
  } else {
    const float s = read_element(scale, group_type, i >> params.group_shift);
    const float z = read_element(zero, group_type, i >> params.group_shift);
    w.low = w.low * s + z;
    w.high = w.high * s + z;
  }
  write_up_to_four<T>(out, i, count, true, w.low);
  write_up_to_four<T>(out, i + 4, count - 4, true, w.high);
}

#define LTX2RT_TILE(name, T, W, down, across) \
  template [[host_name(#name)]] [[kernel]] decltype(linear_tile<T, W, down, across>) linear_tile<T, W, down, across>;
#define LTX2RT_TILES(x, w, T, W)                              \
  LTX2RT_TILE(linear_tile_##x##_##w##_64x64, T, W, 2, 2)      \
  LTX2RT_TILE(linear_tile_##x##_##w##_128x64, T, W, 4, 2)     \
  LTX2RT_TILE(linear_tile_##x##_##w##_32x64, T, W, 1, 2)
#define LTX2RT_WEIGHTS(x, T)                 \
  LTX2RT_TILES(x, float32, T, float)         \
  LTX2RT_TILES(x, float16, T, half)          \
  LTX2RT_TILES(x, bfloat16, T, bfloat)       \
  template [[host_name("linear_few_" #x)]] [[kernel]] decltype(linear_few<T>) linear_few<T>; \
  template [[host_name("dequantise_" #x)]] [[kernel]] decltype(dequantise<T>) dequantise<T>;
LTX2RT_WEIGHTS(float32, float)
LTX2RT_WEIGHTS(float16, half)
LTX2RT_WEIGHTS(bfloat16, bfloat)
