// Expansion of weight rows of every stored format into float32 vectors across columns, for *_simd.cpp files.
#pragma once

#include "csrc/cpu/avx2_packed.h"
#include "csrc/cpu/linear_kernels.h"
#include "csrc/cpu/neon_codes.h"
#include "csrc/cpu/simd.h"
#include "csrc/cpu/weight_rows.h"

namespace ltx2rt::cpu::LTX2RT_ISA {

// Calls sink(k, vecs) for rows [first, last) of the panel (k relative to k0), without wide instructions.
template <typename Sink>
inline void expand_slowly(const WeightMatrix& w, int64_t n0, int64_t k0, int64_t first, int64_t last,
                          const Sink& sink) {
  Vec vecs[kSlowValues][kPanelVecs];
  for (int64_t k = first; k < last; k += kSlowValues) {
    const int64_t count = last - k < kSlowValues ? last - k : kSlowValues;
    decode_slowly(w, n0, k0 + k, count, vecs);
    for (int64_t i = 0; i < count; ++i) sink(k + i, vecs[i]);
  }
}

#if defined(LTX2RT_NEON)

static_assert(kPanelColumns == 8);

// Where one depth block of the rows of a panel lies. Columns beyond N repeat the last one, whose sums nobody reads.
struct PanelRows {
  // Rows from byte `first` on.
  PanelRows(const WeightMatrix& w, int64_t n0, int64_t first) {
    for (int64_t n = 0; n < kPanelColumns; ++n) {
      at[n] = (const uint8_t*)w.values + (n0 + n < w.columns ? n0 + n : w.columns - 1) * w.row_bytes + first;
    }
  }
  inline __attribute__((always_inline)) void load_codes(int64_t from, uint8x16_t r[8]) const {
#pragma GCC unroll 8
    for (int n = 0; n < 8; ++n) r[n] = vld1q_u8(at[n] + from);
    transpose_codes(r);
  }

  const uint8_t* at[kPanelColumns];
};

// Words of four bytes: sink(word, vecs) for those of [0, count) that come in fours.
template <typename Sink>
inline int64_t expand_f32(const WeightMatrix& w, int64_t n0, int64_t k0, int64_t count, const Sink& sink) {
  const PanelRows rows(w, n0, 4 * k0);
  int64_t k = 0;
  for (; k + 4 <= count; k += 4) {
    uint32x4_t words[8], across[8];
#pragma GCC unroll 8
    for (int n = 0; n < 8; ++n) words[n] = (uint32x4_t)vld1q_u8(rows.at[n] + 4 * k);
    transpose_words(words, across);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const Vec vecs[kPanelVecs] = {(Vec)across[2 * i], (Vec)across[2 * i + 1]};
      sink(k + i, vecs);
    }
  }
  return k;
}

template <typename Sink>
inline int64_t expand_e4m3(const WeightMatrix& w, int64_t n0, int64_t k0, int64_t count, const Sink& sink) {
  const PanelRows rows(w, n0, k0);
  const uint8x16_t zeros = vdupq_n_u8(0);
  int64_t k = 0;
  for (; k + 16 <= count; k += 16) {
    uint8x16_t r[8];
    rows.load_codes(k, r);
    if (has_e4m3_nan(r)) {
      expand_slowly(w, n0, k0, k, k + 16, sink);
      continue;
    }
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      Vec even[kPanelVecs], odd[kPanelVecs];
      e4m3_floats(vzip1q_u8(zeros, r[i]), even);
      e4m3_floats(vzip2q_u8(zeros, r[i]), odd);
      sink(k + 2 * i, even);
      sink(k + 2 * i + 1, odd);
    }
  }
  return k;
}

// Group sizes are multiples of 32, so count is one. put(k, vecs, next vecs): the columns for k and k + 1.
template <int kBits, typename Put>
inline int64_t expand_affine(const WeightMatrix& w, int64_t n0, int64_t k0, int64_t count, const Put& put) {
  const PanelRows rows(w, n0, k0 * kBits / 8);
  for (int64_t first = 0; first < count; first += w.group_size) {
    const GroupVecs group = load_group(w, n0, (k0 + first) / w.group_size);
    const int64_t last = first + w.group_size < count ? first + w.group_size : count;
    const auto put_two = [&](int64_t k, const Vec* even, const Vec* odd) __attribute__((always_inline)) {
      Vec vecs[2][kPanelVecs];
#pragma GCC unroll 2
      for (int v = 0; v < kPanelVecs; ++v) {
        vecs[0][v] = fma(even[v], group.scale[v], group.zero[v]);
        vecs[1][v] = fma(odd[v], group.scale[v], group.zero[v]);
      }
      put(k, vecs[0], vecs[1]);
    };
    constexpr int kStep = 128 / kBits;
    for (int64_t k = first; k < last; k += kStep) {
      uint8x16_t r[8];
      rows.load_codes(k * kBits / 8, r);
#pragma GCC unroll 8
      for (int i = 0; i < 8; ++i) {
        Vec even[kPanelVecs], odd[kPanelVecs];
        if constexpr (kBits == 8) {
          code_floats<0>(r[i], even);
          code_floats<1>(r[i], odd);
          put_two(k + 2 * i, even, odd);
        } else {  // a byte holds two codes
          const uint8x16_t evens = vandq_u8(r[i], vdupq_n_u8(15)), odds = vshrq_n_u8(r[i], 4);
          code_floats<0>(evens, even);
          code_floats<0>(odds, odd);
          put_two(k + 4 * i, even, odd);
          code_floats<1>(evens, even);
          code_floats<1>(odds, odd);
          put_two(k + 4 * i + 2, even, odd);
        }
      }
    }
  }
  return count;
}

template <typename Sink>
inline int64_t expand_fast(const WeightMatrix& w, int64_t n0, int64_t k0, int64_t count, const Sink& sink) {
  const auto both = [&sink](int64_t k, const Vec* even, const Vec* odd) __attribute__((always_inline)) {
    sink(k, even);
    sink(k + 1, odd);
  };
  switch (w.format) {
    case WeightFormat::f32:
      return expand_f32(w, n0, k0, count, sink);
    case WeightFormat::e4m3:
      return expand_e4m3(w, n0, k0, count, sink);
    case WeightFormat::int8:
      return expand_affine<8>(w, n0, k0, count, both);
    case WeightFormat::int4:
      return expand_affine<4>(w, n0, k0, count, both);
    default:
      return 0;
  }
}

#endif

// Calls sink(k, vecs) for k in [0, count): vecs are the weights (n0 + lane, k0 + k) of one panel. kPacked: of formats after
// int4, too, which costs code with AVX2 alone.
template <bool kPacked = true, typename Sink>
inline __attribute__((always_inline)) void expand(const WeightMatrix& w, int64_t n0, int64_t k0, int64_t count,
                                                  const Sink& sink) {
#if defined(__AVX2__)
  with_steps<kPacked>(
      w.format, [&]<typename Steps>() __attribute__((always_inline)) { expand_steps<Steps>(w, n0, k0, count, sink); });
#elif defined(LTX2RT_NEON)
  expand_slowly(w, n0, k0, expand_fast(w, n0, k0, count, sink), count, sink);
#else
  expand_slowly(w, n0, k0, 0, count, sink);
#endif
}

#ifdef LTX2RT_BF16_DOT

// The bfloat16 of each lane in the low half of a word.
template <bool kExact>
inline VecU bf16_words(Vec values) {
  if constexpr (kExact) return (VecU)values >> 16;
  return __builtin_convertvector(narrow_bf16(values), VecU);
}

// Calls sink(k / 2, words) for even k in [0, count), whose words hold the bfloat16 bits of (n0 + lane, k0 + k) in their
// low half and those of k + 1 in their high half, zero for k + 1 == count. Values of affine formats are rounded, those
// of bf16 and e4m3 need not be.
template <bool kExact, typename Sink>
inline void expand_pairs_of(const WeightMatrix& w, int64_t n0, int64_t k0, int64_t count, const Sink& sink) {
  VecI pairs[kPanelVecs] = {};
  const auto pair_up = [&](int64_t k, const Vec* vecs) __attribute__((always_inline)) {
    if (k % 2 == 0) {
      for (int v = 0; v < kPanelVecs; ++v) pairs[v] = (VecI)bf16_words<kExact>(vecs[v]);
    } else {
      for (int v = 0; v < kPanelVecs; ++v) pairs[v] |= (VecI)(bf16_words<kExact>(vecs[v]) << 16);
      sink(k / 2, pairs);
    }
  };
  int64_t done = 0;
#if defined(__AVX2__) || defined(LTX2RT_NEON)
  if (w.format == WeightFormat::bf16 && k0 % 2 == 0) {  // the pairs lie in the rows as they are
    done = 2 * expand_f32(w, n0, k0 / 2, count / 2, [&sink](int64_t row, const Vec* vecs) {
             VecI words[kPanelVecs];
             for (int v = 0; v < kPanelVecs; ++v) words[v] = bits_of(vecs[v]);
             sink(row, words);
           });
  }
#endif
#if defined(__AVX2__)
  if (w.format != WeightFormat::bf16) {
    expand(w, n0, k0, count, pair_up);
    done = count;
  }
#elif defined(LTX2RT_NEON)
  // Two rows of eight words at a time.
  const auto zip = [&sink](int64_t k, uint16x8_t words, uint16x8_t next) __attribute__((always_inline)) {
    const VecI zipped[kPanelVecs] = {(VecI)vzip1q_u16(words, next), (VecI)vzip2q_u16(words, next)};
    sink(k / 2, zipped);
  };
  const auto round = [&zip](int64_t k, const Vec* even, const Vec* odd)
                         __attribute__((always_inline)) { zip(k, rounded_words(even), rounded_words(odd)); };
  if (w.format == WeightFormat::e4m3) {
    const PanelRows rows(w, n0, k0);
    for (; done + 16 <= count; done += 16) {
      uint8x16_t r[8];
      rows.load_codes(done, r);
#pragma GCC unroll 8
      for (int i = 0; i < 8; ++i) {
        const Bf16Bytes bytes = e4m3_bytes(r[i]);
        zip(done + 2 * i, (uint16x8_t)vzip1q_u8(bytes.low, bytes.high), (uint16x8_t)vzip2q_u8(bytes.low, bytes.high));
      }
    }
  } else if (w.format == WeightFormat::int8) {
    done = expand_affine<8>(w, n0, k0, count, round);
  } else if (w.format == WeightFormat::int4) {
    done = expand_affine<4>(w, n0, k0, count, round);
  }
#endif
  expand_slowly(w, n0, k0, done, count, pair_up);
  if (count % 2 != 0) sink(count / 2, pairs);
}

template <typename Sink>
inline void expand_pairs(const WeightMatrix& w, int64_t n0, int64_t k0, int64_t count, const Sink& sink) {
  if (w.format == WeightFormat::bf16 || w.format == WeightFormat::e4m3) {
    expand_pairs_of<true>(w, n0, k0, count, sink);
  } else {
    expand_pairs_of<false>(w, n0, k0, count, sink);
  }
}

#endif

}  // namespace ltx2rt::cpu::LTX2RT_ISA
