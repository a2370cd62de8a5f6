// Rows of weights of formats that are decoded, as lines of bfloat16 pairs in their own order, for *_simd.cpp files.
#pragma once

#include "csrc/cpu/weight_panels.h"
#include "csrc/cpu/wide_lines.h"
#include "csrc/cpu/wide_packed.h"

namespace ltx2rt::cpu::LTX2RT_ISA {

#ifdef LTX2RT_WIDE_PAIRS

// A line of words holds so many values that follow one another along k: those of one row of a tile.
constexpr int64_t kLineBytes = 64, kLineValues = 32;
// From the lines of one number to those of the next: lines of a row are not 4 KiB apart, which loads take for the same
// address as stores before them.
constexpr int64_t kLinesPitch = (kPanelColumns + 1) * kLineBytes;

// The structs below expand the rows of W that are columns of a panel, one depth block after the other: begin(w, n0, k0, k)
// is told which, and expand(line, first, last, to) then writes kLines lines from number `line` on, a multiple of kLines, of
// columns [first, last), lines of each number kLinesPitch from the next. The values are those that the same format has in a
// panel (wide_packed.h), bit by bit.

// How far ahead of a byte of the rows of a panel to fetch, `left` bytes before their end: lines of the next panel follow
// the last ones of this.
inline int64_t fetch_distance(int64_t row_bytes, int64_t left) {
  return kAheadBytes < left ? kAheadBytes : kAheadBytes + (kPanelColumns - 1) * row_bytes;
}

// The same for codes of scales, a byte for each group.
inline int64_t scale_distance(int64_t groups, int64_t group) {
  return group + kLineBytes < groups ? kLineBytes : kLineBytes + (kPanelColumns - 1) * groups;
}

// Part of a depth block of rows whose values have a byte each. Columns beyond N repeat the last one.
class WeightRows {
 public:
  WeightRows() = default;
  // From byte `first` of each row on, `bytes` of them.
  WeightRows(const WeightMatrix& w, int64_t n0, int64_t first, int64_t bytes)
      : rows_((const char*)w.values + n0 * w.row_bytes + first),
        row_bytes_(w.row_bytes),
        count_(smaller(kPanelColumns, w.columns - n0)),
        bytes_(bytes),
        in_row_(w.row_bytes - first) {}

  // Whether the line at byte `at` is there in every row.
  bool whole(int64_t at) const { return count_ == kPanelColumns && at + kLineBytes <= bytes_; }
  const char* line(int64_t at) const { return rows_ + at; }
  int64_t stride() const { return row_bytes_; }
  // That line of row i, filled up with zeros.
  __m512i part(int64_t i, int64_t at) const {
    const __mmask64 chosen = bytes_ - at < kLineBytes ? ((__mmask64)1 << (bytes_ - at)) - 1 : kAll;
    return _mm512_maskz_loadu_epi8(chosen, rows_ + smaller(i, count_ - 1) * row_bytes_ + at);
  }
  // Fetches what rows [first, last) need some lines after that at `at`.
  void fetch_ahead(int64_t at, int64_t first = 0, int64_t last = kPanelColumns) const {
    const char* line = rows_ + at + fetch_distance(row_bytes_, in_row_ - at);
#pragma GCC unroll 4
    for (int64_t i = first; i < last; ++i) _mm_prefetch(line + i * row_bytes_, _MM_HINT_T1);
  }

 private:
  const char* rows_ = nullptr;
  int64_t row_bytes_ = 0, count_ = 0, bytes_ = 0, in_row_ = 0;
};

inline __attribute__((always_inline)) void put_line(char* to, int64_t line, int64_t column, __m512i words) {
  _mm512_store_si512(to + line * kLinesPitch + column * kLineBytes, words);
}

// Lines of any packed format from value k on of a depth block of `count`, zeros beyond it.
__attribute__((noinline)) inline void put_decoded_lines(const WeightMatrix& w, int64_t n0, int64_t k0, int64_t count,
                                                        int64_t k, int64_t lines, int64_t first, int64_t last,
                                                        char* to) {
  float values[kDepthBlock];
  const int64_t wanted = lines * kLineValues, there = smaller(wanted, count - k);
  for (int64_t i = first; i < last; ++i) {
    memset(values, 0, (size_t)wanted * sizeof(float));
    decode_packed(w, smaller(n0 + i, w.columns - 1), k0 + k, there, values);
    for (int64_t line = 0; line < lines; ++line) {
      BF16* words = (BF16*)(to + line * kLinesPitch + i * kLineBytes);
      for (int64_t j = 0; j < kLineValues; j += kLanes) store(words + j, load(values + line * kLineValues + j));
    }
  }
}

template <int64_t kLinesAtOnce>
struct RowsOfAny {
  static constexpr int64_t kLines = kLinesAtOnce;

  void begin(const WeightMatrix& w, int64_t n0, int64_t k0, int64_t k) {
    w_ = &w;
    n0_ = n0;
    k0_ = k0;
    k_ = k;
  }
  void expand(int64_t line, int64_t first, int64_t last, char* to) const {
    put_decoded_lines(*w_, n0_, k0_, k_, line * kLineValues, kLines, first, last, to);
  }

 private:
  const WeightMatrix* w_;
  int64_t n0_, k0_, k_;
};

// Codes of a byte, looked up in a table.
template <typename Table>
struct CodeRows {
  static constexpr int64_t kLines = 2;

  void begin(const WeightMatrix& w, int64_t n0, int64_t k0, int64_t k) { rows_ = WeightRows(w, n0, k0, k); }
  void expand(int64_t line, int64_t first, int64_t last, char* to) const {
    static const Table shared_table;
    const Table table = shared_table;
    const int64_t at = line * kLineValues;
    rows_.fetch_ahead(at, first, last);
    for (int64_t i = first; i < last; ++i) {
      __m512i words[2];
      table.expand_row(rows_.part(i, at), &words[0], &words[1]);
      put_line(to, 0, i, words[0]);
      put_line(to, 1, i, words[1]);
    }
  }

 private:
  WeightRows rows_;
};

// Scales and zeros of the groups of every column.
template <int kGroups>
struct GroupFactors {
  alignas(64) float scale[kGroups][kPanelColumns], zero[kGroups][kPanelColumns];

  void put(int group, int v, const ColumnFactors& f) {
    _mm512_store_ps(scale[group] + v * kLanes, f.scale);
    _mm512_store_ps(zero[group] + v * kLanes, f.zero);
  }
  inline __attribute__((always_inline)) __m512 apply(__m512 codes, int64_t group, int64_t column) const {
    return _mm512_fmadd_ps(codes, _mm512_set1_ps(scale[group][column]), _mm512_set1_ps(zero[group][column]));
  }
};

// Which bytes of a vector become byte `place` of sixteen words.
inline __m512i bytes_from(int first, int place) {
  typedef uint32_t Order __attribute__((vector_size(64)));
  constexpr Order kOrder = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return (__m512i)((kOrder + (uint32_t)first) << 8 * place);
}

typedef uint16_t Words __attribute__((vector_size(64)));

inline __m512i bfloat16_line(const __m512* halves) { return (__m512i)_mm512_cvtne2ps_pbh(halves[1], halves[0]); }

// Scales and zeros of Q4_K and Q5_K.
template <int64_t kBytes>
class RowsOfKBlocks {
 public:
  void begin(const WeightMatrix& w, int64_t n0, int64_t k0, int64_t) {
    const int64_t first = k0 / kDepthBlock * kBytes;
    rows_ = RowAddresses(w, w.values, w.row_bytes, n0, first);
    ahead_ = fetch_distance(w.row_bytes, w.row_bytes - first - kBytes);
    for (int v = 0; v < kPanelVecs; ++v) {
      ColumnFactors factors[8];
      WideQ4K::load_factors(rows_.at + 16 * v, factors);
      for (int g = 0; g < 8; ++g) factors_.put(g, v, factors[g]);
    }
  }

 protected:
  RowAddresses rows_;
  int64_t ahead_;
  GroupFactors<8> factors_;
};

// Q4_K: 32 bytes are codes of two groups of 32 values, 64 of four. A group has 16 different values, which are computed
// once and looked up, by their low and their high bytes.
struct RowsOfQ4 : RowsOfKBlocks<WideQ4K::kBytes> {
  static constexpr int64_t kLines = 4;

  void expand(int64_t line, int64_t first, int64_t last, char* to) const {
    constexpr Vec kLane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    const Vec codes_as_floats = kLane * splat(1.0f / 256.0f) + splat(0.5f);  // CodeRange::kSmall
    // Of each byte of `lows` and `highs` below: those of groups 0 and 1 are even, of 2 and 3 odd, of 1 and 3 from 32 on.
    const __m512i even_groups = _mm512_set4_epi64(0x0101010101010101, 0, 0x0101010101010101, 0);
    const __m512i odd_groups = _mm512_or_si512(even_groups, _mm512_set1_epi8(32));
    for (int64_t i = first; i < last; ++i) {
      const char* codes_at = rows_.at[i] + 16 + 16 * line;
      _mm_prefetch(codes_at + ahead_, _MM_HINT_T1);
      _mm_prefetch(codes_at + ahead_ + kLineBytes - 1, _MM_HINT_T1);  // blocks are no whole lines
      __m512i pairs[2];
#pragma GCC unroll 2
      for (int two = 0; two < 2; ++two) {
        __m512 values[2];
#pragma GCC unroll 2
        for (int g = 0; g < 2; ++g) values[g] = factors_.apply((__m512)codes_as_floats, line + 2 * two + g, i);
        pairs[two] = bfloat16_line(values);
      }
      const __m512i lows = (__m512i)with_bits((VecU)((Words)pairs[1] << 8), (VecU)pairs[0], 0x00ff00ff);
      const __m512i highs = (__m512i)with_bits((VecU)((Words)pairs[0] >> 8), (VecU)pairs[1], 0xff00ff00);
      const __m512i codes = in_row_order(_mm512_loadu_si512(codes_at));
      const auto look_up = [&](VecU placed, __m512i groups, int64_t line) {
        const __m512i bits = _mm512_set1_epi8(0x1e);
        const __m512i at = _mm512_ternarylogic_epi32((__m512i)placed, bits, groups, 0xea);  // (placed & bits) | groups
        const __m512i low = _mm512_maskz_permutexvar_epi8(kAll, at, lows);
        const __m512i high = _mm512_maskz_permutexvar_epi8(kAll, at, highs);
        put_line(to, line, i, _mm512_maskz_unpacklo_epi8(kAll, low, high));
        put_line(to, line + 2, i, _mm512_maskz_unpackhi_epi8(kAll, low, high));
      };
      look_up((VecU)codes << 1, even_groups, 0);
      look_up((VecU)codes >> 3, odd_groups, 1);
    }
  }
};

// Q5_K: 32 bytes are low bits of two groups. A code is the third byte of a float (CodeRange::kSmall).
struct RowsOfQ5 : RowsOfKBlocks<WideQ5K::kBytes> {
  static constexpr int64_t kLines = 2;

  void expand(int64_t line, int64_t first, int64_t last, char* to) const {
    const int64_t codes_at = 48 + 16 * line;
    const __m512i orders[2] = {bytes_from(0, 2), bytes_from(16, 2)};
    // Bit `line` of a third byte to bit 20.
    const __m512i turn = _mm512_set1_epi32((int)(28 + line) % 32), next_turn = _mm512_set1_epi32((int)(29 + line) % 32);
    for (int64_t i = first; i < last; ++i) {
      const char* row = rows_.at[i];
      _mm_prefetch(row + codes_at + ahead_, _MM_HINT_T1);
      const auto bytes_at = [row](int64_t at) {
        return _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i*)(row + at)));
      };
      const __m512i run = bytes_at(codes_at), fifths = bytes_at(16);
      __m512 values[2][2];
#pragma GCC unroll 2
      for (int part = 0; part < 2; ++part) {
        const VecU placed = (VecU)_mm512_maskz_permutexvar_epi8(kAll, orders[part], run);
        const __m512i bits = _mm512_maskz_permutexvar_epi8(kAll, orders[part], fifths);
        const auto value = [&](VecU placed, __m512i turn, int64_t group) {
          const __m512i half = (__m512i)splat(0.5f), chosen = _mm512_set1_epi32(0x000f0000);
          const __m512i four =
              _mm512_ternarylogic_epi32((__m512i)placed, chosen, half, 0xea);  // (placed & chosen) | half
          return factors_.apply(
              (__m512)with_bits((VecU)four, (VecU)_mm512_maskz_rorv_epi32(0xffff, bits, turn), 0x00100000), group, i);
        };
        values[0][part] = value(placed, turn, line);
        values[1][part] = value(placed >> 4, next_turn, line + 1);
      }
      put_line(to, 0, i, bfloat16_line(values[0]));
      put_line(to, 1, i, bfloat16_line(values[1]));
    }
  }
};

// The matrix of gf2p8affineqb that moves bits `from` and `from + 1` of every byte to bits 4 and 5 and clears the others.
constexpr int64_t two_bits(int from) { return ((int64_t)1 << from) << 24 | ((int64_t)2 << from) << 16; }

// Q6_K: half a block at a time, whose 64 bytes of low bits and 32 of high bits are four runs of 32 codes. A code is the
// third byte of a float: 128 + code. Factors of a row lie together, so that a row takes a line of each.
struct RowsOfQ6 {
  static constexpr int64_t kLines = 4;

  void begin(const WeightMatrix& w, int64_t n0, int64_t k0, int64_t) {
    const int64_t first = k0 / kDepthBlock * WideQ6K::kBytes;
    rows_ = RowAddresses(w, w.values, w.row_bytes, n0, first);
    ahead_ = fetch_distance(w.row_bytes, w.row_bytes - first - WideQ6K::kBytes);
#pragma GCC unroll 4
    for (int64_t i = 0; i < kPanelColumns; ++i) {
      const char* scales = rows_.at[i] + 192;
      const __m512i codes = _mm512_maskz_cvtepi8_epi32(0xffff, _mm_loadu_si128((const __m128i*)scales));
      const __m128 halves = _mm_cvtph_ps(_mm_loadl_epi64((const __m128i*)(scales + 10)));  // the last one is d
      const Vec d = (Vec)_mm512_maskz_permutexvar_ps(0xffff, _mm512_set1_epi32(3), _mm512_castps128_ps512(halves));
      const Vec scale = d * __builtin_convertvector((VecI)codes, Vec);
      store(factors_[i].scale, scale);
      store(factors_[i].zero, scale * splat(-128.0f - 32.0f));
    }
  }
  void expand(int64_t line, int64_t first, int64_t last, char* to) const {
    const int64_t half = line / kLines;
    const __m512i constant = _mm512_set1_epi32(0x43000000), low_bits = _mm512_set1_epi8(15);
    const __m512i orders[4] = {bytes_from(0, 2), bytes_from(16, 2), bytes_from(32, 2), bytes_from(48, 2)};
    // The high bits of runs 0 and 1, then of 2 and 3.
    const __m512i first_runs = _mm512_set_epi64(two_bits(2), two_bits(2), two_bits(2), two_bits(2), two_bits(0),
                                                two_bits(0), two_bits(0), two_bits(0));
    const __m512i last_runs = _mm512_set_epi64(two_bits(6), two_bits(6), two_bits(6), two_bits(6), two_bits(4),
                                               two_bits(4), two_bits(4), two_bits(4));
    constexpr int64_t kHalfBytes = WideQ6K::kBytes / 2;
    const int64_t low_at = 64 * half, high_at = 128 + 32 * half, ahead = ahead_ + kHalfBytes * half;
    for (int64_t i = first; i < last; ++i) {
      const char* row = rows_.at[i];
      _mm_prefetch(row + ahead, _MM_HINT_T1);
      _mm_prefetch(row + ahead + kHalfBytes / 2, _MM_HINT_T1);
      // What the next block needs in place of this half comes closer.
      _mm_prefetch(row + low_at + WideQ6K::kBytes, _MM_HINT_T0);
      _mm_prefetch(row + high_at + WideQ6K::kBytes, _MM_HINT_T0);
      const VecU low = (VecU)_mm512_loadu_si512(row + low_at);
      const __m512i high = _mm512_maskz_broadcast_i64x4(0xff, _mm256_loadu_si256((const __m256i*)(row + high_at)));
      const auto codes_of = [low_bits](VecU low, __m512i high) {
        return _mm512_ternarylogic_epi32((__m512i)low, high, low_bits, 0xe4);  // low bits of one, high of the other
      };
      const __m512i runs[2] = {codes_of(low, _mm512_maskz_gf2p8affine_epi64_epi8(kAll, high, first_runs, 0)),
                               codes_of(low >> 4, _mm512_maskz_gf2p8affine_epi64_epi8(kAll, high, last_runs, 0))};
      const float* scale = factors_[i].scale + 8 * half;
      const float* zero = factors_[i].zero + 8 * half;
#pragma GCC unroll 4
      for (int run = 0; run < 4; ++run) {
        __m512 values[2];
#pragma GCC unroll 2
        for (int part = 0; part < 2; ++part) {
          const __m512i placed =
              _mm512_mask_permutexvar_epi8(constant, 0x4444444444444444, orders[2 * (run % 2) + part], runs[run / 2]);
          values[part] = _mm512_fmadd_ps((__m512)placed, _mm512_set1_ps(scale[2 * run + part]),
                                         _mm512_set1_ps(zero[2 * run + part]));
        }
        put_line(to, run, i, bfloat16_line(values));
      }
    }
  }

 private:
  struct alignas(64) Factors {
    float scale[WideQ6K::kGroups], zero[WideQ6K::kGroups];
  };
  RowAddresses rows_;
  int64_t ahead_;
  Factors factors_[kPanelColumns];
};

// Q8_0: a block is a line. Scales are read as each is needed.
struct RowsOfQ80 {
  static constexpr int64_t kLines = 1;

  void begin(const WeightMatrix& w, int64_t n0, int64_t k0, int64_t) {
    const int64_t first = k0 / kDepthBlock * WideQ80::kBytes;
    rows_ = RowAddresses(w, w.values, w.row_bytes, n0, first);
    ahead_ = fetch_distance(w.row_bytes, w.row_bytes - first - WideQ80::kBytes);
  }
  void expand(int64_t line, int64_t first, int64_t last, char* to) const {
    const __m512i constant = _mm512_set1_epi32(0x47000000), signs = _mm512_set1_epi8(-128);
    const __m512i orders[2] = {bytes_from(0, 1), bytes_from(16, 1)};
    GroupFactors<1> factors;
    for (int v = 0; v < kPanelVecs; ++v) {
      alignas(32) uint16_t scales[16];
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) memcpy(scales + i, rows_.at[16 * v + i] + 34 * line, 2);
      factors.put(0, v, WideQ80::column_factors(widen_f16(*(const VecH*)scales)));
    }
    for (int64_t i = first; i < last; ++i) {
      const char* block = rows_.at[i] + 34 * line;
      _mm_prefetch(block + ahead_, _MM_HINT_T1);
      const __m256i codes = _mm256_loadu_si256((const __m256i*)(block + 2));
      const __m512i bytes = _mm512_xor_si512(_mm512_castsi256_si512(codes), signs);
      __m512 values[2];
#pragma GCC unroll 2
      for (int part = 0; part < 2; ++part) {
        const __m512i placed = _mm512_mask_permutexvar_epi8(constant, 0x2222222222222222, orders[part], bytes);
        values[part] = factors.apply((__m512)placed, 0, i);
      }
      put_line(to, 0, i, bfloat16_line(values));
    }
  }

 private:
  RowAddresses rows_;
  int64_t ahead_;
};

// nvfp4: values times scales are exact, so what lies in the high halves of the floats is all there is. 32 codes are looked
// up among the 16 magnitudes of their two groups.
struct RowsOfNvfp4 {
  static constexpr int64_t kLines = 4, kGroups = 16;

  void begin(const WeightMatrix& w, int64_t n0, int64_t k0, int64_t) {
    rows_ = RowAddresses(w, w.values, w.row_bytes, n0, k0 / 2);
    ahead_ = fetch_distance(w.row_bytes, w.row_bytes - (k0 + kDepthBlock) / 2);
    const int64_t first_group = k0 / kGroups, scales_ahead = scale_distance(w.groups, first_group);
    const RowAddresses scales(w, w.scale, w.groups, n0, first_group);
    static const E4m3Table shared_table;
    for (int v = 0; v < kPanelVecs; ++v) {
      for (int i = 0; i < 16; ++i) _mm_prefetch(scales.at[16 * v + i] + scales_ahead, _MM_HINT_T0);
      Vec halves[kGroups];
      WideNvfp4::load_half_scales(scales.at + 16 * v, shared_table, halves);
      constexpr VecU kFirst = {0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23};
      for (int two = 0; two < kGroups / 2; ++two) {
        const __m512 low = (__m512)halves[2 * two], high = (__m512)halves[2 * two + 1];
        float* to = half_scales_[two][v * kLanes];
        _mm512_store_ps(to, _mm512_permutex2var_ps(low, (__m512i)kFirst, high));
        _mm512_store_ps(to + kLanes, _mm512_permutex2var_ps(low, (__m512i)(kFirst + 8), high));
      }
    }
  }
  void expand(int64_t line, int64_t first, int64_t last, char* to) const {
    constexpr Vec kMagnitudes = {0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 6, 6, 8, 8, 12, 12};  // twice those of E2M1
    // The high halves of the magnitudes of the two groups take turns in the table.
    constexpr VecU kOfGroup = {0x10001, 0x10001, 0x10001, 0x10001, 0x10001, 0x10001, 0x10001, 0x10001,
                               0x30003, 0x30003, 0x30003, 0x30003, 0x30003, 0x30003, 0x30003, 0x30003};
    // Of two bytes four words, each with a code from bit 2 on and its sign in bit 15. High bits of a byte come first.
    const __m512i order = _mm512_set1_epi64(0x0406080a3c3e0002);
    for (int64_t i = first; i < last; ++i) {
      const char* row = rows_.at[i] + 16 * line;
      _mm_prefetch(row + ahead_, _MM_HINT_T1);
#pragma GCC unroll 4
      for (int part = 0; part < kLines; ++part) {
        const __m512i bytes = _mm512_maskz_cvtepu16_epi64(0xff, _mm_loadu_si128((const __m128i*)(row + 16 * part)));
        const __m512i codes = _mm512_maskz_multishift_epi64_epi8(kAll, order, bytes);
        double both;  // scales of two groups
        memcpy(&both, half_scales_[line + part][i], sizeof both);
        const Vec table = kMagnitudes * (Vec)_mm512_castpd_ps(_mm512_set1_pd(both));
        const __m512i at = _mm512_ternarylogic_epi32(codes, _mm512_set1_epi16(28), (__m512i)kOfGroup, 0xea);
        const __m512i found = _mm512_maskz_permutexvar_epi16(~(__mmask32)0, at, (__m512i)table);
        // found ^ (codes & the sign of a word): a scale may be negative, too.
        put_line(to, part, i, _mm512_ternarylogic_epi32(found, codes, _mm512_set1_epi16(-32768), 0x78));
      }
    }
  }

 private:
  RowAddresses rows_;
  int64_t ahead_;
  alignas(64) float half_scales_[kGroups / 2][kPanelColumns][2];  // of two groups that follow one another
};

// mxfp8: 32 values share an exponent. Blocks that WideMxfp8 leaves to other means are decoded.
struct RowsOfMxfp8 {
  static constexpr int64_t kLines = 2;

  void begin(const WeightMatrix& w, int64_t n0, int64_t k0, int64_t k) {
    plain_.begin(w, n0, k0, k);
    rows_ = WeightRows(w, n0, k0, k);
    decoded_ = false;
    const int64_t first_group = k0 / kLineValues, scales_ahead = scale_distance(w.groups, first_group);
    const RowAddresses scales(w, w.scale, w.groups, n0, first_group);
    for (int v = 0; v < kPanelVecs; ++v) {
      for (int i = 0; i < 16; ++i) _mm_prefetch(scales.at[16 * v + i] + scales_ahead, _MM_HINT_T0);
      WideMxfp8 block;
      decoded_ = !block.load_scales(scales.at + 16 * v) || decoded_;
      for (int g = 0; g < WideMxfp8::kGroups; ++g) {
        _mm512_store_si512(add_[g] + v * kLanes, block.exponents[g].add);
        _mm512_store_si512(keep_[g] + v * kLanes, block.exponents[g].keep);
      }
    }
  }
  void expand(int64_t line, int64_t first, int64_t last, char* to) const {
    static const E4m3Table shared_table;
    const E4m3Table table = shared_table;
    const int64_t at = line * kLineValues;
    const __m512i sign = _mm512_set1_epi8(-128);
    __m512i largest = sign;
    rows_.fetch_ahead(at, first, last);
    for (int64_t i = first; i < last; ++i) {
      const __m512i codes = rows_.part(i, at);
      largest = _mm512_maskz_max_epu8(kAll, largest, _mm512_or_si512(codes, sign));
      __m512i words[2];
      table.expand_row(codes, &words[0], &words[1]);
#pragma GCC unroll 2
      for (int g = 0; g < 2; ++g) {
        const WideMxfp8::Exponent e{_mm512_set1_epi32((int)add_[line + g][i]),
                                    _mm512_set1_epi32((int)keep_[line + g][i])};
        put_line(to, g, i, WideMxfp8::scaled(words[g], e));
      }
    }
    if (decoded_ || _mm512_cmpeq_epi8_mask(largest, _mm512_set1_epi8(-1)) != 0) {
      plain_.expand(line, first, last, to);
    }
  }

 private:
  RowsOfAny<kLines> plain_;
  WeightRows rows_;
  bool decoded_;
  alignas(64) uint32_t add_[WideMxfp8::kGroups][kPanelColumns], keep_[WideMxfp8::kGroups][kPanelColumns];
};

#endif

}  // namespace ltx2rt::cpu::LTX2RT_ISA
