// Metal evaluation of causal_conv3d: norms of voxels first where they are needed, then the convolution.
#include "csrc/causal_conv3d.h"

#include <bit>

#include "csrc/metal/launch.h"

namespace ltx2rt {
namespace {

using metal::Launch;

// A channels-last volume whose channels are neighbours, and voxels of a frame not too far apart; copied if they are not.
mx::array with_near_channels(Launch& launch, const mx::array& a) {
  const bool near =
      metal_plan::frame_within_reach(a.shape(2), a.strides(2), a.shape(3), a.strides(3), a.shape(4), metal::reach());
  return near && (a.shape(4) == 1 || a.strides(4) == 1) ? a : launch.copy(a);
}

// Whether four channels of every voxel can be read at once.
bool aligned_voxels(const mx::array& a) {
  bool aligned = a.shape(4) % 4 == 0 && metal::starts_at_four(a);
  for (int axis = 0; axis < 4; ++axis) aligned = aligned && (a.shape(axis) == 1 || a.strides(axis) % 4 == 0);
  return aligned;
}

void set_strides(metal_shared::int64 (&to)[4], const mx::array* a) {
  for (int axis = 0; axis < 4; ++axis) to[axis] = a ? a->strides(axis) : 0;
}

// Reciprocal norms of the voxels of x, into the frames from first_frame on of `scales` (batch, frames, rows, columns).
void add_row_scales(Launch& launch, const mx::array& x, int first_frame, float eps, bool aligned, mx::array& scales) {
  launch.use("causal_conv3d_row_scale", "causal_conv3d_row_scale_" + metal::type_name(x.dtype()),
             {{metal_shared::kConvAlignedId, aligned}});
  auto& encoder = launch.encoder();
  metal_shared::ConvRowScaleParams params{};
  set_strides(params.strides, &x);
  for (int axis = 0; axis < 3; ++axis) params.size[axis] = x.shape(axis + 1);
  params.first_frame = first_frame;
  params.total_frames = scales.shape(1);
  params.channels = x.shape(4);
  params.eps = eps;
  constexpr int64_t kVoxels = metal_shared::kConvRowScaleSimdgroups;
  const int64_t voxels = int64_t{params.size[0]} * params.size[1] * params.size[2];
  launch.dispatch({metal_plan::ceil_div(voxels, kVoxels), x.shape(0), 1}, 32 * kVoxels,
                  metal_plan::kOperationsPerByte * kVoxels * x.shape(4) * x.itemsize(), [&](const int64_t (&first)[3]) {
                    params.first_group = first[0];
                    encoder.set_bytes(params, 2);
                    encoder.set_input_array(x, 0, first[1] * x.strides(0) * x.itemsize());
                    encoder.set_output_array(scales, 1, first[1] * scales.strides(0) * scales.itemsize());
                  });
}

}  // namespace

void CausalConv3d::eval_gpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) {
  Launch launch(stream());
  auto& out = outputs[0];
  launch.allocate(out);
  if (out.size() == 0) return;
  size_t next = 2;
  const auto given = [&](bool present) { return present ? &inputs[next++] : nullptr; };
  const mx::array* bias_given = given(present_.bias);
  const mx::array* scale = given(present_.scale);
  const mx::array* shift = given(present_.shift);
  const mx::array* residual_given = given(present_.residual);
  const mx::array* halo_given = given(present_.halo);

  const auto x = with_near_channels(launch, inputs[0]);
  std::optional<mx::array> halo, residual, bias;
  if (halo_given && halo_given->size() > 0) halo = with_near_channels(launch, *halo_given);
  if (residual_given) residual = with_near_channels(launch, *residual_given);
  // Four weights are read at once, and four values of the bias.
  const auto weight = metal::starts_at_four(inputs[1]) ? inputs[1] : launch.copy(inputs[1]);
  if (bias_given) bias = metal::starts_at_four(*bias_given) ? *bias_given : launch.copy(*bias_given);
  const auto part = [](const std::optional<mx::array>& a) { return a ? &*a : nullptr; };
  const auto at_four = [](const mx::array* a) { return !a || metal::starts_at_four(*a); };
  const bool aligned = aligned_voxels(x) && (!halo || aligned_voxels(*halo)) && at_four(scale) && at_four(shift);
  const bool aligned_out = out.shape(4) % 4 == 0 && (!residual || aligned_voxels(*residual));

  metal_shared::ConvParams params{};
  set_strides(params.x_strides, &x);
  set_strides(params.halo_strides, part(halo));
  set_strides(params.residual_strides, part(residual));
  params.halo_frames = halo ? halo->shape(1) : 0;
  int64_t out_size[3];
  int taps = 1;
  for (int axis = 0; axis < 3; ++axis) {
    params.in_size[axis] = x.shape(axis + 1) + (axis == 0 ? params.halo_frames : 0);
    params.out_size[axis] = out.shape(axis + 1);
    out_size[axis] = out.shape(axis + 1);
    params.kernel_size[axis] = weight.shape(axis + 1);
    taps *= weight.shape(axis + 1);
    params.stride[axis] = options_.stride[axis];
    params.dilation[axis] = options_.dilation[axis];
    params.pad_before[axis] = options_.padding[axis].first;
  }
  const auto plan = metal_plan::conv_plan(out_size, params.kernel_size, params.stride, params.dilation);
  for (int axis = 0; axis < 3; ++axis) {
    params.tiles[axis] = plan.tiles[axis];
    params.tile_size[axis] = plan.tile[axis];
    params.region_size[axis] = plan.region[axis];
    params.region_step[axis] = plan.one_phase ? 1 : params.stride[axis];
    params.region_per_output[axis] = plan.one_phase ? params.stride[axis] : 1;
  }
  params.taps_per_phase = plan.one_phase ? taps : 1;
  params.channels = x.shape(4);
  params.out_channels = out.shape(4);
  params.negative_slope = options_.negative_slope;
  params.tile_shift_row = std::countr_zero(static_cast<uint32_t>(plan.tile[2]));
  params.tile_shift_frame = params.tile_shift_row + std::countr_zero(static_cast<uint32_t>(plan.tile[1]));

  std::optional<mx::array> scales;
  if (options_.pixel_norm_eps) {
    scales = launch.temporary({x.shape(0), params.in_size[0], params.in_size[1], params.in_size[2]}, mx::float32);
    if (halo) add_row_scales(launch, *halo, 0, *options_.pixel_norm_eps, aligned, *scales);
    add_row_scales(launch, x, params.halo_frames, *options_.pixel_norm_eps, aligned, *scales);
  }

  // How an axis that is not padded would be padded is no reason for another pipeline.
  const auto padding_mode = [&](int axis) {
    const auto [before, after] = options_.padding[axis];
    return static_cast<int32_t>(before || after ? options_.padding_mode[axis] : PadMode::zeros);
  };
  const int columns = metal_plan::conv_columns(params.out_channels);
  launch.use("causal_conv3d",
             "causal_conv3d_" + metal::type_name(x.dtype()) + "_" + std::to_string(+metal_shared::kConvTile) + "x" +
                 std::to_string(columns),
             {{metal_shared::kConvPaddingFramesId, padding_mode(0)},
              {metal_shared::kConvPaddingRowsId, padding_mode(1)},
              {metal_shared::kConvPaddingColumnsId, padding_mode(2)},
              {metal_shared::kConvHasNormId, scales.has_value()},
              {metal_shared::kConvScaleId, metal::element_type(scale)},
              {metal_shared::kConvShiftId, metal::element_type(shift)},
              {metal_shared::kConvActivationId, static_cast<int32_t>(options_.activation)},
              {metal_shared::kConvWeightId, metal::element_type(&weight)},
              {metal_shared::kConvBiasId, metal::element_type(part(bias))},
              {metal_shared::kConvHasResidualId, residual.has_value()},
              {metal_shared::kConvHasHaloId, halo.has_value()},
              {metal_shared::kConvAlignedId, aligned},
              {metal_shared::kConvAlignedOutId, aligned_out},
              {metal_shared::kConvFencedId, fenced()}});
  auto& encoder = launch.encoder();
  encoder.set_input_array(x, 0);
  encoder.set_input_array(weight, 1);
  encoder.set_output_array(out, 2);
  launch.bind(part(halo), 4);
  launch.bind(part(scales), 5);
  launch.bind(scale, 6);
  launch.bind(shift, 7);
  launch.bind(part(bias), 8);
  launch.bind(part(residual), 9);
  launch.dispatch({metal_plan::ceil_div(params.out_channels, columns),
                   int64_t{plan.tiles[0]} * plan.tiles[1] * plan.tiles[2], x.shape(0)},
                  columns * metal_shared::kConvTile / 32,
                  2 * int64_t{metal_shared::kConvTile} * columns * taps * params.channels,
                  [&](const int64_t (&first)[3]) {
                    params.first_channel_block = first[0];
                    params.first_tile = first[1];
                    params.first_batch = first[2];
                    encoder.set_bytes(params, 3);
                  });
}

}  // namespace ltx2rt
