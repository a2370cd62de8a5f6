// Python binding of antialiased_snake.
#include "csrc/antialiased_snake.h"

#include <nanobind/stl/variant.h>

#include "bindings/python_reference.h"
#include "bindings/register.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace ltx2rt {

void bind_antialiased_snake(nb::module_& m) {
  m.def(
      "antialiased_snake",
      [](const mx::array& x, const mx::array& alpha, const mx::array& beta, const mx::array& rise,
         const mx::array& fall, PythonReference reference, bool use_reference, const mx::StreamOrDevice& stream) {
        return antialiased_snake(x, alpha, beta, rise, fall, op_context(std::move(reference), use_reference, stream));
      },
      "x"_a, "alpha"_a, "beta"_a, "rise"_a, "fall"_a, nb::kw_only(), "reference"_a, "use_reference"_a,
      "stream"_a = nb::none(), "See ltx2rt.kernels.antialiased_snake.");
}

}  // namespace ltx2rt
