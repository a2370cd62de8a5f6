// Checks of causal_conv3d and its lazy array.
#include "csrc/causal_conv3d.h"

#include "csrc/checks.h"
#include "mlx/ops.h"

namespace ltx2rt {
namespace {

constexpr auto kOp = "causal_conv3d";
constexpr const char* kAxes[] = {"frames", "height", "width"};

// Outputs along one axis; 0 or less when the kernel does not fit.
int64_t out_size(const CausalConv3dOptions& options, int axis, int64_t size, int64_t taps) {
  const auto [before, after] = options.padding[axis];
  const int64_t room = size + before + after - options.dilation[axis] * (taps - 1) - 1;
  return room < 0 ? 0 : room / options.stride[axis] + 1;
}

mx::Shape out_shape(const CausalConv3dOptions& options, const mx::array& x, const mx::array& weight, int halo_frames) {
  mx::Shape shape{x.shape(0), 0, 0, 0, weight.shape(0)};
  for (int axis = 0; axis < 3; ++axis) {
    const int64_t size = int64_t{x.shape(axis + 1)} + (axis == 0 ? halo_frames : 0);
    shape[axis + 1] = static_cast<int>(out_size(options, axis, size, weight.shape(axis + 1)));
  }
  return shape;
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

mx::array causal_conv3d(const mx::array& x, const mx::array& weight, const CausalConv3dExtras& extras,
                        const CausalConv3dOptions& options, const OpContext& context) {
  require_float(x, kOp, "x");
  require(x.ndim() == 5, kOp, "x must have shape (B,F,H,W,C) but has ", x.shape(), ".");
  require_float(weight, kOp, "weight");
  require(weight.ndim() == 5 && weight.size() > 0 && weight.shape(4) == x.shape(4), kOp,
          "weight must have shape (O,kt,kh,kw,", x.shape(4), ") and values but has ", weight.shape(), ".");
  const int channels = x.shape(4), out_channels = weight.shape(0);
  if (extras.bias) {
    require_float(*extras.bias, kOp, "bias");
    require_shape(*extras.bias, {out_channels}, kOp, "bias");
  }
  for (const auto& [name, values] : {std::pair{"scale", &extras.scale}, std::pair{"shift", &extras.shift}}) {
    if (!*values) continue;
    require_float(**values, kOp, name);
    require_shape(**values, {x.shape(0), channels}, kOp, name);
  }
  int halo_frames = 0;
  if (extras.halo) {
    const auto& halo = *extras.halo;
    require(halo.dtype() == x.dtype(), kOp, "halo must have x's dtype ", x.dtype(), " but has ", halo.dtype(), ".");
    mx::Shape like = x.shape();
    if (halo.ndim() == 5) like[1] = halo.shape(1);
    require(halo.shape() == like, kOp, "halo must have the shape of x, ", x.shape(), ", but for its frames, and has ",
            halo.shape(), ".");
    halo_frames = halo.shape(1);
  }
  require(!options.pixel_norm_eps || *options.pixel_norm_eps >= 0, kOp, "pixel_norm_eps must not be negative but is ",
          options.pixel_norm_eps.value_or(0), ".");
  for (int axis = 0; axis < 3; ++axis) {
    const auto [before, after] = options.padding[axis];
    const int64_t size = int64_t{x.shape(axis + 1)} + (axis == 0 ? halo_frames : 0);
    require(options.stride[axis] >= 1, kOp, "stride must be positive but is ", options.stride[axis], " along ",
            kAxes[axis], ".");
    require(options.dilation[axis] >= 1, kOp, "dilation must be positive but is ", options.dilation[axis], " along ",
            kAxes[axis], ".");
    require(before >= 0 && after >= 0, kOp, "padding must not be negative but is (", before, ",", after, ") along ",
            kAxes[axis], ".");
    require(size >= 1, kOp, "x must not be empty along ", kAxes[axis], " but has shape ", x.shape(), ".");
    require(options.padding_mode[axis] != PadMode::reflect || std::max(before, after) < size, kOp,
            "reflect padding must be less than the size ", size, " along ", kAxes[axis], " but is (", before, ",",
            after, ").");
    require(out_size(options, axis, size, weight.shape(axis + 1)) >= 1, kOp, "the kernel spans ",
            options.dilation[axis] * (int64_t{weight.shape(axis + 1)} - 1) + 1, " along ", kAxes[axis],
            " but x with its padding only ", size + before + after, ".");
  }
  const auto shape = out_shape(options, x, weight, halo_frames);
  if (extras.residual) {
    require(extras.residual->dtype() == x.dtype(), kOp, "residual must have x's dtype ", x.dtype(), " but has ",
            extras.residual->dtype(), ".");
    require_shape(*extras.residual, shape, kOp, "residual");
  }

  std::vector<mx::array> inputs{x, mx::contiguous(weight, false, context.stream)};
  for (const auto* values : {&extras.bias, &extras.scale, &extras.shift}) {
    if (*values)
      inputs.push_back(mx::contiguous(mx::astype(**values, mx::float32, context.stream), false, context.stream));
  }
  if (extras.residual) inputs.push_back(*extras.residual);
  if (extras.halo) inputs.push_back(*extras.halo);
  const CausalConv3d::Present present{extras.bias.has_value(), extras.scale.has_value(), extras.shift.has_value(),
                                      extras.residual.has_value(), extras.halo.has_value()};
  return lazy_or_reference<CausalConv3d>(context, true, shape, x.dtype(), std::move(inputs), options, present);
}

std::vector<mx::Shape> CausalConv3d::output_shapes(const std::vector<mx::array>& inputs) {
  return {out_shape(options_, inputs[0], inputs[1], present_.halo ? inputs.back().shape(1) : 0)};
}

}  // namespace ltx2rt
