// The environment's settings of the CPU kernels, read before they are used.
#include "csrc/cpu/isa.h"
#include "csrc/cpu/thread_pool.h"
#include "csrc/fallback_primitive.h"

namespace ltx2rt {

void check_cpu_settings() {
  cpu::num_threads();
  cpu::active_isa();
}

}  // namespace ltx2rt
