// Checks of causal_conv3d and its lazy array.
#include "csrc/causal_conv3d.h"

#include <algorithm>
#include <limits>

#include "csrc/checks.h"
#include "csrc/metal/launch_plans.h"
#include "mlx/ops.h"

namespace ltx2rt {
namespace {

constexpr auto kOp = "causal_conv3d";
constexpr int64_t kMaxValues = int64_t{1} << 60;  // whose bytes a signed integer counts
constexpr const char* kAxes[] = {"frames", "height", "width"};

// Outputs along one axis; 0 or less when the kernel does not fit.
int64_t out_size(const CausalConv3dOptions& options, int axis, int64_t size, int64_t taps) {
  const auto [before, after] = options.padding[axis];
  const int64_t room = size + before + after - options.dilation[axis] * (taps - 1) - 1;
  return room < 0 ? 0 : room / options.stride[axis] + 1;
}

std::optional<mx::Shape> shape_of(const std::optional<mx::array>& a) {
  return a ? std::optional(a->shape()) : std::nullopt;
}

bool has_shader(const mx::Shape& x, const mx::Shape& weight) {
  return metal_plan::conv_has_shader(x[2], x[3], x[4], int64_t{weight[1]} * weight[2] * weight[3]);
}

}  // namespace

PadMode parse_padding_mode(const std::string& name) {
  if (name == "zeros") return PadMode::zeros;
  if (name == "edge") return PadMode::edge;
  require(name == "reflect", kOp, "padding_mode must be \"zeros\", \"edge\" or \"reflect\" but is \"", name, "\".");
  return PadMode::reflect;
}

ConvActivation parse_conv_activation(const std::optional<std::string>& name) {
  if (!name) return ConvActivation::none;
  if (*name == "silu") return ConvActivation::silu;
  require(*name == "leaky_relu", kOp, "activation must be None, \"silu\" or \"leaky_relu\" but is \"", *name, "\".");
  return ConvActivation::leaky_relu;
}

mx::Shape causal_conv3d_shape(const CausalConv3dShapes& shapes, const CausalConv3dOptions& options) {
  const auto &x = shapes.x, &weight = shapes.weight;
  require(x.size() == 5, kOp, "x must have shape (B,F,H,W,C) but has ", x, ".");
  const bool filled = std::all_of(weight.begin(), weight.end(), [](int n) { return n > 0; });
  require(weight.size() == 5 && weight[4] == x[4] && filled, kOp, "weight must have shape (O,kt,kh,kw,", x[4],
          ") and values but has ", weight, ".");
  if (shapes.bias) require_shape(*shapes.bias, {weight[0]}, kOp, "bias");
  if (shapes.scale) require_shape(*shapes.scale, {x[0], x[4]}, kOp, "scale");
  if (shapes.shift) require_shape(*shapes.shift, {x[0], x[4]}, kOp, "shift");
  int halo_frames = 0;
  if (shapes.halo) {
    const auto& halo = *shapes.halo;
    mx::Shape like = x;
    if (halo.size() == 5) like[1] = halo[1];
    require(halo == like, kOp, "halo must have the shape of x, ", x, ", but for its frames, and has ", halo, ".");
    halo_frames = halo[1];
  }
  mx::Shape out{x[0], 0, 0, 0, weight[0]};
  int64_t values = int64_t{x[0]} * weight[0];
  for (int axis = 0; axis < 3; ++axis) {
    const auto [before, after] = options.padding[axis];
    const int64_t size = int64_t{x[axis + 1]} + (axis == 0 ? halo_frames : 0);
    require(options.stride[axis] >= 1, kOp, "stride must be positive but is ", options.stride[axis], " along ",
            kAxes[axis], ".");
    require(options.dilation[axis] >= 1, kOp, "dilation must be positive but is ", options.dilation[axis], " along ",
            kAxes[axis], ".");
    require(before >= 0 && after >= 0, kOp, "padding must not be negative but is (", before, ",", after, ") along ",
            kAxes[axis], ".");
    require(size >= 1, kOp, "x must not be empty along ", kAxes[axis], " but has shape ", x, ".");
    require(options.padding_mode[axis] != PadMode::reflect || std::max(before, after) < size, kOp,
            "reflect padding must be less than the size ", size, " along ", kAxes[axis], " but is (", before, ",",
            after, ").");
    const int64_t outputs = out_size(options, axis, size, weight[axis + 1]);
    require(outputs >= 1, kOp, "the kernel spans ", options.dilation[axis] * (int64_t{weight[axis + 1]} - 1) + 1,
            " along ", kAxes[axis], " but x with its padding only ", size + before + after, ".");
    require(outputs <= std::numeric_limits<int>::max(), kOp, "the result would have ", outputs, " values along ",
            kAxes[axis], ", more than ", std::numeric_limits<int>::max(), "; use less padding than (", before, ",",
            after, ").");
    out[axis + 1] = static_cast<int>(outputs);
    require(!__builtin_mul_overflow(values, outputs, &values) && values <= kMaxValues, kOp,
            "the result would have more than 2^60 values, ", x[0], " x ... x ", outputs, " along ", kAxes[axis],
            "; use less padding.");
  }
  if (shapes.residual) require_shape(*shapes.residual, out, kOp, "residual");
  return out;
}

mx::array causal_conv3d(const mx::array& x, const mx::array& weight, const CausalConv3dExtras& extras,
                        const CausalConv3dOptions& options, const OpContext& context) {
  require_float(x, kOp, "x");
  require_float(weight, kOp, "weight");
  for (const auto& [name, values] :
       {std::pair{"bias", &extras.bias}, std::pair{"scale", &extras.scale}, std::pair{"shift", &extras.shift}}) {
    if (*values) require_float(**values, kOp, name);
  }
  for (const auto& [name, values] : {std::pair{"residual", &extras.residual}, std::pair{"halo", &extras.halo}}) {
    if (!*values) continue;
    require((*values)->dtype() == x.dtype(), kOp, name, " must have x's dtype ", x.dtype(), " but has ",
            (*values)->dtype(), ".");
  }
  require(!options.pixel_norm_eps || *options.pixel_norm_eps >= 0, kOp, "pixel_norm_eps must not be negative but is ",
          options.pixel_norm_eps.value_or(0), ".");
  const auto shape = causal_conv3d_shape({x.shape(), weight.shape(), shape_of(extras.bias), shape_of(extras.scale),
                                          shape_of(extras.shift), shape_of(extras.residual), shape_of(extras.halo)},
                                         options);

  std::vector<mx::array> inputs{x, mx::contiguous(weight, false, context.stream)};
  for (const auto* values : {&extras.bias, &extras.scale, &extras.shift}) {
    if (*values)
      inputs.push_back(mx::contiguous(mx::astype(**values, mx::float32, context.stream), false, context.stream));
  }
  if (extras.residual) inputs.push_back(*extras.residual);
  if (extras.halo) inputs.push_back(*extras.halo);
  const CausalConv3d::Present present{extras.bias.has_value(), extras.scale.has_value(), extras.shift.has_value(),
                                      extras.residual.has_value(), extras.halo.has_value()};
  return lazy_or_reference<CausalConv3d>(context, has_shader(x.shape(), weight.shape()), shape, x.dtype(),
                                         std::move(inputs), options, present);
}

std::vector<mx::Shape> CausalConv3d::output_shapes(const std::vector<mx::array>& inputs) {
  CausalConv3dShapes shapes{inputs[0].shape(), inputs[1].shape(), {}, {}, {}, {}, {}};
  size_t next = 2;
  const auto take = [&](bool present) { return present ? std::optional(inputs[next++].shape()) : std::nullopt; };
  shapes.bias = take(present_.bias);
  shapes.scale = take(present_.scale);
  shapes.shift = take(present_.shift);
  shapes.residual = take(present_.residual);
  shapes.halo = take(present_.halo);
  auto shape = causal_conv3d_shape(shapes, options_);
  require_kernel(stream(), has_shader(shapes.x, shapes.weight), kOp);
  return {shape};
}

}  // namespace ltx2rt
