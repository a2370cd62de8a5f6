// Products of prepared rows and expanded panels of weights in register tiles, for *_simd.cpp files.
#pragma once

#include "csrc/cpu/fetcher.h"
#include "csrc/cpu/float_rows.h"
#include "csrc/cpu/fma_tile.h"
#include "csrc/cpu/linear_kernels.h"
#include "csrc/cpu/weight_panels.h"

namespace ltx2rt::cpu::LTX2RT_ISA {

static_assert(kTileColumns == kPanelColumns);

// Values of one word are those that FloatWords, PairWords (fma_tile.h) and QuadWords (quad_words.h) say.
template <typename Words>
int64_t words_of(int64_t values) {
  return (values + Words::kValues - 1) / Words::kValues;
}

// Words of a tile between two turns to fetch.
constexpr int64_t kFetchWords = 8;

// call.operator()<rows>() for 1 to kTileRows rows.
template <int kRows = kTileRows, typename Call>
inline void with_row_count(int64_t rows, const Call& call) {
  if (rows == kRows) {
    call.template operator()<kRows>();
  } else if constexpr (kRows > 1) {
    with_row_count<kRows - 1>(rows, call);
  }
}

// multiply.operator()<count>(first row, fetcher) for groups of kTileRows rows and the rest. Each takes `turns` turns to
// fetch a share of `ahead`.
template <typename Multiply>
inline void each_tile(int64_t rows, int64_t turns, const ReadAhead& ahead, const Multiply& multiply) {
  Fetcher fetcher(ahead, (rows + kTileRows - 1) / kTileRows * turns);
  for (int64_t m = 0; m < rows; m += kTileRows) {
    with_row_count(smaller(rows - m, kTileRows), [&]<int kRows>() { multiply.template operator()<kRows>(m, fetcher); });
  }
}

// c[kRows, panel] (+)= a * panel, with the rows of a interleaved: each sum is one chain in the order of the words.
template <typename Words, int kRows>
void multiply_tile(const float* a, int64_t words, const float* panel, float* c, int64_t ldc, bool add,
                   Fetcher& fetcher) {
  typename Words::Sum sums[kRows][kPanelVecs];
#pragma GCC unroll 2
  for (int v = 0; v < kPanelVecs; ++v) {
    const auto start = Words::start(panel + words * kPanelColumns + v * kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) sums[i][v] = start;
  }
  for (int64_t k = 0; k < words;) {
    fetcher.fetch_share();
    for (const int64_t end = k + kFetchWords < words ? k + kFetchWords : words; k < end;
         ++k, a += kRows, panel += kPanelColumns) {
      typename Words::Operand b[kPanelVecs];
#pragma GCC unroll 2
      for (int v = 0; v < kPanelVecs; ++v) b[v] = Words::load_row(panel + v * kLanes);
#pragma GCC unroll 16
      for (int i = 0; i < kRows; ++i) {
        const auto x = Words::broadcast(a + i);
#pragma GCC unroll 2
        for (int v = 0; v < kPanelVecs; ++v) sums[i][v] = Words::add_product(sums[i][v], x, b[v]);
      }
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < kPanelVecs; ++v) Words::store_sum(c + i * ldc + v * kLanes, sums[i][v], add);
}

// LinearLoops::multiply of rows that are interleaved word by word.
template <typename Words>
void multiply(const float* a, int64_t rows, const float* panel, int64_t k, float* c, int64_t ldc, bool add,
              const ReadAhead& ahead) {
  constexpr int64_t kBlockWords = kDepthBlock / Words::kValues;
  const int64_t words = words_of<Words>(k);
  each_tile(rows, (words + kFetchWords - 1) / kFetchWords, ahead, [=]<int kRows>(int64_t m, Fetcher& fetcher) {
    multiply_tile<Words, kRows>(a + m * kBlockWords, words, panel, c + m * ldc, ldc, add, fetcher);
  });
}

}  // namespace ltx2rt::cpu::LTX2RT_ISA
