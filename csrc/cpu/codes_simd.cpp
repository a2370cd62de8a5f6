// Products of rows and weights of 8-bit integers for one instruction set.
#include "csrc/cpu/code_kernels.h"
#include "csrc/cpu/linear_tiles.h"
#include "csrc/cpu/panel_products.h"
#include "csrc/cpu/quad_matrices.h"
#include "csrc/cpu/quad_words.h"
#include "csrc/cpu/row_tiles.h"
#include "csrc/cpu/simd.h"
#include "csrc/cpu/weight_panels.h"
#include "csrc/cpu/wide_lines.h"

namespace ltx2rt::cpu::LTX2RT_ISA {
namespace {

#ifndef LTX2RT_QUAD_MATRICES
// The rows interleaved word by word.
void prepare_quads(FloatType, const char* const* from, int64_t rows, int64_t n, float* to) {
  for (int64_t k = 0; k < n; k += 4) {
    for (int64_t r = 0; r < rows; ++r, ++to) {
      uint32_t word = 0;
      memcpy(&word, from[r] + k, n - k < 4 ? (size_t)(n - k) : 4);
      if (kBiasedQuads) word ^= 0x80808080u;
      memcpy(to, &word, sizeof word);
    }
  }
}

// The words of a panel, the last one filled up with zeros.
template <bool kFetch>
void pack_words(const WeightMatrix& w, int64_t n0, int64_t k0, int64_t k, float* panel) {
#ifdef LTX2RT_WIDE_PAIRS
  transpose_lines<4, kFetch>(w, n0, k0, k, [panel](int v, __m512i word, int64_t pair, int64_t) {
    _mm512_storeu_si512(panel + pair / 2 * kPanelColumns + v * kLanes, word);
  });
#else
  int64_t row = 0;
#if defined(__AVX2__) || defined(LTX2RT_NEON)
  row = expand_f32(w, n0, k0 / 4, k / 4, [panel](int64_t at, const Vec* vecs) {
    for (int v = 0; v < kPanelVecs; ++v) store(panel + at * kPanelColumns + v * kLanes, vecs[v]);
  });
#endif
  for (; 4 * row < k; ++row) {
    for (int64_t n = 0; n < kPanelColumns; ++n) {
      const int64_t column = n0 + n < w.columns ? n0 + n : w.columns - 1;
      uint32_t word = 0;
      memcpy(&word, (const char*)w.values + column * w.row_bytes + k0 + 4 * row,
             k - 4 * row < 4 ? (size_t)(k - 4 * row) : 4);
      memcpy(panel + row * kPanelColumns + n, &word, sizeof word);
    }
  }
#endif
}

// A panel for QuadWords, after it what its sums start from.
template <bool kFetch = false>
void pack_quads(const WeightMatrix& w, int64_t n0, int64_t k0, int64_t k, float* panel) {
  pack_words<kFetch>(w, n0, k0, k, panel);
  if constexpr (kBiasedQuads) {
    const int64_t words = words_of<QuadWords>(k);
    for (int v = 0; v < kPanelVecs; ++v) {
      VecI sum{};
      const VecI bias = splat_bits((int32_t)0x80808080u);  // 128, four times
      for (int64_t row = 0; row < words; ++row) {
        sum = QuadWords::add_product(sum, bias, QuadWords::load_row(panel + row * kPanelColumns + v * kLanes));
      }
      QuadWords::store_sum(panel + words * kPanelColumns + v * kLanes, -sum, false);
    }
  }
}

void multiply_few_quads(const WeightMatrix& w, int64_t n0, int64_t k0, int64_t k, const float* a, int64_t rows,
                        float* c, int64_t ldc, bool add) {
  alignas(64) float panel[(kDepthBlock / 4 + 1) * kPanelColumns];
  pack_quads<true>(w, n0, k0, k, panel);
  multiply<QuadWords>(a, rows, panel, k, c, ldc, add, ReadAhead{});
}
#endif

#ifdef LTX2RT_TILES
// A panel whose last tile is filled up with zeros.
template <bool kFetch = false>
void pack_quad_tiles(const WeightMatrix& w, int64_t n0, int64_t k0, int64_t k, float* panel) {
  pack_words<kFetch>(w, n0, k0, k, panel);
  const int64_t words = words_of<QuadWords>(k), whole = (words + kTileWords - 1) / kTileWords * kTileWords;
  memset(panel + words * kPanelColumns, 0, (size_t)(whole - words) * kPanelColumns * sizeof(float));
}

void multiply_few_quad_tiles(const WeightMatrix& w, int64_t n0, int64_t k0, int64_t k, const float* a, int64_t rows,
                             float* c, int64_t ldc, bool add) {
  alignas(64) float panel[kDepthBlock / 4 * kPanelColumns];
  pack_quad_tiles<true>(w, n0, k0, k, panel);
  multiply_tiles<TileQuads>(a, rows, panel, k, c, ldc, add, ReadAhead{});
}
#endif

}  // namespace

const CodeKernels& code_kernels() {
  static constexpr CodeKernels kernels{
#ifdef LTX2RT_QUAD_MATRICES
      .quads = {4, kTileRows, prepare_quad_matrices, pack_quad_matrices, multiply_quad_matrices, 64,
                multiply_few_quad_matrices},
#else
      .quads = {4, kTileRows, prepare_quads, pack_quads<>, multiply<QuadWords>, 64, multiply_few_quads},
#endif
#ifdef LTX2RT_TILES
      .has_tiles = true,
      .tiles = {4, kTileHeight, prepare_tiles<TileQuads>, pack_quad_tiles<>, multiply_tiles<TileQuads>, 64,
                multiply_few_quad_tiles},
      .row_tiles = {4, kTileHeight, prepare_tile_columns<TileQuads>, nullptr, nullptr, kTileHeight,
                    multiply_row_tiles<TileQuads, StoredTiles<TileQuads>>, kAnyDepth}};
#else
      .has_tiles = false,
      .tiles = {},
      .row_tiles = {}};
#endif
  return kernels;
}

}  // namespace ltx2rt::cpu::LTX2RT_ISA
