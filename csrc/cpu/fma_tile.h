// The register tile of products, a few rows times one panel of columns, for *_simd.cpp files.
#pragma once
#include "csrc/cpu/run.h"
#include "csrc/cpu/simd.h"

namespace ltx2rt::cpu::LTX2RT_ISA {

#if LTX2RT_LANES == 16
constexpr int kTileRows = 12;
#elif LTX2RT_LANES == 8
constexpr int kTileRows = 6;
#elif defined(__aarch64__)
constexpr int kTileRows = 8;
#else
constexpr int kTileRows = 4;
#endif
constexpr int kTileColumns = 2 * kLanes;  // columns of one panel

// What a word of the rows and of the panel is: a float32 value...
struct FloatWords {
  static constexpr int64_t kValues = 1;
  using Operand = Vec;
  using Sum = Vec;
  static Sum start(const float*) { return zero(); }
  static void store_sum(float* to, Sum sum, bool add) { store(to, add ? load(to) + sum : sum); }
  static Operand broadcast(const float* word) { return splat(*word); }
  static Operand load_row(const float* words) { return load(words); }
  static Vec add_product(Vec sum, Operand x, Operand y) { return fma(x, y, sum); }
};
#ifdef LTX2RT_BF16_DOT
// ...or a pair of bfloat16 values that follow one another in the summed index.
struct PairWords {
  static constexpr int64_t kValues = 2;
  using Operand = VecI;
  using Sum = Vec;
  static Sum start(const float*) { return zero(); }
  static void store_sum(float* to, Sum sum, bool add) { store(to, add ? load(to) + sum : sum); }
  static Operand broadcast(const float* word) {
    int32_t bits;
    memcpy(&bits, word, sizeof bits);
    return splat_bits(bits);
  }
  static Operand load_row(const float* words) {
    VecI bits;
    memcpy(&bits, words, sizeof bits);
    return bits;
  }
  static void store_row(float* words, Operand bits) { memcpy(words, &bits, sizeof bits); }
  static Operand pair(Vec first, Vec second) { return pair_words(first, second); }
  static Operand pair(const BF16* first, const BF16* second) { return pair_words(first, second); }
  static Operand ones() {
    Operand bits = splat_bits(0x3f803f80);
#ifdef LTX2RT_NEON
    asm("" : "+w"(bits));  // or GCC 12 writes this constant as float16, which is another number
#endif
    return bits;
  }
  static Vec add_product(Vec sum, Operand x, Operand y) { return dot_pairs(sum, x, y); }
};
#endif

// c[i, j] (+)= sum over runs and k of rows[i][run.offset + k] * panel[k', j], k' counting on through the runs, for i <
// kRows and j < kVecs * kLanes. Panel rows are kTileColumns apart whatever kVecs is. Each sum is one chain of fused
// multiply-adds in the order of k', added to c at the end: its bits depend on the runs alone, its error stays small.
template <typename Words, int kRows, int kVecs>
void fma_rows(const float* const* rows, const Run* runs, int64_t run_count, const float* panel, float* c, int64_t ldc,
              bool accumulate) {
  Vec sums[kRows][kVecs];
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < kVecs; ++v) sums[i][v] = zero();
  for (int64_t r = 0; r < run_count; ++r) {
    const float* a[kRows];
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) a[i] = rows[i] + runs[r].offset;
    const int64_t length = runs[r].length;
    for (int64_t k = 0; k < length; ++k, panel += kTileColumns) {
      typename Words::Operand b[kVecs];
#pragma GCC unroll 2
      for (int v = 0; v < kVecs; ++v) b[v] = Words::load_row(panel + v * kLanes);
#pragma GCC unroll 16
      for (int i = 0; i < kRows; ++i) {
        const auto x = Words::broadcast(a[i] + k);
#pragma GCC unroll 2
        for (int v = 0; v < kVecs; ++v) sums[i][v] = Words::add_product(sums[i][v], x, b[v]);
      }
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < kVecs; ++v) {
      float* to = c + i * ldc + v * kLanes;
      store(to, accumulate ? load(to) + sums[i][v] : sums[i][v]);
    }
}

template <typename Words, int kVecs, int kRows = kTileRows>
void fma_tile_of(int row_count, const float* const* rows, const Run* runs, int64_t run_count, const float* panel,
                 float* c, int64_t ldc, bool accumulate) {
  if (row_count == kRows) {
    fma_rows<Words, kRows, kVecs>(rows, runs, run_count, panel, c, ldc, accumulate);
  } else if constexpr (kRows > 1) {
    fma_tile_of<Words, kVecs, kRows - 1>(row_count, rows, runs, run_count, panel, c, ldc, accumulate);
  }
}

// fma_rows for 1 to kTileRows rows of which the first `columns` columns are wanted (the others may be left alone).
template <typename Words = FloatWords>
inline void fma_tile(int row_count, int columns, const float* const* rows, const Run* runs, int64_t run_count,
                     const float* panel, float* c, int64_t ldc, bool accumulate) {
  if (columns <= kLanes) {
    fma_tile_of<Words, 1>(row_count, rows, runs, run_count, panel, c, ldc, accumulate);
  } else {
    fma_tile_of<Words, 2>(row_count, rows, runs, run_count, panel, c, ldc, accumulate);
  }
}

}  // namespace ltx2rt::cpu::LTX2RT_ISA
