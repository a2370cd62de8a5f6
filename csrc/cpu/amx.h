// Intel's AMX tiles: registers of 16 rows of 64 bytes, and products of them.
#pragma once
#include <stdint.h>

// In *_simd.cpp files: the instruction set is that of processors which may have tiles.
#if defined(__AVX512BF16__) && defined(__linux__)
#define LTX2RT_TILES
#endif

namespace ltx2rt::cpu {

// Whether this processor has the tiles with products of bfloat16 pairs and of 8-bit integers and the system lets this process use them. Asks
// the system for that.
bool amx_usable();

// What the instruction that configures a thread's tiles reads. Filled in by whoever uses it: an inline function of a
// header could be compiled for wider instructions than a processor has (isa.h).
struct alignas(64) TileConfig {
  uint8_t palette, start_row;
  uint8_t reserved[14];
  uint16_t bytes_per_row[16];
  uint8_t rows[16];
};
static_assert(sizeof(TileConfig) == 64);

}  // namespace ltx2rt::cpu
