// The Metal standard library as the simulator provides it; included before every translated shader.
#pragma once
#include "atomic.h"
#include "launch.h"
#include "math.h"
#include "matrix.h"
#include "simd.h"

namespace metal {
struct os_log {
  constexpr os_log(const __constant char*, const __constant char*) __constant {}
  template <class... A>
  void log_debug(const __constant char*, A...) const __constant {}
};
}  // namespace metal
