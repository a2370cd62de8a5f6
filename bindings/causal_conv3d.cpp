// Python binding of causal_conv3d.
#include "csrc/causal_conv3d.h"

#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/variant.h>

#include "bindings/python_reference.h"
#include "bindings/register.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace ltx2rt {

void bind_causal_conv3d(nb::module_& m) {
  m.def(
      "causal_conv3d",
      [](const mx::array& x, const mx::array& weight, const std::optional<mx::array>& bias,
         const std::array<int, 3>& stride, const std::array<int, 3>& dilation,
         const std::array<std::pair<int, int>, 3>& padding, const std::array<std::string, 3>& padding_mode,
         std::optional<float> pixel_norm_eps, const std::optional<mx::array>& scale,
         const std::optional<mx::array>& shift, const std::optional<std::string>& activation, float negative_slope,
         const std::optional<mx::array>& residual, const std::optional<mx::array>& halo, PythonReference reference,
         bool use_reference, bool fenced, const mx::StreamOrDevice& stream) {
        CausalConv3dOptions options{
            stride, dilation, padding, {}, pixel_norm_eps, parse_conv_activation(activation), negative_slope};
        for (int axis = 0; axis < 3; ++axis) options.padding_mode[axis] = parse_padding_mode(padding_mode[axis]);
        return causal_conv3d(x, weight, {bias, scale, shift, residual, halo}, options,
                             op_context(std::move(reference), use_reference, stream, fenced));
      },
      "x"_a, "weight"_a, "bias"_a.none(), nb::kw_only(), "stride"_a, "dilation"_a, "padding"_a, "padding_mode"_a,
      "pixel_norm_eps"_a.none(), "scale"_a.none(), "shift"_a.none(), "activation"_a.none(), "negative_slope"_a,
      "residual"_a.none(), "halo"_a.none(), "reference"_a, "use_reference"_a, "fenced"_a = false,
      "stream"_a = nb::none(), "See ltx2rt.kernels.causal_conv3d.");
}

}  // namespace ltx2rt
