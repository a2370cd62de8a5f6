// Checks of quantized_linear and its lazy array.
#include "csrc/quantized_linear.h"

#include "csrc/checks.h"

namespace ltx2rt {
namespace {

constexpr auto kOp = "quantized_linear";

Activation parse_activation(const std::string& activation) {
  if (activation == "gelu_tanh") return Activation::gelu_tanh;
  if (activation == "silu") return Activation::silu;
  require(activation == "none", kOp, "activation must be \"none\", \"gelu_tanh\" or \"silu\" but is \"", activation,
          "\".");
  return Activation::none;
}

WeightFormat dense_format(const mx::array& values) {
  require_float(values, kOp, "weight.values");
  if (values.dtype() == mx::float32) return WeightFormat::f32;
  return values.dtype() == mx::float16 ? WeightFormat::f16 : WeightFormat::bf16;
}

WeightFormat e4m3_format(const LinearWeight& weight) {
  require(weight.values.dtype() == mx::uint8, kOp, "weight.values must be uint8 in mode \"e4m3\" but is ",
          weight.values.dtype(), ".");
  require(weight.scale.has_value(), kOp, "weight.scale is needed in mode \"e4m3\".");
  require(weight.scale->dtype() == mx::float32 && weight.scale->size() == 1, kOp,
          "weight.scale must be one float32 in mode \"e4m3\" but is ", weight.scale->dtype(), " of shape ",
          weight.scale->shape(), ".");
  require(!weight.zero, kOp, "weight.zero must be None in mode \"e4m3\".");
  return WeightFormat::e4m3;
}

WeightFormat affine_format(const LinearWeight& weight, int64_t depth) {
  require(weight.values.dtype() == mx::uint32, kOp, "weight.values must be uint32 in mode \"affine\" but is ",
          weight.values.dtype(), ".");
  require(weight.group_size == 32 || weight.group_size == 64 || weight.group_size == 128, kOp,
          "weight.group_size must be 32, 64 or 128 but is ", weight.group_size, ".");
  require(depth % weight.group_size == 0, kOp, "weight.group_size ", weight.group_size, " must divide K, which is ",
          depth, ".");
  const mx::Shape groups{weight.values.shape(0), static_cast<mx::ShapeElem>(depth / weight.group_size)};
  for (const auto& [name, part] :
       {std::pair{"weight.scale", &weight.scale}, std::pair{"weight.zero", &weight.zero}}) {
    require(part->has_value(), kOp, name, " is needed in mode \"affine\".");
    require_float(**part, kOp, name);
    require_shape(**part, groups, kOp, name);
  }
  require(weight.scale->dtype() == weight.zero->dtype(), kOp, "weight.scale and weight.zero must have the same dtype ",
          "but are ", weight.scale->dtype(), " and ", weight.zero->dtype(), ".");
  return weight.bits == 8 ? WeightFormat::int8 : WeightFormat::int4;
}

// Checks the weight and gives its format; K is `depth`.
WeightFormat check_weight(const LinearWeight& weight, int64_t depth) {
  const auto& mode = weight.mode;
  require(mode == "dense" || mode == "e4m3" || mode == "affine", kOp,
          "weight.mode must be \"dense\", \"e4m3\" or \"affine\" but is \"", mode, "\".");
  require(weight.values.ndim() == 2, kOp, "weight.values must have two axes but has shape ", weight.values.shape(),
          ".");
  require(weight.values.shape(0) >= 1 && weight.values.shape(1) >= 1, kOp, "weight.values must not be empty but has ",
          "shape ", weight.values.shape(), ".");
  int64_t columns = weight.values.shape(1);
  if (mode == "affine") {
    require(weight.bits == 4 || weight.bits == 8, kOp, "weight.bits must be 4 or 8 but is ", weight.bits, ".");
    columns = columns * 32 / weight.bits;
  }
  require(columns == depth, kOp, "x must end in K = ", columns, ", the width of the weight, but ends in ", depth, ".");
  if (mode == "affine") return affine_format(weight, depth);
  if (mode == "e4m3") return e4m3_format(weight);
  require(!weight.scale && !weight.zero, kOp, "weight.scale and weight.zero must be None in mode \"dense\".");
  return dense_format(weight.values);
}

}  // namespace

mx::array quantized_linear(const mx::array& x, const LinearWeight& weight, const std::optional<mx::array>& bias,
                           const std::string& activation, const std::optional<mx::array>& residual,
                           const std::optional<mx::array>& gate, const std::optional<mx::array>& gate_index,
                           const OpContext& context) {
  require_float(x, kOp, "x");
  require(x.ndim() >= 1, kOp, "x must have at least one axis but is a scalar.");
  const auto format = check_weight(weight, x.shape(-1));
  const auto width = weight.values.shape(0);
  auto shape = x.shape();
  shape.back() = width;
  if (bias) {
    require_float(*bias, kOp, "bias");
    require_shape(*bias, {width}, kOp, "bias");
  }
  if (residual) {
    require(residual->dtype() == x.dtype(), kOp, "residual must have x's dtype ", x.dtype(), " but is ",
            residual->dtype(), ".");
    require_shape(*residual, shape, kOp, "residual");
  }
  if (gate) {
    require_float(*gate, kOp, "gate");
    require(gate->ndim() == 2 && gate->shape(1) == width && gate->shape(0) >= 1, kOp, "gate must have shape (R,",
            width, ") with R >= 1 but has ", gate->shape(), ".");
    require(gate_index || gate->shape(0) == 1, kOp, "gate_index is needed because gate has ", gate->shape(0),
            " rows.");
  }
  require(gate || !gate_index, kOp, "gate_index needs gate, which is not given.");
  require_index(gate_index, mx::Shape(x.shape().begin(), x.shape().end() - 1), kOp, "gate_index");

  const QuantizedLinear::Parameters parameters{.format = format,
                                               .group_size = weight.group_size,
                                               .activation = parse_activation(activation),
                                               .has_scale = weight.scale.has_value(),
                                               .has_zero = weight.zero.has_value(),
                                               .has_bias = bias.has_value(),
                                               .has_residual = residual.has_value(),
                                               .has_gate = gate.has_value(),
                                               .has_gate_index = gate_index.has_value()};
  const auto rows = [&](const mx::array& a) { return mx::contiguous(a, false, context.stream); };
  std::vector<mx::array> inputs{x, rows(weight.values)};
  for (const auto* part : {&weight.scale, &weight.zero, &bias}) {
    if (*part) inputs.push_back(rows(**part));
  }
  if (residual) inputs.push_back(*residual);
  for (const auto* part : {&gate, &gate_index}) {
    if (*part) inputs.push_back(rows(**part));
  }
  return lazy_or_reference<QuantizedLinear>(context, true, std::move(shape), x.dtype(), std::move(inputs), parameters);
}

std::vector<mx::Shape> QuantizedLinear::output_shapes(const std::vector<mx::array>& inputs) {
  auto shape = inputs[0].shape();
  shape.back() = inputs[1].shape(0);
  return {shape};
}

}  // namespace ltx2rt
