// Hooks into the machine layer (threads, instruction set) for tests and benchmarks.
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <mutex>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "bindings/register.h"
#include "csrc/cpu/isa.h"
#include "csrc/cpu/thread_pool.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace ltx2rt {
namespace {

// How often each of n items was visited by a loop, in which item `fail_at` throws; inner > 0 nests a second loop.
std::vector<int> count_visits(int64_t n, int64_t grain, int64_t inner, int64_t fail_at) {
  std::vector<int> visits(n);
  cpu::parallel_for(n, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      if (i == fail_at) throw std::runtime_error("item " + std::to_string(i) + " failed");
      if (inner == 0) ++visits[i];
      cpu::parallel_for(inner, 1, [&](int64_t first, int64_t last) {
        visits[i] += static_cast<int>(last - first);
      });
    }
  });
  return visits;
}

// How many threads took part in one of several loops of n slow items.
int count_threads(int64_t n) {
  std::mutex mutex;
  std::set<std::thread::id> seen;
  cpu::parallel_for(n, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      const std::lock_guard<std::mutex> lock(mutex);
      seen.insert(std::this_thread::get_id());
    }
  });
  return static_cast<int>(seen.size());
}

}  // namespace

void bind_testing(nb::module_& m) {
  m.def("num_threads", &cpu::num_threads, "Threads that kernels use.");
  m.def("set_num_threads", &cpu::set_num_threads, "count"_a, "Changes num_threads() for this process.");
  m.def("isa", [] { return std::string(cpu::isa_name(cpu::active_isa())); }, "Instruction set of the kernels.");
  m.def("count_visits", &count_visits, "n"_a, "grain"_a, "inner"_a = 0, "fail_at"_a = -1,
        nb::call_guard<nb::gil_scoped_release>(), "Visits per item of a parallel loop.");
  m.def("count_threads", &count_threads, "n"_a, nb::call_guard<nb::gil_scoped_release>(),
        "Threads that took part in a loop of n slow items.");
}

}  // namespace ltx2rt
