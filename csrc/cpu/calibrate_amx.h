// The measuring loop of Intel's AMX tiles.
#pragma once
#include <cstdint>

namespace ltx2rt::cpu {

// As CalibrationKernels::multiply_bf16, in tiles; only where amx_usable() (amx.h).
int64_t multiply_amx(int64_t iterations, float* sink);

}  // namespace ltx2rt::cpu
