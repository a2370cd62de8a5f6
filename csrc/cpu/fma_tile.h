// The register tile of float32 products, a few rows times one panel of columns, for *_simd.cpp files.
#pragma once
#include "csrc/cpu/run.h"
#include "csrc/cpu/simd.h"

namespace ltx2rt::cpu::LTX2RT_ISA {

#if defined(__AVX2__)
constexpr int kTileRows = 6;
#elif defined(__aarch64__)
constexpr int kTileRows = 8;
#else
constexpr int kTileRows = 4;
#endif
constexpr int kTileColumns = 2 * kLanes;  // columns of one panel

// c[i, j] (+)= sum over runs and k of rows[i][run.offset + k] * panel[k', j], k' counting on through the runs, for i <
// kRows and j < kVecs * kLanes. Panel rows are kTileColumns apart whatever kVecs is. Each sum is one chain of fused
// multiply-adds in the order of k', added to c at the end: its bits depend on the runs alone, its error stays small.
template <int kRows, int kVecs>
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
      Vec b[kVecs];
#pragma GCC unroll 2
      for (int v = 0; v < kVecs; ++v) b[v] = load(panel + v * kLanes);
#pragma GCC unroll 16
      for (int i = 0; i < kRows; ++i) {
        const Vec x = splat(a[i][k]);
#pragma GCC unroll 2
        for (int v = 0; v < kVecs; ++v) sums[i][v] = fma(x, b[v], sums[i][v]);
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

template <int kVecs, int kRows = kTileRows>
void fma_tile_of(int row_count, const float* const* rows, const Run* runs, int64_t run_count, const float* panel,
                 float* c, int64_t ldc, bool accumulate) {
  if (row_count == kRows) {
    fma_rows<kRows, kVecs>(rows, runs, run_count, panel, c, ldc, accumulate);
  } else if constexpr (kRows > 1) {
    fma_tile_of<kVecs, kRows - 1>(row_count, rows, runs, run_count, panel, c, ldc, accumulate);
  }
}

// fma_rows for 1 to kTileRows rows of which the first `columns` columns are wanted (the others may be left alone).
inline void fma_tile(int row_count, int columns, const float* const* rows, const Run* runs, int64_t run_count,
                     const float* panel, float* c, int64_t ldc, bool accumulate) {
  if (columns <= kLanes) {
    fma_tile_of<1>(row_count, rows, runs, run_count, panel, c, ldc, accumulate);
  } else {
    fma_tile_of<2>(row_count, rows, runs, run_count, panel, c, ldc, accumulate);
  }
}

}  // namespace ltx2rt::cpu::LTX2RT_ISA
