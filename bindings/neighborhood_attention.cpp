// Python binding of neighborhood_attention.
#include "csrc/neighborhood_attention.h"

#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/variant.h>

#include <array>
#include <string>
#include <tuple>

#include "bindings/python_reference.h"
#include "bindings/register.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace ltx2rt {
namespace {

using Tables = std::optional<std::tuple<mx::array, mx::array, mx::array, mx::array>>;

std::optional<NeighborhoodRope> neighborhood_rope(const Tables& tables) {
  if (!tables) return std::nullopt;
  const auto& [q_time, k_time, height, width] = *tables;
  return NeighborhoodRope{q_time, k_time, height, width};
}

}  // namespace

void bind_neighborhood_attention(nb::module_& m) {
  m.def(
      "neighborhood_attention",
      [](const mx::array& q, const mx::array& k, const mx::array& v, const mx::array& key_frames, int num_heads,
         const std::array<int, 2>& window, const std::array<std::string, 2>& borders,
         const std::optional<mx::array>& q_norm, const std::optional<mx::array>& k_norm, float norm_eps,
         const Tables& rope, float scale, PythonReference reference, bool use_reference, bool fenced,
         const mx::StreamOrDevice& stream) {
        return neighborhood_attention(
            q, k, v, key_frames, {q_norm, k_norm, neighborhood_rope(rope)},
            {num_heads, window[0], window[1], parse_border(borders[0]), parse_border(borders[1]), norm_eps, scale},
            op_context(std::move(reference), use_reference, stream, fenced));
      },
      "q"_a, "k"_a, "v"_a, "key_frames"_a, nb::kw_only(), "num_heads"_a, "window"_a, "borders"_a, "q_norm"_a.none(),
      "k_norm"_a.none(), "norm_eps"_a, "rope"_a.none(), "scale"_a, "reference"_a, "use_reference"_a, "fenced"_a = false,
      "stream"_a = nb::none(), "See ltx2rt.kernels.neighborhood_attention.");
}

}  // namespace ltx2rt
