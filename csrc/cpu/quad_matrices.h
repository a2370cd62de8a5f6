// Products of 2 x 8 by 8 x 2 matrices of 8-bit integers, Arm's i8mm, for *_simd.cpp files.
#pragma once

#include "csrc/cpu/panel_products.h"
#include "csrc/cpu/quad_words.h"

namespace ltx2rt::cpu::LTX2RT_ISA {

#if defined(LTX2RT_NEON) && defined(__ARM_FEATURE_MATMUL_INT8)
#define LTX2RT_QUAD_MATRICES

// Bytes of a row, or of a column, that one product takes. Rows of x and columns of panels are interleaved by so many,
// the last ones filled up with zeros: two neighbours are the operand of a product.
constexpr int64_t kMatrixDepth = 8;

inline void prepare_quad_matrices(FloatType, const char* const* from, int64_t rows, int64_t n, float* to) {
  char* bytes = (char*)to;
  for (int64_t k = 0; k < n; k += kMatrixDepth) {
    for (int64_t r = 0; r < rows; ++r, bytes += kMatrixDepth) {
      const int64_t count = smaller(n - k, kMatrixDepth);
      memset(bytes + count, 0, (size_t)(kMatrixDepth - count));
      memcpy(bytes, from[r] + k, (size_t)count);
    }
  }
}

// LinearLoops::pack; rows of W are columns as they lie.
inline void pack_quad_matrices(const WeightMatrix& w, int64_t n0, int64_t k0, int64_t k, float* panel) {
  constexpr int64_t kStep = kPanelColumns * kMatrixDepth;
  char* bytes = (char*)panel;
  for (int64_t n = 0; n < kPanelColumns; n += 2) {
    const char* rows[2];
    for (int64_t i = 0; i < 2; ++i) {
      rows[i] = (const char*)w.values + (n0 + n + i < w.columns ? n0 + n + i : w.columns - 1) * w.row_bytes + k0;
    }
    char* to = bytes + n * kMatrixDepth;
    int64_t at = 0;
    for (; at + 2 * kMatrixDepth <= k; at += 2 * kMatrixDepth, to += 2 * kStep) {
      const int64x2_t first = vreinterpretq_s64_s8(vld1q_s8((const int8_t*)rows[0] + at));
      const int64x2_t second = vreinterpretq_s64_s8(vld1q_s8((const int8_t*)rows[1] + at));
      vst1q_s8((int8_t*)to, vreinterpretq_s8_s64(vzip1q_s64(first, second)));
      vst1q_s8((int8_t*)to + kStep, vreinterpretq_s8_s64(vzip2q_s64(first, second)));
    }
    for (; at < k; at += kMatrixDepth, to += kStep) {
      const int64_t count = smaller(k - at, kMatrixDepth);
      memset(to, 0, 2 * kMatrixDepth);
      for (int64_t i = 0; i < 2; ++i) memcpy(to + i * kMatrixDepth, rows[i] + at, (size_t)count);
    }
  }
}

// The rows by two, the last one of an odd number by itself.
template <int kRows>
void multiply_matrix_tile(const float* a, int64_t steps, const float* panel, float* c, int64_t ldc, bool add,
                          Fetcher& fetcher) {
  constexpr int kRowPairs = (kRows + 1) / 2, kColumnPairs = kPanelColumns / 2;
  constexpr int64_t kTurn = kFetchWords * QuadWords::kValues / kMatrixDepth;
  const int8_t *x = (const int8_t*)a, *w = (const int8_t*)panel;
  int32x4_t sums[kRowPairs][kColumnPairs];
#pragma GCC unroll 16
  for (int i = 0; i < kRowPairs; ++i)
#pragma GCC unroll 16
    for (int p = 0; p < kColumnPairs; ++p) sums[i][p] = vdupq_n_s32(0);
  for (int64_t step = 0; step < steps;) {
    fetcher.fetch_share();
    for (const int64_t end = smaller(step + kTurn, steps); step < end;
         ++step, x += kRows * kMatrixDepth, w += kPanelColumns * kMatrixDepth) {
      int8x16_t columns[kColumnPairs];
#pragma GCC unroll 16
      for (int p = 0; p < kColumnPairs; ++p) columns[p] = vld1q_s8(w + 16 * p);
#pragma GCC unroll 16
      for (int i = 0; i < kRowPairs; ++i) {
        const int8x16_t rows =
            2 * i + 1 < kRows ? vld1q_s8(x + 16 * i) : vcombine_s8(vld1_s8(x + 16 * i), vdup_n_s8(0));
#pragma GCC unroll 16
        for (int p = 0; p < kColumnPairs; ++p) sums[i][p] = vmmlaq_s32(sums[i][p], rows, columns[p]);
      }
    }
  }
  // Each holds two columns of a row, then of the next.
#pragma GCC unroll 16
  for (int i = 0; i < kRowPairs; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < kPanelVecs; ++v) {
      const int64x2_t left = vreinterpretq_s64_s32(sums[i][2 * v]), right = vreinterpretq_s64_s32(sums[i][2 * v + 1]);
      float* to = c + 2 * i * ldc + v * kLanes;
      QuadWords::store_sum(to, (VecI)vzip1q_s64(left, right), add);
      if (2 * i + 1 < kRows) QuadWords::store_sum(to + ldc, (VecI)vzip2q_s64(left, right), add);
    }
}

// LinearLoops::multiply.
inline void multiply_quad_matrices(const float* a, int64_t rows, const float* panel, int64_t k, float* c, int64_t ldc,
                                   bool add, const ReadAhead& ahead) {
  constexpr int64_t kBlockWords = kDepthBlock / QuadWords::kValues;
  const int64_t words = words_of<QuadWords>(k), steps = (k + kMatrixDepth - 1) / kMatrixDepth;
  each_tile(rows, (words + kFetchWords - 1) / kFetchWords, ahead, [=]<int kRows>(int64_t m, Fetcher& fetcher) {
    multiply_matrix_tile<kRows>(a + m * kBlockWords, steps, panel, c + m * ldc, ldc, add, fetcher);
  });
}

inline void multiply_few_quad_matrices(const WeightMatrix& w, int64_t n0, int64_t k0, int64_t k, const float* a,
                                       int64_t rows, float* c, int64_t ldc, bool add) {
  alignas(64) float panel[kDepthBlock / 4 * kPanelColumns];
  pack_quad_matrices(w, n0, k0, k, panel);
  multiply_quad_matrices(a, rows, panel, k, c, ldc, add, ReadAhead{});
}
#endif

}  // namespace ltx2rt::cpu::LTX2RT_ISA
