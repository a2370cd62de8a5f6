// Neighborhood attention of heads of 64 with the products in AMX tiles, for *_simd.cpp files.
//
// Scores of 16 keys x 16 queries are products of keys with the queries, sums of 16 values x 16 queries those of
// transposed values with the weights. Two boxes at a time share the tiles of keys and values.
#pragma once
#include "csrc/cpu/amx.h"
#include "csrc/cpu/neighborhood_boxes.h"

namespace ltx2rt::cpu::LTX2RT_ISA {

#ifdef LTX2RT_TILES

// Compiler and tiles see the same memory.
#define LTX2RT_FENCE asm volatile("" ::: "memory")

constexpr int64_t kTileWords = 16, kTileLine = 64;  // words and bytes of a row of a tile
constexpr int64_t kTileFloats = 16 * kTileWords;
constexpr int64_t kTileHead = 64;
static_assert(LTX2RT_LANES == 16);

// Frames of queries of a block: twice those of the usual box, so that two boxes see the same rows and columns of most
// frames, and a frame of keys serves more queries while it is in the caches.
constexpr int64_t kTileFrames = 4;

// ---- Weights ----
//
// Scores are in units of 1/256 of an octave. Weights are made as whole numbers: the upper bits of a score, lifted, are
// the exponent of a bfloat16 value already, and its mantissa differs from the lower bits by what a table of 64 bytes
// says. The error is below 1 % at most, a third more than that of rounding to bfloat16 on average.

constexpr float kOctave = 256.0f;
constexpr float kUnitsPerNat = 1.44269504f * kOctave;
// 127 octaves, the exponent of 1, less what makes the smallest entry of the table zero.
constexpr int32_t kTableLift = 22;
constexpr float kLift = 127 * kOctave - kTableLift;

constexpr double power_of_two(double x) {
  double sum = 1, term = 1;
  for (int i = 1; i < 24; ++i) {
    term *= x * 0.69314718055994531 / i;
    sum += term;
  }
  return sum;
}

struct MantissaTable {
  constexpr MantissaTable() : bytes{} {
    for (int i = 0; i < 64; ++i) {
      double sum = 0;
      for (int j = 0; j < 4; ++j) {
        const double x = (4 * i + j + kTableLift) % 256 / 256.0;
        sum += 256 * (power_of_two(x) - 1 - x) + kTableLift;
      }
      bytes[i] = (uint8_t)(sum / 4 + 0.5);
    }
  }
  alignas(64) uint8_t bytes[64];
};

// Pairs of 2^((x - kLift) / 256) of two vectors; zeros below 2^-126, and of what is no number.
inline VecI weight_pairs(Vec low, Vec high) {
  static constexpr MantissaTable kTable;
  typedef uint8_t Order __attribute__((vector_size(64)));
  // Of 128 bits, 4 words of low before 4 of high: brought together.
  constexpr Order kInterleaved = {0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15,  //
                                  0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15,  //
                                  0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15,  //
                                  0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15};
  constexpr __mmask64 kLowBytes = 0x5555555555555555;
  constexpr __mmask16 kAll = 0xffff;
  const __m512i words =
      _mm512_maskz_shuffle_epi8(~(__mmask64)0,
                                _mm512_maskz_packus_epi32(~(__mmask32)0, _mm512_maskz_cvtps_epi32(kAll, low),
                                                          _mm512_maskz_cvtps_epi32(kAll, high)),
                                (__m512i)kInterleaved);
  const __m512i part = _mm512_maskz_permutexvar_epi8(kLowBytes, _mm512_maskz_srli_epi16(~(__mmask32)0, words, 2),
                                                     _mm512_load_si512(kTable.bytes));
  return (VecI)_mm512_maskz_avg_epu16(~(__mmask32)0, words, part);
}

// Scores of this and less either way need no base: their weights and sums of them are far from the largest and smallest
// numbers. The rest of 60 octaves is for rounding. Which queries have none depends on them and on what they see, not on
// those beside them, and so do their bits.
constexpr float kPlainScore = 56 * kOctave;
// Scores may exceed the base by so much before it is raised: the sums of values are then left alone.
constexpr float kLazy = 11 * kOctave;

// ---- Packing ----

// Tiles that hold what a row of a box sees.
inline int64_t tiles_across(const NeighborhoodArgs& args, int64_t box_columns) {
  return (smaller(places_of(args.columns), args.columns.window + box_columns - 1) + 15) / 16;
}
// Columns of keys and values that are read.
inline int64_t tile_columns(const NeighborhoodArgs& args, const PackedPlane& plane) {
  const int64_t last = (args.columns.cells - 1) / plane.box_columns * plane.box_columns;  // of boxes
  return round_up(window_begin(args.columns, last) + 16 * tiles_across(args, plane.box_columns), 16);
}

// A plane in tiles holds keys as [rows][2 halves of a head][tile_columns][kTileWords], then pairs of values as
// [rows / 2][tile_columns / 16][head_size][kTileWords], then the largest sum of squares of a key of each row.
template <typename T>
T* tile_values(const NeighborhoodArgs& args, const PackedPlane& plane, T* keys) {
  return keys + plane.rows * 2 * tile_columns(args, plane) * kTileWords;
}
template <typename T>
T* tile_lengths(const NeighborhoodArgs& args, const PackedPlane& plane, T* keys) {
  return tile_values(args, plane, keys) + plane.rows / 2 * kTileHead * tile_columns(args, plane);
}
inline int64_t tile_plane_floats(const NeighborhoodArgs& args, const PackedPlane& plane) {
  const int64_t words = kTileHead / 2;
  return plane.rows * tile_columns(args, plane) * 2 * words + round_up(plane.rows, 16);
}

// Scratch of a thread, after that of all loops.
struct TileWork {
  TileWork(float* memory, const NeighborhoodArgs& args, int64_t box_columns)
      : columns(memory + Work<PairWords>(nullptr, args, kTileFrames).taken),
        values(columns + 16 * (kTileHead + 1)),
        taken(values - memory + kBlockCells / box_columns * column_floats(args, box_columns)) {}
  // Of the values of one column of boxes.
  static int64_t column_floats(const NeighborhoodArgs& args, int64_t box_columns) {
    return (args.rows.window + kBlockCells + 2) / 2 * tiles_across(args, box_columns) * kTileHead * kTileWords;
  }

  float* columns;  // pairs of values of two rows before they are transposed
  float* values;   // of each column of boxes, as tiles [pairs of rows][tiles across][kTileHead][kTileWords]
  int64_t taken;   // floats of all
};

inline int64_t tile_work_floats(const NeighborhoodArgs& args, int64_t box_columns) {
  return TileWork(nullptr, args, box_columns).taken;
}

inline void pack_tiles(const NeighborhoodArgs& args, const PackedPlane& plane, const PackedFrame& part, int64_t first,
                       float* planes, int64_t stride, float* memory) {
  const Work<PairWords> work(memory, args, kTileFrames);
  Angles angles(args, args.k_time, work.angles);
  const int64_t columns = tile_columns(args, plane), pitch = kTileHead + 1;
  float words[2 * kTileWords];
  for (int64_t r = first; r < first + 2; ++r) {
    for (int64_t head = 0; head < part.heads; ++head) tile_lengths(args, plane, planes + head * stride)[r] = 0.0f;
    pack_keys<PairWords>(args, part, plane.first_row + r, columns, angles, work.rows, words,
                         [&](int64_t head, int64_t column, const float* row, const float* from) {
                           float* keys = planes + head * stride;
                           float* to = keys + (r * 2 * columns + column) * kTileWords;
                           store(to, load(from));
                           store(to + columns * kTileWords, load(from + kTileWords));
                           float& length = tile_lengths(args, plane, keys)[r];
                           length = larger_length(length, sum_of_squares(row, kTileHead));
                         });
  }
  float* from = TileWork(memory, args, plane.box_columns).columns;
  for (int64_t head = 0; head < part.heads; ++head) {
    float* to = tile_values(args, plane, planes + head * stride) + first / 2 * kTileHead * columns;
    for (int64_t column = 0; column < columns; ++column) {
      const int64_t at = column % 16;
      pack_value<PairWords>(args, part, head, plane.first_row + first, column, work.rows, from + at * pitch);
      if (at == 15) transpose(from, pitch, 16, args.head_size, to + (column - at) * kTileHead, kTileWords);
    }
  }
}

// ---- Attention ----

// What a tile box needs for one frame: its rows [first, end) of the plane, from `masks` on, and its scores.
struct TileBox {
  int64_t first, end;
  VecI in_frame;
  const float* row_masks;
  const float* column_masks;
  State<PairWords> state;
  float* scores;
  float* start;    // [columns][kLanes]
  VecI start_row;  // the row for which start is filled; none: bits that no mask has
};

// Fills what scores are added to: the lift less the base of the queries that see a column of a row, -inf for others.
inline void fill_start(VecI in_row, const float* column_masks, int64_t columns, Vec base, float* start) {
  for (int64_t c = 0; c < columns; ++c) {
    const VecI seen = in_row & bits_of(load(column_masks + c * kLanes));
    store(start + c * kLanes, select(seen, splat(kLift) - base, splat(kMinusInfinity)));
  }
}

// Lifted scores of keys of one box or of two that see the same columns. keys: of row 0 and the first column.
template <int kBoxes>
__attribute__((target("amx-tile,amx-bf16"))) void score_tiles(const float* keys, int64_t pitch, int64_t columns,
                                                              TileBox* boxes) {
  LTX2RT_FENCE;
  _tile_loadd(0, boxes[0].state.queries, kTileLine);
  _tile_loadd(1, boxes[0].state.queries + kTileFloats, kTileLine);
  if constexpr (kBoxes == 2) {
    _tile_loadd(2, boxes[1].state.queries, kTileLine);
    _tile_loadd(3, boxes[1].state.queries + kTileFloats, kTileLine);
  }
  const int64_t first = kBoxes == 2 ? smaller(boxes[0].first, boxes[1].first) : boxes[0].first;
  const int64_t end = kBoxes == 2 ? larger(boxes[0].end, boxes[1].end) : boxes[0].end;
  for (int64_t r = first; r < end; ++r) {
    bool in[2] = {};
    float* to[2] = {};
    for (int b = 0; b < kBoxes; ++b) {
      TileBox& box = boxes[b];
      in[b] = r >= box.first && r < box.end;
      if (!in[b]) continue;
      const int64_t row = r - box.first;
      to[b] = box.scores + (row / 2 * columns * 2 + row % 2) * kLanes;
      const VecI in_row = bits_of(load(box.row_masks + row * kLanes)) & box.in_frame;
      if (any(in_row ^ box.start_row)) {
        const Vec base = load(box.state.base);
        fill_start(in_row, box.column_masks, columns, select(base == splat(kMinusInfinity), zero(), base), box.start);
        box.start_row = in_row;
      }
    }
    LTX2RT_FENCE;
    const float* from = keys + r * 2 * pitch * kTileWords;
    for (int64_t c = 0; c < columns; c += 16) {
      _tile_loadd(4, from + c * kTileWords, kTileLine);
      _tile_loadd(5, from + (pitch + c) * kTileWords, kTileLine);
      if (kBoxes == 2 && in[0] && in[1]) {
        _tile_loadd(6, boxes[0].start + c * kLanes, kTileLine);
        _tile_loadd(7, boxes[1].start + c * kLanes, kTileLine);
        _tile_dpbf16ps(6, 4, 0);
        _tile_dpbf16ps(7, 4, 2);
        _tile_dpbf16ps(6, 5, 1);
        _tile_dpbf16ps(7, 5, 3);
        _tile_stored(6, to[0] + c * 2 * kLanes, 2 * kTileLine);
        _tile_stored(7, to[1] + c * 2 * kLanes, 2 * kTileLine);
      } else if (in[0]) {
        _tile_loadd(6, boxes[0].start + c * kLanes, kTileLine);
        _tile_dpbf16ps(6, 4, 0);
        _tile_dpbf16ps(6, 5, 1);
        _tile_stored(6, to[0] + c * 2 * kLanes, 2 * kTileLine);
      } else if (kBoxes == 2 && in[1]) {
        _tile_loadd(7, boxes[1].start + c * kLanes, kTileLine);
        _tile_dpbf16ps(7, 4, 2);
        _tile_dpbf16ps(7, 5, 3);
        _tile_stored(7, to[1] + c * 2 * kLanes, 2 * kTileLine);
      }
    }
  }
  LTX2RT_FENCE;
}

// sums += transposed values times the weights of the same. Half of the values at a time, so that the sums of two boxes
// stay in tiles. values: of the row 0.
template <int kBoxes>
__attribute__((target("amx-tile,amx-bf16"))) void add_value_tiles(const float* values, int64_t columns,
                                                                  const TileBox* boxes) {
  LTX2RT_FENCE;
  const int64_t first = kBoxes == 2 ? smaller(boxes[0].first, boxes[1].first) : boxes[0].first;
  const int64_t end = kBoxes == 2 ? larger(boxes[0].end, boxes[1].end) : boxes[0].end;
  for (int64_t half = 0; half < 2; ++half) {
    float* sums = boxes[0].state.sums + half * 2 * kTileFloats;
    float* more = boxes[kBoxes - 1].state.sums + half * 2 * kTileFloats;
    _tile_loadd(0, sums, kTileLine);
    _tile_loadd(1, sums + kTileFloats, kTileLine);
    if constexpr (kBoxes == 2) {
      _tile_loadd(2, more, kTileLine);
      _tile_loadd(3, more + kTileFloats, kTileLine);
    }
    for (int64_t r = first; r < end; r += 2) {
      const float* from = values + r / 2 * columns / 16 * 4 * kTileFloats + half * 2 * kTileFloats;
      bool in[2] = {};
      const float* by[2] = {};
      for (int b = 0; b < kBoxes; ++b) {
        in[b] = r >= boxes[b].first && r < boxes[b].end;
        if (in[b]) by[b] = boxes[b].scores + (r - boxes[b].first) / 2 * columns * kLanes;
      }
      for (int64_t c = 0; c < columns; c += 16, from += 4 * kTileFloats) {
        _tile_loadd(4, from, kTileLine);
        _tile_loadd(5, from + kTileFloats, kTileLine);
        if (in[0]) {
          _tile_loadd(6, by[0] + c * kLanes, kTileLine);
          _tile_dpbf16ps(0, 4, 6);
          _tile_dpbf16ps(1, 5, 6);
        }
        if constexpr (kBoxes == 2) {
          if (in[1]) {
            _tile_loadd(7, by[1] + c * kLanes, kTileLine);
            _tile_dpbf16ps(2, 4, 7);
            _tile_dpbf16ps(3, 5, 7);
          }
        }
      }
    }
    _tile_stored(0, sums, kTileLine);
    _tile_stored(1, sums + kTileFloats, kTileLine);
    if constexpr (kBoxes == 2) {
      _tile_stored(2, more, kTileLine);
      _tile_stored(3, more + kTileFloats, kTileLine);
    }
  }
  LTX2RT_FENCE;
}

// Weights of pairs of rows of scores in place, those of the columns from `used` on zero. kShifted: of scores less
// `shift`. Returns their sum.
template <bool kShifted>
Vec weigh_pairs(float* scores, int64_t pairs, int64_t columns, int64_t used, Vec shift) {
  constexpr int kChains = 4;
  Vec sums[kChains] = {};
  const auto weigh = [&](const float* from, float* to, Vec& sum) __attribute__((always_inline)) {
    Vec low = load(from), high = load(from + kLanes);
    if constexpr (kShifted) {
      low -= shift;
      high -= shift;
    }
    const VecI words = weight_pairs(low, high);
    PairWords::store_row(to, words);
    sum = PairWords::add_product(sum, words, PairWords::ones());  // of what is multiplied, so that equal weights cancel
  };
  for (int64_t pair = 0; pair < pairs; ++pair) {
    const float* from = scores + pair * columns * 2 * kLanes;
    float* to = scores + pair * columns * kLanes;
    int64_t c = 0;
    for (; c + kChains <= used; c += kChains)
#pragma GCC unroll 4
      for (int i = 0; i < kChains; ++i) weigh(from + (c + i) * 2 * kLanes, to + (c + i) * kLanes, sums[i]);
    for (; c < used; ++c) weigh(from + c * 2 * kLanes, to + c * kLanes, sums[0]);
    for (; c < columns; ++c) store(to + c * kLanes, zero());
  }
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

// The queries of a box whose base is zero and stays it: where their lengths were.
inline VecI plain_queries(const State<PairWords>& state) { return bits_of(load(state.lengths)); }

// Turns scores into weights. Where they exceed the base, it is raised.
inline void weigh_tiles(const TileBox& box, int64_t columns, int64_t used) {
  const int64_t pairs = (box.end - box.first) / 2;
  const VecI changing = ~plain_queries(box.state);
  if (!any(changing)) {
    store(box.state.weights, load(box.state.weights) + weigh_pairs<false>(box.scores, pairs, columns, used, zero()));
    return;
  }
  const Vec lowest = splat(kMinusInfinity), old_base = load(box.state.base);
  Vec most[2] = {lowest, lowest};
  VecI wrong = {};
  for (int64_t i = 0; i < pairs * columns; ++i) {
    const Vec low = load(box.scores + 2 * i * kLanes), high = load(box.scores + (2 * i + 1) * kLanes);
    most[0] = max(low, most[0]);
    most[1] = max(high, most[1]);
    wrong |= (VecI)(low != low) | (VecI)(high != high);
  }
  const Vec highest = max(most[0], most[1]);
  wrong |= (VecI)(highest == splat(__builtin_inff()));
  const VecI none = (VecI)(old_base == lowest);
  const VecI raised = ((VecI)(highest > splat(kLift + kLazy)) | none) & (VecI)(highest > lowest) & changing;
  if (!any(raised | wrong)) {
    store(box.state.weights, load(box.state.weights) + weigh_pairs<false>(box.scores, pairs, columns, used, zero()));
    return;
  }
  const Vec shift = select(raised, highest - splat(kLift), zero());
  const Vec rescale = select(none, zero(), select(raised, coarse_exp(-shift * splat(1 / kUnitsPerNat)), splat(1.0f)));
  store(box.state.base, select(raised, select(none, zero(), old_base) + shift, old_base));
  const Vec sum = fma(load(box.state.weights), rescale, weigh_pairs<true>(box.scores, pairs, columns, used, shift));
  // What is no number has the weight zero above; with this sum it still reaches the result.
  store(box.state.weights, select(wrong, splat(__builtin_nanf("")), sum));
  for (int64_t n = 0; n < kTileHead * kLanes; n += kLanes)
    store(box.state.sums + n, load(box.state.sums + n) * rescale);
}

// Where a box is in its block.
struct BoxPlace {
  int16_t d, i;
};

// One frame of keys for one or two boxes of column j. values: those of the column, of the row 0 of the plane.
template <int kBoxes>
void attend_tile_boxes(const Boxes<PairWords>& boxes, const BoxPlace* places, int64_t j, const SeenFrame& seen,
                       const float* keys, const float* values, int64_t columns, int64_t pitch) {
  const Box box = boxes.box(places[0].d, places[0].i, j);
  const int64_t together = larger(2, Work<PairWords>::score_rows(boxes.args) / columns / 2 * 2);
  int64_t starts[kBoxes], ends[kBoxes], most = 0;
  for (int b = 0; b < kBoxes; ++b) {
    starts[b] = boxes.first_row(places[b].i);
    ends[b] = boxes.end_row(places[b].i);
    most = larger(most, ends[b] - starts[b]);
  }
  for (int64_t done = 0; done < most; done += together) {
    const auto part = [&](int b) {
      const auto [d, i] = places[b];
      const int64_t first = smaller(starts[b] + done, ends[b]);
      return TileBox{.first = first,
                     .end = smaller(first + together, ends[b]),
                     .in_frame = frame_mask(boxes.lane_box, boxes.seen_by(d, seen)),
                     .row_masks = boxes.row_masks(i) + (first - starts[b]) * kLanes,
                     .column_masks = boxes.column_masks(j),
                     .state = boxes.state(d, i, j),
                     .scores = boxes.work.scores[b],
                     .start = boxes.work.starts[b],
                     .start_row = splat_bits(1)};
    };
    TileBox parts[2] = {part(0), part(kBoxes - 1)};
    score_tiles<kBoxes>(keys + box.first_key * kTileWords, pitch, columns, parts);
    for (int b = 0; b < kBoxes; ++b) weigh_tiles(parts[b], columns, box.end_key - box.first_key);
    add_value_tiles<kBoxes>(values, columns, parts);
  }
}

// The values that boxes see, as tiles for each column of boxes: tiles are read several times faster from whole cache
// lines. from: values of a plane; to: of TileWork.
inline void copy_values(const Boxes<PairWords>& boxes, const float* from, float* to) {
  const NeighborhoodArgs& args = boxes.args;
  const int64_t across = tiles_across(args, boxes.lane_box.columns);
  const int64_t pitch = tile_columns(args, boxes.plane) * kTileHead;
  const int64_t column_floats = TileWork::column_floats(args, boxes.lane_box.columns);
  const int64_t first = boxes.first_row(0) / 2, end = boxes.end_row(boxes.down - 1) / 2;  // pairs of rows
  const VecI lanes = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  for (int64_t r = first; r < end; ++r) {
    for (int64_t j = 0; j < boxes.across; ++j) {
      const int64_t column = boxes.box(0, 0, j).first_key;
      const __m512i order = (__m512i)(lanes + splat_bits(int32_t(column % 16)));
      const float* near = from + r * pitch + column / 16 * kTileHead * kTileWords;
      const float* far = near + (column % 16 == 0 ? 0 : kTileHead * kTileWords);
      float* tile = to + j * column_floats + (r - first) * across * kTileHead * kTileWords;
      for (int64_t v = 0; v < across * kTileHead * kTileWords; v += kTileWords)
        store(tile + v, _mm512_permutex2var_ps(load(near + v), order, load(far + v)));
    }
  }
}

// One frame of keys for all boxes of a block.
inline void attend_tile_frame(const Boxes<PairWords>& boxes, const SeenFrame& seen, const float* keys, float* memory) {
  const NeighborhoodArgs& args = boxes.args;
  const int64_t pitch = tile_columns(args, boxes.plane), across = tiles_across(args, boxes.lane_box.columns);
  const int64_t columns = 16 * across, first = boxes.first_row(0) / 2;
  float* values = TileWork(memory, args, boxes.lane_box.columns).values;
  const int64_t column_floats = TileWork::column_floats(args, boxes.lane_box.columns);
  copy_values(boxes, tile_values(args, boxes.plane, keys), values);
  BoxPlace places[kTileFrames * kBlockCells];
  int64_t count = 0;
  for (int64_t i = 0; i < boxes.down; ++i)
    for (int64_t d = 0; d < boxes.deep; ++d)
      if (boxes.seen_by(d, seen) != 0) places[count++] = {(int16_t)d, (int16_t)i};
  for (int64_t j = 0; j < boxes.across; ++j) {
    const float* row_0 = values + j * column_floats - first * across * kTileHead * kTileWords;
    for (int64_t n = 0; n < count; n += 2) {
      if (n + 1 < count) {
        attend_tile_boxes<2>(boxes, places + n, j, seen, keys, row_0, columns, pitch);
      } else {
        attend_tile_boxes<1>(boxes, places + n, j, seen, keys, row_0, columns, pitch);
      }
    }
  }
}

// As `attend` of the other loops.
__attribute__((target("amx-tile,amx-bf16"))) inline void attend_tiles(
    const NeighborhoodArgs& args, const PackedPlane& plane, const LaneBox& lane_box, const NeighborhoodBlock& block,
    const SeenFrame* seen, int64_t seen_count, const float* planes, int64_t stride, float* memory) {
  const Work<PairWords> work(memory, args, kTileFrames);
  TileConfig config{};
  config.palette = 1;
  for (int tile = 0; tile < 8; ++tile) {
    config.bytes_per_row[tile] = kTileLine;
    config.rows[tile] = 16;
  }
  const Boxes<PairWords> boxes(args, plane, lane_box, block, work);
  boxes.start(args.scale * kUnitsPerNat);
  float key_lengths[kTileFrames] = {};  // of what each frame of queries sees
  for (int64_t f = 0; f < seen_count; ++f) {
    const float* lengths = tile_lengths(args, plane, planes + seen[f].slot * stride);
    float longest = 0.0f;
    for (int64_t r = boxes.first_row(0); r < boxes.end_row(boxes.down - 1); ++r)
      longest = larger_length(longest, lengths[r]);
    for (int t = 0; t < block.frames; ++t)
      if (seen[f].seen_by >> t & 1) key_lengths[t] = larger_length(key_lengths[t], longest);
  }
  for (int64_t d = 0; d < boxes.deep; ++d) {
    float longest[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) {
      const int64_t frame = boxes.box(d, 0, 0).frame_of(lane);
      longest[lane] = frame < block.frames ? key_lengths[frame] : 0.0f;
    }
    for (int64_t n = 0; n < boxes.down * boxes.across; ++n) {
      const State<PairWords> state = boxes.state(d, n / boxes.across, n % boxes.across);
      const VecI plain = (VecI)(load(state.lengths) * load(longest) <= splat(kPlainScore * kPlainScore));
      store(state.lengths, from_bits(plain));
      store(state.base, select(plain, zero(), splat(kMinusInfinity)));
    }
  }
  LTX2RT_FENCE;
  _tile_loadconfig(&config);
  for (int64_t f = 0; f < seen_count; ++f) {
    attend_tile_frame(boxes, seen[f], planes + seen[f].slot * stride, memory);
  }
  _tile_release();
  for (int64_t j = 0; j < boxes.across; ++j) {
    for (int64_t i = 0; i < boxes.down; ++i) {
      for (int64_t d = 0; d < boxes.deep; ++d) {
        const State<PairWords> state = boxes.state(d, i, j);
        float* sums = work.scores[0];
        for (int64_t v = 0; v < kTileHead; v += 16)
          transpose(state.sums + v * kLanes, kLanes, 16, kLanes, sums + v, kTileHead);
        store_box(args, boxes.box(d, i, j), sums, state.weights);
      }
    }
  }
}

#endif  // LTX2RT_TILES

}  // namespace ltx2rt::cpu::LTX2RT_ISA
