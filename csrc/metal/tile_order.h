// In which order the tiles of a matrix product are made. Plain C++ and Metal.
#pragma once
#include "csrc/metal/shared_types.h"

namespace ltx2rt {
namespace metal_shared {

// Threadgroups that run at the same time are neighbours in their numbers. Numbers go down up to kSwathRows blocks of rows
// before they go on to the next block of columns, so that what runs at once shares both rows of x and rows of W: of n
// tiles of 128 x 64 at once, r blocks of rows and n / r of columns, (128 r + 64 n / r) rows of K values are read, which
// is least at r = sqrt(n / 2): 8 for the 128 threadgroups that 32 to 64 cores hold.
enum { kSwathRows = 8 };

struct TilePosition {
  int32 row_block;
  int32 column_block;
};
constexpr TilePosition tile_position(int32 number, int32 row_blocks, int32 column_blocks) {
  const int32 first_row = number / (kSwathRows * column_blocks) * kSwathRows;
  const int32 rest = row_blocks - first_row, height = rest < kSwathRows ? rest : kSwathRows;
  const int32 in_swath = number - first_row * column_blocks;
  return {first_row + in_swath % height, in_swath / height};
}

}  // namespace metal_shared
}  // namespace ltx2rt
