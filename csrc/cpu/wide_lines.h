// Rows of weights by whole cache lines with AVX-512, transposed as words of four bytes.
#pragma once

#include "csrc/cpu/transpose_words.h"
#include "csrc/cpu/weight_panels.h"

namespace ltx2rt::cpu::LTX2RT_ISA {

#if defined(__AVX512BF16__) && defined(__AVX512VBMI__)
#define LTX2RT_WIDE_PAIRS

// The masks of all ones spare GCC 12 a warning about its own header.
constexpr __mmask64 kAll = ~(__mmask64)0;
// How far ahead of the loads rows are fetched: memory takes about 100 ns, in which a core reads about 2 KiB.
constexpr int64_t kAheadBytes = 512;

// The line that begins `offset` bytes after each of 16 rows, or the words of it that are chosen, transposed.
inline __attribute__((always_inline)) void transpose_line(const char* const* rows, int64_t offset, __m512i words[16],
                                                          __mmask16 chosen = 0xffff) {
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) {
    words[i] =
        chosen == 0xffff ? _mm512_loadu_si512(rows[i] + offset) : _mm512_maskz_loadu_epi32(chosen, rows[i] + offset);
  }
  transpose_words(words);
}

// In each lane the codes 0 and 1 of its four columns, then 2 and 3: unpacking then keeps the columns in order.
inline __attribute__((always_inline)) __m512i in_pair_order(__m512i codes) {
  const __m512i order = _mm512_set4_epi32(0x0f0e0b0a, 0x07060302, 0x0d0c0908, 0x05040100);
  return _mm512_maskz_shuffle_epi8(kAll, codes, order);
}

// Every second eight of the 64 codes of a row: unpacking takes those together.
inline __attribute__((always_inline)) __m512i in_row_order(__m512i codes) {
  return _mm512_maskz_permutexvar_epi64(0xff, _mm512_set_epi64(7, 3, 6, 2, 5, 1, 4, 0), codes);
}

// The bfloat16 values of 128 codes by table: their low and their high bytes.
struct ByteTables {
  __m512i low[2], high[2];

  template <typename ValueOf>
  explicit ByteTables(ValueOf value_of) {
    alignas(64) uint8_t bytes[2][128];
    for (int code = 0; code < 128; ++code) {
      BF16 value;
      from_float(value_of(code), value);
      bytes[0][code] = (uint8_t)value.bits;
      bytes[1][code] = (uint8_t)(value.bits >> 8);
    }
    for (int i = 0; i < 2; ++i) {
      low[i] = _mm512_load_si512(bytes[0] + 64 * i);
      high[i] = _mm512_load_si512(bytes[1] + 64 * i);
    }
  }
};

// E4M3 codes as bfloat16, looked up with the sign left out.
struct E4m3Table : ByteTables {
  E4m3Table() : ByteTables([](int code) { return to_float(e4m3_as_f16((uint8_t)code)); }) {}

  // Four codes of each of 16 columns as two words of pairs.
  inline __attribute__((always_inline)) void expand(__m512i codes, __m512i* first, __m512i* second) const {
    look_up(in_pair_order(codes), first, second);
  }
  // 64 codes of a row as the pairs of its first 32 values and of the others.
  inline __attribute__((always_inline)) void expand_row(__m512i codes, __m512i* first, __m512i* second) const {
    look_up(in_row_order(codes), first, second);
  }

 private:
  inline __attribute__((always_inline)) void look_up(__m512i codes, __m512i* first, __m512i* second) const {
    const __m512i lows = _mm512_permutex2var_epi8(low[0], codes, low[1]);
    __m512i highs = _mm512_permutex2var_epi8(high[0], codes, high[1]);
    highs = _mm512_ternarylogic_epi32(highs, codes, _mm512_set1_epi8(-128), 0xf8);  // highs | (codes & 0x80)
    *first = _mm512_maskz_unpacklo_epi8(kAll, lows, highs);
    *second = _mm512_maskz_unpackhi_epi8(kAll, lows, highs);
  }
};

// Calls put(v, word, row, left) for the words of four bytes of a panel, 16 columns in vector v of it. A word holds
// kValues values from pair `row` on; `left` says how many of them and their followers are wanted. Every cache line of a
// row of W is loaded once and whole, since rows a power of two apart would push each other out of the first-level cache.
// Fetches the lines that follow if asked to.
template <int kValues, bool kFetch, typename Put>
inline __attribute__((always_inline)) void transpose_lines(const WeightMatrix& w, int64_t n0, int64_t k0, int64_t count,
                                                           const Put& put) {
  const int64_t first = k0 * 4 / kValues;
  const char* rows[kPanelColumns];
  for (int i = 0; i < kPanelColumns; ++i) {
    rows[i] = (const char*)w.values + (n0 + i < w.columns ? n0 + i : w.columns - 1) * w.row_bytes + first;
  }
  // Lines of the next columns follow the last ones of these.
  const int64_t in_row = w.row_bytes - first, next_columns = (kPanelColumns - 1) * w.row_bytes;
  constexpr int kPairs = kValues / 2;
  int64_t row = 0, at = 0, left = count;
  // Four lines of a row are copied at once: a row that does not start on a cache line would otherwise need every line
  // twice, which the other rows have driven out in between.
  constexpr int kLines = 4;
  const auto load_lines = [&](int v, __m512i(*lines)[16]) __attribute__((always_inline)) {
    for (int i = 0; i < 16; ++i) {
      const char* from = rows[16 * v + i];
#pragma GCC unroll 4
      for (int line = 0; line < kLines; ++line) lines[line][i] = _mm512_loadu_si512(from + at + 64 * line);
    }
  };
  const auto transpose = [](const __m512i* line, __m512i words[16]) __attribute__((always_inline)) {
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) words[i] = line[i];
    transpose_words(words);
  };
  const auto whole_lines = [&](int v) __attribute__((always_inline)) {
    __m512i lines[kLines][16];
    load_lines(v, lines);
    for (int line = 0; line < kLines; ++line) {
      __m512i words[16];
      transpose(lines[line], words);
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) put(v, words[i], row + line * 16 * kPairs + i * kPairs, kValues);
    }
  };
  // Both vectors word by word: what is summed up at once is then two chains, not one whose latency everything waits for.
  const auto whole_lines_of_both = [&]() __attribute__((always_inline)) {
    const int64_t ahead = at + kAheadBytes < in_row ? at + kAheadBytes : at + kAheadBytes + next_columns;
    __m512i lines[2][kLines][16];
    load_lines(0, lines[0]);
    load_lines(1, lines[1]);
    for (int line = 0; line < kLines; ++line) {
      __m512i words[16];
      transpose(lines[0][line], words);
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) lines[0][line][i] = words[i];
      transpose(lines[1][line], words);
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) {
        // One by one: a processor drops what is asked for all at once.
        _mm_prefetch(rows[i] + ahead + 64 * line, _MM_HINT_T1);
        _mm_prefetch(rows[16 + i] + ahead + 64 * line, _MM_HINT_T1);
        const int64_t pair = row + line * 16 * kPairs + i * kPairs;
        put(0, lines[0][line][i], pair, kValues);
        put(1, words[i], pair, kValues);
      }
    }
  };
  // Zeros fill up the last line; apart, so that the array above stays in registers.
  const auto last_line = [&](int v) __attribute__((always_inline)) {
    const __mmask64 rest = left >= 16 * kValues ? kAll : ((__mmask64)1 << (left * 4 / kValues)) - 1;
    __m512i words[16];
    for (int i = 0; i < 16; ++i) words[i] = _mm512_maskz_loadu_epi8(rest, rows[16 * v + i] + at);
    transpose_words(words);
    for (int64_t i = 0; i < 16 && i * kValues < left; ++i) put(v, words[i], row + i * kPairs, left - i * kValues);
  };
  // Written out, not as loops: a vector of sums indexed by v then stays in its register.
  static_assert(kPanelVecs == 2);
  for (; left >= kLines * 16 * kValues; left -= kLines * 16 * kValues, row += kLines * 16 * kPairs, at += kLines * 64) {
    if constexpr (kFetch) {
      whole_lines_of_both();
    } else {
      whole_lines(0);
      whole_lines(1);
    }
  }
  for (; left > 0; left -= 16 * kValues, row += 16 * kPairs, at += 64) {
    last_line(0);
    last_line(1);
  }
}

#endif

}  // namespace ltx2rt::cpu::LTX2RT_ISA
