// Heads of 64 bfloat16 values in registers: the norm, the rotation and the rounding of queries and keys, for *_simd.cpp
// files. The same operations in the same order as `load_cell`, so that the bits are the same.
//
// Nothing waits in memory between the steps: what is stored in small parts and read back as whole vectors keeps the
// next cells waiting, too.
#pragma once
#include "csrc/cpu/amx.h"
#include "csrc/cpu/neighborhood_boxes.h"

namespace ltx2rt::cpu::LTX2RT_ISA {

#ifdef LTX2RT_TILES

constexpr int64_t kTileHead = 64;
static_assert(LTX2RT_LANES == 16);

// Values, cosines or sines of a head.
struct Head {
  Vec values[4];
};

// The 64 values from `first` on. buffer: for those that lie apart.
inline const BF16* head_values(const CellRows& x, int64_t first, BF16* buffer) {
  const BF16* from = (const BF16*)x.data + first;
  if (x.lane_stride == 1) return from;
  for (int64_t i = 0; i < kTileHead; ++i) buffer[i] = from[i * x.lane_stride];
  return buffer;
}

// As sum_of_squares of memory.
__attribute__((always_inline)) inline float sum_of_squares(const Head& head) {
  Vec chains[4];
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) chains[c] = fma(head.values[c], head.values[c], zero());
  return reduce_add((chains[0] + chains[1]) + (chains[2] + chains[3]));
}

// Pairs of neighbouring values as words: of the first 32 values and of the others.
__attribute__((always_inline)) inline void store_head(const Head& head, float* low, float* high) {
  const auto words = [&](int i) { return (__m512i)_mm512_cvtne2ps_pbh(head.values[i + 1], head.values[i]); };
  _mm512_storeu_si512(low, words(0));
  _mm512_storeu_si512(high, words(2));
}

// Cosines and sines of one cell after another. What belongs to frame and row is fetched once per row of cells, and all of
// it stays in registers.
class HeadAngles {
 public:
  HeadAngles(const NeighborhoodArgs& args, const AngleRows& time) : axes_{time, args.height, args.width} {
    int64_t first = 0;
    for (Axis& axis : axes_) {
      axis.first = first;
      for (int half = 0; half < 2; ++half) {
        const int64_t begin = smaller(larger(first - 16 * half, 0), 16);
        const int64_t end = smaller(larger(first + axis.table.pairs - 16 * half, 0), 16);
        axis.lanes[half] = (__mmask16)((1u << end) - (1u << begin));
      }
      first += axis.table.pairs;
    }
  }

  // Rows of the first two tables.
  void set_row(int64_t frame, int64_t row) {
    for (int part = 0; part < 2; ++part)
      for (int half = 0; half < 2; ++half)
        row_[part][half] = axes_[0].pairs(frame, part, half) | axes_[1].pairs(row, part, half);
  }

  // A row of the last table, and what set_row fetched.
  __attribute__((always_inline)) void get(int64_t column, Head& cosines, Head& sines) const {
    constexpr VecI kLow = {0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7};
    constexpr int32_t kMinus = -0x7fffffff - 1;
    constexpr VecI kSigns = {kMinus, 0, kMinus, 0, kMinus, 0, kMinus, 0, kMinus, 0, kMinus, 0, kMinus, 0, kMinus, 0};
    const auto twice = [](VecI pairs, int upper) __attribute__((always_inline)) {
      return (VecI)_mm512_maskz_permutexvar_epi32(0xffff, (__m512i)(kLow + 8 * upper), (__m512i)pairs);
    };
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      const VecI cos = row_[0][half] | axes_[2].pairs(column, 0, half);
      const VecI sin = row_[1][half] | axes_[2].pairs(column, 1, half);
#pragma GCC unroll 2
      for (int upper = 0; upper < 2; ++upper) {
        cosines.values[2 * half + upper] = from_bits(twice(cos, upper));
        sines.values[2 * half + upper] = from_bits(twice(sin, upper) ^ kSigns);
      }
    }
  }

 private:
  struct Axis {
    Axis(const AngleRows& table) : table(table) {}
    // Of a head's pairs, 16 of each half, the cosines (part 0) or the sines (part 1) of this axis; zeros elsewhere.
    VecI pairs(int64_t row, int part, int half) const {
      if (lanes[half] == 0) return VecI{};
      const float* from = table.cos + row * table.pairs + part * table.part + (16 * half - first);
      return (VecI)_mm512_maskz_loadu_epi32(lanes[half], from);
    }
    AngleRows table;
    int64_t first = 0;  // pair of the head
    __mmask16 lanes[2] = {};
  };

  Axis axes_[3];
  VecI row_[2][2] = {};
};

// A head, normalised and turned by the angles unless `rotated` is false.
__attribute__((always_inline)) inline Head load_head(const BF16* from, const float* norm, const NeighborhoodArgs& args,
                                                     float scale, bool rotated, const Head& cosines,
                                                     const Head& sines) {
  Head head;
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) head.values[i] = load(from + i * kLanes);
  if (norm != nullptr) {
    const float factor = scale / __builtin_sqrtf(sum_of_squares(head) / float(kTileHead) + args.norm_eps);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) head.values[i] = head.values[i] * factor * load(norm + i * kLanes);
  } else if (scale != 1.0f) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) head.values[i] *= scale;
  }
  if (rotated) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const Vec x = head.values[i];
      head.values[i] = fma(swap_pairs(x), sines.values[i], x * cosines.values[i]);
    }
  }
  return head;
}

// Queries as Boxes::start asks for them.
class HeadQueries {
 public:
  HeadQueries(const NeighborhoodArgs& args, float scale) : args_(args), scale_(scale), angles_(args, args.q_time) {}

  static int64_t stride() { return kTileHead / 2; }
  void set_row(int64_t frame, int64_t row) {
    if (args_.rotated) angles_.set_row(frame, row);
  }
  // Words of the query at `first`, and its length, squared.
  float load(int64_t first, int64_t column, float* words) {
    BF16 buffer[kTileHead];
    Head cosines{}, sines{};
    if (args_.rotated) angles_.get(column, cosines, sines);
    const Head head =
        load_head(head_values(args_.q, first, buffer), args_.q_norm, args_, scale_, args_.rotated, cosines, sines);
    store_head(head, words, words + kLanes);
    return sum_of_squares(head);
  }

 private:
  const NeighborhoodArgs& args_;
  float scale_;
  HeadAngles angles_;
};

// As store_box, of sums [kTileHead][kLanes].
inline void store_heads(const NeighborhoodArgs& args, const Box& box, const float* sums, const float* sum_of_weights) {
  const NeighborhoodBlock& block = box.block;
  const Vec total = load(sum_of_weights), factor = select(total == zero(), zero(), splat(1.0f) / total);
  int64_t first[kLanes];  // of the values of a lane; -1: it has none
  for (int lane = 0; lane < kLanes; ++lane) {
    const int64_t frame = block.batch * args.frames + block.first_frame + box.frame_of(lane);
    const int64_t cell = (frame * args.rows.cells + box.row_of(lane)) * args.columns.cells + box.column_of(lane);
    first[lane] = box.there(lane) ? (cell * args.heads + block.head) * kTileHead : -1;
  }
  const auto store_as = [&](auto* out) {
    for (int64_t v = 0; v < kTileHead; v += 16) {
      __m512i words[16];
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) words[i] = (__m512i)(load(sums + (v + i) * kLanes) * factor);
      transpose_words(words);
#pragma GCC unroll 16
      for (int lane = 0; lane < 16; ++lane)
        if (first[lane] >= 0) store(out + first[lane] + v, (Vec)words[lane]);
    }
  };
  switch (args.out_type) {
    case FloatType::f32:
      return store_as((float*)args.out);
    case FloatType::f16:
      return store_as((F16*)args.out);
    case FloatType::bf16:
      return store_as((BF16*)args.out);
  }
}

#endif  // LTX2RT_TILES

}  // namespace ltx2rt::cpu::LTX2RT_ISA
