// Which instruction set the CPU kernels run with.
//
// Files named *_simd.cpp are compiled once per instruction set, each time with LTX2RT_ISA set to its name, and put
// their code into namespace ltx2rt::cpu::LTX2RT_ISA. They include only simd.h, their own kernel table header and C
// headers: an inline function of a shared header, compiled there with wider instructions, could otherwise be the copy
// that the linker keeps for everyone.
#pragma once

namespace ltx2rt::cpu {

enum class Isa { portable, avx2 };

// The widest set that was built and that this processor has, or the one LTX2RT_ISA asks for.
// Throws std::invalid_argument for an unknown name or a set this machine lacks.
Isa active_isa();

const char* isa_name(Isa isa);

}  // namespace ltx2rt::cpu

// Declares `return_type function();` in the namespace of every built instruction set, and the one-argument-less
// dispatcher `return_type function()` in ltx2rt::cpu itself. Used at namespace ltx2rt::cpu scope.
#ifdef LTX2RT_HAS_avx2
#define LTX2RT_DECLARE_avx2(return_type, function) \
  namespace avx2 {                                 \
  return_type function();                          \
  }
#define LTX2RT_CASE_avx2(function) \
  case Isa::avx2:                  \
    return avx2::function();
#else
#define LTX2RT_DECLARE_avx2(return_type, function)
#define LTX2RT_CASE_avx2(function)
#endif

#define LTX2RT_DISPATCH(return_type, function) \
  namespace portable {                         \
  return_type function();                      \
  }                                            \
  LTX2RT_DECLARE_avx2(return_type, function)   \
  inline return_type function() {              \
    switch (active_isa()) {                    \
      LTX2RT_CASE_avx2(function)               \
      default:                                 \
        return portable::function();           \
    }                                          \
  }
