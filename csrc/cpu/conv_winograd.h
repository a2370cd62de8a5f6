// The Winograd form of causal_conv3d: for which calls, and its schedule.
#pragma once

#include "csrc/cpu/causal_conv3d_kernel.h"

namespace ltx2rt::cpu {

// Whether a call is computed by run_winograd. Depends on dtypes, on the kernel and on the size of one frame, so that a
// frame has the same bits however many are computed with it.
bool suits_winograd(const ConvArgs& args);

void run_winograd(const ConvArgs& args);

}  // namespace ltx2rt::cpu
