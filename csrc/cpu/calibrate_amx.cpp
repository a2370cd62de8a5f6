// Peak of Intel's AMX tiles, which no kernel uses: a machine's ceiling, not the kernels'.
#include "csrc/cpu/calibrate_amx.h"

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>

namespace ltx2rt::cpu {
namespace {

constexpr int kTileRows = 16, kTileBytes = 64;

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t bytes_per_row[16] = {};
  uint8_t rows[16] = {};
};
static_assert(sizeof(TileConfig) == 64);

bool processor_has_amx() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  constexpr unsigned kAmxBf16 = 1u << 22, kAmxTile = 1u << 24;
  return (d & kAmxBf16) != 0 && (d & kAmxTile) != 0;
}

}  // namespace

bool amx_usable() {
  // Linux gives a process the 8 KiB of tile registers per thread only when it asks. The permission stays until it ends.
  constexpr int kRequestPermission = 0x1023, kTileData = 18;
  static const bool usable = processor_has_amx() && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  return usable;
}

// Four accumulators hide the latency of a product (52 cycles, one begins every 16).
__attribute__((target("amx-tile,amx-bf16"))) int64_t multiply_amx(int64_t iterations, float* sink) {
  TileConfig config;
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

bool amx_usable() { return false; }

int64_t multiply_amx(int64_t, float*) { return 0; }

}  // namespace ltx2rt::cpu

#endif
