// Python binding of modulated_norm.
#include "csrc/modulated_norm.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/variant.h>

#include "bindings/python_reference.h"
#include "bindings/register.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace ltx2rt {

void bind_modulated_norm(nb::module_& m) {
  m.def(
      "modulated_norm",
      [](const mx::array& x, const std::optional<mx::array>& scale, const std::optional<mx::array>& shift,
         const std::optional<mx::array>& index, const std::string& norm, float eps, PythonReference reference,
         bool use_reference, const mx::StreamOrDevice& stream) {
        return modulated_norm(x, scale, shift, index, norm, eps,
                              op_context(std::move(reference), use_reference, stream));
      },
      "x"_a, nb::kw_only(), "scale"_a.none(), "shift"_a.none(), "index"_a.none(), "norm"_a, "eps"_a, "reference"_a,
      "use_reference"_a, "stream"_a = nb::none(), "See ltx2rt.kernels.modulated_norm.");
}

}  // namespace ltx2rt
