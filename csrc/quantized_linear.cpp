// Checks of quantized_linear and its lazy array.
#include "csrc/quantized_linear.h"

#include "csrc/checked_index.h"
#include "csrc/checks.h"
#include "csrc/metal/launch_plans.h"

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

struct Mode {
  const char* name;
  std::optional<WeightFormat> format;  // of the modes with one
};
constexpr Mode kModes[] = {{"dense", {}},
                           {"e4m3", WeightFormat::e4m3},
                           {"affine", {}},
                           {"int8", WeightFormat::int8_rows},
                           {"q8_0", WeightFormat::q8_0},
                           {"q4_k", WeightFormat::q4_k},
                           {"q5_k", WeightFormat::q5_k},
                           {"q6_k", WeightFormat::q6_k},
                           {"nvfp4", WeightFormat::nvfp4},
                           {"mxfp8", WeightFormat::mxfp8},
                           {"w4a8", WeightFormat::w4a8}};

// The format of a weight of these values.
WeightFormat weight_format(const std::string& mode, mx::Dtype values, int bits) {
  if (mode == "dense") {
    require(is_kernel_float(values), kOp, "weight.values must be float32, float16 or bfloat16 but is ", values, ".");
    if (values == mx::float32) return WeightFormat::f32;
    return values == mx::float16 ? WeightFormat::f16 : WeightFormat::bf16;
  }
  if (mode == "affine") {
    require(values == mx::uint32, kOp, "weight.values must be uint32 in mode \"affine\" but is ", values, ".");
    require(bits == 4 || bits == 8, kOp, "weight.bits must be 4 or 8 but is ", bits, ".");
    return bits == 8 ? WeightFormat::int8 : WeightFormat::int4;
  }
  std::string names;
  for (const auto& [name, format] : kModes) {
    if (mode == name) {
      const auto expected = format == WeightFormat::int8_rows ? mx::int8 : mx::uint8;
      require(values == expected, kOp, "weight.values must be ", expected, " in mode \"", mode, "\" but is ", values,
              ".");
      return *format;
    }
    names += std::string(names.empty() ? "" : ", ") + "\"" + name + "\"";
  }
  throw std::invalid_argument(std::string("[") + kOp + "] weight.mode must be one of " + names + " but is \"" + mode +
                              "\".");
}

// Checks the parts of a weight beside its values, except for their shapes.
void check_parts(const LinearWeight& weight, WeightFormat format) {
  const auto check = [&](const char* name, const std::optional<mx::array>& part, std::optional<mx::Dtype> dtype) {
    require(part.has_value() == dtype.has_value(), kOp, name,
            dtype ? " is needed in mode \"" : " must be None in mode \"", weight.mode, "\".");
    if (dtype) {
      require(part->dtype() == *dtype, kOp, name, " must be ", *dtype, " in mode \"", weight.mode, "\" but is ",
              part->dtype(), ".");
    }
  };
  std::optional<mx::Dtype> scale, zero, table;
  switch (format) {
    case WeightFormat::int8:
    case WeightFormat::int4:
      for (const auto& [name, part] :
           {std::pair{"weight.scale", &weight.scale}, std::pair{"weight.zero", &weight.zero}}) {
        require(part->has_value(), kOp, name, " is needed in mode \"affine\".");
        require_float(**part, kOp, name);
      }
      require(weight.scale->dtype() == weight.zero->dtype(), kOp,
              "weight.scale and weight.zero must have the same dtype but are ", weight.scale->dtype(), " and ",
              weight.zero->dtype(), ".");
      scale = zero = weight.scale->dtype();
      require(weight.group_size == 32 || weight.group_size == 64 || weight.group_size == 128, kOp,
              "weight.group_size must be 32, 64 or 128 but is ", weight.group_size, ".");
      break;
    case WeightFormat::e4m3:
    case WeightFormat::int8_rows:
      scale = mx::float32;
      break;
    case WeightFormat::mxfp8:
      scale = mx::uint8;
      break;
    case WeightFormat::nvfp4:
      scale = mx::uint8;
      zero = mx::float32;
      break;
    case WeightFormat::w4a8:
      scale = mx::uint8;
      zero = table = mx::float32;
      require(
          weight.group_size == 4 || weight.group_size == 8 || (weight.group_size > 0 && weight.group_size % 16 == 0),
          kOp, "weight.group_size must be 4, 8 or a multiple of 16 in mode \"w4a8\" but is ", weight.group_size, ".");
      break;
    default:
      break;
  }
  check("weight.scale", weight.scale, scale);
  check("weight.zero", weight.zero, zero);
  check("weight.table", weight.table, table);
}

// The widest rows whose sum of products of 8-bit integers fits into 32 bits.
constexpr int64_t kMostInt8Depth = 131072;

void check_rotation(int rotation, int64_t depth) {
  if (rotation == 0) return;
  bool power_of_four = rotation >= 4;
  for (int rest = rotation; power_of_four && rest > 1; rest /= 4) power_of_four = rest % 4 == 0;
  require(power_of_four, kOp, "weight.rotation must be 0 or a power of 4 but is ", rotation, ".");
  require(depth % rotation == 0, kOp, "weight.rotation ", rotation, " must divide K, which is ", depth, ".");
}

// Inputs of the op, null where absent.
struct Operands {
  const mx::array* x;
  const mx::array* values;
  const mx::array* scale;
  const mx::array* zero;
  const mx::array* table;
  const mx::array* bias;
  const mx::array* residual;
  const mx::array* gate;
  const mx::array* gate_index;
};

// Gives the shape of the output.
mx::Shape check_shapes(const Operands& o, const QuantizedLinear::Parameters& p) {
  const auto format = p.format;
  require(o.x->ndim() >= 1, kOp, "x must have at least one axis but is a scalar.");
  const int64_t depth = o.x->shape(-1);
  require(o.values->ndim() == 2, kOp, "weight.values must have two axes but has shape ", o.values->shape(), ".");
  require(o.values->shape(0) >= 1 && o.values->shape(1) >= 1, kOp, "weight.values must not be empty but has shape ",
          o.values->shape(), ".");
  const auto width = o.values->shape(0);
  const auto block = weight_block(format);
  const int64_t row_bytes = int64_t{o.values->shape(1)} * static_cast<int64_t>(o.values->itemsize());
  require(row_bytes % block.bytes == 0, kOp, "weight.values must have rows of whole blocks of ", block.bytes,
          " bytes but has shape ", o.values->shape(), ".");
  const int64_t columns = row_bytes / block.bytes * block.count;
  require(columns == depth, kOp, "x must end in K = ", columns, ", the width of the weight, but ends in ", depth, ".");
  if (const int64_t group = scale_group(format, p.group_size); group != 0) {
    if (is_affine(format) || format == WeightFormat::w4a8) {
      require(depth % group == 0, kOp, "weight.group_size ", group, " must divide K, which is ", depth, ".");
    } else {
      require(depth % group == 0, kOp, "K must be a multiple of ", group, " but is ", depth, ".");
    }
    const mx::Shape groups{width, static_cast<mx::ShapeElem>(depth / group)};
    require_shape(*o.scale, groups, kOp, "weight.scale");
    if (is_affine(format)) require_shape(*o.zero, groups, kOp, "weight.zero");
  }
  switch (format) {
    case WeightFormat::e4m3:
      require(o.scale->size() == 1 || o.scale->shape() == mx::Shape{width}, kOp,
              "weight.scale must be one float32 or have shape (", width, ") in mode \"e4m3\" but has shape ",
              o.scale->shape(), ".");
      break;
    case WeightFormat::int8_rows:
      require_shape(*o.scale, {width}, kOp, "weight.scale");
      break;
    case WeightFormat::nvfp4:
      require(o.zero->size() == 1, kOp, "weight.zero must be one float32 in mode \"nvfp4\" but has shape ",
              o.zero->shape(), ".");
      break;
    case WeightFormat::w4a8:
      require_shape(*o.zero, {width}, kOp, "weight.zero");
      require_shape(*o.table, {16}, kOp, "weight.table");
      break;
    default:
      break;
  }
  check_rotation(p.rotation, depth);
  require(!p.int8_activations || depth <= kMostInt8Depth, kOp, "K must be at most ", kMostInt8Depth,
          " with weight.activations \"int8\" but is ", depth, ".");
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

bool has_shader(const QuantizedLinear::Parameters& p, int64_t depth) {
  return metal_plan::linear_has_shader(p.rotation, depth) && !p.int8_activations;
}

}  // namespace

mx::array quantized_linear(const mx::array& x, const LinearWeight& weight, const std::optional<mx::array>& bias,
                           const std::string& activation, const std::optional<mx::array>& residual,
                           const std::optional<mx::array>& gate, const std::optional<mx::array>& gate_index,
                           const OpContext& context) {
  require_float(x, kOp, "x");
  const auto format = weight_format(weight.mode, weight.values.dtype(), weight.bits);
  check_parts(weight, format);
  require(!weight.int8_activations || format == WeightFormat::int8_rows, kOp,
          "weight.activations must be \"float\" in mode \"", weight.mode, "\" but is \"int8\".");
  if (bias) require_float(*bias, kOp, "bias");
  if (residual) {
    require(residual->dtype() == x.dtype(), kOp, "residual must have x's dtype ", x.dtype(), " but is ",
            residual->dtype(), ".");
  }
  if (gate) require_float(*gate, kOp, "gate");
  if (gate_index) require_int32(*gate_index, kOp, "gate_index");
  const QuantizedLinear::Parameters parameters{.format = format,
                                               .group_size = weight.group_size,
                                               .rotation = weight.rotation,
                                               .int8_activations = weight.int8_activations,
                                               .half_operands = weight.half_operands,
                                               .activation = parse_activation(activation),
                                               .has_scale = weight.scale.has_value(),
                                               .has_zero = weight.zero.has_value(),
                                               .has_table = weight.table.has_value(),
                                               .has_bias = bias.has_value(),
                                               .has_residual = residual.has_value(),
                                               .has_gate = gate.has_value(),
                                               .has_gate_index = gate_index.has_value()};
  const auto given = [](const std::optional<mx::array>& a) { return a ? &*a : nullptr; };
  auto shape = check_shapes({&x, &weight.values, given(weight.scale), given(weight.zero), given(weight.table),
                             given(bias), given(residual), given(gate), given(gate_index)},
                            parameters);
  const auto rows = [&](const mx::array& a) { return mx::contiguous(a, false, context.stream); };
  std::vector<mx::array> inputs{x, rows(weight.values)};
  for (const auto* part : {&weight.scale, &weight.zero, &weight.table, &bias}) {
    if (*part) inputs.push_back(rows(**part));
  }
  if (residual) inputs.push_back(*residual);
  if (gate) inputs.push_back(rows(*gate));
  if (gate_index) {
    inputs.push_back(checked_index(*gate_index, *gate, "[quantized_linear] gate_index", "gate has", context.stream));
  }
  return lazy_or_reference<QuantizedLinear>(context, has_shader(parameters, x.shape(-1)), std::move(shape), x.dtype(),
                                            std::move(inputs), parameters);
}

WeightFormat parse_weight_format(const std::string& name) {
  constexpr const char* kNames[] = {"float32", "float16", "bfloat16", "e4m3", "int8",  "int4",  "int8_rows",
                                    "q8_0",    "q4_k",    "q5_k",     "q6_k", "nvfp4", "mxfp8", "w4a8"};
  std::string names;
  for (size_t i = 0; i < std::size(kNames); ++i) {
    if (name == kNames[i]) return static_cast<WeightFormat>(i);
    names += std::string(i == 0 ? "" : ", ") + kNames[i];
  }
  throw std::invalid_argument("the weight format must be one of " + names + " but is \"" + name + "\".");
}

std::vector<mx::Shape> QuantizedLinear::output_shapes(const std::vector<mx::array>& inputs) {
  const auto& p = parameters_;
  auto part = [&inputs, next = size_t{2}](bool present) mutable { return present ? &inputs[next++] : nullptr; };
  Operands o{&inputs[0], &inputs[1], nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr};
  o.scale = part(p.has_scale);
  o.zero = part(p.has_zero);
  o.table = part(p.has_table);
  o.bias = part(p.has_bias);
  o.residual = part(p.has_residual);
  o.gate = part(p.has_gate);
  o.gate_index = part(p.has_gate_index);
  auto shape = check_shapes(o, p);
  require_kernel(stream(), has_shader(p, o.x->shape(-1)), kOp);
  return {shape};
}

}  // namespace ltx2rt
