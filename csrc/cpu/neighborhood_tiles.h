// Neighborhood attention of heads of 64 with the products in AMX tiles, for *_simd.cpp files.
//
// Scores of 16 keys x 16 queries are products of keys with the queries, sums of 16 values x 16 queries those of
// transposed values with the weights. Two boxes at a time share the tiles of keys and values. Weights of one pair of rows
// of keys are made by vectors while the next one is multiplied.
#pragma once
#include "csrc/cpu/amx.h"
#include "csrc/cpu/neighborhood_heads.h"

namespace ltx2rt::cpu::LTX2RT_ISA {

#ifdef LTX2RT_TILES

// Compiler and tiles see the same memory.
#define LTX2RT_FENCE asm volatile("" ::: "memory")

constexpr int64_t kTileWords = 16, kTileLine = 64;  // words and bytes of a row of a tile
constexpr int64_t kTileFloats = 16 * kTileWords;
typedef uint64_t VecQ __attribute__((vector_size(64)));

// Frames of queries of a block: four times those of the usual box, so that boxes see the same rows and columns of most
// frames, and a frame of keys serves more queries while it is in the caches. Sums and queries of more would not fit
// into the second-level cache beside keys and values.
constexpr int64_t kTileFrames = 8;

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

// Weights are read off scores to which this was added: of a float32 value from 2^16 to 2^17 the bits from kWholeBits on
// are its distance from 2^16 in whole units, rounded thanks to the half. Of minus infinity they are 0.
constexpr float kFirstWhole = 65536.0f, kWhole = kFirstWhole + 0.5f;
constexpr int kWholeBits = 7;

// Pairs of 2^((x - kWhole - kLift) / 256) of two vectors of what is at least kFirstWhole; zeros below 2^-126, and of
// minus infinity.
__attribute__((always_inline)) inline VecI weight_pairs(Vec low, Vec high) {
  static constexpr MantissaTable kTable;
  // The 16 bits of every second word, beside one another.
  constexpr uint64_t kFromBits = 0x0101010101010101 * kWholeBits + 0x2820282008000800;
  constexpr __mmask64 kLowWords = 0x3333333333333333, kLowBytes = 0x5555555555555555;
  const __m512i from = (__m512i)(VecQ{} + kFromBits);
  // The lower words by a shift: what moves bytes waits for one port.
  const __m512i words = _mm512_mask_multishift_epi64_epi8(_mm512_maskz_srli_epi32(0xffff, (__m512i)low, kWholeBits),
                                                          ~kLowWords, from, (__m512i)high);
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

// Fills what scores are added to: `lift` where a query sees a column of a row, -inf elsewhere.
inline void fill_start(VecI in_row, const float* column_masks, int64_t columns, Vec lift, float* start) {
  for (int64_t c = 0; c < columns; ++c) {
    const VecI seen = in_row & bits_of(load(column_masks + c * kLanes));
    store(start + c * kLanes, select(seen, lift, splat(kMinusInfinity)));
  }
}

// What scores are added to where queries have no base: made once for all boxes and frames, since it depends on the
// queries that see a row and on the column of boxes alone.
class StartTiles {
 public:
  static int64_t floats(int64_t columns, int64_t box_columns) {
    return kCount * kLanes + kBlockCells / box_columns * kCount * columns * kLanes;
  }
  // memory: floats(columns, ..), for itself. columns: of a row of tiles.
  StartTiles(float* memory, int64_t columns) : memory_(memory), columns_(columns) {}

  // The number of the tiles of a row that the queries in_row see; -1: there is no room for them.
  int8_t index_of(VecI in_row, const Boxes<PairWords>& boxes) {
    for (int i = 0; i < count_; ++i)
      if (!any(in_row ^ bits_of(load(memory_ + i * kLanes)))) return (int8_t)i;
    if (count_ == kCount) return -1;
    store(memory_ + count_ * kLanes, from_bits(in_row));
    for (int64_t j = 0; j < boxes.across; ++j)
      fill_start(in_row, boxes.column_masks(j), columns_, splat(kWhole + kLift), tiles(j, count_));
    return (int8_t)count_++;
  }
  // The tiles of number 0 of column j of boxes; the others follow, columns * kLanes floats each.
  const float* of(int64_t j) const { return tiles(j, 0); }

 private:
  // Boxes of 2 frames and 2 rows have up to 10.
  static constexpr int kCount = 12;

  float* tiles(int64_t j, int64_t i) const { return memory_ + kCount * kLanes + (j * kCount + i) * columns_ * kLanes; }

  float* memory_;  // the queries of each, then the tiles
  int64_t columns_;
  int count_ = 0;
};

// Scratch of a thread, after that of all loops.
struct TileWork {
  TileWork(float* memory, const NeighborhoodArgs& args, int64_t box_columns)
      : values(memory + Work<PairWords>(nullptr, args, kTileFrames).taken),
        fresh(values + kBlockCells / box_columns * column_floats(args, box_columns)),
        starts(fresh + 2 * 2 * pair_floats(args, box_columns)),
        start_indices(starts + StartTiles::floats(16 * tiles_across(args, box_columns), box_columns)),
        taken(start_indices - memory + round_up(kTileFrames * kBlockCells * Work<PairWords>::mask_rows(args), 64) / 4) {
  }
  // Of the values of one column of boxes.
  static int64_t column_floats(const NeighborhoodArgs& args, int64_t box_columns) {
    return (args.rows.window + kBlockCells + 2) / 2 * tiles_across(args, box_columns) * kTileHead * kTileWords;
  }

  // Scores of a box and two rows of keys: [columns][2][kLanes].
  static int64_t pair_floats(const NeighborhoodArgs& args, int64_t box_columns) {
    return 16 * tiles_across(args, box_columns) * 2 * kLanes;
  }

  float* values;         // of each column of boxes, as tiles [pairs of rows][tiles across][kTileHead][kTileWords]
  float* fresh;          // scores that are weighed next: pair_floats, twice for each of two boxes
  float* starts;         // StartTiles
  float* start_indices;  // of TileRows
  int64_t taken;         // floats of all
};

inline int64_t tile_work_floats(const NeighborhoodArgs& args, int64_t box_columns) {
  return TileWork(nullptr, args, box_columns).taken;
}

// A row of keys of some heads.
inline void pack_key_row(const NeighborhoodArgs& args, const PackedPlane& plane, const PackedFrame& part, int64_t row,
                         float* planes, int64_t stride) {
  const int64_t columns = tile_columns(args, plane), places = places_of(args.columns), place = plane.first_row + row;
  const auto keys_of = [&](int64_t head, int64_t column) {
    return planes + head * stride + (row * 2 * columns + column) * kTileWords;
  };
  for (int64_t head = 0; head < part.heads; ++head) tile_lengths(args, plane, planes + head * stride)[row] = 0.0f;
  int64_t column = 0;
  if (place >= 0 && place < places_of(args.rows)) {
    const auto offset = [&](int64_t column) {
      return cell_offset(args.k, part.batch, part.frame, cell_of(args.rows, place), cell_of(args.columns, column),
                         part.first_head * kTileHead);
    };
    BF16 buffer[kTileHead];
    HeadAngles angles(args, args.k_time);
    if (args.rotated) angles.set_row(part.frame, position_of(args.rows, place));
    for (; column < smaller(columns, places); ++column) {
      prefetch(args.k, offset(smaller(column + kAhead, places - 1)), part.heads * kTileHead);
      Head cosines{}, sines{};
      if (args.rotated) angles.get(position_of(args.columns, column), cosines, sines);
      const int64_t first = offset(column);
      for (int64_t head = 0; head < part.heads; ++head) {
        const BF16* from = head_values(args.k, first + head * kTileHead * args.k.lane_stride, buffer);
        const Head key = load_head(from, args.k_norm, args, 1.0f, args.rotated, cosines, sines);
        store_head(key, keys_of(head, column), keys_of(head, column) + columns * kTileWords);
        float& length = tile_lengths(args, plane, planes + head * stride)[row];
        length = larger_length(length, sum_of_squares(key));
      }
    }
  }
  for (; column < columns; ++column) {
    for (int64_t head = 0; head < part.heads; ++head) {
      store(keys_of(head, column), zero());
      store(keys_of(head, column) + columns * kTileWords, zero());
    }
  }
}

// Values of one head and two rows from `row` on. to: [columns / 16][kTileHead][kTileWords].
inline void pack_value_rows(const NeighborhoodArgs& args, const PackedPlane& plane, const PackedFrame& part,
                            int64_t head, int64_t row, float* to) {
  static constexpr BF16 kNone[kTileHead] = {};
  const int64_t columns = tile_columns(args, plane), places = places_of(args.columns);
  BF16 buffers[2][16][kTileHead];
  for (int64_t first = 0; first < columns; first += 16, to += kTileHead * kTileWords) {
    const BF16* from[2][16];
    for (int64_t r = 0; r < 2; ++r) {
      const int64_t place = plane.first_row + row + r;
      const bool row_is_there = place >= 0 && place < places_of(args.rows);
      for (int64_t c = 0; c < 16; ++c) {
        const int64_t column = first + c;
        if (!row_is_there || column >= places) {
          from[r][c] = kNone;
          continue;
        }
        const auto offset = [&](int64_t column) {
          return cell_offset(args.v, part.batch, part.frame, cell_of(args.rows, place), cell_of(args.columns, column),
                             (part.first_head + head) * kTileHead);
        };
        prefetch(args.v, offset(smaller(column + 16, places - 1)), kTileHead);
        from[r][c] = head_values(args.v, offset(column), buffers[r][c]);
      }
    }
    for (int64_t v = 0; v < kTileHead; v += kLanes) {
      __m512i words[16];
#pragma GCC unroll 16
      for (int c = 0; c < 16; ++c) words[c] = (__m512i)PairWords::pair(from[0][c] + v, from[1][c] + v);
      transpose_words(words);
#pragma GCC unroll 16
      for (int c = 0; c < 16; ++c) _mm512_storeu_si512(to + (v + c) * kTileWords, words[c]);
    }
  }
}

inline void pack_tiles(const NeighborhoodArgs& args, const PackedPlane& plane, const PackedFrame& part, int64_t first,
                       float* planes, int64_t stride, float*) {
  for (int64_t r = first; r < first + 2; ++r) pack_key_row(args, plane, part, r, planes, stride);
  for (int64_t head = 0; head < part.heads; ++head) {
    pack_value_rows(
        args, plane, part, head, first,
        tile_values(args, plane, planes + head * stride) + first / 2 * kTileHead * tile_columns(args, plane));
  }
}

// ---- Attention ----

// What a tile box needs for one frame: its rows [first, end) of the plane, from `masks` on.
struct TileBox {
  int64_t first, end;
  VecI in_frame;
  const float* row_masks;
  const float* column_masks;
  State<PairWords> state;
  float* scores;                // where they wait for a base: [pairs of rows][columns][2][kLanes]
  float* weights;               // [pairs of rows][columns][kLanes]; may be at `scores`
  float* own_start;             // [columns][kLanes], where queries have a base or there are no others
  const int8_t* start_indices;  // of the rows, where no query has a base
  const float* starts;          // StartTiles of the column
  VecI start_row;               // the queries that see the row of own_start; none: bits that no mask has

  bool has(int64_t row) const { return row >= first && row < end; }
  VecI in_row(int64_t row) const { return bits_of(load(row_masks + (row - first) * kLanes)) & in_frame; }
};

// The queries of a box that have no base: where their lengths were.
inline VecI plain_queries(const State<PairWords>& state) { return bits_of(load(state.lengths)); }

// What the scores of a row are added to. Where queries may have a base, it is subtracted.
inline const float* start_of(TileBox& box, int64_t row, int64_t columns) {
  const int64_t index = box.start_indices[row - box.first];
  if (index >= 0) return box.starts + index * columns * kLanes;
  const VecI in_row = box.in_row(row);
  if (any(in_row ^ box.start_row)) {
    box.start_row = in_row;
    fill_start(in_row, box.column_masks, columns, splat(kWhole + kLift), box.own_start);
  }
  return box.own_start;
}
inline const float* start_with_base(TileBox& box, int64_t row, int64_t columns) {
  const VecI in_row = box.in_row(row);
  if (any(in_row ^ box.start_row)) {
    const Vec base = load(box.state.base), lift = splat(kLift) - select(base == splat(kMinusInfinity), zero(), base);
    fill_start(in_row, box.column_masks, columns, select(plain_queries(box.state), splat(kWhole + kLift), lift),
               box.own_start);
    box.start_row = in_row;
  }
  return box.own_start;
}

// Queries of one or two boxes become tiles, which score_row needs.
template <int kBoxes>
__attribute__((target("amx-tile,amx-bf16"))) inline void load_query_tiles(const TileBox* boxes) {
  LTX2RT_FENCE;
  _tile_loadd(0, boxes[0].state.queries, kTileLine);
  _tile_loadd(1, boxes[0].state.queries + kTileFloats, kTileLine);
  if constexpr (kBoxes == 2) {
    _tile_loadd(2, boxes[1].state.queries, kTileLine);
    _tile_loadd(3, boxes[1].state.queries + kTileFloats, kTileLine);
  }
}

// Lifted scores of a row of keys of one box or of two that see the same columns, every second vector from `to` on.
// start: null for a box that does not see the row. Calls between(c) for every fourth column: other work, which vectors
// do while tiles are multiplied. Tiles are stored late, since stores that wait keep later instructions waiting.
template <int kBoxes, typename Between>
__attribute__((target("amx-tile,amx-bf16"), always_inline)) inline void score_row(const float* keys, int64_t pitch,
                                                                                  int64_t columns,
                                                                                  const float* const* start,
                                                                                  float* const* to,
                                                                                  const Between& between) {
  LTX2RT_FENCE;
  for (int64_t c = 0; c < columns; c += 16) {
    const float *first = keys + c * kTileWords, *second = first + pitch * kTileWords;
    if (kBoxes == 2 && start[0] != nullptr && start[1] != nullptr) {
      _tile_loadd(4, first, kTileLine);
      _tile_loadd(6, start[0] + c * kLanes, kTileLine);
      _tile_dpbf16ps(6, 4, 0);
      between(c);
      _tile_loadd(5, second, kTileLine);
      _tile_dpbf16ps(6, 5, 1);
      between(c + 4);
      _tile_loadd(7, start[1] + c * kLanes, kTileLine);
      _tile_dpbf16ps(7, 4, 2);
      between(c + 8);
      _tile_dpbf16ps(7, 5, 3);
      _tile_stored(6, to[0] + c * 2 * kLanes, 2 * kTileLine);
      between(c + 12);
      _tile_stored(7, to[1] + c * 2 * kLanes, 2 * kTileLine);
    } else {
      if (start[0] != nullptr) {
        _tile_loadd(4, first, kTileLine);
        _tile_loadd(5, second, kTileLine);
        _tile_loadd(6, start[0] + c * kLanes, kTileLine);
        _tile_dpbf16ps(6, 4, 0);
        _tile_dpbf16ps(6, 5, 1);
      } else if (kBoxes == 2 && start[1] != nullptr) {
        _tile_loadd(4, first, kTileLine);
        _tile_loadd(5, second, kTileLine);
        _tile_loadd(7, start[1] + c * kLanes, kTileLine);
        _tile_dpbf16ps(7, 4, 2);
        _tile_dpbf16ps(7, 5, 3);
      }
      for (int64_t i = 0; i < 16; i += 4) between(c + i);
      if (start[0] != nullptr) {
        _tile_stored(6, to[0] + c * 2 * kLanes, 2 * kTileLine);
      } else if (kBoxes == 2 && start[1] != nullptr) {
        _tile_stored(7, to[1] + c * 2 * kLanes, 2 * kTileLine);
      }
    }
  }
  LTX2RT_FENCE;
}

// Pairs of ones, as a tile.
struct OnesTile {
  constexpr OnesTile() : words{} {
    for (auto& word : words) word = 0x3f803f80;
  }
  alignas(64) uint32_t words[kTileFloats];
};

// The values that a column of boxes sees, as tiles.
struct TileValues {
  const float* from;  // of the row 0 of the plane
  int64_t pitch;      // floats from one pair of rows to the next
};

// sums += transposed values times the weights of the same. Half of the values at a time, so that the sums of two boxes
// stay in tiles. Then the sums of the weights themselves: of what is multiplied, so that equal weights cancel.
template <int kBoxes>
__attribute__((target("amx-tile,amx-bf16"))) void add_value_tiles(const TileValues& values, int64_t columns,
                                                                  const TileBox* boxes) {
  static constexpr OnesTile kOnes;
  LTX2RT_FENCE;
  const TileBox &one = boxes[0], &other = boxes[kBoxes - 1];
  const int64_t first = kBoxes == 2 ? smaller(one.first, other.first) : one.first;
  const int64_t end = kBoxes == 2 ? larger(one.end, other.end) : one.end;
  const auto weights_of = [&](const TileBox& box, int64_t r) {
    return box.has(r) ? box.weights + (r - box.first) / 2 * columns * kLanes : nullptr;
  };
  for (int64_t half = 0; half < 2; ++half) {
    float* sums = one.state.sums + half * 2 * kTileFloats;
    float* more = other.state.sums + half * 2 * kTileFloats;
    _tile_loadd(0, sums, kTileLine);
    _tile_loadd(1, sums + kTileFloats, kTileLine);
    if constexpr (kBoxes == 2) {
      _tile_loadd(2, more, kTileLine);
      _tile_loadd(3, more + kTileFloats, kTileLine);
    }
    for (int64_t r = first; r < end; r += 2) {
      const float* from = values.from + r / 2 * values.pitch + half * 2 * kTileFloats;
      const float *by = weights_of(one, r), *by_other = kBoxes == 2 ? weights_of(other, r) : nullptr;
      for (int64_t c = 0; c < columns; c += 16, from += 4 * kTileFloats) {
        _tile_loadd(4, from, kTileLine);
        _tile_loadd(5, from + kTileFloats, kTileLine);
        if (by != nullptr) {
          _tile_loadd(6, by + c * kLanes, kTileLine);
          _tile_dpbf16ps(0, 4, 6);
          _tile_dpbf16ps(1, 5, 6);
        }
        if (by_other != nullptr) {
          _tile_loadd(7, by_other + c * kLanes, kTileLine);
          _tile_dpbf16ps(2, 4, 7);
          _tile_dpbf16ps(3, 5, 7);
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
  // All rows of a product with ones are the same.
  alignas(64) float totals[2][kTileFloats];
  _tile_loadd(5, kOnes.words, kTileLine);
  _tile_zero(0);
  if constexpr (kBoxes == 2) _tile_zero(1);
  for (int64_t r = first; r < end; r += 2) {
    const float *by = weights_of(one, r), *by_other = kBoxes == 2 ? weights_of(other, r) : nullptr;
    for (int64_t c = 0; c < columns; c += 16) {
      if (by != nullptr) {
        _tile_loadd(6, by + c * kLanes, kTileLine);
        _tile_dpbf16ps(0, 5, 6);
      }
      if (by_other != nullptr) {
        _tile_loadd(7, by_other + c * kLanes, kTileLine);
        _tile_dpbf16ps(1, 5, 7);
      }
    }
  }
  _tile_stored(0, totals[0], kTileLine);
  if constexpr (kBoxes == 2) _tile_stored(1, totals[1], kTileLine);
  LTX2RT_FENCE;
  for (int b = 0; b < kBoxes; ++b) store(boxes[b].state.weights, load(boxes[b].state.weights) + load(totals[b]));
}

// Weights of the scores of a pair of rows: of four columns from `c` on, those from `used` on zero. kBases: queries that
// are not `plain` have a base, and their scores are less `shift`. from, to: of column 0; may be the same.
template <bool kBases>
__attribute__((always_inline)) inline void weigh_four(const float* from, float* to, int64_t c, int64_t used,
                                                      VecI plain = VecI{}, Vec shift = Vec{}) {
  const auto score = [&](const float* at) __attribute__((always_inline)) {
    const Vec x = load(at);
    if constexpr (!kBases) return x;
    // What is no number becomes the second operand.
    return (Vec)_mm512_maskz_max_ps((__mmask16)0xffff, (__m512)select(plain, x, x - shift + splat(kWhole)),
                                    (__m512)splat(kFirstWhole));
  };
  const auto weigh = [&](int64_t c) __attribute__((always_inline)) {
    PairWords::store_row(to + c * kLanes,
                         weight_pairs(score(from + c * 2 * kLanes), score(from + (c * 2 + 1) * kLanes)));
  };
  if (c + 4 <= used) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) weigh(c + i);
    return;
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    if (c + i < used) {
      weigh(c + i);
    } else {
      store(to + (c + i) * kLanes, zero());
    }
  }
}

// Turns the scores of a box into weights. Where they exceed the base, it is raised.
inline void weigh_with_base(const TileBox& box, int64_t columns, int64_t used) {
  const int64_t pairs = (box.end - box.first) / 2;
  const VecI plain = plain_queries(box.state);
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
  wrong = (wrong | (VecI)(highest == splat(__builtin_inff()))) & ~plain;
  const VecI none = (VecI)(old_base == lowest);
  const VecI raised = ((VecI)(highest > splat(kLift + kLazy)) | none) & (VecI)(highest > lowest) & ~plain;
  const Vec shift = select(raised, highest - splat(kLift), zero());
  for (int64_t pair = 0; pair < pairs; ++pair)
    for (int64_t c = 0; c < columns; c += 4)
      weigh_four<true>(box.scores + pair * columns * 2 * kLanes, box.weights + pair * columns * kLanes, c, used, plain,
                       shift);
  if (!any(raised | wrong)) return;
  const Vec rescale = select(none, zero(), select(raised, coarse_exp(-shift * splat(1 / kUnitsPerNat)), splat(1.0f)));
  store(box.state.base, select(raised, select(none, zero(), old_base) + shift, old_base));
  // What is no number has the weight zero above; with this sum it still reaches the result.
  store(box.state.weights, select(wrong, splat(__builtin_nanf("")), load(box.state.weights) * rescale));
  for (int64_t n = 0; n < kTileHead * kLanes; n += kLanes)
    store(box.state.sums + n, load(box.state.sums + n) * rescale);
}

// Where a box is in its block.
struct BoxPlace {
  int16_t d, i;
};

// What of the boxes of a block is known before they see a frame of keys.
struct TileRows {
  int64_t first[kBlockCells], end[kBlockCells];       // of each row of boxes
  int64_t first_key[kBlockCells], keys[kBlockCells];  // of each column of boxes: columns that are seen
  bool plain;                                         // no query of the block has a base, and all keys are finite
  uint32_t seen_by[kTileFrames];                      // for which start_indices are
  int8_t* start_indices;                              // [boxes along time][rows of boxes][mask_rows]

  int8_t* indices(const NeighborhoodArgs& args, int64_t d, int64_t i) const {
    return start_indices + (d * kBlockCells + i) * Work<PairWords>::mask_rows(args);
  }
};

// Which of the start tiles belong to each row, for the boxes d along time of which `in_frame` see the frame.
inline void find_starts(const Boxes<PairWords>& boxes, int64_t d, VecI in_frame, const TileRows& rows,
                        StartTiles& starts) {
  for (int64_t i = 0; i < boxes.down; ++i) {
    int8_t* to = rows.indices(boxes.args, d, i);
    for (int64_t r = 0; r < rows.end[i] - rows.first[i]; ++r)
      to[r] = starts.index_of(bits_of(load(boxes.row_masks(i) + r * kLanes)) & in_frame, boxes);
  }
}

// One frame of keys for one or two boxes of column j.
template <int kBoxes>
__attribute__((target("amx-tile,amx-bf16"))) void attend_tile_boxes(const Boxes<PairWords>& boxes,
                                                                    const TileWork& tiles, const TileRows& rows,
                                                                    const StartTiles& starts, const BoxPlace* places,
                                                                    int64_t j, const VecI* in_frame, const float* keys,
                                                                    const TileValues& values, int64_t pitch) {
  const int64_t columns = 16 * tiles_across(boxes.args, boxes.lane_box.columns), used = rows.keys[j];
  const int64_t together = larger(2, Work<PairWords>::score_rows(boxes.args) / columns / 2 * 2);
  const int64_t pair_floats = columns * 2 * kLanes;
  keys += rows.first_key[j] * kTileWords;
  int64_t most = 0;
  for (int b = 0; b < kBoxes; ++b) most = larger(most, rows.end[places[b].i] - rows.first[places[b].i]);
  for (int64_t done = 0; done < most; done += together) {
    const auto part = [&](int b) {
      const auto [d, i] = places[b];
      const int64_t first = smaller(rows.first[i] + done, rows.end[i]);
      return TileBox{.first = first,
                     .end = smaller(first + together, rows.end[i]),
                     .in_frame = in_frame[d],
                     .row_masks = boxes.row_masks(i) + (first - rows.first[i]) * kLanes,
                     .column_masks = boxes.column_masks(j),
                     .state = boxes.state(d, i, j),
                     .scores = boxes.work.scores[b],
                     .weights = boxes.work.scores[b],
                     .own_start = boxes.work.starts[b],
                     .start_indices = rows.indices(boxes.args, d, i) + (first - rows.first[i]),
                     .starts = starts.of(j),
                     .start_row = splat_bits(1)};
    };
    TileBox parts[2] = {part(0), part(kBoxes - 1)};
    const int64_t first = smaller(parts[0].first, parts[1].first), end = larger(parts[0].end, parts[1].end);
    load_query_tiles<kBoxes>(parts);
    if (rows.plain) {
      // A pair of rows is weighed while the next one is multiplied.
      const auto fresh = [&](int b, int64_t row) { return tiles.fresh + (2 * b + row / 2 % 2) * pair_floats; };
      for (int64_t row = first; row < end + 2; row += 2) {
#pragma GCC unroll 2
        for (int r = 0; r < 2; ++r) {
          const float* start[2] = {};
          float* to[2] = {};
          for (int b = 0; b < kBoxes; ++b) {
            if (parts[b].has(row)) start[b] = start_of(parts[b], row + r, columns);
            to[b] = fresh(b, row) + r * kLanes;
          }
          const int box = r < kBoxes ? r : 0;
          const bool weighs = box == r && parts[box].has(row - 2);
          const float* scores = fresh(box, row - 2);
          float* weights = parts[box].weights + (row - 2 - parts[box].first) / 2 * columns * kLanes;
          score_row<kBoxes>(keys + (row + r) * 2 * pitch * kTileWords, pitch, columns, start, to,
                            [&](int64_t c) __attribute__((always_inline)) {
                              if (weighs) weigh_four<false>(scores, weights, c, used);
                            });
        }
      }
    } else {
      for (int64_t row = first; row < end; ++row) {
        const float* start[2] = {};
        float* to[2] = {};
        for (int b = 0; b < kBoxes; ++b) {
          if (!parts[b].has(row)) continue;
          start[b] = start_with_base(parts[b], row, columns);
          to[b] = parts[b].scores + (row - parts[b].first) / 2 * pair_floats + row % 2 * kLanes;
        }
        score_row<kBoxes>(keys + row * 2 * pitch * kTileWords, pitch, columns, start, to, [](int64_t) {});
      }
      for (int b = 0; b < kBoxes; ++b) weigh_with_base(parts[b], columns, used);
    }
    add_value_tiles<kBoxes>(values, columns, parts);
  }
}

// The values that boxes see, as tiles for each column of boxes that do not begin where a tile of the plane does: tiles
// are read several times faster from whole cache lines. from: values of a plane; to: of TileWork.
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
      if (column % 16 == 0) continue;
      const __m512i order = (__m512i)(lanes + splat_bits(int32_t(column % 16)));
      const float* near = from + r * pitch + column / 16 * kTileHead * kTileWords;
      const float* far = near + kTileHead * kTileWords;
      float* tile = to + j * column_floats + (r - first) * across * kTileHead * kTileWords;
      for (int64_t v = 0; v < across * kTileHead * kTileWords; v += kTileWords)
        store(tile + v, _mm512_permutex2var_ps(load(near + v), order, load(far + v)));
    }
  }
}

// One frame of keys for all boxes of a block.
inline void attend_tile_frame(const Boxes<PairWords>& boxes, TileRows& rows, const SeenFrame& seen, const float* keys,
                              const TileWork& tiles, StartTiles& starts) {
  const NeighborhoodArgs& args = boxes.args;
  const int64_t pitch = tile_columns(args, boxes.plane), across = tiles_across(args, boxes.lane_box.columns);
  const int64_t first = rows.first[0] / 2;
  const int64_t column_floats = TileWork::column_floats(args, boxes.lane_box.columns);
  const float* plane_values = tile_values(args, boxes.plane, keys);
  copy_values(boxes, plane_values, tiles.values);
  VecI in_frame[kTileFrames];
  for (int64_t d = 0; d < boxes.deep; ++d) {
    const uint32_t seen_by = boxes.seen_by(d, seen);
    in_frame[d] = frame_mask(boxes.lane_box, seen_by);
    if (!rows.plain || seen_by == 0 || seen_by == rows.seen_by[d]) continue;
    find_starts(boxes, d, in_frame[d], rows, starts);
    rows.seen_by[d] = seen_by;
  }
  BoxPlace places[kTileFrames * kBlockCells];
  int64_t count = 0;
  for (int64_t i = 0; i < boxes.down; ++i)
    for (int64_t d = 0; d < boxes.deep; ++d)
      if (boxes.seen_by(d, seen) != 0) places[count++] = {(int16_t)d, (int16_t)i};
  for (int64_t j = 0; j < boxes.across; ++j) {
    const int64_t copied_pitch = across * kTileHead * kTileWords, key = rows.first_key[j];
    const TileValues column_values =
        key % 16 == 0 ? TileValues{plane_values + key * kTileHead, pitch * kTileHead}
                      : TileValues{tiles.values + j * column_floats - first * copied_pitch, copied_pitch};
    for (int64_t n = 0; n < count; n += 2) {
      if (n + 1 < count) {
        attend_tile_boxes<2>(boxes, tiles, rows, starts, places + n, j, in_frame, keys, column_values, pitch);
      } else {
        attend_tile_boxes<1>(boxes, tiles, rows, starts, places + n, j, in_frame, keys, column_values, pitch);
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
  boxes.start(HeadQueries(args, args.scale * kUnitsPerNat));
  const TileWork tiles(memory, args, lane_box.columns);
  StartTiles starts(tiles.starts, 16 * tiles_across(args, lane_box.columns));
  TileRows rows{};
  rows.start_indices = as_array<int8_t>(tiles.start_indices);
  for (int64_t j = 0; j < boxes.across; ++j) {
    const Box box = boxes.box(0, 0, j);
    rows.first_key[j] = box.first_key;
    rows.keys[j] = box.end_key - box.first_key;
  }
  for (int64_t i = 0; i < boxes.down; ++i) {
    rows.first[i] = boxes.first_row(i);
    rows.end[i] = boxes.end_row(i);
  }
  rows.plain = true;
  float key_lengths[kTileFrames] = {};  // of what each frame of queries sees
  for (int64_t f = 0; f < seen_count; ++f) {
    const float* lengths = tile_lengths(args, plane, planes + seen[f].slot * stride);
    float longest = 0.0f;
    for (int64_t r = rows.first[0]; r < rows.end[boxes.down - 1]; ++r) longest = larger_length(longest, lengths[r]);
    rows.plain = rows.plain && longest < __builtin_inff();
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
      rows.plain = rows.plain && !any(~plain);
      store(state.lengths, from_bits(plain));
      store(state.base, select(plain, zero(), splat(kMinusInfinity)));
    }
  }
  LTX2RT_FENCE;
  _tile_loadconfig(&config);
  for (int64_t f = 0; f < seen_count; ++f) {
    attend_tile_frame(boxes, rows, seen[f], planes + seen[f].slot * stride, tiles, starts);
  }
  _tile_release();
  for (int64_t j = 0; j < boxes.across; ++j) {
    for (int64_t i = 0; i < boxes.down; ++i) {
      for (int64_t d = 0; d < boxes.deep; ++d) {
        const State<PairWords> state = boxes.state(d, i, j);
        store_heads(args, boxes.box(d, i, j), state.sums, state.weights);
      }
    }
  }
}

#endif  // LTX2RT_TILES

}  // namespace ltx2rt::cpu::LTX2RT_ISA
