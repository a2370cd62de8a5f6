// Cells of q, k and v as the words that neighborhood attention multiplies: norm, rotation, rounding; for *_simd.cpp
// files.
#pragma once
#include "csrc/cpu/float_rows.h"
#include "csrc/cpu/fma_tile.h"
#include "csrc/cpu/neighborhood_attention_kernel.h"

namespace ltx2rt::cpu::LTX2RT_ISA {

// Values in one word of 32 bits: of the channels of a key, and of neighbouring rows of values.
template <typename Words>
constexpr int64_t kValues = __is_same(Words, FloatWords) ? 1 : 2;

inline int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }
// The larger one of sums of squares, of which one that is no number counts as infinite.
inline float larger_length(float most, float length) {
  return length <= most ? most : length == length ? length : __builtin_inff();
}

// Both values of every pair of lanes change places.
inline Vec swap_pairs(Vec x) {
#if defined(__AVX512F__)
  return _mm512_maskz_permute_ps(0xffff, x, 0xb1);
#elif LTX2RT_LANES == 16
  const Halves halves = halves_of(x);
  return join(_mm256_permute_ps(halves.low, 0xb1), _mm256_permute_ps(halves.high, 0xb1));
#elif defined(__AVX2__)
  return _mm256_permute_ps(x, 0xb1);
#elif defined(LTX2RT_NEON)
  return (Vec)vrev64q_f32((float32x4_t)x);
#else
  return Vec{x[1], x[0], x[3], x[2]};
#endif
}

// Cosines and sines of one cell, for every value of a head those of its pair. What belongs to an axis is only fetched
// when the position along that axis changes.
class Angles {
 public:
  static int64_t floats(int64_t head_size) { return 2 * head_size; }

  // memory: floats(head_size), for itself.
  Angles(const NeighborhoodArgs& args, const AngleRows& time, float* memory)
      : axes_{&time, &args.height, &args.width}, size_(args.head_size), memory_(memory) {}

  // Rows of the three tables.
  void set(int64_t frame, int64_t row, int64_t column) {
    const int64_t at[] = {frame, row, column};
    float* to = memory_;
    for (int axis = 0; axis < 3; ++axis) {
      const AngleRows& table = *axes_[axis];
      if (at[axis] != at_[axis]) {
        at_[axis] = at[axis];
        const float* __restrict cos = table.cos + at[axis] * table.pairs, * __restrict sin = cos + table.part;
        float* __restrict cosines = to;
        float* __restrict sines = to + size_;
        for (int64_t i = 0; i < table.pairs; ++i) {
          cosines[2 * i] = cosines[2 * i + 1] = cos[i];
          sines[2 * i] = -sin[i];
          sines[2 * i + 1] = sin[i];
        }
      }
      to += 2 * table.pairs;
    }
  }

  void turn(float* row) const {
    for (int64_t i = 0; i < size_; i += kLanes) {
      const Vec x = load(row + i);
      store(row + i, fma(swap_pairs(x), load(memory_ + size_ + i), x * load(memory_ + i)));
    }
  }

 private:
  const AngleRows* axes_[3];
  int64_t size_, at_[3] = {-1, -1, -1};
  float* memory_;
};

// One head of one cell in float32, normalised and turned by `angles` (null: not).
inline void load_cell(const CellRows& x, int64_t first, const float* norm, const NeighborhoodArgs& args, float scale,
                      const Angles* angles, float* row) {
  const int64_t size = args.head_size;
  load_floats(x.data, x.type, first, x.lane_stride, size, row);
  if (norm != nullptr) {
    const float factor = scale / __builtin_sqrtf(sum_of_squares(row, size) / float(size) + args.norm_eps);
    for (int64_t i = 0; i < size; i += kLanes) store(row + i, load(row + i) * factor * load(norm + i));
  } else if (scale != 1.0f) {
    for (int64_t i = 0; i < size; i += kLanes) store(row + i, load(row + i) * scale);
  }
  if (angles != nullptr) angles->turn(row);
}

// A row of values as words.
template <typename Words>
void store_words(const float* row, int64_t size, float* words) {
  if constexpr (kValues<Words> == 1) {
    for (int64_t i = 0; i < size; i += kLanes) store(words + i, load(row + i));
  } else {
#ifdef LTX2RT_BF16_DOT
    BF16* to = as_array<BF16>(words);
    for (int64_t i = 0; i < size; i += kLanes) store_for_dot(to + i, load(row + i));
#endif
  }
}

inline int64_t cell_offset(const CellRows& x, int64_t batch, int64_t frame, int64_t row, int64_t column, int64_t lane) {
  return batch * x.batch_stride + frame * x.frame_stride + row * x.row_stride + column * x.column_stride +
         lane * x.lane_stride;
}

// Asks for some heads of a cell, `lanes` values in all. Not for the first-level cache: cells that lie below one another
// may all belong to one of its sets.
inline void prefetch(const CellRows& x, int64_t first, int64_t lanes) {
  const int64_t item = size_of(x.type), bytes = x.lane_stride == 1 ? lanes * item : 1;
  const char* from = (const char*)x.data + first * item;
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(from + i, 0, 2);
}
// Columns ahead of the one being packed that are asked for.
constexpr int64_t kAhead = 12;

// Calls sink(head, column, row, words) with the keys of one row of places, `columns` of them, as float32 and as words.
// Where there is no cell they are zero. Heads are counted from the first one that is packed. row, words: scratch of
// head_size floats each.
template <typename Words, typename Sink>
void pack_keys(const NeighborhoodArgs& args, const PackedFrame& part, int64_t place, int64_t columns, Angles& angles,
               float* row, float* words, const Sink& sink) {
  const int64_t size = args.head_size, places = places_of(args.columns);
  const bool row_is_there = place >= 0 && place < places_of(args.rows);
  const auto offset = [&](int64_t column, int64_t head) {
    return cell_offset(args.k, part.batch, part.frame, cell_of(args.rows, place), cell_of(args.columns, column),
                       (part.first_head + head) * size);
  };
  for (int64_t column = 0; column < columns; ++column) {
    if (!row_is_there || column >= places) {
      for (int64_t i = 0; i < size; ++i) row[i] = 0.0f;
      for (int64_t i = 0; i < size / kValues<Words>; ++i) words[i] = 0.0f;
      for (int64_t head = 0; head < part.heads; ++head) sink(head, column, row, words);
      continue;
    }
    prefetch(args.k, offset(smaller(column + kAhead, places - 1), 0), part.heads * size);
    if (args.rotated) angles.set(part.frame, position_of(args.rows, place), position_of(args.columns, column));
    for (int64_t head = 0; head < part.heads; ++head) {
      load_cell(args.k, offset(column, head), args.k_norm, args, 1.0f, args.rotated ? &angles : nullptr, row);
      store_words<Words>(row, size, words);
      sink(head, column, row, words);
    }
  }
}

// The words of a value of one row, or of two, from `place` on; zeros where there is none. rows: scratch of 2 head_size
// floats.
template <typename Words>
void pack_value(const NeighborhoodArgs& args, const PackedFrame& part, int64_t head, int64_t place, int64_t column,
                float* rows, float* words) {
  const int64_t size = args.head_size, places = places_of(args.columns);
  for (int64_t r = 0; r < kValues<Words>; ++r) {
    float* row = kValues<Words> == 1 ? words : rows + r * size;
    if (place + r < 0 || place + r >= places_of(args.rows) || column >= places) {
      for (int64_t i = 0; i < size; ++i) row[i] = 0.0f;
      continue;
    }
    const auto offset = [&](int64_t column) {
      return cell_offset(args.v, part.batch, part.frame, cell_of(args.rows, place + r), cell_of(args.columns, column),
                         (part.first_head + head) * size);
    };
    prefetch(args.v, offset(smaller(column + kAhead, places - 1)), size);
    load_floats(args.v.data, args.v.type, offset(column), args.v.lane_stride, size, row);
  }
  if constexpr (kValues<Words> == 2) {
    for (int64_t i = 0; i < size; i += kLanes)
      Words::store_row(words + i, Words::pair(load(rows + i), load(rows + size + i)));
  }
}

}  // namespace ltx2rt::cpu::LTX2RT_ISA
