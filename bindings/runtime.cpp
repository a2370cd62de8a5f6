// What a program asks of the machine below the kernels: threads, instruction set, and the Metal side, whether this build
// has it and what it plans, which is plain C++.
#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <string>
#include <utility>
#include <vector>

#include "bindings/register.h"
#include "csrc/cpu/available_cores.h"
#include "csrc/cpu/isa.h"
#include "csrc/cpu/isa_choice.h"
#include "csrc/cpu/self_check.h"
#include "csrc/cpu/thread_pool.h"
#include "csrc/metal/launch_plans.h"
#include "csrc/quantized_linear.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace ltx2rt {
namespace {

std::vector<std::pair<std::string, std::string>> describe_isas() {
  std::vector<std::pair<std::string, std::string>> rows;
  for (const auto& state : cpu::isa_states()) {
    if (!state.built) continue;
    std::string text = state.isa == cpu::active_isa() ? "in use" : "available";
    if (!state.supported) {
      text = "not supported by this machine";
    } else if (!state.proven) {
      const auto fault = cpu::find_kernel_fault(state.isa);
      text = fault.empty() ? text + ", self-check passed" : "failed its self-check: " + fault;
    }
    rows.emplace_back(cpu::isa_name(state.isa), text);
  }
  return rows;
}

}  // namespace

void bind_runtime(nb::module_& m) {
  m.def("num_threads", &cpu::num_threads, "Threads that kernels use.");
  m.def("set_num_threads", &cpu::set_num_threads, "count"_a, "Changes num_threads() for this process.");
  m.def("isa", [] { return std::string(cpu::isa_name(cpu::active_isa())); }, "Instruction set of the kernels.");
  m.def("isas", &describe_isas, "Name and state of every instruction set that was built.");
  m.def("available_cores", &cpu::available_cores, "Cores' worth of time that this process may use.");
#ifdef LTX2RT_METAL
  m.attr("METAL") = true;
#else
  m.attr("METAL") = false;
#endif
  m.def(
      "metal_linear_temporary_bytes",
      [](const std::string& weight, int64_t rows, int64_t columns, int64_t depth, int64_t itemsize, int64_t rotation) {
        return metal_plan::linear_temporary_bytes(parse_weight_format(weight), rows, columns, depth, itemsize,
                                                  rotation);
      },
      "weight"_a, nb::kw_only(), "rows"_a, "columns"_a, "depth"_a, "itemsize"_a, "rotation"_a = 0,
      "Bytes of rotated rows, expanded weights and parts of sums that one quantized_linear takes on Metal: x has "
      "`rows` rows of "
      "`depth` values of `itemsize` bytes, the weight `columns` rows of this format.");
  m.def(
      "metal_linear_parts",
      [](const std::string& weight, int64_t rows, int64_t columns, int64_t depth) {
        return metal_plan::linear_parts(parse_weight_format(weight), rows, columns, depth).parts;
      },
      "weight"_a, nb::kw_only(), "rows"_a, "columns"_a, "depth"_a,
      "In how many parts quantized_linear sums over `depth` on Metal: 1 where `rows` and `columns` are work enough.");
}

}  // namespace ltx2rt
