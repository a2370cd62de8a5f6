// Products of rows and panels of bfloat16 pairs and of 8-bit integers in Intel's AMX tiles, for *_simd.cpp files.
#pragma once

#include "csrc/cpu/amx.h"
#include "csrc/cpu/fetcher.h"
#include "csrc/cpu/linear_kernels.h"
#include "csrc/cpu/weight_panels.h"

namespace ltx2rt::cpu::LTX2RT_ISA {

#ifdef LTX2RT_TILES

// Rows of a tile, words of one of its rows, and bytes of these.
constexpr int64_t kTileHeight = 16, kTileWords = 16, kTileLine = 64;
static_assert(kPanelColumns == 2 * kTileWords && kDepthBlock % (2 * kTileWords) == 0);

// What the words of tiles are: pairs of bfloat16, or quads of 8-bit integers, whose sums are integers.
struct TilePairs {
  static constexpr int64_t kValues = 2;
  // The first `count` values, at most those of a row of a tile, then zeros.
  static __m512i load_row(const char* from, int64_t count) {
    return _mm512_maskz_loadu_epi16(count < 32 ? ((__mmask32)1 << count) - 1 : ~(__mmask32)0, from);
  }
};
struct TileQuads {
  static constexpr int64_t kValues = 4;
  static __m512i load_row(const char* from, int64_t count) {
    return _mm512_maskz_loadu_epi8(count < 64 ? ((__mmask64)1 << count) - 1 : ~(__mmask64)0, from);
  }
};

// A group of rows as tiles: [tile along k][row][words], the last tile filled up with zeros.
template <typename Words>
void prepare_tiles(FloatType, const char* const* from, int64_t rows, int64_t n, float* to) {
  constexpr int64_t kStep = Words::kValues * kTileWords;
  for (int64_t k = 0; k < n; k += kStep) {
    for (int64_t r = 0; r < rows; ++r, to += kTileWords) {
      _mm512_storeu_si512(to, Words::load_row(from[r] + k * (kTileLine / kStep), n - k));
    }
  }
}

// The tiles 0 to 3 are sums of two groups of rows by 32 columns, 4 and 5 rows of the groups, 6 and 7 columns.
__attribute__((target("amx-tile"))) inline void set_tiles(int64_t first_rows, int64_t second_rows) {
  TileConfig config{};
  config.palette = 1;
  for (int tile = 0; tile < 8; ++tile) {
    const bool first = tile < 2 || tile == 4, second = tile == 2 || tile == 3 || tile == 5;
    config.bytes_per_row[tile] = kTileLine;
    config.rows[tile] = (uint8_t)(first ? first_rows : second && second_rows > 0 ? second_rows : kTileHeight);
  }
  asm volatile("" ::: "memory");  // the instruction reads what the compiler would else store later
  _tile_loadconfig(&config);
}

// Tile numbers are part of the instructions, so no function can have them as arguments.
#define LTX2RT_ADD_PRODUCT(sum, rows, columns) \
  if constexpr (Words::kValues == 2)           \
    _tile_dpbf16ps(sum, rows, columns);        \
  else                                         \
    _tile_dpbssd(sum, rows, columns)

// c (+)= a * panel for one group of rows, or two. Fetches a share of what is needed soon with every tile of columns.
template <typename Words, bool kTwo>
__attribute__((target("amx-tile,amx-bf16,amx-int8"))) inline void multiply_groups(
    const float* first, int64_t first_rows, const float* second, int64_t second_rows, const float* panel, int64_t tiles,
    float* c, int64_t ldc, bool add, Fetcher& fetcher) {
  const size_t pitch = (size_t)ldc * sizeof(float), line = kPanelColumns * sizeof(float);
  float* below = c + kTileHeight * ldc;
  if (add) {
    _tile_loadd(0, c, pitch);
    _tile_loadd(1, c + kTileWords, pitch);
    if constexpr (kTwo) {
      _tile_loadd(2, below, pitch);
      _tile_loadd(3, below + kTileWords, pitch);
    }
  } else {
    _tile_zero(0);
    _tile_zero(1);
    if constexpr (kTwo) {
      _tile_zero(2);
      _tile_zero(3);
    }
  }
  for (int64_t t = 0; t < tiles; ++t, panel += kTileWords * kPanelColumns) {
    fetcher.fetch_share();
    _tile_loadd(4, first + t * first_rows * kTileWords, kTileLine);
    _tile_loadd(6, panel, line);
    _tile_loadd(7, panel + kTileWords, line);
    LTX2RT_ADD_PRODUCT(0, 4, 6);
    LTX2RT_ADD_PRODUCT(1, 4, 7);
    if constexpr (kTwo) {
      _tile_loadd(5, second + t * second_rows * kTileWords, kTileLine);
      LTX2RT_ADD_PRODUCT(2, 5, 6);
      LTX2RT_ADD_PRODUCT(3, 5, 7);
    }
  }
  _tile_stored(0, c, pitch);
  _tile_stored(1, c + kTileWords, pitch);
  if constexpr (kTwo) {
    _tile_stored(2, below, pitch);
    _tile_stored(3, below + kTileWords, pitch);
  }
}

// LinearLoops::multiply. Each sum is added to in the order of k, a row of a tile at a time, however many rows there are.
template <typename Words>
__attribute__((target("amx-tile"))) void multiply_tiles(const float* a, int64_t rows, const float* panel, int64_t k,
                                                        float* c, int64_t ldc, bool add, const ReadAhead& ahead) {
  constexpr int64_t kBlockWords = kDepthBlock / Words::kValues, kBoth = 2 * kTileHeight;
  constexpr int64_t kStep = Words::kValues * kTileWords;
  const int64_t tiles = (k + kStep - 1) / kStep;
  Fetcher fetcher(ahead, (rows + kBoth - 1) / kBoth * tiles);
  asm volatile("" ::: "memory");  // tiles see what was stored before
  if (rows >= kBoth) set_tiles(kTileHeight, kTileHeight);
  int64_t m = 0;
  for (; m + kBoth <= rows; m += kBoth) {
    const float* first = a + m * kBlockWords;
    multiply_groups<Words, true>(first, kTileHeight, first + kTileHeight * kBlockWords, kTileHeight, panel, tiles,
                                 c + m * ldc, ldc, add, fetcher);
  }
  if (m < rows) {
    const int64_t left = rows - m, first_rows = left < kTileHeight ? left : kTileHeight,
                  second_rows = left - first_rows;
    const float* first = a + m * kBlockWords;
    set_tiles(first_rows, second_rows);
    if (second_rows > 0) {
      multiply_groups<Words, true>(first, first_rows, first + kTileHeight * kBlockWords, second_rows, panel, tiles,
                                   c + m * ldc, ldc, add, fetcher);
    } else {
      multiply_groups<Words, false>(first, first_rows, nullptr, 0, panel, tiles, c + m * ldc, ldc, add, fetcher);
    }
  }
  _tile_release();
  asm volatile("" ::: "memory");
}

#undef LTX2RT_ADD_PRODUCT
#endif

}  // namespace ltx2rt::cpu::LTX2RT_ISA
