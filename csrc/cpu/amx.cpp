// Whether Intel's AMX tiles can be used.
#include "csrc/cpu/amx.h"

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace ltx2rt::cpu {
namespace {

bool processor_has_amx() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  constexpr unsigned kAmxBf16 = 1u << 22, kAmxTile = 1u << 24, kAmxInt8 = 1u << 25;
  return (d & kAmxBf16) != 0 && (d & kAmxTile) != 0 && (d & kAmxInt8) != 0;
}

}  // namespace

bool amx_usable() {
  // Linux gives a process the 8 KiB of tile registers per thread only when it asks. The permission stays until it ends.
  constexpr int kRequestPermission = 0x1023, kTileData = 18;
  static const bool usable = processor_has_amx() && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  return usable;
}

}  // namespace ltx2rt::cpu

#else

namespace ltx2rt::cpu {

bool amx_usable() { return false; }

}  // namespace ltx2rt::cpu

#endif
