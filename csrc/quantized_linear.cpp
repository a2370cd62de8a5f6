// Checks of quantized_linear and its lazy array.
#include "csrc/quantized_linear.h"

#include "csrc/checked_index.h"
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

// The format of a weight of these values.
WeightFormat weight_format(const std::string& mode, mx::Dtype values, int bits) {
  if (mode == "dense") {
    require(is_kernel_float(values), kOp, "weight.values must be float32, float16 or bfloat16 but is ", values, ".");
    if (values == mx::float32) return WeightFormat::f32;
    return values == mx::float16 ? WeightFormat::f16 : WeightFormat::bf16;
  }
  if (mode == "e4m3") {
    require(values == mx::uint8, kOp, "weight.values must be uint8 in mode \"e4m3\" but is ", values, ".");
    return WeightFormat::e4m3;
  }
  require(mode == "affine", kOp, "weight.mode must be \"dense\", \"e4m3\" or \"affine\" but is \"", mode, "\".");
  require(values == mx::uint32, kOp, "weight.values must be uint32 in mode \"affine\" but is ", values, ".");
  require(bits == 4 || bits == 8, kOp, "weight.bits must be 4 or 8 but is ", bits, ".");
  return bits == 8 ? WeightFormat::int8 : WeightFormat::int4;
}

// Checks the parts of a weight beside its values, except for their shapes.
void check_parts(const LinearWeight& weight) {
  const auto& [mode, values, scale, zero, group_size, bits] = weight;
  if (mode == "dense") {
    require(!scale && !zero, kOp, "weight.scale and weight.zero must be None in mode \"dense\".");
  } else if (mode == "e4m3") {
    require(scale.has_value(), kOp, "weight.scale is needed in mode \"e4m3\".");
    require(scale->dtype() == mx::float32, kOp, "weight.scale must be one float32 in mode \"e4m3\" but is ",
            scale->dtype(), ".");
    require(!zero, kOp, "weight.zero must be None in mode \"e4m3\".");
  } else {
    require(group_size == 32 || group_size == 64 || group_size == 128, kOp,
            "weight.group_size must be 32, 64 or 128 but is ", group_size, ".");
    for (const auto& [name, part] : {std::pair{"weight.scale", &scale}, std::pair{"weight.zero", &zero}}) {
      require(part->has_value(), kOp, name, " is needed in mode \"affine\".");
      require_float(**part, kOp, name);
    }
    require(scale->dtype() == zero->dtype(), kOp, "weight.scale and weight.zero must have the same dtype but are ",
            scale->dtype(), " and ", zero->dtype(), ".");
  }
}

// Inputs of the op, null where absent.
struct Operands {
  const mx::array* x;
  const mx::array* values;
  const mx::array* scale;
  const mx::array* zero;
  const mx::array* bias;
  const mx::array* residual;
  const mx::array* gate;
  const mx::array* gate_index;
};

// Gives the shape of the output.
mx::Shape check_shapes(const Operands& o, WeightFormat format, int group_size) {
  require(o.x->ndim() >= 1, kOp, "x must have at least one axis but is a scalar.");
  const int64_t depth = o.x->shape(-1);
  require(o.values->ndim() == 2, kOp, "weight.values must have two axes but has shape ", o.values->shape(), ".");
  require(o.values->shape(0) >= 1 && o.values->shape(1) >= 1, kOp, "weight.values must not be empty but has shape ",
          o.values->shape(), ".");
  const auto width = o.values->shape(0);
  const bool affine = format == WeightFormat::int8 || format == WeightFormat::int4;
  const int values_per_word = format == WeightFormat::int8 ? 4 : 8;
  const int64_t columns = int64_t{o.values->shape(1)} * (affine ? values_per_word : 1);
  require(columns == depth, kOp, "x must end in K = ", columns, ", the width of the weight, but ends in ", depth, ".");
  if (affine) {
    require(depth % group_size == 0, kOp, "weight.group_size ", group_size, " must divide K, which is ", depth, ".");
    const mx::Shape groups{width, static_cast<mx::ShapeElem>(depth / group_size)};
    require_shape(*o.scale, groups, kOp, "weight.scale");
    require_shape(*o.zero, groups, kOp, "weight.zero");
  } else if (o.scale) {
    require(o.scale->size() == 1, kOp, "weight.scale must be one float32 in mode \"e4m3\" but has shape ",
            o.scale->shape(), ".");
  }
  auto shape = o.x->shape();
  shape.back() = width;
  if (o.bias) require_shape(*o.bias, {width}, kOp, "bias");
  if (o.residual) require_shape(*o.residual, shape, kOp, "residual");
  if (o.gate) {
    require(o.gate->ndim() == 2 && o.gate->shape(1) == width && o.gate->shape(0) >= 1, kOp, "gate must have shape (R,",
            width, ") with R >= 1 but has ", o.gate->shape(), ".");
    require(o.gate_index || o.gate->shape(0) == 1, kOp, "gate_index is needed because gate has ", o.gate->shape(0),
            " rows.");
  }
  require(o.gate || !o.gate_index, kOp, "gate_index needs gate, which is not given.");
  if (o.gate_index) require_shape(*o.gate_index, leading_shape(*o.x), kOp, "gate_index");
  return shape;
}

}  // namespace

mx::array quantized_linear(const mx::array& x, const LinearWeight& weight, const std::optional<mx::array>& bias,
                           const std::string& activation, const std::optional<mx::array>& residual,
                           const std::optional<mx::array>& gate, const std::optional<mx::array>& gate_index,
                           const OpContext& context) {
  require_float(x, kOp, "x");
  const auto format = weight_format(weight.mode, weight.values.dtype(), weight.bits);
  check_parts(weight);
  if (bias) require_float(*bias, kOp, "bias");
  if (residual) {
    require(residual->dtype() == x.dtype(), kOp, "residual must have x's dtype ", x.dtype(), " but is ",
            residual->dtype(), ".");
  }
  if (gate) require_float(*gate, kOp, "gate");
  if (gate_index) require_int32(*gate_index, kOp, "gate_index");
  const auto given = [](const std::optional<mx::array>& a) { return a ? &*a : nullptr; };
  auto shape = check_shapes({&x, &weight.values, given(weight.scale), given(weight.zero), given(bias), given(residual),
                             given(gate), given(gate_index)},
                            format, weight.group_size);

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
  if (gate) inputs.push_back(rows(*gate));
  if (gate_index) {
    inputs.push_back(checked_index(*gate_index, *gate, "[quantized_linear] gate_index", "gate has", context.stream));
  }
  return lazy_or_reference<QuantizedLinear>(context, true, std::move(shape), x.dtype(), std::move(inputs), parameters);
}

std::vector<mx::Shape> QuantizedLinear::output_shapes(const std::vector<mx::array>& inputs) {
  const auto& p = parameters_;
  auto part = [&inputs, next = size_t{2}](bool present) mutable { return present ? &inputs[next++] : nullptr; };
  Operands o{&inputs[0], &inputs[1], nullptr, nullptr, nullptr, nullptr, nullptr, nullptr};
  o.scale = part(p.has_scale);
  o.zero = part(p.has_zero);
  o.bias = part(p.has_bias);
  o.residual = part(p.has_residual);
  o.gate = part(p.has_gate);
  o.gate_index = part(p.has_gate_index);
  return {check_shapes(o, p.format, p.group_size)};
}

}  // namespace ltx2rt
