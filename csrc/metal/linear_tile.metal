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
constant bool in_parts [[function_constant(13)]];  // the sum over K is made in parts, which linear_join adds up

// Copies `rows` rows of 32 values, of which `depth` exist, into a tile of type To with rows of `Pitch` values; the others
// become zeros. Where the types differ, To is half. If `Splits`, values beyond its range are left out, or with `large` only
// these are taken, divided by kHalfShrink; whether this thread has met one is returned.
constant constexpr float kLargestHalf = 65504.0f;
template <typename To, typename T, int Rows, int Pitch, int Threads, bool Splits>
METAL_FUNC bool stage_rows(threadgroup To* tile, const device T* matrix, int row_stride, int rows, int depth,
                           bool aligned, bool large, uint thread_index) {
  bool beyond = false;
  constexpr uint kFours = kLinearDepthBlock / 4;
  for (uint unit = thread_index; unit < Rows * kFours; unit += Threads) {
    const int row = int(unit / kFours), k = int(unit % kFours * 4);
    vec<T, 4> values = vec<T, 4>(T(0), T(0), T(0), T(0));
    const int count = row < rows ? depth - k : 0;
    const device T* from = matrix + (row * row_stride + k);
    if (aligned && count >= 4) {
      values = *(const device vec<T, 4>*)from;
    } else {
      LTX2RT_UNROLL
      for (int j = 0; j < 4; j++) {
        if (j < count) values[j] = from[j];
      }
    }
    threadgroup To* to = tile + (row * Pitch + k);
    if constexpr (is_same_v<To, T>) {
      *(threadgroup vec<To, 4>*)to = values;
    } else {
      float4 wide = widen<T>(values);
      if constexpr (Splits) {
        LTX2RT_UNROLL
        for (int j = 0; j < 4; j++) {
          const bool is_large = abs(wide[j]) > kLargestHalf;
          beyond = beyond || is_large;
          wide[j] = is_large != large ? 0.0f : large ? wide[j] * (1.0f / kHalfShrink) : wide[j];
        }
      }
      *(threadgroup vec<To, 4>*)to = narrow<To>(wide);
    }
  }
  return beyond;
}

// Where the columns of a tile come from. Each stages 32 values of depth of them as rows of a tile with kRightPitch
// values.
constant constexpr int kRightPitch = kLinearDepthBlock + 4;

template <typename W, typename V>
struct DenseColumns {
  typedef V Value;
  const device W* first;  // of the tile's columns
  template <int Columns, int Threads>
  METAL_FUNC void stage(threadgroup V* tile, int columns, int k0, constant LinearParams& params,
                        uint thread_index) const thread {
    stage_rows<V, W, Columns, kRightPitch, Threads, false>(tile, first + k0, params.depth, columns, params.depth - k0,
                                                           aligned_w, false, thread_index);
  }
};

// Columns of W as it is stored, expanded to type T.
template <typename T>
struct CodedColumns {
  typedef T Value;
  StoredWeight weight;  // from the tile's first column on
  template <int Columns, int Threads>
  METAL_FUNC void stage(threadgroup T* tile, int columns, int k0, constant LinearParams& params,
                        uint thread_index) const thread {
    constexpr uint kEights = kLinearDepthBlock / 8;
    for (uint unit = thread_index; unit < Columns * kEights; unit += Threads) {
      const int column = int(unit / kEights), in_block = int(unit % kEights * 8), k = k0 + in_block;
      Eight w = {float4(0.0f), float4(0.0f)};
      if (column < columns && k < params.depth) {
        w = read_values(weight, column * params.depth + k, params.depth - k);
      }
      threadgroup vec<T, 4>* to = (threadgroup vec<T, 4>*)(tile + column * kRightPitch + in_block);
      to[0] = narrow<T>(w.low);
      to[1] = narrow<T>(w.high);
    }
  }
};

METAL_FUNC void multiply_all(thread simdgroup_float8x8 (&sums)[4][4], float factor) {
  LTX2RT_UNROLL
  for (short i = 0; i < 4; i++) {
    LTX2RT_UNROLL
    for (short j = 0; j < 4; j++) {
      const float2 sum = elements_of(sums[i][j]);
      sums[i][j] = fragment_of(sum.x * factor, sum.y * factor);
    }
  }
}

// A tile of kRows x kColumns outputs, by kDown x kAcross simdgroups of 32 x 32 each; left and right are its threadgroup
// memory. Of a sum in parts, `part` is made and stored as it is, in float32: out is then (parts, M, N).
//
// Operands are multiplied as E: as floats, or as they lie in tiles of half, with the sums in float32 all the same. W has
// been found to fit (LinearWeight::half_operands). Where x has values beyond half's range, these are left out and then
// added in a second pass, divided by kHalfShrink as the sums are meanwhile: `beyond`, one flag per simdgroup, says so to
// all threads.
template <typename T, typename E, int kDown, int kAcross, typename L, typename Columns>
METAL_FUNC void make_tile(const device T* x, const thread Columns& columns_of_w, threadgroup L* left,
                          threadgroup uint* beyond, threadgroup typename Columns::Value* right, int first_row,
                          int first_column, int part, const device T* residual, const thread Epilogue& epilogue,
                          device T* out, constant LinearParams& params, uint thread_index, uint lane, uint simdgroup) {
  typedef typename Columns::Value W;
  constexpr int kRows = 32 * kDown, kColumns = 32 * kAcross, kThreads = 32 * kDown * kAcross;
  constexpr int kLeftPitch = kLinearDepthBlock + (sizeof(L) == 2 ? 8 : 4);
  const int rows = min(kRows, params.rows - first_row), columns = min(kColumns, params.columns - first_column);
  x += int64(first_row) * params.x_row_stride;

  const LanePosition at = lane_position(lane);
  const short tile_row = 32 * (simdgroup / kAcross), tile_column = 32 * (simdgroup % kAcross);
  simdgroup_float8x8 sums[4][4];
  LTX2RT_UNROLL
  for (short i = 0; i < 4; i++) {
    LTX2RT_UNROLL
    for (short j = 0; j < 4; j++) sums[i][j] = fragment_of(0.0f, 0.0f);
  }

  const int first_k = in_parts ? part * params.part_depth : 0;
  const int end_k = in_parts ? min(first_k + params.part_depth, params.depth) : params.depth;
  constexpr bool kSplits = !is_same_v<L, T>;
  for (int k0 = first_k; k0 < end_k; k0 += kLinearDepthBlock) {
    int passes = 1;
    for (int pass = 0; pass < passes; pass++) {
      threadgroup_barrier(mem_flags::mem_threadgroup);
      const bool own_beyond = stage_rows<L, T, kRows, kLeftPitch, kThreads, kSplits>(
          left, x + k0, params.x_row_stride, rows, params.depth - k0, aligned_x, pass > 0, thread_index);
      if (pass == 0) columns_of_w.template stage<kColumns, kThreads>(right, columns, k0, params, thread_index);
      if constexpr (kSplits) {
        const bool any_beyond = simd_any(own_beyond);
        if (lane == 0 && pass == 0) beyond[simdgroup] = any_beyond ? 1 : 0;
      }
      threadgroup_barrier(mem_flags::mem_threadgroup);
      if constexpr (kSplits) {
        if (pass == 0) {
          LTX2RT_UNROLL
          for (int i = 0; i < kDown * kAcross; i++) passes = beyond[i] != 0 ? 2 : passes;
        } else {
          multiply_all(sums, 1.0f / kHalfShrink);
        }
      }
      LeftFragments<L, 4, E> rows_of_x[4];
      LTX2RT_UNROLL
      for (short i = 0; i < 4; i++) {
        rows_of_x[i] = load_left<L, 4, E>(left + (tile_row + 8 * i + at.row) * kLeftPitch, at);
      }
      LTX2RT_UNROLL
      for (short j = 0; j < 4; j++) {
        const threadgroup W* column = right + (tile_column + column_in_block(j, at.column)) * kRightPitch;
        fence(fenced);
        const RightFragments<W, 4, E> fragments_of_w = load_right<W, 4, E>(column, column + kRightPitch, at);
        fence(fenced);
        LTX2RT_UNROLL
        for (short f = 0; f < 4; f++) {
          simdgroup_matrix<E, 8, 8> w = fragments_of_w.fragment(f);
          LTX2RT_UNROLL
          for (short i = 0; i < 4; i++) {
            simdgroup_matrix<E, 8, 8> row = rows_of_x[i].fragment(f);
            simdgroup_multiply_accumulate(sums[i][j], row, w, sums[i][j]);
          }
        }
      }
      if (pass > 0) multiply_all(sums, float(kHalfShrink));
    }
  }

  const int column = first_column + tile_column + 4 * at.column;
  LTX2RT_UNROLL
  for (short half_ = 0; half_ < 2; half_++) {
    const int count = params.columns - column - 4 * half_;
    if (count <= 0) continue;
    const float4 factors = in_parts ? float4(1.0f) : factors_of(column + 4 * half_, count, epilogue);
    LTX2RT_UNROLL
    for (short i = 0; i < 4; i++) {
      const int row = first_row + tile_row + 8 * i + at.row;
      if (row >= params.rows) continue;
      const float2 a = elements_of(sums[i][2 * half_]), b = elements_of(sums[i][2 * half_ + 1]);
      const float4 four = float4(a.x, a.y, b.x, b.y);
      if (in_parts) {
        device float* to = (device float*)out + (int64(part) * params.rows + row) * params.columns;
        write_up_to_four<float>(to, column + 4 * half_, count, aligned_out, four);
      } else {
        finish_four<T>(four * factors, row, column + 4 * half_, count, epilogue, residual, out, params);
      }
    }
  }
}

// Threadgroup memory of make_tile, the first row and column of the threadgroup's tile, and its part of the sum.
#define LTX2RT_TILE(L, V, E, kDown, kAcross)                                                                          \
  constexpr int kRightFours = 32 * kAcross * kRightPitch * sizeof(V) / 16;                                            \
  constexpr int kFlagFours = is_same_v<E, half> ? (kDown * kAcross + 3) / 4 : 0;                                      \
  threadgroup float4 left_storage[32 * kDown * (kLinearDepthBlock + (sizeof(L) == 2 ? 8 : 4)) * sizeof(L) / 16];      \
  threadgroup float4 right_storage[kRightFours + kFlagFours];                                                         \
  threadgroup L* left = (threadgroup L*)left_storage;                                                                 \
  threadgroup V* right = (threadgroup V*)right_storage;                                                               \
  threadgroup uint* beyond = (threadgroup uint*)(right_storage + kRightFours);                                        \
  const TilePosition tile = tile_position(params.first_tile + int(group.x), params.row_blocks, params.column_blocks); \
  const int first_row = tile.row_block * 32 * kDown;                                                                  \
  const int first_column = (params.first_column_block + tile.column_block) * 32 * kAcross;                            \
  const int part = params.first_part + int(group.y);

// How operands lie in tiles: as they are, or as halves that are to be multiplied.
template <typename T, typename E>
using Staged = conditional_t<is_same_v<E, half>, half, T>;

// x (M, K): T; weight: W, rows of W (N, K) from row params.first_weight_row on; multiplied as E.
// Grid: (tiles of 32 * kDown rows and 32 * kAcross columns, parts of the sum, 1), or a part of it.
template <typename T, typename W, int kDown, int kAcross, typename E = float>
[[kernel, max_total_threads_per_threadgroup(kDown * kAcross * 32)]] void linear_tile(
    const device T* x [[buffer(0)]], const device W* weight [[buffer(1)]], const device uchar* bias [[buffer(2)]],
    const device T* residual [[buffer(3)]], const device uchar* gate [[buffer(4)]],
    const device int* gate_index [[buffer(5)]], const device float* factor [[buffer(6)]], device T* out [[buffer(7)]],
    constant LinearParams& params [[buffer(8)]], uint3 group [[threadgroup_position_in_grid]],
    uint thread_index [[thread_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]],
    uint simdgroup [[simdgroup_index_in_threadgroup]]) {
  typedef Staged<T, E> L;
  typedef Staged<W, E> V;
  LTX2RT_TILE(L, V, E, kDown, kAcross)
  const DenseColumns<W, V> columns = {weight + int64(first_column - params.first_weight_row) * params.depth};
  const Epilogue epilogue = {bias, gate, gate_index, factor, has_factor() ? factor[0] : 1.0f};
  make_tile<T, E, kDown, kAcross>(x, columns, left, beyond, right, first_row, first_column, part, residual, epilogue,
                                  out, params, thread_index, lane, simdgroup);
}

// The same with quantised weights: those of a scale, a zero or a table that the format has.
template <typename T, int kDown, int kAcross, typename E = float>
[[kernel, max_total_threads_per_threadgroup(kDown * kAcross * 32)]] void linear_tile_codes(
    const device T* x [[buffer(0)]], const device uchar* weight [[buffer(1)]], const device uchar* bias [[buffer(2)]],
    const device T* residual [[buffer(3)]], const device uchar* gate [[buffer(4)]],
    const device int* gate_index [[buffer(5)]], const device float* factor [[buffer(6)]], device T* out [[buffer(7)]],
    constant LinearParams& params [[buffer(8)]], const device uchar* scale [[buffer(9)]],
    const device uchar* zero [[buffer(10)]], constant float* table [[buffer(11)]],
    uint3 group [[threadgroup_position_in_grid]], uint thread_index [[thread_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]], uint simdgroup [[simdgroup_index_in_threadgroup]]) {
  typedef Staged<T, E> L;
  LTX2RT_TILE(L, L, E, kDown, kAcross)
  threadgroup float levels[kTableSize];
  stage_table(levels, table, thread_index, kDown * kAcross * 32);
  const StoredWeight stored = {weight, scale, zero, levels, params.group_size, params.group_shift, aligned_w};
  const CodedColumns<L> columns = {from_row(stored, first_column, params.depth)};
  const Epilogue epilogue = {bias, gate, gate_index, factor, has_factor() ? factor[0] : 1.0f};
  make_tile<T, E, kDown, kAcross>(x, columns, left, beyond, right, first_row, first_column, part, residual, epilogue,
                                  out, params, thread_index, lane, simdgroup);
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
LTX2RT_KERNEL(linear_tile_float16_float32_32x64_half, linear_tile<half, float, 1, 2, half>)
LTX2RT_KERNEL(linear_tile_float16_float32_64x64_half, linear_tile<half, float, 2, 2, half>)
LTX2RT_KERNEL(linear_tile_float16_float32_128x64_half, linear_tile<half, float, 4, 2, half>)
LTX2RT_KERNEL(linear_tile_float16_float16_32x64_half, linear_tile<half, half, 1, 2, half>)
LTX2RT_KERNEL(linear_tile_float16_float16_64x64_half, linear_tile<half, half, 2, 2, half>)
LTX2RT_KERNEL(linear_tile_float16_float16_128x64_half, linear_tile<half, half, 4, 2, half>)
LTX2RT_KERNEL(linear_tile_float16_bfloat16_32x64_half, linear_tile<half, bfloat, 1, 2, half>)
LTX2RT_KERNEL(linear_tile_float16_bfloat16_64x64_half, linear_tile<half, bfloat, 2, 2, half>)
LTX2RT_KERNEL(linear_tile_float16_bfloat16_128x64_half, linear_tile<half, bfloat, 4, 2, half>)
LTX2RT_KERNEL(linear_tile_bfloat16_float32_32x64_half, linear_tile<bfloat, float, 1, 2, half>)
LTX2RT_KERNEL(linear_tile_bfloat16_float32_64x64_half, linear_tile<bfloat, float, 2, 2, half>)
LTX2RT_KERNEL(linear_tile_bfloat16_float32_128x64_half, linear_tile<bfloat, float, 4, 2, half>)
LTX2RT_KERNEL(linear_tile_bfloat16_float16_32x64_half, linear_tile<bfloat, half, 1, 2, half>)
LTX2RT_KERNEL(linear_tile_bfloat16_float16_64x64_half, linear_tile<bfloat, half, 2, 2, half>)
LTX2RT_KERNEL(linear_tile_bfloat16_float16_128x64_half, linear_tile<bfloat, half, 4, 2, half>)
LTX2RT_KERNEL(linear_tile_bfloat16_bfloat16_32x64_half, linear_tile<bfloat, bfloat, 1, 2, half>)
LTX2RT_KERNEL(linear_tile_bfloat16_bfloat16_64x64_half, linear_tile<bfloat, bfloat, 2, 2, half>)
LTX2RT_KERNEL(linear_tile_bfloat16_bfloat16_128x64_half, linear_tile<bfloat, bfloat, 4, 2, half>)
LTX2RT_KERNEL(linear_tile_float16_codes_32x64_half, linear_tile_codes<half, 1, 2, half>)
LTX2RT_KERNEL(linear_tile_float16_codes_64x64_half, linear_tile_codes<half, 2, 2, half>)
LTX2RT_KERNEL(linear_tile_float16_codes_128x64_half, linear_tile_codes<half, 4, 2, half>)
LTX2RT_KERNEL(linear_tile_bfloat16_codes_32x64_half, linear_tile_codes<bfloat, 1, 2, half>)
LTX2RT_KERNEL(linear_tile_bfloat16_codes_64x64_half, linear_tile_codes<bfloat, 2, 2, half>)
LTX2RT_KERNEL(linear_tile_bfloat16_codes_128x64_half, linear_tile_codes<bfloat, 4, 2, half>)
