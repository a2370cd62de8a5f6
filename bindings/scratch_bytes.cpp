// What the CPU kernels take besides inputs and outputs, as they themselves reckon it.
#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "bindings/register.h"
#include "csrc/antialiased_snake.h"
#include "csrc/causal_conv3d.h"
#include "csrc/cpu/rows.h"
#include "csrc/modulated_norm.h"
#include "csrc/neighborhood_attention.h"
#include "csrc/quantized_linear.h"
#include "csrc/rope_attention.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace ltx2rt {
void bind_scratch_bytes(nb::module_& m) {
  m.def(
      "antialiased_snake_scratch_bytes",
      [](const std::vector<int>& x, int threads) {
        return antialiased_snake_scratch_bytes(mx::Shape(x.begin(), x.end()), threads);
      },
      "x"_a, nb::kw_only(), "threads"_a,
      "Bytes that the CPU kernel takes besides inputs and output, for x of this shape.");
  m.def(
      "causal_conv3d_scratch_bytes",
      [](const std::vector<int>& x, const std::vector<int>& weight, mx::Dtype dtype, mx::Dtype weight_dtype,
         const std::array<int, 3>& stride, const std::array<int, 3>& dilation,
         const std::optional<std::string>& activation, int threads) {
        const CausalConv3dShapes shapes{
            mx::Shape(x.begin(), x.end()), mx::Shape(weight.begin(), weight.end()), {}, {}, {}, {}, {}};
        const CausalConv3dOptions options{stride, dilation, {}, {}, {}, parse_conv_activation(activation), 0.0f};
        return causal_conv3d_scratch_bytes(shapes, options, dtype, weight_dtype, threads);
      },
      "x"_a, "weight"_a, nb::kw_only(), "dtype"_a, "weight_dtype"_a, "stride"_a, "dilation"_a, "activation"_a.none(),
      "threads"_a,
      "Bytes that the CPU kernel takes besides inputs and output, for x and weight of these shapes. The x is the one "
      "that the weight moves over: with its halo and its padding.");
  m.def("modulated_norm_scratch_bytes", &modulated_norm_scratch_bytes, "rows"_a, "width"_a, nb::kw_only(), "threads"_a,
        "Bytes that the CPU kernel takes besides inputs and output, for x (rows, width).");
  m.def(
      "neighborhood_attention_scratch_bytes",
      [](const std::array<int64_t, 5>& q, int64_t key_frames, int64_t slots, int64_t heads,
         const std::array<int64_t, 2>& window, const std::array<std::string, 2>& borders, mx::Dtype dtype,
         int threads) {
        return neighborhood_attention_scratch_bytes(
            {q[0], q[1], q[2], q[3], heads, q[4] / heads, key_frames, slots, window[0], window[1],
             parse_border(borders[0]), parse_border(borders[1]), cpu::float_type(dtype)},
            threads);
      },
      "q"_a, nb::kw_only(), "key_frames"_a, "slots"_a, "heads"_a, "window"_a, "borders"_a, "dtype"_a, "threads"_a,
      "Bytes that the CPU kernel takes besides inputs and output, for q of this shape, so many frames of k and so many "
      "that each query sees at most.");
  m.def(
      "quantized_linear_scratch_bytes",
      [](int64_t rows, int64_t depth, int64_t width, mx::Dtype dtype, const std::string& format, bool strided_x,
         int rotation, bool int8_activations, int threads) {
        return quantized_linear_scratch_bytes(rows, depth, width, cpu::float_type(dtype), parse_weight_format(format),
                                              strided_x, rotation, int8_activations, threads);
      },
      "rows"_a, "depth"_a, "width"_a, nb::kw_only(), "dtype"_a, "weight_format"_a, "strided_x"_a, "rotation"_a,
      "int8_activations"_a, "threads"_a,
      "Bytes that the CPU kernel takes besides inputs and output, for x (rows, depth) and a weight (width, depth).");
  m.def(
      "rope_attention_scratch_bytes",
      [](int64_t batch, int64_t queries, int64_t keys, int64_t heads, int64_t kv_heads, int64_t head_size,
         mx::Dtype dtype, bool wide_norms, int threads) {
        return rope_attention_scratch_bytes(
            {batch, queries, keys, heads, kv_heads, head_size, cpu::float_type(dtype), wide_norms, wide_norms},
            threads);
      },
      nb::kw_only(), "batch"_a, "queries"_a, "keys"_a, "heads"_a, "kv_heads"_a, "head_size"_a, "dtype"_a,
      "wide_norms"_a, "threads"_a,
      "Bytes that the CPU kernel takes besides inputs and output. wide_norms: q and k are normalised over all heads.");
}

}  // namespace ltx2rt
