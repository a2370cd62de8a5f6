// Attention of every cell of a volume to a window of cells around it. A threadgroup makes a brick of queries of one
// head. All frames, rows and columns that any of them sees, the slab, pass through threadgroup memory once: keys are
// normed and rotated on the way. Of each piece a simdgroup multiplies what its own queries see.
#include <metal_stdlib>

#include "csrc/metal/elements.h"
#include "csrc/metal/fragments.h"
#include "csrc/metal/neighborhood_attention_params.h"
#include "csrc/metal/softmax.h"

using namespace metal;
using namespace ltx2rt;
using namespace ltx2rt::metal_shared;

constant bool q_normed [[function_constant(0)]];
constant bool k_normed [[function_constant(1)]];
constant bool rotated [[function_constant(2)]];
constant bool fenced [[function_constant(3)]];

// Along height and width, positions are counted as the rows of the rotary tables are: from window / 2 cells before the
// volume on. This is what one query sees, or several do.
struct Span {
  int first, end;
};
METAL_FUNC Span window_of(int query, int cells, int window, int border) {
  const int before = window / 2;
  if (border == int(Border::shift)) {
    const int first = clamp(query - before, 0, cells - window) + before;
    return Span{first, first + window};
  }
  if (border == int(Border::mask)) return Span{max(query, before), min(query + window, cells + before)};
  return Span{query, query + window};
}
// What queries `first` to `last` see, those that exist.
METAL_FUNC Span windows_of(int first, int last, int cells, int window, int border) {
  return Span{window_of(min(first, cells - 1), cells, window, border).first,
              window_of(min(last, cells - 1), cells, window, border).end};
}
METAL_FUNC bool holds(Span span, int position) { return position >= span.first && position < span.end; }
// Whether the pair of positions that begins here has something of the span.
METAL_FUNC bool meets_pair(Span span, int first) { return first + 2 > span.first && first < span.end; }
METAL_FUNC int cell_at(int position, int cells, int window) { return clamp(position - window / 2, 0, cells - 1); }

// Eight neighbouring lanes of a head, a unit, turn along one axis: by four cosines and four sines.
struct UnitAxis {
  int axis;
  int four;  // of the axis
};
METAL_FUNC UnitAxis axis_of_unit(int unit, constant NeighborhoodParams& params) {
  const int time = params.pairs[0] / 4, height = params.pairs[1] / 4;
  if (unit < time) return UnitAxis{0, unit};
  if (unit < time + height) return UnitAxis{1, unit - time};
  return UnitAxis{2, unit - time - height};
}

struct Turn {
  float4 cosines, sines;
};
METAL_FUNC Eight turned(Eight v, Turn turn) {
  const float4 c = turn.cosines, s = turn.sines;
  return Eight{float4(v.low.x * c.x - v.low.y * s.x, v.low.y * c.x + v.low.x * s.x,  //
                      v.low.z * c.y - v.low.w * s.y, v.low.w * c.y + v.low.z * s.y),
               float4(v.high.x * c.z - v.high.y * s.z, v.high.y * c.z + v.high.x * s.z, v.high.z * c.w - v.high.w * s.w,
                      v.high.w * c.w + v.high.z * s.w)};
}
METAL_FUNC float square_of(Eight v) { return dot(v.low, v.low) + dot(v.high, v.high); }

// The turns of some positions in threadgroup memory: of a position, the fours of its cosines, then those of its sines.
METAL_FUNC Turn read_turn(const threadgroup float4* turns, int position, int four, int pairs) {
  const threadgroup float4* from = turns + position * (pairs / 2) + four;
  return Turn{from[0], from[pairs / 4]};
}
// Copies those of `count` positions from `first` on; table (2, rows, pairs).
METAL_FUNC void stage_turns(threadgroup float4* turns, const device float* table, int rows, int pairs, int first,
                            int count, int thread_index) {
  const int fours = pairs / 4, stride = 2 * fours;
  for (int i = thread_index; i < count * stride; i += kNeighborhoodThreads) {
    const int part = i % stride / fours, row = part * rows + first + i / stride;
    turns[i] = ((const device float4*)table)[row * fours + i % fours];
  }
}

METAL_FUNC Eight no_values() { return Eight{float4(0.0f), float4(0.0f)}; }

template <typename T>
METAL_FUNC void store_eight(threadgroup T* to, Eight v) {
  const vec<T, 4> low = narrow<T>(v.low), high = narrow<T>(v.high);
  if constexpr (sizeof(T) == 2) {
    ((threadgroup uint4*)to)[0] = uint4(as_type<uint2>(low), as_type<uint2>(high));
  } else {
    ((threadgroup vec<T, 4>*)to)[0] = low;
    ((threadgroup vec<T, 4>*)to)[1] = high;
  }
}
// Eight values as they are, or zeros.
template <typename T>
METAL_FUNC void copy_eight(threadgroup T* to, const device T* from, bool there) {
  if constexpr (sizeof(T) == 2) {
    ((threadgroup uint4*)to)[0] = there ? uint4(*(const device packed_uint4*)from) : uint4(0);
  } else {
    ((threadgroup vec<T, 4>*)to)[0] = there ? ((const device vec<T, 4>*)from)[0] : vec<T, 4>(T(0));
    ((threadgroup vec<T, 4>*)to)[1] = there ? ((const device vec<T, 4>*)from)[1] : vec<T, 4>(T(0));
  }
}

// The frames that the queries of a brick see: frame << kBrickFrames, and a bit for each frame of the brick that sees it.
// A frame that one of them lists twice is there twice. Zero ends the list. They are ordered by their last slot in any
// list, then by where they stand first, which is the order of each list whenever lists agree about it, as those of
// windows do: then the bits of a query do not depend on what else is in its brick.
//   found, keys  room for an int of each slot of each frame
//   seen         an int more
// All threads of the threadgroup call it together; a barrier must follow before the list is read.
METAL_FUNC void list_frames(threadgroup int* found, threadgroup int* keys, threadgroup int* seen,
                            const device int* key_frames, int first_frame, int thread_index,
                            constant NeighborhoodParams& params) {
  constexpr int kNone = 0x7fffffff;
  const int slots = params.slots, entries = kBrickFrames * slots;
  const bool is_entry = thread_index < entries;
  const int frame = thread_index / slots;
  int own = -1;
  if (is_entry) {
    if (first_frame + frame < params.size[0]) own = key_frames[first_frame * slots + thread_index];
    own = min(own, params.key_frames - 1);
    found[thread_index] = own;
  }
  if (thread_index < entries + 1) seen[thread_index] = 0;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  // How often the frame stands before in the same list tells its entries apart.
  int key = kNone;
  if (own >= 0) {
    int before = 0;
    for (int i = frame * slots; i < thread_index; i++) before += found[i] == own ? 1 : 0;
    key = own * kMostKeySlots + before;
  }
  if (is_entry) keys[thread_index] = key;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  int first = kNone, last_slot = 0, bits = 0;
  for (int i = 0; key != kNone && i < entries; i++) {
    if (keys[i] != key) continue;
    first = min(first, i);
    last_slot = max(last_slot, i % slots);
    bits |= 1 << i / slots;
  }
  const int order = first == thread_index ? last_slot * kBrickFrames * kMostKeySlots + thread_index : kNone;
  if (is_entry) found[thread_index] = order;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  if (order != kNone) {
    int rank = 0;
    for (int i = 0; i < entries; i++) rank += found[i] < order ? 1 : 0;
    seen[rank] = own << kBrickFrames | bits;
  }
}

// q (B, T, H, W, N * 64), k and v (B, S, H, W, N * 64): T, with strides; out (B, T, H, W, N * 64): T, contiguous;
// q_norm, k_norm (64): float; q_time, k_time, height, width (2, rows, pairs): float; key_frames (T, J).
// Grid: (bricks, heads, batch), or a part of it.
//
// A piece of the slab has 32 keys of a frame: 16 rows of two columns. A fragment of keys has four rows of two columns,
// from the first row of the piece that its simdgroup sees; a block of queries is a box of 2 x 2 x 2. Bit 0 of a row or
// column of a fragment counts columns, bit 1 rows, bit 2 rows of keys or frames of queries.
template <typename T>
[[kernel, max_total_threads_per_threadgroup(kNeighborhoodThreads)]] void neighborhood_attention(
    const device T* q [[buffer(0)]], const device T* k [[buffer(1)]], const device T* v [[buffer(2)]],
    device T* out [[buffer(3)]], constant NeighborhoodParams& params [[buffer(4)]],
    const device int* key_frames [[buffer(5)]], const device float* q_norm [[buffer(6)]],
    const device float* k_norm [[buffer(7)]], const device float* q_time [[buffer(8)]],
    const device float* k_time [[buffer(9)]], const device float* height [[buffer(10)]],
    const device float* width [[buffer(11)]], uint3 group [[threadgroup_position_in_grid]],
    uint thread_index [[thread_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]],
    uint simdgroup [[simdgroup_index_in_threadgroup]]) {
  constexpr int K = kNeighborhoodHead, kPitch = K + (sizeof(T) == 2 ? 16 : 4), kPieceRows = 16, kKeys = 2 * kPieceRows;
  constexpr int kFragments = kKeys / 8;
  constexpr int kRowBlocks = 2, kBlocks = K / 32, kEntries = kBrickFrames * kMostKeySlots;
  static_assert(kKeys * K / 8 == kNeighborhoodThreads, "a thread stages one unit of a piece");
  threadgroup float4 k_storage[kKeys * kPitch * sizeof(T) / 16];
  threadgroup float4 v_storage[kKeys * kPitch * sizeof(T) / 16];
  threadgroup float4 turns[kNeighborhoodTurns];
  threadgroup int found[kEntries], listed[kEntries], seen[kEntries + 1];
  threadgroup T* k_tile = (threadgroup T*)k_storage;
  threadgroup T* v_tile = (threadgroup T*)v_storage;

  const int batch = params.first_batch + group.z, head = params.first_head + group.y;
  const int brick = params.first_brick + group.x, brick_line = brick / params.bricks[1];
  const int first_frame = brick_line / params.bricks[0] * kBrickFrames;
  const int first_row = brick_line % params.bricks[0] * kBrickRows;
  const int first_column = brick % params.bricks[1] * kBrickColumns;
  const int frames = params.size[0], rows = params.size[1], columns = params.size[2];
  const int row_window = params.window[0], column_window = params.window[1];
  const int row_border = params.borders[0], column_border = params.borders[1];

  const Span slab_rows = windows_of(first_row, first_row + kBrickRows - 1, rows, row_window, row_border);
  const Span slab_columns =
      windows_of(first_column, first_column + kBrickColumns - 1, columns, column_window, column_border);
  threadgroup float4* time_turns = turns;
  threadgroup float4* row_turns = time_turns + params.pairs[0] / 2;
  threadgroup float4* column_turns = row_turns + (slab_rows.end - slab_rows.first) * (params.pairs[1] / 2);
  if (rotated) {
    stage_turns(row_turns, height, rows + row_window - 1, params.pairs[1], slab_rows.first,
                slab_rows.end - slab_rows.first, int(thread_index));
    stage_turns(column_turns, width, columns + column_window - 1, params.pairs[2], slab_columns.first,
                slab_columns.end - slab_columns.first, int(thread_index));
  }
  list_frames(found, listed, seen, key_frames, first_frame, int(thread_index), params);
  threadgroup_barrier(mem_flags::mem_threadgroup);

  // The two blocks of queries of this simdgroup, and the query of this lane in each.
  const LanePosition at = lane_position(lane);
  const int block_row = first_row + 2 * int(simdgroup % 2), block_column = first_column + 2 * int(simdgroup / 2);
  const bool block_exists = block_row < rows && block_column < columns;
  const Span block_rows = windows_of(block_row, block_row + 1, rows, row_window, row_border);
  const Span block_columns = windows_of(block_column, block_column + 1, columns, column_window, column_border);
  const int own_frame = at.row >> 2;  // the first block's
  const int row = block_row + ((at.row >> 1) & 1), column = block_column + (at.row & 1);
  const int row_there = min(row, rows - 1), column_there = min(column, columns - 1);
  const Span own_rows = window_of(row_there, rows, row_window, row_border);
  const Span own_columns = window_of(column_there, columns, column_window, column_border);

  Values<float, K / 4> query[kRowBlocks];  // values 32 m + 4 at.column + (0 to 7) for each m: two units
  simdgroup_float8x8 sums[kRowBlocks][kBlocks][4];
  float row_max[kRowBlocks], row_sum[kRowBlocks];
  {
    // The eight lanes of a column need the same weights of the norm: each reads one unit and gets two from others.
    float own[8], weight[kBlocks][8];
    LTX2RT_UNROLL
    for (int i = 0; i < 8; i++) own[i] = q_normed ? q_norm[8 * (lane % 8) + i] : 1.0f;
    LTX2RT_UNROLL
    for (int m = 0; m < kBlocks; m++) {
      LTX2RT_UNROLL
      for (int i = 0; i < 8; i++) {
        weight[m][i] = q_normed ? simd_shuffle(own[i], ushort(at.column / 2 + 4 * m)) : 1.0f;
      }
    }
    LTX2RT_UNROLL
    for (int r = 0; r < kRowBlocks; r++) {
      const int frame = min(first_frame + 2 * r + own_frame, frames - 1);
      const device T* from = q + batch * params.q_strides[0] + frame * params.q_strides[1] + head * K +
                             row_there * params.q_cell_strides[0] + column_there * params.q_cell_strides[1];
      Eight part[kBlocks];
      float square = 0.0f;
      LTX2RT_UNROLL
      for (int m = 0; m < kBlocks; m++) {
        part[m] = read_up_to_eight<T>(from + 32 * m + 4 * at.column, 0, 8, true);
        square += square_of(part[m]);
      }
      float scale = params.scale;
      if (q_normed) scale *= precise::rsqrt(sum_of_row(square) / float(K) + params.norm_eps);
      LTX2RT_UNROLL
      for (int m = 0; m < kBlocks; m++) {
        part[m].low *= scale * float4(weight[m][0], weight[m][1], weight[m][2], weight[m][3]);
        part[m].high *= scale * float4(weight[m][4], weight[m][5], weight[m][6], weight[m][7]);
        if (rotated) {
          const UnitAxis unit = axis_of_unit(at.column / 2 + 4 * m, params);
          Turn turn;
          if (unit.axis == 0) {
            const int fours = params.pairs[0] / 4;
            const device float4* times = (const device float4*)q_time + frame * fours + unit.four;
            turn = Turn{times[0], times[frames * fours]};
          } else if (unit.axis == 1) {
            turn = read_turn(row_turns, row_there + row_window / 2 - slab_rows.first, unit.four, params.pairs[1]);
          } else {
            turn = read_turn(column_turns, column_there + column_window / 2 - slab_columns.first, unit.four,
                             params.pairs[2]);
          }
          part[m] = turned(part[m], turn);
        }
        LTX2RT_UNROLL
        for (int i = 0; i < 4; i++) {
          query[r].v[8 * m + i] = part[m].low[i];
          query[r].v[8 * m + 4 + i] = part[m].high[i];
        }
        LTX2RT_UNROLL
        for (int i = 0; i < 4; i++) sums[r][m][i] = fragment_of(0.0f, 0.0f);
      }
      row_max[r] = kHidden;
      row_sum[r] = 0.0f;
    }
  }

  // What this thread stages of each piece: a unit of one key.
  const int staged_key = int(thread_index) / 8, staged_unit = int(thread_index) % 8;
  const int staged_row = staged_key / 2, staged_column = staged_key % 2;
  const UnitAxis staged_axis = axis_of_unit(staged_unit, params);
  const threadgroup float4* axis_turns = staged_axis.axis == 0   ? time_turns
                                         : staged_axis.axis == 1 ? row_turns
                                                                 : column_turns;
  float4 low_weight = float4(1.0f), high_weight = float4(1.0f);
  if (k_normed) {
    low_weight = ((const device float4*)k_norm)[2 * staged_unit];
    high_weight = ((const device float4*)k_norm)[2 * staged_unit + 1];
  }
  k += batch * params.k_strides[0] + head * K + 8 * staged_unit;
  v += batch * params.v_strides[0] + head * K + 8 * staged_unit;
  threadgroup T* staged_k = k_tile + staged_key * kPitch + 8 * staged_unit;
  threadgroup T* staged_v = v_tile + staged_key * kPitch + 8 * staged_unit;

  for (int entry = 0; entry < kBrickFrames * params.slots; entry++) {
    const int seen_by = seen[entry], key_frame = seen_by >> kBrickFrames;
    if (seen_by == 0) break;
    const device T* k_frame = k + key_frame * params.k_strides[1];
    const device T* v_frame = v + key_frame * params.v_strides[1];
    // The pieces of the frames before are all staged, so that nobody reads the turns of theirs any more.
    if (rotated) stage_turns(time_turns, k_time, params.key_frames, params.pairs[0], key_frame, 1, int(thread_index));
    bool block_sees[kRowBlocks], lane_sees[kRowBlocks];
    LTX2RT_UNROLL
    for (int r = 0; r < kRowBlocks; r++) {
      block_sees[r] = block_exists && (seen_by >> 2 * r & 3) != 0;
      lane_sees[r] = (seen_by >> (2 * r + own_frame) & 1) != 0;
    }

    for (int piece_row = slab_rows.first; piece_row < slab_rows.end; piece_row += kPieceRows) {
      const int key_row = piece_row + staged_row, row_cell = cell_at(key_row, rows, row_window);
      // What this simdgroup sees of the piece, and where its first fragment begins.
      const int rows_end = min(piece_row + kPieceRows, block_rows.end);
      const int fragments_row = max(piece_row, block_rows.first);
      for (int piece_column = slab_columns.first; piece_column < slab_columns.end; piece_column += 2) {
        threadgroup_barrier(mem_flags::mem_threadgroup);
        {
          const int key_column = piece_column + staged_column;
          const int column_cell = cell_at(key_column, columns, column_window);
          const bool there = key_row < slab_rows.end && key_column < slab_columns.end;
          const device T* from =
              k_frame + (row_cell * params.k_cell_strides[0] + column_cell * params.k_cell_strides[1]);
          Eight key = there ? read_up_to_eight<T>(from, 0, 8, true) : no_values();
          if (k_normed) {
            float square = square_of(key);
            for (ushort step = 1; step < 8; step *= 2) square += simd_shuffle_xor(square, step);
            const float scale = precise::rsqrt(square / float(K) + params.norm_eps);
            key.low *= scale * low_weight;
            key.high *= scale * high_weight;
          }
          if (rotated && there) {
            const int position = staged_axis.axis == 0   ? 0
                                 : staged_axis.axis == 1 ? key_row - slab_rows.first
                                                         : key_column - slab_columns.first;
            key = turned(key, read_turn(axis_turns, position, staged_axis.four, params.pairs[staged_axis.axis]));
          }
          store_eight<T>(staged_k, key);
          copy_eight<T>(staged_v,
                        v_frame + (row_cell * params.v_cell_strides[0] + column_cell * params.v_cell_strides[1]),
                        there);
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        if (!block_exists || fragments_row >= rows_end || !meets_pair(block_columns, piece_column)) continue;

        // Of fragment i this lane has the keys of one row of the piece, and the values of one cell.
        bool meets[kFragments];
        int key_at[kFragments], value_at[kFragments];
        LTX2RT_UNROLL
        for (int i = 0; i < kFragments; i++) {
          const int first = fragments_row + 4 * i - piece_row;
          meets[i] = fragments_row + 4 * i < rows_end;
          key_at[i] = 2 * min(first + at.column / 2, kPieceRows - 1);
          value_at[i] = 2 * min(first + at.row / 2, kPieceRows - 1) + at.row % 2;
        }
        simdgroup_float8x8 scores[kRowBlocks][kFragments];
        LTX2RT_UNROLL
        for (int j = 0; j < kFragments; j++) {
          if (!meets[j]) continue;
          const threadgroup T* of_column = k_tile + key_at[j] * kPitch;
          fence(fenced);
          RightFragments<T, 4> keys_of_block[kBlocks];
          LTX2RT_UNROLL
          for (int m = 0; m < kBlocks; m++) {
            keys_of_block[m] = load_right<T, 4>(of_column + 32 * m, of_column + kPitch + 32 * m, at);
          }
          fence(fenced);
          LTX2RT_UNROLL
          for (int r = 0; r < kRowBlocks; r++) {
            if (!block_sees[r]) continue;
            scores[r][j] = fragment_of(0.0f, 0.0f);
            LTX2RT_UNROLL
            for (int m = 0; m < kBlocks; m++) {
              LTX2RT_UNROLL
              for (int f = 0; f < 4; f++) {
                simdgroup_float8x8 left = fragment_of(query[r].v[8 * m + f], query[r].v[8 * m + 4 + f]);
                simdgroup_float8x8 right = keys_of_block[m].fragment(f);
                simdgroup_multiply_accumulate(scores[r][j], left, right, scores[r][j]);
              }
            }
          }
        }

        LTX2RT_UNROLL
        for (int r = 0; r < kRowBlocks; r++) {
          if (!block_sees[r]) continue;
          float most = row_max[r];
          float2 s[kFragments];
          LTX2RT_UNROLL
          for (int j = 0; j < kFragments; j++) {
            if (!meets[j]) continue;
            s[j] = elements_of(scores[r][j]);
            const int key_row = fragments_row + 4 * j + at.column / 2;
            const bool row_is_seen = lane_sees[r] && holds(own_rows, key_row) && key_row < rows_end;
            LTX2RT_UNROLL
            for (int e = 0; e < 2; e++) {
              if (!row_is_seen || !holds(own_columns, piece_column + e)) s[j][e] = kHidden;
              most = max(most, s[j][e]);
            }
          }
          most = max_of_row(most);
          // A row of which no key is seen yet keeps weights of 0.
          const float base = most == kHidden ? 0.0f : most;
          if (simd_any(most != row_max[r])) {
            const float rescale = exp_below(row_max[r] - base);
            row_max[r] = most;
            row_sum[r] *= rescale;
            LTX2RT_UNROLL
            for (int m = 0; m < kBlocks; m++) {
              LTX2RT_UNROLL
              for (int i = 0; i < 4; i++) {
                const float2 sum = elements_of(sums[r][m][i]);
                sums[r][m][i] = fragment_of(sum.x * rescale, sum.y * rescale);
              }
            }
          }
          LTX2RT_UNROLL
          for (int j = 0; j < kFragments; j++) {
            if (!meets[j]) continue;
            const float2 weights = float2(exp_below(s[j].x - base), exp_below(s[j].y - base));
            row_sum[r] += weights.x + weights.y;
            scores[r][j] = fragment_of(weights.x, weights.y);
          }
        }

        LTX2RT_UNROLL
        for (int j = 0; j < kFragments; j++) {
          if (!meets[j]) continue;
          const threadgroup T* row_of_v = v_tile + value_at[j] * kPitch + 4 * at.column;
          fence(fenced);
          Values<T, 8> values[kBlocks];
          LTX2RT_UNROLL
          for (int m = 0; m < kBlocks; m++) values[m] = load_values<T, 8>(row_of_v + 32 * m);
          fence(fenced);
          LTX2RT_UNROLL
          for (int r = 0; r < kRowBlocks; r++) {
            if (!block_sees[r]) continue;
            LTX2RT_UNROLL
            for (int m = 0; m < kBlocks; m++) {
              LTX2RT_UNROLL
              for (int i = 0; i < 4; i++) {
                simdgroup_float8x8 right = fragment_of(values[m].v[2 * i], values[m].v[2 * i + 1]);
                simdgroup_multiply_accumulate(sums[r][m][i], scores[r][j], right, sums[r][m][i]);
              }
            }
          }
        }
      }
    }
  }

  LTX2RT_UNROLL
  for (int r = 0; r < kRowBlocks; r++) {
    const int frame = first_frame + 2 * r + own_frame;
    const float sum = sum_of_row(row_sum[r]);
    if (frame >= frames || row >= rows || column >= columns) continue;
    const float factor = sum > 0.0f ? 1.0f / sum : 0.0f;
    const int64 cell = ((int64(batch) * frames + frame) * rows + row) * columns + column;
    device T* to = out + (cell * params.heads + head) * K + 4 * at.column;
    LTX2RT_UNROLL
    for (int m = 0; m < kBlocks; m++) {
      LTX2RT_UNROLL
      for (int half_ = 0; half_ < 2; half_++) {
        const float2 a = elements_of(sums[r][m][2 * half_]), b = elements_of(sums[r][m][2 * half_ + 1]);
        ((device vec<T, 4>*)(to + 32 * m + 4 * half_))[0] = narrow<T>(float4(a.x, a.y, b.x, b.y) * factor);
      }
    }
  }
}

LTX2RT_KERNEL(neighborhood_attention_float32, neighborhood_attention<float>)
LTX2RT_KERNEL(neighborhood_attention_float16, neighborhood_attention<half>)
LTX2RT_KERNEL(neighborhood_attention_bfloat16, neighborhood_attention<bfloat>)
