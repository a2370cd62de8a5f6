// What Python has to know of the Metal side: whether this build has it, and what it plans, which is plain C++.
#include <nanobind/nanobind.h>

#include <string_view>

#include "bindings/register.h"
#include "csrc/metal/launch_plans.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace ltx2rt {
namespace {

WeightFormat format_of(const char* name) {
  constexpr const char* kNames[] = {"float32", "float16", "bfloat16", "e4m3", "int8", "int4"};
  for (int i = 0; i < 6; ++i) {
    if (std::string_view(name) == kNames[i]) return static_cast<WeightFormat>(i);
  }
  throw nb::value_error("weight must be float32, float16, bfloat16, e4m3, int8 or int4");
}

}  // namespace

void bind_metal(nb::module_& m) {
#ifdef LTX2RT_METAL
  m.attr("METAL") = true;
#else
  m.attr("METAL") = false;
#endif
  m.def(
      "metal_linear_temporary_bytes",
      [](const char* weight, int64_t rows, int64_t columns, int64_t depth, int64_t itemsize) {
        return metal_plan::linear_temporary_bytes(format_of(weight), rows, columns, depth, itemsize);
      },
      "weight"_a, nb::kw_only(), "rows"_a, "columns"_a, "depth"_a, "itemsize"_a,
      "Bytes of expanded weights that one quantized_linear takes on Metal: x has `rows` rows of `depth` values of "
      "`itemsize` bytes, the weight `columns` rows of a dtype or e4m3, int8 or int4.");
}

}  // namespace ltx2rt
