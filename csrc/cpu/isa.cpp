// Choice of the instruction set at run time.
#include "csrc/cpu/isa.h"

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>

#include "csrc/cpu/amx.h"
#include "csrc/cpu/isa_choice.h"
#include "csrc/cpu/self_check.h"

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace ltx2rt::cpu {
namespace {

#if defined(__x86_64__)

// True if the operating system saves all registers of `mask`: bits 1 and 2 for AVX, 5 to 7 more for AVX-512.
bool saves_registers(uint32_t mask) {
  uint32_t eax, ebx, ecx, edx;
  if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || (ecx & bit_OSXSAVE) == 0) return false;
  uint32_t low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (low & mask) == mask;
}

bool supports_avx2() {
  return saves_registers(0x06) && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("f16c");
}

bool supports_avx512() {
  return supports_avx2() && saves_registers(0xe6) && __builtin_cpu_supports("avx512f") &&
         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

bool supports_avx2vnni() {
  uint32_t eax = 0, ebx, ecx, edx;
  return supports_avx2() && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && (eax >> 4 & 1) != 0;
}

bool supports_avx512vnni() { return supports_avx512() && __builtin_cpu_supports("avx512vnni"); }

// Every processor with BF16 but one (Cooper Lake, which then runs avx512vnni) has VBMI, VNNI and GFNI too.
bool supports_avx512bf16() {
  uint32_t eax = 0, ebx, ecx, edx;
  return supports_avx512vnni() && __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("gfni") &&
         __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && (eax >> 5 & 1) != 0;
}

bool supports_neondot() { return false; }
bool supports_neonbf16() { return false; }

#else

bool supports_avx2() { return false; }
bool supports_avx2vnni() { return false; }
bool supports_avx512() { return false; }
bool supports_avx512vnni() { return false; }
bool supports_avx512bf16() { return false; }

// Extensions of NEON: dot products of 8-bit integers, and products of bfloat16 with those of matrices of 8-bit integers
// (I8MM), which came together.
#if defined(__aarch64__) && defined(__linux__)
bool supports_neondot() { return (getauxval(AT_HWCAP) >> 20 & 1) != 0; }
bool supports_neonbf16() { return supports_neondot() && (getauxval(AT_HWCAP2) >> 13 & 3) == 3; }
#elif defined(__aarch64__) && defined(__APPLE__)
bool has(const char* feature) {
  int32_t value = 0;
  size_t size = sizeof value;
  return sysctlbyname(feature, &value, &size, nullptr, 0) == 0 && value != 0;
}
bool supports_neondot() { return has("hw.optional.arm.FEAT_DotProd"); }
bool supports_neonbf16() {
  return supports_neondot() && has("hw.optional.arm.FEAT_BF16") && has("hw.optional.arm.FEAT_I8MM");
}
#else
bool supports_neondot() { return false; }
bool supports_neonbf16() { return false; }
#endif

#endif

bool supports_neon() {
#if defined(__aarch64__)
  return true;
#else
  return false;
#endif
}

#define LTX2RT_BUILT(isa, wanted) \
  if (Isa::isa == wanted) return true;

// The set whose code one takes where it has none of its own.
Isa base_of(Isa isa) {
  switch (isa) {
    case Isa::amxbf16:
      return Isa::avx512bf16;
    case Isa::avx512vnni:
      return Isa::avx512;
    case Isa::avx2vnni:
      return Isa::avx2;
    case Isa::neondot:
      return Isa::neon;
    default:
      return isa;
  }
}

bool is_built(Isa isa) {
  if (base_of(isa) != isa && !is_built(base_of(isa))) return false;
  LTX2RT_EACH_ISA(LTX2RT_BUILT, isa)
  LTX2RT_EACH_CODES_ISA(LTX2RT_BUILT, isa)
  return isa == Isa::portable || isa == Isa::amxbf16;
}

}  // namespace

std::vector<IsaState> isa_states() {
  const bool avx2 = supports_avx2(), neon = supports_neon();
  std::vector<IsaState> states = {{Isa::amxbf16, false, supports_avx512bf16() && amx_usable(), true, true},
                                  {Isa::avx512bf16, false, supports_avx512bf16(), true, true},
                                  {Isa::avx512vnni, false, supports_avx512vnni(), true, true},
                                  {Isa::avx512, false, supports_avx512(), true, true},
                                  {Isa::avx512bf16_emulated, false, avx2, false, false},
                                  {Isa::avx512_emulated, false, avx2, false, false},
                                  {Isa::avx2vnni, false, supports_avx2vnni(), true, true},
                                  {Isa::avx2, false, avx2, true, true},
                                  {Isa::neonbf16, false, neon && supports_neonbf16(), false, true},
                                  {Isa::neondot, false, neon && supports_neondot(), false, true},
                                  {Isa::neon, false, neon, false, true},
                                  {Isa::portable, false, true, true, true}};
  for (auto& state : states) state.built = is_built(state.isa);
  return states;
}

IsaChoice choose_isa(const std::vector<IsaState>& states, const char* asked,
                     const std::function<std::string(Isa)>& find_fault) {
  const std::string wanted = asked == nullptr ? "" : asked;
  std::string names;
  std::string warning;
  bool reached = wanted.empty();
  for (const auto& state : states) {
    if (!state.built || !state.supported) continue;
    names += (names.empty() ? "" : ", ") + std::string(isa_name(state.isa));
    const bool named = wanted == isa_name(state.isa);
    reached = reached || named;
    if (!reached || (!state.automatic && !named)) continue;
    const std::string fault = state.proven ? "" : find_fault(state.isa);
    if (fault.empty()) {
      if (!warning.empty()) warning = "ltx2rt: " + warning + "using " + isa_name(state.isa) + " instead.";
      return {state.isa, warning};
    }
    warning += std::string("the ") + isa_name(state.isa) + " kernels failed their self-check (" + fault + "); ";
  }
  throw std::invalid_argument("LTX2RT_ISA must be one of: " + names + " on this machine, got \"" + wanted +
                              "\"; unset it for the best one.");
}

Isa active_isa() {
  static const Isa isa = [] {
    const auto choice = choose_isa(isa_states(), std::getenv("LTX2RT_ISA"), find_kernel_fault);
    if (!choice.warning.empty()) std::fprintf(stderr, "%s\n", choice.warning.c_str());
    return choice.isa;
  }();
  return isa;
}

// Intel's processors with AVX-512 BF16 begin a product of 16 pairs every second cycle, and two of 16 float32 values in
// every cycle; AMD's multiply twice as many values in pairs. Nearly all of Intel's have tiles, but a virtual machine may
// hide them.
bool pairs_are_slow() {
#if defined(__x86_64__)
  static const bool slow = __builtin_cpu_is("intel") != 0;
  return slow;
#else
  return false;
#endif
}

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::amxbf16:
      return "amxbf16";
    case Isa::avx512bf16:
      return "avx512bf16";
    case Isa::avx512vnni:
      return "avx512vnni";
    case Isa::avx512:
      return "avx512";
    case Isa::avx512bf16_emulated:
      return "avx512bf16_emulated";
    case Isa::avx512_emulated:
      return "avx512_emulated";
    case Isa::avx2vnni:
      return "avx2vnni";
    case Isa::avx2:
      return "avx2";
    case Isa::neonbf16:
      return "neonbf16";
    case Isa::neondot:
      return "neondot";
    case Isa::neon:
      return "neon";
    case Isa::portable:
      break;
  }
  return "portable";
}

}  // namespace ltx2rt::cpu
