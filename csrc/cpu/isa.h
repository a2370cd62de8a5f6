// Which instruction set the CPU kernels run with.
//
// Files named *_simd.cpp are compiled once per instruction set, each time with LTX2RT_ISA set to its name, and put
// their code into namespace ltx2rt::cpu::LTX2RT_ISA. They include only simd.h, their own kernel table header and C
// headers: an inline function of a shared header, compiled there with wider instructions, could otherwise be the copy
// that the linker keeps for everyone.
#pragma once

namespace ltx2rt::cpu {

// The emulated ones are the code of their namesakes in instructions of AVX2, for tests (CMakeLists.txt).
// amxbf16 is avx512bf16 with Intel's AMX tiles (amx.h) where a kernel has them: the same code, other entries of its table.
// neondot, avx2vnni and avx512vnni are neon, avx2 and avx512 with dot products of 8-bit integers: only the loops that
// multiply such (codes_simd.cpp) are compiled for them, everything else is the code of the set without.
enum class Isa {
  portable,
  neon,
  neondot,
  neonbf16,
  avx2,
  avx2vnni,
  avx512_emulated,
  avx512bf16_emulated,
  avx512,
  avx512vnni,
  avx512bf16,
  amxbf16
};

// The widest set that was built, that this processor and operating system support, and whose kernels compute what the
// portable ones do (isa_choice.h); or the one LTX2RT_ISA asks for.
// Throws std::invalid_argument for an unknown name or a set this machine lacks.
Isa active_isa();

const char* isa_name(Isa isa);

// Whether this processor multiplies float32 values faster than it multiplies pairs of bfloat16.
bool pairs_are_slow();

// Whether kernels multiply in tiles.
inline bool tiles_in_use() { return active_isa() == Isa::amxbf16; }

}  // namespace ltx2rt::cpu

// X(name, ...) for every built instruction set but the portable one and those that have code for 8-bit integers alone.
#ifdef LTX2RT_HAS_avx2
#define LTX2RT_IF_avx2(X, ...) X(avx2, __VA_ARGS__)
#else
#define LTX2RT_IF_avx2(X, ...)
#endif
#ifdef LTX2RT_HAS_avx512
#define LTX2RT_IF_avx512(X, ...) X(avx512, __VA_ARGS__)
#else
#define LTX2RT_IF_avx512(X, ...)
#endif
#ifdef LTX2RT_HAS_avx512bf16
#define LTX2RT_IF_avx512bf16(X, ...) X(avx512bf16, __VA_ARGS__)
#else
#define LTX2RT_IF_avx512bf16(X, ...)
#endif
#ifdef LTX2RT_HAS_avx512_emulated
#define LTX2RT_IF_avx512_emulated(X, ...) X(avx512_emulated, __VA_ARGS__)
#else
#define LTX2RT_IF_avx512_emulated(X, ...)
#endif
#ifdef LTX2RT_HAS_avx512bf16_emulated
#define LTX2RT_IF_avx512bf16_emulated(X, ...) X(avx512bf16_emulated, __VA_ARGS__)
#else
#define LTX2RT_IF_avx512bf16_emulated(X, ...)
#endif
#ifdef LTX2RT_HAS_neon
#define LTX2RT_IF_neon(X, ...) X(neon, __VA_ARGS__)
#else
#define LTX2RT_IF_neon(X, ...)
#endif
#ifdef LTX2RT_HAS_neonbf16
#define LTX2RT_IF_neonbf16(X, ...) X(neonbf16, __VA_ARGS__)
#else
#define LTX2RT_IF_neonbf16(X, ...)
#endif
#ifdef LTX2RT_HAS_avx2vnni
#define LTX2RT_IF_avx2vnni(X, ...) X(avx2vnni, __VA_ARGS__)
#else
#define LTX2RT_IF_avx2vnni(X, ...)
#endif
#ifdef LTX2RT_HAS_avx512vnni
#define LTX2RT_IF_avx512vnni(X, ...) X(avx512vnni, __VA_ARGS__)
#else
#define LTX2RT_IF_avx512vnni(X, ...)
#endif
#ifdef LTX2RT_HAS_neondot
#define LTX2RT_IF_neondot(X, ...) X(neondot, __VA_ARGS__)
#else
#define LTX2RT_IF_neondot(X, ...)
#endif
#define LTX2RT_EACH_ISA(X, ...)                                                                        \
  LTX2RT_IF_avx2(X, __VA_ARGS__) LTX2RT_IF_avx512(X, __VA_ARGS__) LTX2RT_IF_avx512bf16(X, __VA_ARGS__) \
      LTX2RT_IF_avx512_emulated(X, __VA_ARGS__) LTX2RT_IF_avx512bf16_emulated(X, __VA_ARGS__)          \
          LTX2RT_IF_neon(X, __VA_ARGS__) LTX2RT_IF_neonbf16(X, __VA_ARGS__)

// Those that have code for 8-bit integers alone.
#define LTX2RT_EACH_CODES_ISA(X, ...) \
  LTX2RT_IF_avx2vnni(X, __VA_ARGS__) LTX2RT_IF_avx512vnni(X, __VA_ARGS__) LTX2RT_IF_neondot(X, __VA_ARGS__)

#define LTX2RT_DECLARE(isa, return_type, function) \
  namespace isa {                                  \
  return_type function();                          \
  }
#define LTX2RT_CASE(isa, function) \
  case Isa::isa:                   \
    return isa::function();
// Sets that take the code of another one, wherever that is built.
#define LTX2RT_CASE_avx2(isa, function) \
  case Isa::avx2vnni:                   \
    return isa::function();
#define LTX2RT_CASE_avx512(isa, function) \
  case Isa::avx512vnni:                   \
    return isa::function();
#define LTX2RT_CASE_avx512bf16(isa, function) \
  case Isa::amxbf16:                          \
    return isa::function();
#define LTX2RT_CASE_neon(isa, function) \
  case Isa::neondot:                    \
    return isa::function();
#define LTX2RT_TILE_CASE(function) LTX2RT_IF_avx512bf16(LTX2RT_CASE_avx512bf16, function)
#define LTX2RT_SHARED_CASES(function)                                                                                  \
  LTX2RT_IF_avx2(LTX2RT_CASE_avx2, function) LTX2RT_IF_avx512(LTX2RT_CASE_avx512, function) LTX2RT_TILE_CASE(function) \
      LTX2RT_IF_neon(LTX2RT_CASE_neon, function)

// The dispatchers `return_type function(Isa)`, with these cases, and `return_type function()` of the active set.
#define LTX2RT_DISPATCHERS(return_type, function, ...) \
  inline return_type function(Isa isa) {               \
    switch (isa) {                                     \
      __VA_ARGS__                                      \
      default:                                         \
        return portable::function();                   \
    }                                                  \
  }                                                    \
  inline return_type function() { return function(active_isa()); }

// Declares `return_type function();` in the namespace of every built instruction set, and the dispatchers in
// ltx2rt::cpu itself. Used at namespace ltx2rt::cpu scope.
#define LTX2RT_DISPATCH(return_type, function)           \
  LTX2RT_DECLARE(portable, return_type, function)        \
  LTX2RT_EACH_ISA(LTX2RT_DECLARE, return_type, function) \
  LTX2RT_DISPATCHERS(return_type, function, LTX2RT_EACH_ISA(LTX2RT_CASE, function) LTX2RT_SHARED_CASES(function))

// The same for what also has code of its own for the sets of dot products of 8-bit integers.
#define LTX2RT_DISPATCH_CODES(return_type, function)                                                     \
  LTX2RT_DECLARE(portable, return_type, function)                                                        \
  LTX2RT_EACH_ISA(LTX2RT_DECLARE, return_type, function)                                                 \
  LTX2RT_EACH_CODES_ISA(LTX2RT_DECLARE, return_type, function)                                           \
  LTX2RT_DISPATCHERS(return_type, function,                                                              \
                     LTX2RT_EACH_ISA(LTX2RT_CASE, function) LTX2RT_EACH_CODES_ISA(LTX2RT_CASE, function) \
                         LTX2RT_TILE_CASE(function))
