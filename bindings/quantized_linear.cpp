// Python binding of quantized_linear.
#include "csrc/quantized_linear.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/variant.h>

#include <stdexcept>
#include <string>
#include <utility>

#include "bindings/python_reference.h"
#include "bindings/register.h"
#include "csrc/cpu/rows.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace ltx2rt {
namespace {

WeightFormat weight_format(const std::string& name) {
  constexpr std::pair<const char*, WeightFormat> kFormats[] = {
      {"float32", WeightFormat::f32}, {"float16", WeightFormat::f16}, {"bfloat16", WeightFormat::bf16},
      {"e4m3", WeightFormat::e4m3},   {"int8", WeightFormat::int8},   {"int4", WeightFormat::int4}};
  for (const auto& [known, format] : kFormats)
    if (name == known) return format;
  throw std::invalid_argument("weight_format must be float32, float16, bfloat16, e4m3, int8 or int4, got \"" + name +
                              "\".");
}

}  // namespace

void bind_quantized_linear(nb::module_& m) {
  using Optional = std::optional<mx::array>;
  m.def(
      "quantized_linear",
      [](const mx::array& x, const std::string& mode, const mx::array& values, const Optional& scale,
         const Optional& zero, int group_size, int bits, const Optional& bias, const std::string& activation,
         const Optional& residual, const Optional& gate, const Optional& gate_index, PythonReference reference,
         bool use_reference, bool fenced, const mx::StreamOrDevice& stream) {
        return quantized_linear(x, {mode, values, scale, zero, group_size, bits}, bias, activation, residual, gate,
                                gate_index, op_context(std::move(reference), use_reference, stream, fenced));
      },
      "x"_a, nb::kw_only(), "mode"_a, "values"_a, "scale"_a.none(), "zero"_a.none(), "group_size"_a, "bits"_a,
      "bias"_a.none(), "activation"_a, "residual"_a.none(), "gate"_a.none(), "gate_index"_a.none(), "reference"_a,
      "use_reference"_a, "fenced"_a = false, "stream"_a = nb::none(), "See ltx2rt.kernels.quantized_linear.");
  m.def(
      "quantized_linear_scratch_bytes",
      [](int64_t rows, int64_t depth, int64_t width, mx::Dtype dtype, const std::string& format, bool strided_x,
         int threads) {
        return quantized_linear_scratch_bytes(rows, depth, width, cpu::float_type(dtype), weight_format(format),
                                              strided_x, threads);
      },
      "rows"_a, "depth"_a, "width"_a, nb::kw_only(), "dtype"_a, "weight_format"_a, "strided_x"_a, "threads"_a,
      "Bytes that the CPU kernel takes besides inputs and output, for x (rows, depth) and a weight (width, depth).");
}

}  // namespace ltx2rt
