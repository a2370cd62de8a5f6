// Scores and weighted values of attention in Intel's AMX tiles, for *_simd.cpp files.
#pragma once

#include "csrc/cpu/amx.h"
#include "csrc/cpu/fma_tile.h"

namespace ltx2rt::cpu::LTX2RT_ISA {

#ifdef LTX2RT_TILES

// Pairs that are multiplied in tiles. Head sizes are multiples of kTileValues.
struct TilePairWords : PairWords {};

constexpr int64_t kTileHeight = 16, kTileWords = 16, kTileLine = 64;  // rows, words and bytes of a row
constexpr int64_t kTileFloats = kTileHeight * kTileWords;
constexpr int64_t kTileValues = 2 * kTileWords;  // along the summed index

// All tiles whole while this lives. The tiles 0 to 3 are sums of two groups of rows by two of columns, 4 and 5 the rows, 6
// and 7 the columns.
class WholeTiles {
 public:
  __attribute__((target("amx-tile"))) WholeTiles() {
    TileConfig config{};
    config.palette = 1;
    for (int tile = 0; tile < 8; ++tile) {
      config.bytes_per_row[tile] = kTileLine;
      config.rows[tile] = kTileHeight;
    }
    asm volatile("" ::: "memory");  // the instruction reads what the compiler would else store later
    _tile_loadconfig(&config);
  }
  __attribute__((target("amx-tile"))) ~WholeTiles() {
    asm volatile("" ::: "memory");
    _tile_release();
  }
  WholeTiles(const WholeTiles&) = delete;
  WholeTiles& operator=(const WholeTiles&) = delete;
};

// c (+)= rows * columns for two groups of 16 rows (or one) by two of 16 columns (or one). All steps in floats: from a row
// of `rows` to the next, from its first group to its second, and from one tile along the summed index to the next;
// likewise of `columns`, whose groups lie side by side, and of c.
struct TileSteps {
  int64_t row, group, tile;
};
template <bool kTwoRows, bool kTwoColumns>
__attribute__((target("amx-tile,amx-bf16"))) inline void multiply_whole_tiles(const float* rows, const TileSteps& step,
                                                                              const float* columns, int64_t pitch,
                                                                              int64_t tiles, float* c, int64_t ldc,
                                                                              bool add) {
  const size_t row_bytes = (size_t)step.row * sizeof(float), column_bytes = (size_t)pitch * sizeof(float),
               sum_bytes = (size_t)ldc * sizeof(float);
  float* below = c + kTileHeight * ldc;
  if (add) {
    _tile_loadd(0, c, sum_bytes);
    if constexpr (kTwoColumns) _tile_loadd(1, c + kTileWords, sum_bytes);
    if constexpr (kTwoRows) _tile_loadd(2, below, sum_bytes);
    if constexpr (kTwoRows && kTwoColumns) _tile_loadd(3, below + kTileWords, sum_bytes);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int64_t t = 0; t < tiles; ++t, rows += step.tile, columns += kTileHeight * pitch) {
    _tile_loadd(4, rows, row_bytes);
    _tile_loadd(6, columns, column_bytes);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (kTwoColumns) {
      _tile_loadd(7, columns + kTileWords, column_bytes);
      _tile_dpbf16ps(1, 4, 7);
    }
    if constexpr (kTwoRows) {
      _tile_loadd(5, rows + step.group, row_bytes);
      _tile_dpbf16ps(2, 5, 6);
      if constexpr (kTwoColumns) _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_stored(0, c, sum_bytes);
  if constexpr (kTwoColumns) _tile_stored(1, c + kTileWords, sum_bytes);
  if constexpr (kTwoRows) _tile_stored(2, below, sum_bytes);
  if constexpr (kTwoRows && kTwoColumns) _tile_stored(3, below + kTileWords, sum_bytes);
}

// The same for any number of groups of 16 rows, and one or two of columns.
inline void multiply_tile_groups(int64_t groups, const float* rows, const TileSteps& step, bool two_columns,
                                 const float* columns, int64_t pitch, int64_t tiles, float* c, int64_t ldc, bool add) {
  asm volatile("" ::: "memory");  // tiles see what was stored before
  for (; groups > 0; groups -= 2, rows += 2 * step.group, c += 2 * kTileHeight * ldc) {
    const auto multiply = groups > 1
                              ? (two_columns ? multiply_whole_tiles<true, true> : multiply_whole_tiles<true, false>)
                              : (two_columns ? multiply_whole_tiles<false, true> : multiply_whole_tiles<false, false>);
    multiply(rows, step, columns, pitch, tiles, c, ldc, add);
  }
  asm volatile("" ::: "memory");
}

#endif

}  // namespace ltx2rt::cpu::LTX2RT_ISA
