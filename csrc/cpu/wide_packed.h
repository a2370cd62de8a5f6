// Expansion of weights in blocks with scales into pairs of bfloat16 with AVX-512; see wide_pairs.h.
#pragma once

#include "csrc/cpu/weight_panels.h"
#include "csrc/cpu/wide_lines.h"

namespace ltx2rt::cpu::LTX2RT_ISA {

#ifdef LTX2RT_WIDE_PAIRS

// Of 16 columns, in order.
struct ColumnFactors {
  __m512 scale, zero;
};

// The same, each twice and next to each other: of columns 0 to 7, then 8 to 15.
struct PairFactors {
  __m512 scale[2], zero[2];

  explicit PairFactors(const ColumnFactors& f) {
    const __m512i low = _mm512_set_epi32(7, 7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0);
    const __m512i high = _mm512_set_epi32(15, 15, 14, 14, 13, 13, 12, 12, 11, 11, 10, 10, 9, 9, 8, 8);
    scale[0] = _mm512_maskz_permutexvar_ps(0xffff, low, f.scale);
    scale[1] = _mm512_maskz_permutexvar_ps(0xffff, high, f.scale);
    zero[0] = _mm512_maskz_permutexvar_ps(0xffff, low, f.zero);
    zero[1] = _mm512_maskz_permutexvar_ps(0xffff, high, f.zero);
  }
};

// How a code becomes a float without a conversion: as a byte of the mantissa of a constant.
// kSmall, codes up to 127 in the highest byte: 0.5 + code / 256.
// kByte, codes up to 255 in the middle one: 32768 + code.
enum class CodeRange { kSmall, kByte };

// scale * code + zero, for the floats above.
template <CodeRange kRange>
inline ColumnFactors code_factors(__m512 scale, __m512 zero) {
  if constexpr (kRange == CodeRange::kSmall) {
    return {(__m512)((Vec)scale * splat(256.0f)), (__m512)fma(scale, splat(-128.0f), zero)};
  } else {
    return {scale, (__m512)fma(scale, splat(-32768.0f), zero)};
  }
}

// Four codes of each of 16 columns (one in each byte of a word) as two words of pairs.
template <CodeRange kRange>
inline __attribute__((always_inline)) void scaled_pairs(__m512i codes, const PairFactors& f, __m512i* pairs) {
  constexpr bool kSmall = kRange == CodeRange::kSmall;
  constexpr __mmask64 kByte = kSmall ? 0x4444444444444444 : 0x2222222222222222;
  const __m512i constant = _mm512_set1_epi32(kSmall ? 0x3f000000 : 0x47000000);
  typedef uint32_t Order __attribute__((vector_size(64)));
  constexpr Order kOrder = {0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21, 24, 25, 28, 29};
#pragma GCC unroll 2
  for (int p = 0; p < 2; ++p) {
    __m512 values[2];
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      const __m512i order = (__m512i)((kOrder + 32 * half + 2 * p) * 0x01010101);
      const __m512 code = (__m512)_mm512_mask_permutexvar_epi8(constant, kByte, order, codes);
      values[half] = _mm512_fmadd_ps(code, f.scale[half], f.zero[half]);
    }
    pairs[p] = (__m512i)_mm512_cvtne2ps_pbh(values[1], values[0]);
  }
}

// Words 0 to 3 of 16 bytes of each of 16 rows, which begin `offset` bytes after rows[i].
inline void load_headers(const char* const* rows, int64_t offset, __m512i words[4]) {
  __m512i r[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const auto row = [&](int lane) { return _mm_loadu_si128((const __m128i*)(rows[4 * lane + i] + offset)); };
    __m512i fours = _mm512_castsi128_si512(row(0));
    fours = _mm512_maskz_inserti32x4(0xffff, fours, row(1), 1);
    fours = _mm512_maskz_inserti32x4(0xffff, fours, row(2), 2);
    r[i] = _mm512_maskz_inserti32x4(0xffff, fours, row(3), 3);
  }
  const __m512i a = _mm512_maskz_unpacklo_epi32(0xffff, r[0], r[1]),
                b = _mm512_maskz_unpackhi_epi32(0xffff, r[0], r[1]);
  const __m512i c = _mm512_maskz_unpacklo_epi32(0xffff, r[2], r[3]),
                d = _mm512_maskz_unpackhi_epi32(0xffff, r[2], r[3]);
  words[0] = _mm512_maskz_unpacklo_epi64(0xff, a, c);
  words[1] = _mm512_maskz_unpackhi_epi64(0xff, a, c);
  words[2] = _mm512_maskz_unpacklo_epi64(0xff, b, d);
  words[3] = _mm512_maskz_unpackhi_epi64(0xff, b, d);
}

inline VecU byte_of(VecU words, int byte) { return (words >> 8 * byte) & 0xff; }
inline Vec floats_of(VecU codes) { return __builtin_convertvector((VecI)codes, Vec); }
inline Vec low_halves(VecU words) { return widen_f16(low_words(words)); }

// One block of 256 weights of each of 16 columns: scales, and words that codes are made of.
// Groups of kGroupWords words share a scale; sink order is that of k.

struct WideQ4K {
  static constexpr CodeRange kRange = CodeRange::kSmall;
  static constexpr int kBytes = 144, kGroups = 8, kUnrolled = 2;
  __m512i lines[2][16];
  ColumnFactors factors[kGroups];

  inline __attribute__((always_inline)) void load(const char* const* rows) {
    load_factors(rows, factors);
    transpose_line(rows, 16, lines[0]);
    transpose_line(rows, 80, lines[1]);
  }
  static void load_factors(const char* const* rows, ColumnFactors* factors) {
    __m512i header[4];
    load_headers(rows, 0, header);
    const VecU halves = (VecU)header[0], low = (VecU)header[1], mid = (VecU)header[2], high = (VecU)header[3];
    const Vec d = low_halves(halves), m = -low_halves(halves >> 16);
    const VecU scales[2] = {low & 0x3f3f3f3f, (high & 0x0f0f0f0f) | ((low >> 2) & 0x30303030)};
    const VecU mins[2] = {mid & 0x3f3f3f3f, ((high >> 4) & 0x0f0f0f0f) | ((mid >> 2) & 0x30303030)};
    for (int g = 0; g < 8; ++g) {
      factors[g] = code_factors<kRange>(d * floats_of(byte_of(scales[g / 4], g % 4)),
                                        m * floats_of(byte_of(mins[g / 4], g % 4)));
    }
  }
  // Of group 2 * outer + inner.
  static constexpr int group(int outer, int inner) { return 2 * outer + inner; }
  inline __attribute__((always_inline)) __m512i codes(int outer, int inner, int word) const {
    const VecU run = (VecU)lines[outer / 2][8 * (outer % 2) + word];
    return (__m512i)((inner == 0 ? run : run >> 4) & 0x0f0f0f0f);
  }
};

struct WideQ5K {
  static constexpr CodeRange kRange = CodeRange::kSmall;
  static constexpr int kBytes = 176, kGroups = 8, kUnrolled = 2;
  __m512i lines[3][16];  // fifth bits and run 0, runs 1 and 2, run 3
  ColumnFactors factors[kGroups];

  inline __attribute__((always_inline)) void load(const char* const* rows) {
    WideQ4K::load_factors(rows, factors);
    transpose_line(rows, 16, lines[0]);
    transpose_line(rows, 80, lines[1]);
    transpose_line(rows, 144, lines[2], 0x00ff);
  }
  static constexpr int group(int outer, int inner) { return 2 * outer + inner; }
  inline __attribute__((always_inline)) __m512i codes(int outer, int inner, int word) const {
    const VecU run = (VecU)lines[(outer + 1) / 2][8 * ((outer + 1) % 2) + word];
    // Bit g of each byte to bit 4.
    const __m512i turn = _mm512_set1_epi32((28 + group(outer, inner)) % 32);
    const VecU fifth = (VecU)_mm512_maskz_rorv_epi32(0xffff, lines[0][word], turn);
    return (__m512i)(((inner == 0 ? run : run >> 4) & 0x0f0f0f0f) | (fifth & 0x10101010));
  }
};

struct WideQ6K {
  static constexpr CodeRange kRange = CodeRange::kSmall;
  static constexpr int kBytes = 210, kGroups = 16, kUnrolled = 8;
  __m512i lines[3][16];  // low bits of each half, high bits of both
  ColumnFactors factors[kGroups];

  inline __attribute__((always_inline)) void load(const char* const* rows) {
    load_factors(rows);
    transpose_line(rows, 0, lines[0]);
    transpose_line(rows, 64, lines[1]);
    transpose_line(rows, 128, lines[2]);
  }
  void load_factors(const char* const* rows) {
    __m512i scales[4], last[4];
    load_headers(rows, 192, scales);
    load_headers(rows, 194, last);
    const Vec d = low_halves((VecU)last[3] >> 16);
    for (int g = 0; g < kGroups; ++g) {
      const Vec scale = d * __builtin_convertvector((VecI)((VecU)scales[g / 4] << (24 - 8 * (g % 4))) >> 24, Vec);
      factors[g] = code_factors<kRange>(scale, scale * splat(-32.0f));
    }
  }
  // Of group 8 * outer + inner; inner / 2 is the run of 32.
  static constexpr int group(int outer, int inner) { return 8 * outer + inner; }
  inline __attribute__((always_inline)) __m512i codes(int outer, int inner, int word) const {
    const int run = inner / 2, at = 4 * (inner % 2) + word;
    const VecU low = (VecU)lines[outer][8 * (run % 2) + at], high = (VecU)lines[2][8 * outer + at];
    const VecU shifted = run == 0 ? high << 4 : run == 1 ? high << 2 : run == 2 ? high : high >> 2;
    return (__m512i)(((run < 2 ? low : low >> 4) & 0x0f0f0f0f) | (shifted & 0x30303030));
  }
};

struct WideQ80 {
  static constexpr CodeRange kRange = CodeRange::kByte;
  static constexpr int kBytes = 272, kGroups = 8, kUnrolled = 1;
  __m512i lines[4][16];  // of two blocks each
  ColumnFactors factors[kGroups];

  inline __attribute__((always_inline)) void load(const char* const* rows) {
    load_factors(rows);
    for (int line = 0; line < 4; ++line) {
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) {
        const char* from = rows[i] + 68 * line + 2;
        const __m512i first = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i*)from));
        lines[line][i] = _mm512_maskz_inserti64x4(0xff, first, _mm256_loadu_si256((const __m256i*)(from + 34)), 1);
      }
      transpose_words(lines[line]);
    }
  }
  void load_factors(const char* const* rows) {
    uint16_t halves[kGroups][16];
    for (int i = 0; i < 16; ++i) {
      for (int g = 0; g < kGroups; ++g) memcpy(&halves[g][i], rows[i] + 34 * g, 2);
    }
    for (int g = 0; g < kGroups; ++g) {
      const Vec scale = widen_f16(load_words(halves[g]));
      factors[g] = code_factors<kRange>(scale, scale * splat(-128.0f));
    }
  }
  static constexpr int group(int outer, int) { return outer; }
  inline __attribute__((always_inline)) __m512i codes(int outer, int, int word) const {
    return (__m512i)((VecU)lines[outer / 2][8 * (outer % 2) + word] ^ 0x80808080);
  }
};

// One block of every row of a panel; sink as in expand_wide_pairs.
template <typename Block, bool kFetch, typename Sink>
inline __attribute__((always_inline)) void expand_wide_blocks(const WeightMatrix& w, int64_t n0, int64_t k0,
                                                              const Sink& sink) {
  const int64_t first = k0 / kDepthBlock * Block::kBytes;
  const char* rows[kPanelColumns];
  for (int i = 0; i < kPanelColumns; ++i) {
    rows[i] = (const char*)w.values + (n0 + i < w.columns ? n0 + i : w.columns - 1) * w.row_bytes + first;
  }
  static_assert(kPanelVecs == 2);
  Block blocks[2];
  blocks[0].load(rows);
  blocks[1].load(rows + 16);
  int64_t ahead = 0;
  if constexpr (kFetch) {
    ahead = first + Block::kBytes + kAheadBytes <= w.row_bytes ? kAheadBytes
                                                               : kAheadBytes + (kPanelColumns - 1) * w.row_bytes;
  }
  constexpr int kOuter = Block::kGroups / Block::kUnrolled, kWords = 64 / Block::kGroups;
  // Every row has its lines of the block ahead fetched, spread over the words.
  constexpr int kLines = (Block::kBytes + 63) / 64, kFetches = kPanelColumns * kLines, kTurns = 64;
  int fetched = 0;
  for (int outer = 0; outer < kOuter; ++outer) {
#pragma GCC unroll 8
    for (int inner = 0; inner < Block::kUnrolled; ++inner) {
      const int group = Block::group(outer, inner);
      const PairFactors f0(blocks[0].factors[group]), f1(blocks[1].factors[group]);
      const int64_t row = group * kWords * 2;
#pragma GCC unroll 2
      for (int word = 0; word < kWords; ++word) {
        if constexpr (kFetch) {
#pragma GCC unroll 3
          for (int i = 0; i < (kFetches + kTurns - 1) / kTurns; ++i, ++fetched) {
            _mm_prefetch(rows[fetched % kPanelColumns] + ahead + fetched / kPanelColumns * 64, _MM_HINT_T1);
          }
        }
        __m512i pairs[2];
        scaled_pairs<Block::kRange>(blocks[0].codes(outer, inner, word), f0, pairs);
        sink(row + 2 * word, 0, (VecI)pairs[0]);
        sink(row + 2 * word + 1, 0, (VecI)pairs[1]);
        scaled_pairs<Block::kRange>(blocks[1].codes(outer, inner, word), f1, pairs);
        sink(row + 2 * word, 1, (VecI)pairs[0]);
        sink(row + 2 * word + 1, 1, (VecI)pairs[1]);
      }
    }
  }
}

// int8 values as bfloat16 by table of their magnitudes: low and high bytes.
struct Int8Table {
  __m512i low[2], high[2];

  Int8Table() {
    alignas(64) uint8_t bytes[2][128];
    for (int code = 0; code < 128; ++code) {
      BF16 value;
      from_float((float)code, value);
      bytes[0][code] = (uint8_t)value.bits;
      bytes[1][code] = (uint8_t)(value.bits >> 8);
    }
    for (int i = 0; i < 2; ++i) {
      low[i] = _mm512_load_si512(bytes[0] + 64 * i);
      high[i] = _mm512_load_si512(bytes[1] + 64 * i);
    }
  }

  // Four values of each of 16 columns as two words of pairs.
  inline __attribute__((always_inline)) void expand(__m512i codes, __m512i* first, __m512i* second) const {
    codes = in_pair_order(codes);
    const __m512i magnitudes = _mm512_maskz_abs_epi8(kAll, codes);
    const __m512i lows = _mm512_permutex2var_epi8(low[0], magnitudes, low[1]);
    __m512i highs = _mm512_permutex2var_epi8(high[0], magnitudes, high[1]);
    // The table takes 128 for 0; of both the low byte is 0.
    highs = _mm512_mask_mov_epi8(highs, _mm512_cmpeq_epi8_mask(codes, _mm512_set1_epi8(-128)), _mm512_set1_epi8(0x43));
    highs = _mm512_ternarylogic_epi32(highs, codes, _mm512_set1_epi8(-128), 0xf8);  // highs | (codes & 0x80)
    *first = _mm512_maskz_unpacklo_epi8(kAll, lows, highs);
    *second = _mm512_maskz_unpackhi_epi8(kAll, lows, highs);
  }
};

template <bool kFetch, typename Sink>
inline __attribute__((always_inline)) void expand_wide_int8(const WeightMatrix& w, int64_t n0, int64_t k0,
                                                            int64_t count, const Sink& sink) {
  static const Int8Table shared_table;
  const Int8Table table = shared_table;
  transpose_lines<4, kFetch>(w, n0, k0, count,
                             [&](int v, __m512i word, int64_t row, int64_t left) __attribute__((always_inline)) {
                               __m512i first, second;
                               table.expand(word, &first, &second);
                               sink(row, v, (VecI)first);
                               if (left > 2) sink(row + 1, v, (VecI)second);
                             });
}

// The codes of scales of a depth block, row by row, copied for the loads below; more of them may follow.
struct ScaleCodes {
  alignas(64) uint8_t codes[kPanelColumns][16] = {};

  ScaleCodes(const WeightMatrix& w, int64_t n0, int64_t first, int64_t count) {
    for (int64_t i = 0; i < kPanelColumns; ++i) {
      const int64_t n = n0 + i < w.columns ? n0 + i : w.columns - 1;
      const uint8_t* from = (const uint8_t*)w.scale + n * w.groups + first;
      _mm_prefetch(from + 64, _MM_HINT_T1);
      memcpy(codes[i], from, (size_t)count);
    }
  }
  void words_of(int v, __m512i words[4]) const {
    const char* rows[16];
    for (int i = 0; i < 16; ++i) rows[i] = (const char*)codes[16 * v + i];
    load_headers(rows, 0, words);
  }
};

// E2M1 codes with scales for each 16: a product of 2 and 4 significant bits, which bfloat16 holds.
template <bool kFetch, typename Sink>
inline __attribute__((always_inline)) void expand_wide_nvfp4(const WeightMatrix& w, int64_t n0, int64_t k0,
                                                             int64_t count, const Sink& sink) {
  constexpr int kGroups = kDepthBlock / 16;
  __m512 scales[2][kGroups];
  const ScaleCodes codes(w, n0, k0 / 16, count / 16);
  for (int v = 0; v < 2; ++v) {
    __m512i words[4];
    codes.words_of(v, words);
    for (int g = 0; g < kGroups; ++g) {
      const VecU code = byte_of((VecU)words[g / 4], g % 4);
      // float16 bits of 2^-8 of the value (e4m3_as_f16); codes of NaN become NaN.
      VecU half = (code & 0x7f) << 7 | (code & 0x80) << 8;
      half = (VecU)_mm512_mask_mov_epi32((__m512i)half,
                                         _mm512_cmpeq_epi32_mask((__m512i)(code & 0x7f), _mm512_set1_epi32(0x7f)),
                                         _mm512_set1_epi32(0x7e00));
      scales[v][g] = low_halves(half) * splat(128.0f);
    }
  }
  const __m512 table = _mm512_loadu_ps(kE2m1Doubled);
  transpose_lines<8, kFetch>(
      w, n0, k0, count, [&](int v, __m512i word, int64_t row, int64_t) __attribute__((always_inline)) {
        const __m512 scale = scales[v][row / 8];
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {  // the permutation looks at the lowest four bits only
          const __m512i even = (__m512i)((VecU)word >> (8 * i + 4)), odd = (__m512i)((VecU)word >> 8 * i);
          const __m512 low = (Vec)_mm512_maskz_permutexvar_ps(0xffff, even, table) * (Vec)scale;
          const __m512 high = (Vec)_mm512_maskz_permutexvar_ps(0xffff, odd, table) * (Vec)scale;
          sink(row + i, v, (VecI)_mm512_mask_blend_epi16(0xaaaaaaaa, (__m512i)((VecU)low >> 16), (__m512i)high));
        }
      });
}

// Whether exponents of E8M0 can be added to those of bfloat16 E4M3 values of this block, of which none is NaN.
inline bool adds_exponents(const WeightMatrix& w, int64_t n0, int64_t k0, int64_t count, const ScaleCodes& codes) {
  __m512i largest = _mm512_setzero_si512();
  for (int64_t i = 0; i < kPanelColumns; ++i) {
    const int64_t n = n0 + i < w.columns ? n0 + i : w.columns - 1;
    const char* row = (const char*)w.values + n * w.row_bytes + k0;
    int64_t k = 0;
    for (; k + 64 <= count; k += 64) {
      const __m512i sixty_four = _mm512_loadu_si512(row + k);
      largest = _mm512_maskz_max_epu8(kAll, largest, _mm512_or_si512(sixty_four, _mm512_set1_epi8(-128)));
    }
    if (k < count) {
      const __m512i rest = _mm512_maskz_loadu_epi8(((__mmask64)1 << (count - k)) - 1, row + k);
      largest = _mm512_maskz_max_epu8(kAll, largest, _mm512_or_si512(rest, _mm512_set1_epi8(-128)));
    }
  }
  if (_mm512_cmpeq_epi8_mask(largest, _mm512_set1_epi8(-1)) != 0) return false;
  for (int64_t i = 0; i < kPanelColumns; i += 4) {  // 10 to 246, or 0
    const __m512i scale = _mm512_load_si512(codes.codes[i]);
    const __m512i above = _mm512_sub_epi8(scale, _mm512_set1_epi8(10));
    const __mmask64 outside = _mm512_cmpgt_epu8_mask(above, _mm512_set1_epi8((char)236));
    if ((outside & _mm512_test_epi8_mask(scale, scale)) != 0) return false;
  }
  return true;
}

// E4M3 codes with exponents for each 32, which are added to those of the table's values.
template <bool kFetch, typename Sink>
inline __attribute__((always_inline)) bool expand_wide_mxfp8(const WeightMatrix& w, int64_t n0, int64_t k0,
                                                             int64_t count, const Sink& sink) {
  const ScaleCodes codes(w, n0, k0 / 32, count / 32);
  if (!adds_exponents(w, n0, k0, count, codes)) return false;
  constexpr int kGroups = kDepthBlock / 32;
  struct Exponents {
    __m512i add, keep;
  };
  Exponents exponents[2][kGroups];
  for (int v = 0; v < 2; ++v) {
    __m512i words[4];
    codes.words_of(v, words);
    for (int g = 0; g < kGroups; ++g) {
      const VecU code = byte_of((VecU)words[g / 4], g % 4);
      const VecU add = ((code - 119) << 7) & 0xffff;  // the table's values are 2^-8 of the true ones
      exponents[v][g].add = (__m512i)(add | add << 16);
      exponents[v][g].keep = _mm512_maskz_set1_epi32(_mm512_test_epi32_mask((__m512i)code, (__m512i)code), 0x7fff7fff);
    }
  }
  static const E4m3Table shared_table;
  const E4m3Table table = shared_table;
  transpose_lines<4, kFetch>(w, n0, k0, count,
                             [&](int v, __m512i word, int64_t row, int64_t left) __attribute__((always_inline)) {
                               const Exponents e = exponents[v][row / 16];
                               __m512i pairs[2];
                               table.expand(word, &pairs[0], &pairs[1]);
#pragma GCC unroll 2
                               for (int i = 0; i < 2; ++i) {
                                 if (i == 1 && left <= 2) break;
                                 const __mmask32 nonzero = _mm512_test_epi16_mask(pairs[i], e.keep);
                                 sink(row + i, v, (VecI)_mm512_maskz_add_epi16(nonzero, pairs[i], e.add));
                               }
                             });
  return true;
}

// Levels of w4a8, a byte each, as the rows of a matrix of their own.
template <typename Sink>
inline __attribute__((always_inline)) void expand_wide_w4a8(const WeightMatrix& w, int64_t n0, int64_t k0,
                                                            int64_t count, const Sink& sink) {
  // Rows are no power of two apart, which would push each other out of the cache.
  constexpr int64_t kStride = kDepthBlock + 64;
  alignas(64) int8_t levels[kPanelColumns][kStride];
  const __m128i mask = _mm_set1_epi8(15);
  for (int64_t i = 0; i < kPanelColumns; ++i) {
    const int64_t n = n0 + i < w.columns ? n0 + i : w.columns - 1;
    const char* row = (const char*)w.values + n * w.row_bytes + k0 / 2;
    const uint8_t* scales = (const uint8_t*)w.scale + n * w.groups;
    _mm_prefetch(row + kAheadBytes, _MM_HINT_T1);
    _mm_prefetch(row + kAheadBytes + 64, _MM_HINT_T1);
    _mm_prefetch(scales + k0 / w.group_size + 64, _MM_HINT_T1);
    for (int64_t k = 0; k < count; k += 16) {
      const __m128i table = _mm_loadu_si128((const __m128i*)(w.levels + 16 * scales[(k0 + k) / w.group_size]));
      const __m128i pairs = _mm_loadl_epi64((const __m128i*)(row + k / 2));
      const __m128i codes =
          _mm_unpacklo_epi8(_mm_and_si128(pairs, mask), _mm_and_si128(_mm_srli_epi16(pairs, 4), mask));
      _mm_store_si128((__m128i*)(levels[i] + k), _mm_shuffle_epi8(table, codes));
    }
  }
  WeightMatrix expanded = w;
  expanded.values = levels;
  expanded.row_bytes = kStride;
  expanded.columns = kPanelColumns;
  expand_wide_int8<false>(expanded, 0, 0, count, sink);
}

#endif

}  // namespace ltx2rt::cpu::LTX2RT_ISA
