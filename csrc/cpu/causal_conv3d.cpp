// CPU evaluation of causal_conv3d: in which form, with what scratch.
#include "csrc/causal_conv3d.h"

#include <memory>

#include "csrc/cpu/conv_direct.h"
#include "csrc/cpu/conv_winograd.h"
#include "csrc/cpu/dispatch.h"
#include "csrc/cpu/rows.h"
#include "csrc/cpu/thread_pool.h"

namespace ltx2rt {
namespace {

using cpu::ConvArgs;

cpu::Voxels voxels(const mx::array& a) {
  cpu::Voxels v{a.data<char>(), {}};
  for (int axis = 0; axis < 5; ++axis) v.strides[axis] = a.strides(axis);
  return v;
}

// All but addresses and strides. out: the shape of the result.
ConvArgs shape_args(const mx::Shape& x, const mx::Shape& weight, const mx::Shape& out, int64_t halo_frames,
                    mx::Dtype dtype, mx::Dtype weight_dtype, const CausalConv3dOptions& options) {
  ConvArgs args{};
  args.type = cpu::float_type(dtype);
  args.weight_type = cpu::float_type(weight_dtype);
  args.batch = x[0];
  args.channels = x[4];
  args.out_channels = weight[0];
  args.halo_frames = halo_frames;
  for (int axis = 0; axis < 3; ++axis) {
    args.in_size[axis] = x[axis + 1] + (axis == 0 ? halo_frames : 0);
    args.out_size[axis] = out[axis + 1];
    args.kernel[axis] = weight[axis + 1];
    args.stride[axis] = options.stride[axis];
    args.dilation[axis] = options.dilation[axis];
    args.pad_before[axis] = options.padding[axis].first;
    args.pad_mode[axis] = options.padding_mode[axis];
  }
  args.pixel_norm = options.pixel_norm_eps.has_value();
  args.pixel_norm_eps = options.pixel_norm_eps.value_or(0.0f);
  args.activation = options.activation;
  args.negative_slope = options.negative_slope;
  return args;
}

template <typename Schedule>
void dispatch(cpu::Evaluation& evaluation, const ConvArgs& args) {
  auto schedule = std::make_shared<const Schedule>(args, cpu::num_threads());
  auto scratch = evaluation.scratch(schedule->scratch_bytes());
  evaluation.dispatch(
      [schedule = std::move(schedule), scratch = std::move(scratch)]() noexcept { schedule->run(scratch); });
}

}  // namespace

int64_t causal_conv3d_scratch_bytes(const CausalConv3dShapes& shapes, const CausalConv3dOptions& options,
                                    mx::Dtype dtype, mx::Dtype weight_dtype, int threads) {
  const auto out = causal_conv3d_shape(shapes, options);
  if (out[0] == 0) return 0;
  const auto args =
      shape_args(shapes.x, shapes.weight, out, shapes.halo ? (*shapes.halo)[1] : 0, dtype, weight_dtype, options);
  return cpu::suits_winograd(args) ? cpu::WinogradSchedule(args, threads).scratch_bytes()
                                   : cpu::ConvSchedule(args, threads).scratch_bytes();
}

void CausalConv3d::eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) {
  cpu::Evaluation evaluation(*this, inputs, outputs);
  if (evaluation.empty()) return;
  const auto &x = inputs[0], &weight = inputs[1];
  auto args = shape_args(x.shape(), weight.shape(), outputs[0].shape(), present_.halo ? inputs.back().shape(1) : 0,
                         x.dtype(), weight.dtype(), options_);
  args.x = voxels(x);
  args.weight = weight.data<char>();
  size_t next = 2;
  if (present_.bias) args.bias = inputs[next++].data<float>();
  if (present_.scale) args.scale = inputs[next++].data<float>();
  if (present_.shift) args.shift = inputs[next++].data<float>();
  if (present_.residual) args.residual = voxels(inputs[next++]);
  if (present_.halo) args.halo = voxels(inputs[next]);
  args.out = outputs[0].data<char>();
  if (cpu::suits_winograd(args)) {
    dispatch<cpu::WinogradSchedule>(evaluation, args);
  } else {
    dispatch<cpu::ConvSchedule>(evaluation, args);
  }
}

}  // namespace ltx2rt
