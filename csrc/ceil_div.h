// Division that rounds up: how many parts of a size it takes to cover a whole.
#pragma once

#include <stdint.h>  // and no header of the C++ library: launch_plans.h is compiled without one, too

namespace ltx2rt {

// For n >= 0 and part >= 1.
constexpr int64_t ceil_div(int64_t n, int64_t part) { return (n + part - 1) / part; }

}  // namespace ltx2rt
