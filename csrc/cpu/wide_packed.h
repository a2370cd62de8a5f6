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

// A value of each of 16 columns twice and next to each other: of columns 0 to 7, then 8 to 15.
inline __m512 twice(__m512 values, int half) {
  const __m512i low = _mm512_set_epi32(7, 7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0);
  const __m512i high = _mm512_set_epi32(15, 15, 14, 14, 13, 13, 12, 12, 11, 11, 10, 10, 9, 9, 8, 8);
  return _mm512_maskz_permutexvar_ps(0xffff, half == 0 ? low : high, values);
}

// Factors so arranged.
struct PairFactors {
  __m512 scale[2], zero[2];

  explicit PairFactors(const ColumnFactors& f)
      : scale{twice(f.scale, 0), twice(f.scale, 1)}, zero{twice(f.zero, 0), twice(f.zero, 1)} {}
  // Of codes whose zero is the same in all columns: `ratio` scales.
  PairFactors(__m512 scales, float ratio) : scale{twice(scales, 0), twice(scales, 1)} {
    for (int half = 0; half < 2; ++half) zero[half] = (__m512)((Vec)scale[half] * splat(ratio));
  }
};

// How a code becomes a float without a conversion: as a byte of the mantissa of a constant.
// kSmall, codes up to 127 in the highest byte: 0.5 + code / 256.
// kByte, codes up to 255 in the middle one: 32768 + code.
enum class CodeRange { kSmall, kByte };

// scale * code + zero, for the floats of kSmall.
inline ColumnFactors code_factors(__m512 scale, __m512 zero) {
  return {(__m512)((Vec)scale * splat(256.0f)), (__m512)fma(scale, splat(-128.0f), zero)};
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

// all | (some & chosen)
inline VecU with_bits(VecU all, VecU some, uint32_t chosen) {
  return (VecU)_mm512_ternarylogic_epi32((__m512i)all, (__m512i)some, _mm512_set1_epi32((int)chosen), 0xf8);
}

// The same of codes up to 127 whose values bfloat16 holds.
inline __attribute__((always_inline)) void exact_pairs(__m512i codes, const ColumnFactors& f, __m512i* pairs) {
  const VecU words = (VecU)codes;
  const VecU placed[4] = {words << 16, words << 8, words, words >> 8};
  const VecU half = (VecU)splat(0.5f);
  Vec values[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    values[i] = fma((Vec)with_bits(half, placed[i], 0x007f0000), (Vec)f.scale, (Vec)f.zero);
  }
#pragma GCC unroll 2
  for (int p = 0; p < 2; ++p) {
    const __m512i low = (__m512i)((VecU)values[2 * p] >> 16);
    pairs[p] = _mm512_mask_blend_epi16(0xaaaaaaaa, low, (__m512i)values[2 * p + 1]);
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

// Their codes are rounded to bfloat16 with their scales.
struct WideKBlock {
  using Factors = PairFactors;
  static inline __attribute__((always_inline)) void pairs(__m512i codes, const PairFactors& f, __m512i* pairs) {
    scaled_pairs<CodeRange::kSmall>(codes, f, pairs);
  }
};

struct WideQ4K : WideKBlock {
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
      factors[g] =
          code_factors(d * floats_of(byte_of(scales[g / 4], g % 4)), m * floats_of(byte_of(mins[g / 4], g % 4)));
    }
  }
  // Of group 2 * outer + inner.
  static constexpr int group(int outer, int inner) { return 2 * outer + inner; }
  inline __attribute__((always_inline)) __m512i codes(int outer, int inner, int word) const {
    const VecU run = (VecU)lines[outer / 2][8 * (outer % 2) + word];
    return (__m512i)((inner == 0 ? run : run >> 4) & 0x0f0f0f0f);
  }
};

struct WideQ5K : WideKBlock {
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
    return (__m512i)with_bits((inner == 0 ? run : run >> 4) & 0x0f0f0f0f, fifth, 0x10101010);
  }
};

struct WideQ6K : WideKBlock {
  static constexpr int kBytes = 210, kGroups = 16, kUnrolled = 8;
  __m512i lines[3][16];  // low bits of each half, high bits of both
  __m512 factors[kGroups];
  // 256 scales, and codes as 0.5 + code / 256: zero is -32 scales.
  static constexpr float kZeroRatio = -0.5f - 32.0f / 256.0f;
  struct Factors : PairFactors {
    explicit Factors(__m512 scale) : PairFactors(scale, kZeroRatio) {}
  };

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
    const Vec d = low_halves((VecU)last[3] >> 16) * splat(256.0f);
    for (int g = 0; g < kGroups; ++g) {
      factors[g] = (__m512)(d * __builtin_convertvector((VecI)((VecU)scales[g / 4] << (24 - 8 * (g % 4))) >> 24, Vec));
    }
  }
  // Of group 8 * outer + inner; inner / 2 is the run of 32.
  static constexpr int group(int outer, int inner) { return 8 * outer + inner; }
  inline __attribute__((always_inline)) __m512i codes(int outer, int inner, int word) const {
    const int run = inner / 2, at = 4 * (inner % 2) + word;
    const VecU low = (VecU)lines[outer][8 * (run % 2) + at], high = (VecU)lines[2][8 * outer + at];
    const VecU shifted = run == 0 ? high << 4 : run == 1 ? high << 2 : run == 2 ? high : high >> 2;
    return (__m512i)with_bits((run < 2 ? low : low >> 4) & 0x0f0f0f0f, shifted, 0x30303030);
  }
};

// Scales of 16 values and codes in matrices of their own.
struct WideNvfp4 {
  static constexpr int kBytes = 128, kGroups = 16, kUnrolled = 2;
  __m512i lines[2][16];
  ColumnFactors factors[kGroups];

  using Factors = ColumnFactors;
  static inline __attribute__((always_inline)) void pairs(__m512i codes, const Factors& f, __m512i* pairs) {
    exact_pairs(codes, f, pairs);
  }
  inline __attribute__((always_inline)) void load(const char* const* rows) {
    // Whole rows first: they are often a power of two apart and push each other out of the cache.
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) {
      lines[0][i] = _mm512_loadu_si512(rows[i]);
      lines[1][i] = _mm512_loadu_si512(rows[i] + 64);
    }
    transpose_words(lines[0]);
    transpose_words(lines[1]);
  }
  inline __attribute__((always_inline)) void load_scales(const char* const* rows, const E4m3Table& table) {
    Vec halves[kGroups];
    load_half_scales(rows, table, halves);
    // Codes are twice the value plus kE2m1Zero.
    for (int g = 0; g < kGroups; ++g) factors[g] = code_factors(halves[g], halves[g] * splat(-(float)kE2m1Zero));
  }
  static inline __attribute__((always_inline)) void load_half_scales(const char* const* rows, const E4m3Table& table,
                                                                     Vec* halves) {
    __m512i words[4];
    load_headers(rows, 0, words);
    for (int i = 0; i < 4; ++i) {
      __m512i pairs[2];
      table.expand(words[i], &pairs[0], &pairs[1]);  // 2^-8 of the values
      for (int j = 0; j < 4; ++j) {
        const VecU word = (VecU)pairs[j / 2];
        halves[4 * i + j] = (Vec)(j % 2 == 0 ? word << 16 : word & 0xffff0000) * splat(128.0f);
      }
    }
  }
  static constexpr int group(int outer, int inner) { return 2 * outer + inner; }
  inline __attribute__((always_inline)) __m512i codes(int outer, int inner, int word) const {
    // The first or the last four codes of a word, one in each byte: the high bits of a byte come first.
    const __m512i order = _mm512_set1_epi64(word % 2 == 0 ? 0x282c202408'0c0004 : 0x383c303418'1c1014);
    const __m512i table = _mm512_maskz_broadcast_i32x4(0xffff, _mm_load_si128((const __m128i*)kCodes));
    const int group = 2 * outer + inner;
    const __m512i nibbles =
        _mm512_maskz_multishift_epi64_epi8(kAll, order, lines[group / 8][2 * (group % 8) + word / 2]);
    return _mm512_maskz_permutexvar_epi8(kAll, nibbles, table);  // which looks at six bits of them
  }

 private:
  static_assert(kE2m1Zero == 12);
  alignas(16) static constexpr uint8_t kCodes[16] = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0};
};

// The addresses of the rows of a panel from byte `first` on. Columns beyond N repeat the last one.
struct RowAddresses {
  const char* at[kPanelColumns];

  RowAddresses() = default;
  RowAddresses(const WeightMatrix& w, const void* from, int64_t row_bytes, int64_t n0, int64_t first) {
    for (int64_t i = 0; i < kPanelColumns; ++i) {
      at[i] = (const char*)from + (n0 + i < w.columns ? n0 + i : w.columns - 1) * row_bytes + first;
    }
  }
};

// Fetches the lines of every row that lie ahead, spread over a number of turns. What follows the last block of rows is
// the first one of the next panel's.
template <bool kFetch, int kBytes, int kTurns>
class BlockFetcher {
 public:
  BlockFetcher(const WeightMatrix& w, const RowAddresses& rows, int64_t first) : rows_(rows.at) {
    if constexpr (kFetch) {
      ahead_ =
          first + kBytes + kAheadBytes <= w.row_bytes ? kAheadBytes : kAheadBytes + (kPanelColumns - 1) * w.row_bytes;
    }
  }
  inline __attribute__((always_inline)) void fetch_share() {
    if constexpr (kFetch) {
      constexpr int kFetches = (kBytes + 63) / 64 * kPanelColumns, kShare = (kFetches + kTurns - 1) / kTurns;
#pragma GCC unroll 8
      for (int i = 0; i < kShare; ++i, ++done_) {
        _mm_prefetch(rows_[done_ % kPanelColumns] + ahead_ + done_ / kPanelColumns * 64, _MM_HINT_T0);
      }
    }
  }

 private:
  const char* const* rows_;
  int64_t ahead_ = 0;
  unsigned done_ = 0;
};

static_assert(kPanelVecs == 2);

// Two pairs of 16 columns each, from row `row` on.
template <typename Sink>
inline __attribute__((always_inline)) void put_pairs(const Sink& sink, int64_t row, int v, const __m512i* pairs) {
  sink(row, v, (VecI)pairs[0]);
  sink(row + 1, v, (VecI)pairs[1]);
}

// What loaded blocks say, one depth block; sink as in expand_wide_pairs.
template <typename Block, bool kFetch, typename Sink>
inline __attribute__((always_inline)) void put_blocks(const Block* blocks, const WeightMatrix& w,
                                                      const RowAddresses& rows, int64_t first, const Sink& sink) {
  BlockFetcher<kFetch, Block::kBytes, 64> fetcher(w, rows, first);
  constexpr int kOuter = Block::kGroups / Block::kUnrolled, kWords = 64 / Block::kGroups;
  for (int outer = 0; outer < kOuter; ++outer) {
#pragma GCC unroll 8
    for (int inner = 0; inner < Block::kUnrolled; ++inner) {
      const int group = Block::group(outer, inner);
      const typename Block::Factors f0(blocks[0].factors[group]), f1(blocks[1].factors[group]);
      const int64_t row = group * kWords * 2;
#pragma GCC unroll 4
      for (int word = 0; word < kWords; ++word) {
        fetcher.fetch_share();
        __m512i pairs[2];
        Block::pairs(blocks[0].codes(outer, inner, word), f0, pairs);
        put_pairs(sink, row + 2 * word, 0, pairs);
        Block::pairs(blocks[1].codes(outer, inner, word), f1, pairs);
        put_pairs(sink, row + 2 * word, 1, pairs);
      }
    }
  }
}

template <typename Block, bool kFetch, typename Sink>
inline __attribute__((always_inline)) void expand_wide_blocks(const WeightMatrix& w, int64_t n0, int64_t k0,
                                                              const Sink& sink) {
  const int64_t first = k0 / kDepthBlock * Block::kBytes;
  const RowAddresses rows(w, w.values, w.row_bytes, n0, first);
  Block blocks[2];
  blocks[0].load(rows.at);
  blocks[1].load(rows.at + 16);
  put_blocks<Block, kFetch>(blocks, w, rows, first, sink);
}

template <bool kFetch, typename Sink>
inline __attribute__((always_inline)) void expand_wide_nvfp4(const WeightMatrix& w, int64_t n0, int64_t k0,
                                                             const Sink& sink) {
  const RowAddresses rows(w, w.values, w.row_bytes, n0, k0 / 2), scales(w, w.scale, w.groups, n0, k0 / 16);
  static const E4m3Table shared_table;
  WideNvfp4 blocks[2];
  for (int v = 0; v < 2; ++v) {
    for (int i = 0; i < 16 && kFetch; ++i) _mm_prefetch(scales.at[16 * v + i] + 64, _MM_HINT_T0);
    blocks[v].load_scales(scales.at + 16 * v, shared_table);
    blocks[v].load(rows.at + 16 * v);
  }
  put_blocks<WideNvfp4, kFetch>(blocks, w, rows, k0 / 2, sink);
}

// Eight blocks of Q8_0: 34 bytes, a float16 and 32 codes. Seen as pairs of bytes, two blocks are 17 words: the scale and
// the first two codes; seven words of codes; the last two codes and the other scale; eight words of codes.
struct WideQ80 {
  static constexpr int kBytes = 8 * 34;
  __m512i words[4 * 17 + 12];  // the last line is not whole

  inline __attribute__((always_inline)) void load(const char* const* rows) {
    for (int line = 0; line < 4; ++line) transpose_line(rows, 64 * line, words + 16 * line);
    load_headers(rows, 256, words + 64);
  }
  static constexpr float kZeroRatio = -32768.0f - 128.0f;
  static PairFactors factors(Vec scale) { return PairFactors((__m512)scale, kZeroRatio); }
  static ColumnFactors column_factors(Vec scale) { return {(__m512)scale, (__m512)(scale * splat(kZeroRatio))}; }
  static inline __attribute__((always_inline)) void pairs(__m512i word, const PairFactors& f, __m512i* pairs) {
    scaled_pairs<CodeRange::kByte>((__m512i)((VecU)word ^ 0x80808080), f, pairs);
  }
};

template <bool kFetch, typename Sink>
inline __attribute__((always_inline)) void expand_wide_q8_0(const WeightMatrix& w, int64_t n0, int64_t k0,
                                                            const Sink& sink) {
  const int64_t first = k0 / kDepthBlock * WideQ80::kBytes;
  const RowAddresses rows(w, w.values, w.row_bytes, n0, first);
  WideQ80 blocks[2];
  blocks[0].load(rows.at);
  blocks[1].load(rows.at + 16);
  BlockFetcher<kFetch, WideQ80::kBytes, 64> fetcher(w, rows, first);
  for (int two = 0; two < 4; ++two) {
    const __m512i *w0 = blocks[0].words + 17 * two, *w1 = blocks[1].words + 17 * two;
    const int64_t row = 32 * two;
    __m512i pairs[2];
    {
      const PairFactors f0 = WideQ80::factors(low_halves((VecU)w0[0]));
      const PairFactors f1 = WideQ80::factors(low_halves((VecU)w1[0]));
      WideQ80::pairs(w0[0], f0, pairs);
      sink(row, 0, (VecI)pairs[1]);
      WideQ80::pairs(w1[0], f1, pairs);
      sink(row, 1, (VecI)pairs[1]);
      for (int word = 1; word < 8; ++word) {
        fetcher.fetch_share();
        WideQ80::pairs(w0[word], f0, pairs);
        put_pairs(sink, row + 2 * word - 1, 0, pairs);
        WideQ80::pairs(w1[word], f1, pairs);
        put_pairs(sink, row + 2 * word - 1, 1, pairs);
      }
      fetcher.fetch_share();
      WideQ80::pairs(w0[8], f0, pairs);
      sink(row + 15, 0, (VecI)pairs[0]);
      WideQ80::pairs(w1[8], f1, pairs);
      sink(row + 15, 1, (VecI)pairs[0]);
    }
    const PairFactors f0 = WideQ80::factors(low_halves((VecU)w0[8] >> 16));
    const PairFactors f1 = WideQ80::factors(low_halves((VecU)w1[8] >> 16));
    for (int word = 9; word < 17; ++word) {
      fetcher.fetch_share();
      WideQ80::pairs(w0[word], f0, pairs);
      put_pairs(sink, row + 2 * word - 2, 0, pairs);
      WideQ80::pairs(w1[word], f1, pairs);
      put_pairs(sink, row + 2 * word - 2, 1, pairs);
    }
  }
}

// int8 values as bfloat16, looked up by their magnitudes.
struct Int8Table : ByteTables {
  Int8Table() : ByteTables([](int code) { return (float)code; }) {}

  // Four values of each of 16 columns as two words of pairs.
  inline __attribute__((always_inline)) void expand(__m512i codes, __m512i* first, __m512i* second) const {
    look_up(in_pair_order(codes), first, second);
  }
  // 64 values of a row as the pairs of its first 32 values and of the others.
  inline __attribute__((always_inline)) void expand_row(__m512i codes, __m512i* first, __m512i* second) const {
    look_up(in_row_order(codes), first, second);
  }

 private:
  inline __attribute__((always_inline)) void look_up(__m512i codes, __m512i* first, __m512i* second) const {
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

// Values of E4M3 with exponents of 32, which are added to those of the table's values.
struct WideMxfp8 {
  static constexpr int kBytes = 256, kGroups = 8;
  __m512i lines[4][16];
  struct Exponent {
    __m512i add, keep;
  } exponents[kGroups];

  // Whether no value is NaN.
  inline __attribute__((always_inline)) bool load(const char* const* rows) {
    const __m512i sign = _mm512_set1_epi8(-128);
    __m512i largest = sign;
    // Whole rows first: they are often a power of two apart and push each other out of the cache.
    for (int i = 0; i < 16; ++i) {
#pragma GCC unroll 4
      for (int line = 0; line < 4; ++line) {
        lines[line][i] = _mm512_loadu_si512(rows[i] + 64 * line);
        largest = _mm512_maskz_max_epu8(kAll, largest, _mm512_or_si512(lines[line][i], sign));
      }
    }
    if (_mm512_cmpeq_epi8_mask(largest, _mm512_set1_epi8(-1)) != 0) return false;
    for (int line = 0; line < 4; ++line) transpose_words(lines[line]);
    return true;
  }
  // Whether every exponent but 0 can be added to those of the values within the range of bfloat16: 10 to 246.
  inline __attribute__((always_inline)) bool load_scales(const char* const* rows) {
    alignas(64) char codes[16][16] = {};
    const char* copies[16];
    for (int i = 0; i < 16; ++i) {
      memcpy(codes[i], rows[i], kGroups);
      copies[i] = codes[i];
    }
    __mmask64 outside = 0;
    for (int i = 0; i < 16; i += 4) {
      const __m512i scales = _mm512_load_si512(codes[i]), above = _mm512_sub_epi8(scales, _mm512_set1_epi8(10));
      outside |= _mm512_cmpgt_epu8_mask(above, _mm512_set1_epi8((char)236)) & _mm512_test_epi8_mask(scales, scales);
    }
    __m512i words[4];
    load_headers(copies, 0, words);
    for (int g = 0; g < kGroups; ++g) {
      const VecU code = byte_of((VecU)words[g / 4], g % 4);
      const VecU add = ((code - 119) << 7) & 0xffff;  // the table's values are 2^-8 of the true ones
      exponents[g].add = (__m512i)(add | add << 16);
      exponents[g].keep = _mm512_maskz_set1_epi32(_mm512_test_epi32_mask((__m512i)code, (__m512i)code), 0x7fff7fff);
    }
    return outside == 0;
  }
  static inline __attribute__((always_inline)) __m512i scaled(__m512i pairs, const Exponent& e) {
    return _mm512_maskz_add_epi16(_mm512_test_epi16_mask(pairs, e.keep), pairs, e.add);
  }
  inline __attribute__((always_inline)) void pairs(const E4m3Table& table, __m512i word, const Exponent& e,
                                                   __m512i* pairs) const {
    table.expand(word, &pairs[0], &pairs[1]);
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) pairs[i] = scaled(pairs[i], e);
  }
};

// False if this block takes other means.
template <bool kFetch, typename Sink>
inline __attribute__((always_inline)) bool expand_wide_mxfp8(const WeightMatrix& w, int64_t n0, int64_t k0,
                                                             const Sink& sink) {
  const RowAddresses rows(w, w.values, w.row_bytes, n0, k0), scales(w, w.scale, w.groups, n0, k0 / 32);
  WideMxfp8 blocks[2];
  for (int v = 0; v < 2; ++v) {
    for (int i = 0; i < 16 && kFetch; ++i) _mm_prefetch(scales.at[16 * v + i] + 64, _MM_HINT_T0);
    if (!blocks[v].load_scales(scales.at + 16 * v) || !blocks[v].load(rows.at + 16 * v)) return false;
  }
  static const E4m3Table shared_table;
  const E4m3Table table = shared_table;
  BlockFetcher<kFetch, WideMxfp8::kBytes, 64> fetcher(w, rows, k0);
  for (int group = 0; group < WideMxfp8::kGroups; ++group) {
    const WideMxfp8::Exponent e0 = blocks[0].exponents[group], e1 = blocks[1].exponents[group];
#pragma GCC unroll 2
    for (int word = 0; word < 8; ++word) {
      fetcher.fetch_share();
      const int at = 8 * (group % 2) + word;
      __m512i pairs[2];
      blocks[0].pairs(table, blocks[0].lines[group / 2][at], e0, pairs);
      put_pairs(sink, 16 * group + 2 * word, 0, pairs);
      blocks[1].pairs(table, blocks[1].lines[group / 2][at], e1, pairs);
      put_pairs(sink, 16 * group + 2 * word, 1, pairs);
    }
  }
  return true;
}

// Rows of a panel in an array, as a matrix. They are no power of two apart, which would push each other out of the cache.
template <typename T>
struct PanelArray {
  static constexpr int64_t kStride = kDepthBlock + 64 / sizeof(T);
  alignas(64) T rows[kPanelColumns][kStride];

  WeightMatrix matrix(const WeightMatrix& w) const {
    WeightMatrix matrix = w;
    matrix.values = rows;
    matrix.row_bytes = sizeof rows[0];
    matrix.columns = kPanelColumns;
    return matrix;
  }
};

__attribute__((noinline)) inline void decode_panel(const WeightMatrix& w, int64_t n0, int64_t k0, int64_t count,
                                                   PanelArray<BF16>& panel) {
  float values[kDepthBlock] = {};
  for (int64_t i = 0; i < kPanelColumns; ++i) {
    decode_packed(w, n0 + i < w.columns ? n0 + i : w.columns - 1, k0, count, values);
    for (int64_t k = 0; k < count; k += kLanes) store(panel.rows[i] + k, load(values + k));
  }
}

// Any packed format and number of values.
template <typename Sink>
inline __attribute__((always_inline)) void expand_decoded_pairs(const WeightMatrix& w, int64_t n0, int64_t k0,
                                                                int64_t count, const Sink& sink) {
  PanelArray<BF16> panel;
  decode_panel(w, n0, k0, count, panel);
  transpose_lines<2, false>(panel.matrix(w), 0, 0, count,
                            [&](int v, __m512i word, int64_t row, int64_t)
                                __attribute__((always_inline)) { sink(row, v, (VecI)word); });
}

// Levels of w4a8 whose groups are whole sixteens.
__attribute__((noinline)) inline void look_up_levels(const WeightMatrix& w, int64_t n0, int64_t k0, int64_t count,
                                                     PanelArray<int8_t>& panel) {
  const __m128i mask = _mm_set1_epi8(15);
  const int64_t first_group = k0 / w.group_size, first_part = k0 % w.group_size;
  for (int64_t i = 0; i < kPanelColumns; ++i) {
    const int64_t n = n0 + i < w.columns ? n0 + i : w.columns - 1;
    const char* row = (const char*)w.values + n * w.row_bytes + k0 / 2;
    const uint8_t* scales = (const uint8_t*)w.scale + n * w.groups + first_group;
    _mm_prefetch(row + kAheadBytes, _MM_HINT_T0);
    _mm_prefetch(row + kAheadBytes + 64, _MM_HINT_T0);
    _mm_prefetch(scales + 64, _MM_HINT_T0);
    int64_t left = w.group_size - first_part;
    __m128i table = _mm_loadu_si128((const __m128i*)(w.levels + 16 * *scales));
    for (int64_t k = 0; k < count; k += 16) {
      if (left == 0) {
        table = _mm_loadu_si128((const __m128i*)(w.levels + 16 * *++scales));
        left = w.group_size;
      }
      left -= 16;
      const __m128i pairs = _mm_loadl_epi64((const __m128i*)(row + k / 2));
      const __m128i codes =
          _mm_unpacklo_epi8(_mm_and_si128(pairs, mask), _mm_and_si128(_mm_srli_epi16(pairs, 4), mask));
      _mm_store_si128((__m128i*)(panel.rows[i] + k), _mm_shuffle_epi8(table, codes));
    }
  }
}

template <typename Sink>
inline __attribute__((always_inline)) void expand_wide_w4a8(const WeightMatrix& w, int64_t n0, int64_t k0,
                                                            int64_t count, const Sink& sink) {
  PanelArray<int8_t> panel;
  look_up_levels(w, n0, k0, count, panel);
  expand_wide_int8<false>(panel.matrix(w), 0, 0, count, sink);
}

// expand_wide_pairs of the formats after int4.
template <bool kFetch, typename Sink>
inline __attribute__((always_inline)) void expand_wide_packed(const WeightMatrix& w, int64_t n0, int64_t k0,
                                                              int64_t count, const Sink& sink) {
  const bool whole = count == kDepthBlock;
  switch (w.format) {
    case WeightFormat::int8_rows:
      return expand_wide_int8<kFetch>(w, n0, k0, count, sink);
    case WeightFormat::q8_0:
      if (whole) return expand_wide_q8_0<kFetch>(w, n0, k0, sink);
      break;
    case WeightFormat::q4_k:
      return expand_wide_blocks<WideQ4K, kFetch>(w, n0, k0, sink);
    case WeightFormat::q5_k:
      return expand_wide_blocks<WideQ5K, kFetch>(w, n0, k0, sink);
    case WeightFormat::q6_k:
      return expand_wide_blocks<WideQ6K, kFetch>(w, n0, k0, sink);
    case WeightFormat::nvfp4:
      if (whole) return expand_wide_nvfp4<kFetch>(w, n0, k0, sink);
      break;
    case WeightFormat::mxfp8:
      if (whole && expand_wide_mxfp8<kFetch>(w, n0, k0, sink)) return;
      break;
    case WeightFormat::w4a8:
      if (w.group_size % 16 == 0) return expand_wide_w4a8(w, n0, k0, count, sink);
      break;
    default:
      break;
  }
  expand_decoded_pairs(w, n0, k0, count, sink);
}

#endif

}  // namespace ltx2rt::cpu::LTX2RT_ISA
