// Python binding of rope_attention.
#include "csrc/rope_attention.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/variant.h>

#include <tuple>

#include "bindings/python_reference.h"
#include "bindings/register.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace ltx2rt {
namespace {

using Table = std::optional<std::tuple<mx::array, mx::array, mx::array>>;

std::optional<RopeTable> rope_table(const Table& table) {
  if (!table) return std::nullopt;
  const auto& [cos, sin, index] = *table;
  return RopeTable{cos, sin, index};
}

}  // namespace

void bind_rope_attention(nb::module_& m) {
  m.def(
      "rope_attention",
      [](const mx::array& q, const mx::array& k, const mx::array& v, int num_heads, int num_kv_heads,
         const std::optional<mx::array>& q_norm, const std::optional<mx::array>& k_norm, float norm_eps,
         const Table& rope_q, const Table& rope_k, bool interleaved, const std::optional<mx::array>& bias,
         const std::optional<mx::array>& gate_logits, bool causal, float scale, PythonReference reference,
         bool use_reference, bool fenced, const mx::StreamOrDevice& stream) {
        return rope_attention(q, k, v, {q_norm, k_norm, rope_table(rope_q), rope_table(rope_k), bias, gate_logits},
                              {num_heads, num_kv_heads, norm_eps, interleaved, causal, scale},
                              op_context(std::move(reference), use_reference, stream, fenced));
      },
      "q"_a, "k"_a, "v"_a, nb::kw_only(), "num_heads"_a, "num_kv_heads"_a, "q_norm"_a.none(), "k_norm"_a.none(),
      "norm_eps"_a, "rope_q"_a.none(), "rope_k"_a.none(), "interleaved"_a, "bias"_a.none(), "gate_logits"_a.none(),
      "causal"_a, "scale"_a, "reference"_a, "use_reference"_a, "fenced"_a = false, "stream"_a = nb::none(),
      "See ltx2rt.kernels.rope_attention.");
}

}  // namespace ltx2rt
