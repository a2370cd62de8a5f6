// The rules by which an instruction set is chosen, apart from what this machine has.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "csrc/cpu/isa.h"

namespace ltx2rt::cpu {

struct IsaState {
  Isa isa;
  bool built;
  bool supported;  // by the processor and the operating system
  bool proven;     // this project's tests have run on hardware with it
  bool automatic;  // false: only when LTX2RT_ISA asks for it
};

// Every instruction set, best first, as this build and machine have it.
std::vector<IsaState> isa_states();

struct IsaChoice {
  Isa isa;
  std::string warning;  // empty, or one line on the sets that were passed over
};

// The set to use: the one asked for (null or empty: the best), or else the best below it that passes. A set that is not
// proven passes if find_fault, which compares its kernels with the portable ones, returns an empty string.
// Throws std::invalid_argument if a set is asked for that is not built and supported.
IsaChoice choose_isa(const std::vector<IsaState>& states, const char* asked,
                     const std::function<std::string(Isa)>& find_fault);

}  // namespace ltx2rt::cpu
