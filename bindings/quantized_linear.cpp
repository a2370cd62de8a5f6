// Python binding of quantized_linear.
#include "csrc/quantized_linear.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/variant.h>

#include "bindings/python_reference.h"
#include "bindings/register.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace ltx2rt {
void bind_quantized_linear(nb::module_& m) {
  using Optional = std::optional<mx::array>;
  m.def(
      "quantized_linear",
      [](const mx::array& x, const std::string& mode, const mx::array& values, const Optional& scale,
         const Optional& zero, const Optional& table, int group_size, int bits, int rotation, bool int8_activations,
         bool half_operands, const Optional& bias, const std::string& activation, const Optional& residual,
         const Optional& gate, const Optional& gate_index, PythonReference reference, bool use_reference, bool fenced,
         const mx::StreamOrDevice& stream) {
        const LinearWeight weight{mode,     values,           scale,        zero, table, group_size, bits,
                                  rotation, int8_activations, half_operands};
        return quantized_linear(x, weight, bias, activation, residual, gate, gate_index,
                                op_context(std::move(reference), use_reference, stream, fenced));
      },
      "x"_a, nb::kw_only(), "mode"_a, "values"_a, "scale"_a.none(), "zero"_a.none(), "table"_a.none(), "group_size"_a,
      "bits"_a, "rotation"_a, "int8_activations"_a, "half_operands"_a = false, "bias"_a.none(), "activation"_a,
      "residual"_a.none(), "gate"_a.none(), "gate_index"_a.none(), "reference"_a, "use_reference"_a, "fenced"_a = false,
      "stream"_a = nb::none(), "See ltx2rt.kernels.quantized_linear.");
}

}  // namespace ltx2rt
