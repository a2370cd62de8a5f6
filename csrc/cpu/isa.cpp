// Choice of the instruction set at run time.
#include "csrc/cpu/isa.h"

#include <cstdlib>
#include <iterator>
#include <stdexcept>
#include <string>

namespace ltx2rt::cpu {
namespace {

struct Candidate {
  Isa isa;
  const char* name;
  bool usable;  // built, and this processor has it
};

bool has_avx2() {
#ifdef LTX2RT_HAS_avx2
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
#else
  return false;
#endif
}

Isa choose() {
  const Candidate best_first[] = {{Isa::avx2, "avx2", has_avx2()}, {Isa::portable, "portable", true}};
  const char* asked = std::getenv("LTX2RT_ISA");
  std::string usable;
  for (const auto& candidate : best_first) {
    if (!candidate.usable) continue;
    if (asked == nullptr || *asked == '\0' || std::string(asked) == candidate.name) return candidate.isa;
    usable += (usable.empty() ? "" : ", ") + std::string(candidate.name);
  }
  throw std::invalid_argument(std::string("LTX2RT_ISA must be one of: ") + usable + " on this machine, got \"" +
                              asked + "\"; unset it for the best one.");
}

}  // namespace

Isa active_isa() {
  static const Isa isa = choose();
  return isa;
}

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::avx2:
      return "avx2";
    case Isa::portable:
      break;
  }
  return "portable";
}

}  // namespace ltx2rt::cpu
