// The measuring loop of Intel's AMX tiles.
#pragma once
#include <cstdint>

namespace ltx2rt::cpu {

// Whether this processor has the tiles and the system lets this process use them. Asks the system for that.
bool amx_usable();

// As CalibrationKernels::multiply_bf16, in tiles; only where amx_usable().
int64_t multiply_amx(int64_t iterations, float* sink);

}  // namespace ltx2rt::cpu
