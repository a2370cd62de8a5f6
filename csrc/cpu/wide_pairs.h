// Expansion of weight rows into pairs of bfloat16 with AVX-512.
#pragma once

#include "csrc/cpu/weight_panels.h"
#include "csrc/cpu/wide_lines.h"
#include "csrc/cpu/wide_packed.h"

namespace ltx2rt::cpu::LTX2RT_ISA {

#ifdef LTX2RT_WIDE_PAIRS

// Scale and zero of 16 columns in one group.
struct WideGroup {
  __m512 scale, zero;
};
__attribute__((noinline)) inline WideGroup load_wide_group(const WeightMatrix& w, int64_t n0, int64_t group) {
  float scale[16] = {}, zero[16] = {};
  const int64_t valid = w.columns - n0 < 16 ? w.columns - n0 : 16;
  with_type(w.group_type, w.scale, [&](auto* scales) {
    const auto* zeros = (decltype(scales))w.zero;
    for (int64_t n = 0; n < valid; ++n) {
      scale[n] = to_float(scales[(n0 + n) * w.groups + group]);
      zero[n] = to_float(zeros[(n0 + n) * w.groups + group]);
    }
  });
  return {load(scale), load(zero)};
}

// Rows of codes of kBits each. Group sizes are multiples of 32, so k0 and count are.
template <int kBits, bool kFetch, typename Sink>
inline __attribute__((always_inline)) void expand_wide_codes(const WeightMatrix& w, int64_t n0, int64_t k0,
                                                             int64_t count, const Sink& sink) {
  typedef int16_t Order __attribute__((vector_size(64)));
  constexpr Order kInterleaved = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                  8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  constexpr int kValues = 32 / kBits, kMask = (1 << kBits) - 1;
  WideGroup groups[kPanelVecs] = {};
  int64_t next_group[kPanelVecs] = {};  // in pairs
  transpose_lines<kValues, kFetch>(
      w, n0, k0, count, [&](int v, __m512i word, int64_t row, int64_t) __attribute__((always_inline)) {
        if (row == next_group[v]) {
          groups[v] = load_wide_group(w, n0 + 16 * v, (k0 + 2 * row) / w.group_size);
          next_group[v] += (w.group_size - (k0 + 2 * row) % w.group_size) / 2;
        }
#pragma GCC unroll 4
        for (int i = 0; i < kValues / 2; ++i) {
          Vec pair[2];
#pragma GCC unroll 2
          for (int j = 0; j < 2; ++j) {
            const VecI codes = (VecI)((VecU)word >> kBits * (2 * i + j)) & kMask;
            pair[j] = fma(__builtin_convertvector(codes, Vec), groups[v].scale, groups[v].zero);
          }
          // The first 16 values, then the second, each lane's two brought together.
          const __m512i halves = (__m512i)_mm512_cvtne2ps_pbh(pair[1], pair[0]);
          sink(row + i, v, (VecI)_mm512_maskz_permutexvar_epi16(~(__mmask32)0, (__m512i)kInterleaved, halves));
        }
      });
}

// expand_pairs with sink(k / 2, vector of the panel, words). kPacked: of formats after int4, too.
template <bool kFetch, bool kPacked, typename Sink>
inline __attribute__((always_inline)) void expand_wide_pairs(const WeightMatrix& w, int64_t n0, int64_t k0,
                                                             int64_t count, const Sink& sink) {
  switch (w.format) {
    case WeightFormat::bf16:
      return transpose_lines<2, kFetch>(w, n0, k0, count,
                                        [&](int v, __m512i word, int64_t row, int64_t)
                                            __attribute__((always_inline)) { sink(row, v, (VecI)word); });
    case WeightFormat::e4m3: {
      static const E4m3Table shared_table;
      const E4m3Table table = shared_table;
      return transpose_lines<4, kFetch>(
          w, n0, k0, count, [&](int v, __m512i word, int64_t row, int64_t left) __attribute__((always_inline)) {
            __m512i first, second;
            table.expand(word, &first, &second);
            sink(row, v, (VecI)first);
            if (left > 2) sink(row + 1, v, (VecI)second);
          });
    }
    case WeightFormat::int8:
      return expand_wide_codes<8, kFetch>(w, n0, k0, count, sink);
    case WeightFormat::int4:
      return expand_wide_codes<4, kFetch>(w, n0, k0, count, sink);
    default:
      if constexpr (kPacked) expand_wide_packed<kFetch>(w, n0, k0, count, sink);
  }
}

#endif

}  // namespace ltx2rt::cpu::LTX2RT_ISA
