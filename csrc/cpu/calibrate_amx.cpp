// Peak of Intel's AMX tiles.
#include "csrc/cpu/calibrate_amx.h"

#include "csrc/cpu/amx.h"

#if defined(__x86_64__) && defined(__linux__)
#include <immintrin.h>

#include <cstdint>

namespace ltx2rt::cpu {
namespace {

constexpr int kTileRows = 16, kTileBytes = 64;

}  // namespace

// Four accumulators hide the latency of a product (52 cycles, one begins every 16).
__attribute__((target("amx-tile,amx-bf16"))) int64_t multiply_amx(int64_t iterations, float* sink) {
  TileConfig config{};
  config.palette = 1;
  for (int tile = 0; tile < 8; ++tile) {
    config.bytes_per_row[tile] = kTileBytes;
    config.rows[tile] = kTileRows;
  }
  alignas(64) uint16_t ones[kTileRows * kTileBytes / 2];
  for (auto& value : ones) value = 0x3f80;
  alignas(64) float sums[kTileRows * kTileBytes / 4];
  _tile_loadconfig(&config);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_loadd(4, ones, kTileBytes);
  _tile_loadd(5, ones, kTileBytes);
  _tile_loadd(6, ones, kTileBytes);
  _tile_loadd(7, ones, kTileBytes);
  for (int64_t n = 0; n < iterations; ++n) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, sums, kTileBytes);
  _tile_release();
  *sink += sums[0];
  // Each product: 16 x 16 sums of 32 multiply-adds.
  return iterations * 4 * (16 * 16 * 32 * 2);
}

}  // namespace ltx2rt::cpu

#else

namespace ltx2rt::cpu {

int64_t multiply_amx(int64_t, float*) { return 0; }

}  // namespace ltx2rt::cpu

#endif
