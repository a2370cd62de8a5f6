// Products of few rows in Intel's AMX tiles that take rows of weights as they lie in memory, for *_simd.cpp files.
#pragma once

#include "csrc/cpu/expanded_rows.h"
#include "csrc/cpu/float_rows.h"
#include "csrc/cpu/linear_tiles.h"
#include "csrc/cpu/transpose_words.h"

namespace ltx2rt::cpu::LTX2RT_ISA {

#ifdef LTX2RT_TILES

// 16 rows of W are the rows of a tile, words of x its columns, so that nothing has to be transposed. With
// its sides exchanged a product of tiles adds the same values in the same order: a sum has the bits of multiply_tiles.

// LinearLoops::prepare: rows interleaved word by word, filled up with zeros to whole tiles.
template <typename Words>
void prepare_tile_columns(FloatType, const char* const* from, int64_t rows, int64_t n, float* to) {
  const int64_t bytes = n * 4 / Words::kValues, filled = (bytes + kTileLine - 1) / kTileLine * kTileLine;
  for (int64_t at = 0; at < filled; at += 4) {
    for (int64_t r = 0; r < rows; ++r, ++to) {
      uint32_t word = 0;
      if (at < bytes) memcpy(&word, from[r] + at, (size_t)smaller(4, bytes - at));
      memcpy(to, &word, sizeof word);
    }
  }
}

// Rows of W for two tiles: where those of the first and of the second one lie, and how far apart. Those of the line after
// it, where two lines are multiplied together (kTogether), lie kLinesPitch behind them.
struct TileRows {
  const char *first, *second;
  int64_t stride;
};

// Tiles of weights that are words already.
template <typename Words>
class StoredTiles {
 public:
  static constexpr int64_t kTogether = 1;

  StoredTiles(const WeightMatrix& w, int64_t n0, int64_t k0, int64_t k)
      : rows_(w, n0, k0 * 4 / Words::kValues, k * 4 / Words::kValues) {}

  // Those whose words begin at byte `at` of the rows of words.
  TileRows at(int64_t at) {
    rows_.fetch_ahead(at);
    if (rows_.whole(at)) return {rows_.line(at), rows_.line(at) + kTileHeight * rows_.stride(), rows_.stride()};
    for (int64_t i = 0; i < kPanelColumns; ++i) _mm512_store_si512(copies_ + i * kTileLine, rows_.part(i, at));
    return {copies_, copies_ + kTileHeight * kTileLine, kTileLine};
  }

 private:
  WeightRows rows_;
  alignas(64) char copies_[kPanelColumns * kTileLine];
};

// Tiles of weights that are decoded, some lines of each row at a time (expanded_rows.h). While some are multiplied the next
// ones are decoded, a part of the rows with each tile: a product waits neither for what was just stored nor for the one
// before it.
// While products of tiles are under way, about 100 cycles for one and 20 more for each that follows at once, only one of two
// units multiplies vectors. So a format whose values are multiplied one by one has the tiles of two lines multiplied one
// after the other, and k is a whole number of such pairs; those that wait for memory are faster without.
template <typename Rows, int64_t kLinesTogether = 1>
class ExpandedTiles {
 public:
  static constexpr int64_t kTogether = kLinesTogether;

  ExpandedTiles(const WeightMatrix& w, int64_t n0, int64_t k0, int64_t k) : w_(w), n0_(n0), k0_(k0), k_(k) {
    expand(0, 0, kPanelColumns);
  }

  TileRows at(int64_t at) {
    constexpr int64_t kLines = Rows::kLines, kShare = kPanelColumns / kLines;
    static_assert(kLines % kTogether == 0);
    const int64_t line = at / kTileLine, part = line % kLines, next = line - part + kLines;
    if (next * kLineValues < k_) expand(next, part * kShare, (part + kTogether) * kShare);
    const char* tile = lines_[line / kLines % 2][part];
    return {tile, tile + kTileHeight * kTileLine, kTileLine};
  }

 private:
  void expand(int64_t line, int64_t first, int64_t last) {
    constexpr int64_t kBlockLines = kDepthBlock / kLineValues;
    static_assert(kBlockLines % Rows::kLines == 0 && kPanelColumns % Rows::kLines == 0);
    if (line % kBlockLines == 0 && first == 0) {
      const int64_t done = line * kLineValues;
      rows_.begin(w_, n0_, k0_ + done, smaller(kDepthBlock, k_ - done));
    }
    rows_.expand(line % kBlockLines, first, last, lines_[line / Rows::kLines % 2][0]);
  }

  const WeightMatrix& w_;
  int64_t n0_, k0_, k_;
  Rows rows_;
  alignas(64) char lines_[2][Rows::kLines][kLinesPitch];
};
static_assert(kTileLine == kLineBytes);

// A square of sums the other way round: `rows` rows of c are columns of the tile, or back.
inline void load_tile_sums(const float* c, int64_t ldc, int64_t rows, float* tile) {
  __m512i words[16];
  for (int64_t r = 0; r < 16; ++r) words[r] = r < rows ? _mm512_loadu_si512(c + r * ldc) : _mm512_setzero_si512();
  transpose_words(words);
  for (int64_t r = 0; r < 16; ++r) _mm512_store_si512(tile + r * kTileWords, words[r]);
}
inline void store_tile_sums(const float* tile, float* c, int64_t ldc, int64_t rows) {
  __m512i words[16];
  for (int64_t r = 0; r < 16; ++r) words[r] = _mm512_load_si512(tile + r * kTileWords);
  transpose_words(words);
  for (int64_t r = 0; r < rows; ++r) _mm512_storeu_si512(c + r * ldc, words[r]);
}

// LinearLoops::multiply_few for at most kTileHeight rows and any k: configuring tiles takes as long as reading a depth
// block, and sums that stay in them are the same.
template <typename Words, typename Tiles>
__attribute__((target("amx-tile,amx-bf16,amx-int8"))) void multiply_row_tiles(const WeightMatrix& w, int64_t n0,
                                                                              int64_t k0, int64_t k, const float* a,
                                                                              int64_t rows, float* c, int64_t ldc,
                                                                              bool add) {
  TileConfig config{};
  config.palette = 1;
  for (int tile = 0; tile < 8; ++tile) {
    const bool weights = tile >= 6;
    config.rows[tile] = kTileHeight;
    config.bytes_per_row[tile] = (uint16_t)(weights ? kTileLine : 4 * rows);
  }
  asm volatile("" ::: "memory");  // the instruction reads what the compiler would else store later
  _tile_loadconfig(&config);
  // The sums of one row lie as a column does.
  alignas(64) float squares[2][kTileHeight * kTileWords];
  float *first = rows == 1 ? c : squares[0], *second = rows == 1 ? c + kTileWords : squares[1];
  const size_t pitch = rows == 1 ? sizeof(float) : kTileLine;
  if (add) {
    if (rows > 1) {
      load_tile_sums(c, ldc, rows, first);
      load_tile_sums(c + kTileWords, ldc, rows, second);
      asm volatile("" ::: "memory");  // tiles see what was stored before
    }
    _tile_loadd(0, first, pitch);
    _tile_loadd(1, second, pitch);
  } else {
    _tile_zero(0);
    _tile_zero(1);
  }
  Tiles tiles(w, n0, k0, k);
  const int64_t bytes = k * 4 / Words::kValues;
  for (int64_t at = 0; at < bytes; at += Tiles::kTogether * kTileLine) {
    const TileRows weights = tiles.at(at);
    asm volatile("" ::: "memory");  // tiles see what was stored before
#pragma GCC unroll 2
    for (int64_t line = 0; line < Tiles::kTogether; ++line, a += kTileWords * rows) {
      // The second line takes the same tiles: with others of its own all eight are in use, and a program beside this one
      // on the same core then makes it wait.
      _tile_loadd(4, a, (size_t)(4 * rows));
      _tile_loadd(6, weights.first + line * kLinesPitch, (size_t)weights.stride);
      _tile_loadd(7, weights.second + line * kLinesPitch, (size_t)weights.stride);
      LTX2RT_ADD_PRODUCT(0, 6, 4);
      LTX2RT_ADD_PRODUCT(1, 7, 4);
    }
  }
  _tile_stored(0, first, pitch);
  _tile_stored(1, second, pitch);
  _tile_release();
  asm volatile("" ::: "memory");
  if (rows > 1) {
    store_tile_sums(first, c, ldc, rows);
    store_tile_sums(second, c + kTileWords, ldc, rows);
  }
}

#endif

}  // namespace ltx2rt::cpu::LTX2RT_ISA
