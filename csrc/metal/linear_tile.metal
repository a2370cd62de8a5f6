// quantized_linear for many rows: tiles of simdgroup matrices. Dense weights are staged as they are; quantised ones are
// expanded as they are staged, or come from a slab that dequantise (linear_few.metal) has made.
#include <metal_stdlib>

#include "csrc/metal/elements.h"
#include "csrc/metal/fragments.h"
#include "csrc/metal/linear_epilogue.h"
#include "csrc/metal/quantized_linear_params.h"
#include "csrc/metal/weight_codec.h"

using namespace metal;
using namespace ltx2rt;
using namespace ltx2rt::metal_shared;

constant bool fenced [[function_constant(12)]];

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

// Where the columns of a tile come from. Each stages 32 values of depth of them as rows of a tile with kRightPitch
// values.
constant constexpr int kRightPitch = kLinearDepthBlock + 4;

template <typename W>
struct DenseColumns {
  typedef W Value;
  const device W* first;  // of the tile's columns
  template <int Columns, int Threads>
  METAL_FUNC void stage(threadgroup W* tile, int columns, int k0, constant LinearParams& params,
                        uint thread_index) const thread {
    stage_rows<W, Columns, kRightPitch, Threads>(tile, first, params.depth, columns, k0, params.depth, aligned_w,
                                                 thread_index);
  }
};

// The whole of W as it is stored, expanded to type T.
template <typename T>
struct CodedColumns {
  typedef T Value;
  StoredWeight weight;
  int first_column;
  template <int Columns, int Threads>
  METAL_FUNC void stage(threadgroup T* tile, int columns, int k0, constant LinearParams& params,
                        uint thread_index) const thread {
    constexpr int kEights = kLinearDepthBlock / 8;
    for (int unit = thread_index; unit < Columns * kEights; unit += Threads) {
      const int column = unit / kEights, in_block = unit % kEights * 8, k = k0 + in_block;
      Eight w = {float4(0.0f), float4(0.0f)};
      if (column < columns && k < params.depth) {
        w = read_values(weight, int64(first_column + column) * params.depth + k, params.depth - k);
      }
      threadgroup vec<T, 4>* to = (threadgroup vec<T, 4>*)(tile + column * kRightPitch + in_block);
      to[0] = narrow<T>(w.low);
      to[1] = narrow<T>(w.high);
    }
  }
};

// A tile of kRows x kColumns outputs, by kDown x kAcross simdgroups of 32 x 32 each; left and right are its threadgroup
// memory.
template <typename T, int kDown, int kAcross, typename Columns>
METAL_FUNC void make_tile(const device T* x, const thread Columns& columns_of_w, threadgroup T* left,
                          threadgroup typename Columns::Value* right, int first_row, int first_column,
                          const device T* residual, const thread Epilogue& epilogue, device T* out,
                          constant LinearParams& params, uint thread_index, uint lane, uint simdgroup) {
  typedef typename Columns::Value W;
  constexpr int kRows = 32 * kDown, kColumns = 32 * kAcross, kThreads = 32 * kDown * kAcross;
  constexpr int kLeftPitch = kLinearDepthBlock + (sizeof(T) == 2 ? 8 : 4);
  const int rows = min(kRows, params.rows - first_row), columns = min(kColumns, params.columns - first_column);
  x += first_row * params.x_row_stride;

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
    columns_of_w.template stage<kColumns, kThreads>(right, columns, k0, params, thread_index);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    LeftFragments<T, 4> rows_of_x[4];
    LTX2RT_UNROLL
    for (short i = 0; i < 4; i++) {
      rows_of_x[i] = load_left<T, 4>(left + (tile_row + 8 * i + at.row) * kLeftPitch, at);
    }
    LTX2RT_UNROLL
    for (short j = 0; j < 4; j++) {
      const threadgroup W* column = right + (tile_column + column_in_block(j, at.column)) * kRightPitch;
      fence(fenced);
      const RightFragments<W, 4> fragments_of_w = load_right<W, 4>(column, column + kRightPitch, at);
      fence(fenced);
      LTX2RT_UNROLL
      for (short f = 0; f < 4; f++) {
        simdgroup_float8x8 w = fragments_of_w.fragment(f);
        LTX2RT_UNROLL
        for (short i = 0; i < 4; i++) {
          simdgroup_float8x8 row = rows_of_x[i].fragment(f);
          simdgroup_multiply_accumulate(sums[i][j], row, w, sums[i][j]);
        }
      }
    }
  }

  const int column = first_column + tile_column + 4 * at.column;
  LTX2RT_UNROLL
  for (short half_ = 0; half_ < 2; half_++) {
    const int count = params.columns - column - 4 * half_;
    if (count <= 0) continue;
    const float4 factors = factors_of(column + 4 * half_, count, epilogue);
    LTX2RT_UNROLL
    for (short i = 0; i < 4; i++) {
      const int row = first_row + tile_row + 8 * i + at.row;
      if (row >= params.rows) continue;
      const float2 a = elements_of(sums[i][2 * half_]), b = elements_of(sums[i][2 * half_ + 1]);
      finish_four<T>(float4(a.x, a.y, b.x, b.y) * factors, row, column + 4 * half_, count, epilogue, residual, out,
                     params);
    }
  }
}

// Threadgroup memory of make_tile and the first row and column of the threadgroup's tile.
#define LTX2RT_TILE(T, W, kDown, kAcross)                                                                        \
  threadgroup float4 left_storage[32 * kDown * (kLinearDepthBlock + (sizeof(T) == 2 ? 8 : 4)) * sizeof(T) / 16]; \
  threadgroup float4 right_storage[32 * kAcross * kRightPitch * sizeof(W) / 16];                                 \
  threadgroup T* left = (threadgroup T*)left_storage;                                                            \
  threadgroup W* right = (threadgroup W*)right_storage;                                                          \
  const int first_row = (params.first_row_block + group.y) * 32 * kDown;                                         \
  const int first_column = (params.first_column_block + group.x) * 32 * kAcross;

// x (M, K): T; weight: W, rows of W (N, K) from row params.first_weight_row on.
// Grid: (ceil(N / (32 * kAcross)), ceil(M / (32 * kDown)), 1), or a part of it.
template <typename T, typename W, int kDown, int kAcross>
[[kernel, max_total_threads_per_threadgroup(kDown * kAcross * 32)]] void linear_tile(
    const device T* x [[buffer(0)]], const device W* weight [[buffer(1)]], const device uchar* bias [[buffer(2)]],
    const device T* residual [[buffer(3)]], const device uchar* gate [[buffer(4)]],
    const device int* gate_index [[buffer(5)]], const device float* factor [[buffer(6)]], device T* out [[buffer(7)]],
    constant LinearParams& params [[buffer(8)]], uint3 group [[threadgroup_position_in_grid]],
    uint thread_index [[thread_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]],
    uint simdgroup [[simdgroup_index_in_threadgroup]]) {
  LTX2RT_TILE(T, W, kDown, kAcross)
  const DenseColumns<W> columns = {weight + int64(first_column - params.first_weight_row) * params.depth};
  const Epilogue epilogue = {bias, gate, gate_index, factor, has_factor() ? factor[0] : 1.0f};
  make_tile<T, kDown, kAcross>(x, columns, left, right, first_row, first_column, residual, epilogue, out, params,
                               thread_index, lane, simdgroup);
}

// The same with quantised weights: those of a scale, a zero or a table that the format has.
template <typename T, int kDown, int kAcross>
[[kernel, max_total_threads_per_threadgroup(kDown * kAcross * 32)]] void linear_tile_codes(
    const device T* x [[buffer(0)]], const device uchar* weight [[buffer(1)]], const device uchar* bias [[buffer(2)]],
    const device T* residual [[buffer(3)]], const device uchar* gate [[buffer(4)]],
    const device int* gate_index [[buffer(5)]], const device float* factor [[buffer(6)]], device T* out [[buffer(7)]],
    constant LinearParams& params [[buffer(8)]], const device uchar* scale [[buffer(9)]],
    const device uchar* zero [[buffer(10)]], constant float* table [[buffer(11)]],
    uint3 group [[threadgroup_position_in_grid]], uint thread_index [[thread_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]], uint simdgroup [[simdgroup_index_in_threadgroup]]) {
  LTX2RT_TILE(T, T, kDown, kAcross)
  threadgroup float levels[kTableSize];
  stage_table(levels, table, thread_index, kDown * kAcross * 32);
  const CodedColumns<T> columns = {{weight, scale, zero, levels, params.group_size, params.group_shift, aligned_w},
                                   first_column};
  const Epilogue epilogue = {bias, gate, gate_index, factor, has_factor() ? factor[0] : 1.0f};
  make_tile<T, kDown, kAcross>(x, columns, left, right, first_row, first_column, residual, epilogue, out, params,
                               thread_index, lane, simdgroup);
}

LTX2RT_KERNEL(linear_tile_float32_float32_32x64, linear_tile<float, float, 1, 2>)
LTX2RT_KERNEL(linear_tile_float32_float32_64x64, linear_tile<float, float, 2, 2>)
LTX2RT_KERNEL(linear_tile_float32_float32_128x64, linear_tile<float, float, 4, 2>)
LTX2RT_KERNEL(linear_tile_float32_float16_32x64, linear_tile<float, half, 1, 2>)
LTX2RT_KERNEL(linear_tile_float32_float16_64x64, linear_tile<float, half, 2, 2>)
LTX2RT_KERNEL(linear_tile_float32_float16_128x64, linear_tile<float, half, 4, 2>)
LTX2RT_KERNEL(linear_tile_float32_bfloat16_32x64, linear_tile<float, bfloat, 1, 2>)
LTX2RT_KERNEL(linear_tile_float32_bfloat16_64x64, linear_tile<float, bfloat, 2, 2>)
LTX2RT_KERNEL(linear_tile_float32_bfloat16_128x64, linear_tile<float, bfloat, 4, 2>)
LTX2RT_KERNEL(linear_tile_float16_float32_32x64, linear_tile<half, float, 1, 2>)
LTX2RT_KERNEL(linear_tile_float16_float32_64x64, linear_tile<half, float, 2, 2>)
LTX2RT_KERNEL(linear_tile_float16_float32_128x64, linear_tile<half, float, 4, 2>)
LTX2RT_KERNEL(linear_tile_float16_float16_32x64, linear_tile<half, half, 1, 2>)
LTX2RT_KERNEL(linear_tile_float16_float16_64x64, linear_tile<half, half, 2, 2>)
LTX2RT_KERNEL(linear_tile_float16_float16_128x64, linear_tile<half, half, 4, 2>)
LTX2RT_KERNEL(linear_tile_float16_bfloat16_32x64, linear_tile<half, bfloat, 1, 2>)
LTX2RT_KERNEL(linear_tile_float16_bfloat16_64x64, linear_tile<half, bfloat, 2, 2>)
LTX2RT_KERNEL(linear_tile_float16_bfloat16_128x64, linear_tile<half, bfloat, 4, 2>)
LTX2RT_KERNEL(linear_tile_bfloat16_float32_32x64, linear_tile<bfloat, float, 1, 2>)
LTX2RT_KERNEL(linear_tile_bfloat16_float32_64x64, linear_tile<bfloat, float, 2, 2>)
LTX2RT_KERNEL(linear_tile_bfloat16_float32_128x64, linear_tile<bfloat, float, 4, 2>)
LTX2RT_KERNEL(linear_tile_bfloat16_float16_32x64, linear_tile<bfloat, half, 1, 2>)
LTX2RT_KERNEL(linear_tile_bfloat16_float16_64x64, linear_tile<bfloat, half, 2, 2>)
LTX2RT_KERNEL(linear_tile_bfloat16_float16_128x64, linear_tile<bfloat, half, 4, 2>)
LTX2RT_KERNEL(linear_tile_bfloat16_bfloat16_32x64, linear_tile<bfloat, bfloat, 1, 2>)
LTX2RT_KERNEL(linear_tile_bfloat16_bfloat16_64x64, linear_tile<bfloat, bfloat, 2, 2>)
LTX2RT_KERNEL(linear_tile_bfloat16_bfloat16_128x64, linear_tile<bfloat, bfloat, 4, 2>)
LTX2RT_KERNEL(linear_tile_float32_codes_32x64, linear_tile_codes<float, 1, 2>)
LTX2RT_KERNEL(linear_tile_float32_codes_64x64, linear_tile_codes<float, 2, 2>)
LTX2RT_KERNEL(linear_tile_float32_codes_128x64, linear_tile_codes<float, 4, 2>)
LTX2RT_KERNEL(linear_tile_float16_codes_32x64, linear_tile_codes<half, 1, 2>)
LTX2RT_KERNEL(linear_tile_float16_codes_64x64, linear_tile_codes<half, 2, 2>)
LTX2RT_KERNEL(linear_tile_float16_codes_128x64, linear_tile_codes<half, 4, 2>)
LTX2RT_KERNEL(linear_tile_bfloat16_codes_32x64, linear_tile_codes<bfloat, 1, 2>)
LTX2RT_KERNEL(linear_tile_bfloat16_codes_64x64, linear_tile_codes<bfloat, 2, 2>)
LTX2RT_KERNEL(linear_tile_bfloat16_codes_128x64, linear_tile_codes<bfloat, 4, 2>)
