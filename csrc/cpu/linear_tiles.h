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

// Sums of one group of rows, or two, by the columns of a panel: c (+)= a * panel, a tile along k after the other.
template <typename Words, bool kTwo>
class TileSums {
 public:
  __attribute__((target("amx-tile"))) TileSums(const float* first, int64_t first_rows, const float* second,
                                               int64_t second_rows, float* c, int64_t ldc, bool add)
      : first_(first),
        second_(second),
        first_step_(first_rows * kTileWords),
        second_step_(second_rows * kTileWords),
        c_(c),
        below_(c + kTileHeight * ldc),
        pitch_((size_t)ldc * sizeof(float)) {
    if (add) {
      _tile_loadd(0, c_, pitch_);
      _tile_loadd(1, c_ + kTileWords, pitch_);
      if constexpr (kTwo) {
        _tile_loadd(2, below_, pitch_);
        _tile_loadd(3, below_ + kTileWords, pitch_);
      }
    } else {
      _tile_zero(0);
      _tile_zero(1);
      if constexpr (kTwo) {
        _tile_zero(2);
        _tile_zero(3);
      }
    }
  }

  // panel: of the next tile.
  __attribute__((target("amx-tile,amx-bf16,amx-int8"))) void add_product(const float* panel) {
    constexpr size_t kLine = kPanelColumns * sizeof(float);
    _tile_loadd(4, first_, kTileLine);
    _tile_loadd(6, panel, kLine);
    _tile_loadd(7, panel + kTileWords, kLine);
    LTX2RT_ADD_PRODUCT(0, 4, 6);
    LTX2RT_ADD_PRODUCT(1, 4, 7);
    if constexpr (kTwo) {
      _tile_loadd(5, second_, kTileLine);
      LTX2RT_ADD_PRODUCT(2, 5, 6);
      LTX2RT_ADD_PRODUCT(3, 5, 7);
      second_ += second_step_;
    }
    first_ += first_step_;
  }

  __attribute__((target("amx-tile"))) void store() const {
    _tile_stored(0, c_, pitch_);
    _tile_stored(1, c_ + kTileWords, pitch_);
    if constexpr (kTwo) {
      _tile_stored(2, below_, pitch_);
      _tile_stored(3, below_ + kTileWords, pitch_);
    }
  }

 private:
  const float *first_, *second_;
  int64_t first_step_, second_step_;
  float *c_, *below_;
  size_t pitch_;
};

// The sums of one or two groups and a whole panel. Fetches a share of what is needed soon with every tile.
template <typename Words, bool kTwo>
__attribute__((target("amx-tile,amx-bf16,amx-int8"))) inline void multiply_groups(
    const float* first, int64_t first_rows, const float* second, int64_t second_rows, const float* panel, int64_t tiles,
    float* c, int64_t ldc, bool add, Fetcher& fetcher) {
  TileSums<Words, kTwo> sums(first, first_rows, second, second_rows, c, ldc, add);
  for (int64_t t = 0; t < tiles; ++t, panel += kTileWords * kPanelColumns) {
    fetcher.fetch_share();
    sums.add_product(panel);
  }
  sums.store();
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

#endif

}  // namespace ltx2rt::cpu::LTX2RT_ISA
