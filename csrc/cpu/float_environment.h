// The floating point mode of the kernels: rounding to nearest even, subnormal numbers kept.
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace ltx2rt::cpu {

// Sets the mode for the calling thread and restores the one before. A program built with -ffast-math starts with
// subnormal numbers flushed to zero, and threads inherit that from the thread that makes them: without this, results
// would depend on who started the workers.
class DefaultFloatEnvironment {
 public:
  DefaultFloatEnvironment() : before_(get()) {
    if (before_ != kDefault) set(kDefault);
  }
  ~DefaultFloatEnvironment() {
    if (before_ != kDefault) set(before_);
  }
  DefaultFloatEnvironment(const DefaultFloatEnvironment&) = delete;
  DefaultFloatEnvironment& operator=(const DefaultFloatEnvironment&) = delete;

  // Puts the calling thread into the mode of a program built with -ffast-math; for tests.
  static void flush_subnormals() {
#if defined(__x86_64__)
    set(kDefault | 0x8040);  // flush to zero, and subnormal operands are zero
#elif defined(__aarch64__)
    set(Mode{1} << 24);  // flush to zero
#endif
  }

 private:
#if defined(__x86_64__)
  using Mode = uint32_t;
  static constexpr Mode kDefault = 0x1f80;  // all exceptions masked
  static constexpr Mode kFlags = 0x3f;      // of exceptions that have occurred: no part of the mode
  static Mode get() { return _mm_getcsr() & ~kFlags; }
  static void set(Mode mode) { _mm_setcsr(mode); }
#elif defined(__aarch64__)
  using Mode = uint64_t;
  static constexpr Mode kDefault = 0;
  static Mode get() {
    Mode mode;
    asm volatile("mrs %0, fpcr" : "=r"(mode));
    return mode;
  }
  static void set(Mode mode) { asm volatile("msr fpcr, %0" : : "r"(mode)); }
#else
  using Mode = int;
  static constexpr Mode kDefault = 0;
  static Mode get() { return 0; }
  static void set(Mode) {}
#endif

  Mode before_;
};

}  // namespace ltx2rt::cpu
