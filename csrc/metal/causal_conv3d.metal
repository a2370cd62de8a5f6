// out = residual + bias + correlate(pad(activation(pixel_norm(x) * (1 + scale) + shift)), weight), channels last. The
// inputs under a tile of outputs are staged once per slab of channels and serve all taps; padding is an index, not a
// copy.
#include <metal_stdlib>

#include "csrc/metal/causal_conv3d_params.h"
#include "csrc/metal/elements.h"
#include "csrc/metal/fragments.h"

using namespace metal;
using namespace ltx2rt;
using namespace ltx2rt::metal_shared;

constant int padding_frames [[function_constant(0)]];  // PadMode
constant int padding_rows [[function_constant(1)]];
constant int padding_columns [[function_constant(2)]];
constant bool has_norm [[function_constant(3)]];
constant int scale_type [[function_constant(4)]];
constant int shift_type [[function_constant(5)]];
constant int activation [[function_constant(6)]];  // ConvActivation
constant int weight_type [[function_constant(7)]];
constant int bias_type [[function_constant(8)]];
constant bool has_residual [[function_constant(9)]];
constant bool has_halo [[function_constant(10)]];
constant bool aligned [[function_constant(11)]];      // channels and the strides of x and halo are multiples of 4
constant bool aligned_out [[function_constant(12)]];  // out_channels and the strides of the residual are multiples of 4
constant bool fenced [[function_constant(13)]];

// Where a padded position reads from, or -1 for a zero. Positions that no output needs give some valid place or -1.
METAL_FUNC int source_of(int position, int size, int padding) {
  if (position >= 0 && position < size) return position;
  if (PadMode(padding) == PadMode::edge) return clamp(position, 0, size - 1);
  if (PadMode(padding) == PadMode::reflect) {
    const int mirrored = position < 0 ? -position : 2 * (size - 1) - position;
    return mirrored >= 0 && mirrored < size ? mirrored : -1;
  }
  return -1;
}

// What channels of a batch item are multiplied with before the sum, and what is added.
struct Prologue {
  const device uchar* scale;
  const device uchar* shift;
};

// Four channels of a voxel as they go into the sum.
METAL_FUNC float4 prepared(float4 v, const device float* row_scale, int channel, int count,
                           const thread Prologue& prologue, constant ConvParams& params) {
  if (has_norm) v *= row_scale[0];
  if (scale_type != kAbsent) v *= 1.0f + read_up_to_four_of(prologue.scale, scale_type, channel, count, aligned);
  if (shift_type != kAbsent) v += read_up_to_four_of(prologue.shift, shift_type, channel, count, aligned);
  if (ConvActivation(activation) == ConvActivation::silu) {
    LTX2RT_UNROLL
    for (int j = 0; j < 4; j++) v[j] = v[j] / (1.0f + fast::exp(-v[j]));
  } else if (ConvActivation(activation) == ConvActivation::leaky_relu) {
    LTX2RT_UNROLL
    for (int j = 0; j < 4; j++) v[j] = v[j] >= 0.0f ? v[j] : params.negative_slope * v[j];
  }
  LTX2RT_UNROLL
  for (int j = 0; j < 4; j++) v[j] = j < count ? v[j] : 0.0f;
  return v;
}

// x, halo, residual, out: T; weight (O, taps, C): weight_type; row_scale: of causal_conv3d_row_scale; scale, shift:
// (B, C). kDown x kAcross simdgroups of 32 outputs x 32 channels. Grid: (ceil(O / (32 * kAcross)), tiles, batch) or a
// slice of it.
template <typename T, int kDown, int kAcross>
[[kernel, max_total_threads_per_threadgroup(32 * kDown * kAcross)]] void causal_conv3d(
    const device T* x [[buffer(0)]], const device uchar* weight [[buffer(1)]], device T* out [[buffer(2)]],
    constant ConvParams& params [[buffer(3)]], const device T* halo [[buffer(4)]],
    const device float* row_scale [[buffer(5)]], const device uchar* scale [[buffer(6)]],
    const device uchar* shift [[buffer(7)]], const device uchar* bias [[buffer(8)]],
    const device T* residual [[buffer(9)]], uint3 group [[threadgroup_position_in_grid]],
    uint thread_index [[thread_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]],
    uint simdgroup [[simdgroup_index_in_threadgroup]]) {
  constexpr int kSlab = kConvSlabBytes / sizeof(T), kFours = kSlab / 4, kFragments = kSlab / 8;
  constexpr int kPitch = kSlab + kSlab / 8, kColumns = 32 * kAcross, kThreads = 32 * kDown * kAcross;
  static_assert(32 * kDown == kConvTile, "simdgroups cover the tile");
  threadgroup float4 region_storage[kConvRegion * kConvSlabBytes / 16];
  threadgroup float4 weight_storage[kConvTapsPerStep * kColumns * kPitch * sizeof(T) / 16];
  threadgroup T* region = (threadgroup T*)region_storage;
  threadgroup T* weights = (threadgroup T*)weight_storage;

  const int batch = params.first_batch + group.z, first_channel = (params.first_channel_block + group.x) * kColumns;
  const int channels = params.channels, out_channels = params.out_channels;
  const int taps = params.kernel_size[0] * params.kernel_size[1] * params.kernel_size[2];
  const int tile = params.first_tile + group.y, tile_line = tile / params.tiles[2];
  const int first[3] = {tile_line / params.tiles[1] * params.tile_size[0],
                        tile_line % params.tiles[1] * params.tile_size[1],
                        tile % params.tiles[2] * params.tile_size[2]};
  const int region_rows = params.region_size[1], region_columns = params.region_size[2];
  const int region_voxels = params.region_size[0] * region_rows * region_columns;
  // Voxels of the region beyond these serve no output that exists.
  int needed[3], origin[3];
  LTX2RT_UNROLL
  for (int a = 0; a < 3; a++) {
    const int outputs = min(params.tile_size[a], params.out_size[a] - first[a]);
    needed[a] = params.region_size[a] - (params.tile_size[a] - outputs) * params.region_per_output[a];
    origin[a] = first[a] * params.stride[a] - params.pad_before[a];
  }
  // Of this batch item and these output channels. Frames are found with 64 bits, what lies within them with 32.
  x += batch * params.x_strides[0] - params.halo_frames * params.x_strides[1];
  if (has_halo) halo += batch * params.halo_strides[0];
  const int plane = params.in_size[1] * params.in_size[2];
  if (has_norm) row_scale += int64(batch) * params.in_size[0] * plane;
  const int64 first_scale = int64(batch) * channels;
  const Prologue prologue = {from_element(scale, scale_type, scale_type == kAbsent ? 0 : first_scale),
                             from_element(shift, shift_type, shift_type == kAbsent ? 0 : first_scale)};
  weight = from_element(weight, weight_type, int64(first_channel) * taps * channels);

  const LanePosition at = lane_position(lane);
  const int tile_row = 32 * (simdgroup / kAcross), tile_column = 32 * (simdgroup % kAcross);
  simdgroup_float8x8 sums[4][4];
  int region_row[4];  // where each output of this lane begins in the region
  LTX2RT_UNROLL
  for (int i = 0; i < 4; i++) {
    const int m = tile_row + 8 * i + at.row;
    const int frame = m >> params.tile_shift_frame;
    const int row = (m >> params.tile_shift_row) & (params.tile_size[1] - 1), column = m & (params.tile_size[2] - 1);
    region_row[i] =
        ((frame * params.region_per_output[0] * region_rows + row * params.region_per_output[1]) * region_columns +
         column * params.region_per_output[2]) *
        kSlab;
    LTX2RT_UNROLL
    for (int j = 0; j < 4; j++) sums[i][j] = fragment_of(0.0f, 0.0f);
  }

  for (int c0 = 0; c0 < channels; c0 += kSlab) {
    for (int phase_tap = 0; phase_tap < taps; phase_tap += params.taps_per_phase) {
      threadgroup_barrier(mem_flags::mem_threadgroup);
      const int tap_line = phase_tap / params.kernel_size[2];
      const int tap_frame = tap_line / params.kernel_size[1] * params.dilation[0];
      const int tap_row = tap_line % params.kernel_size[1] * params.dilation[1];
      const int tap_column = phase_tap % params.kernel_size[2] * params.dilation[2];
      for (int unit = thread_index; unit < region_voxels * kFours; unit += kThreads) {
        const int voxel = unit / kFours, c = c0 + unit % kFours * 4;
        const int line = voxel / region_columns, column = voxel % region_columns;
        const int row = line % region_rows, frame = line / region_rows;
        float4 v = float4(0.0f);
        const int count = channels - c;
        if (count > 0 && frame < needed[0] && row < needed[1] && column < needed[2]) {
          const int f =
              source_of(origin[0] + frame * params.region_step[0] + tap_frame, params.in_size[0], padding_frames);
          const int r = source_of(origin[1] + row * params.region_step[1] + tap_row, params.in_size[1], padding_rows);
          const int w =
              source_of(origin[2] + column * params.region_step[2] + tap_column, params.in_size[2], padding_columns);
          if (f >= 0 && r >= 0 && w >= 0) {
            const bool in_halo = has_halo && f < params.halo_frames;
            if (in_halo) {
              const int in_frame = r * int(params.halo_strides[2]) + w * int(params.halo_strides[3]) + c;
              v = read_up_to_four<T>(halo + f * params.halo_strides[1], in_frame, count, aligned);
            } else {
              const int in_frame = r * int(params.x_strides[2]) + w * int(params.x_strides[3]) + c;
              v = read_up_to_four<T>(x + f * params.x_strides[1], in_frame, count, aligned);
            }
            const device float* scale_of_frame = has_norm ? row_scale + int64(f) * plane : row_scale;
            v = prepared(v, scale_of_frame + (r * params.in_size[2] + w), c, count, prologue, params);
          }
        }
        ((threadgroup vec<T, 4>*)region)[unit] = narrow<T>(v);
      }

      for (int tap0 = 0; tap0 < params.taps_per_phase; tap0 += kConvTapsPerStep) {
        const int step_taps = min(int(kConvTapsPerStep), params.taps_per_phase - tap0);
        if (tap0 > 0) threadgroup_barrier(mem_flags::mem_threadgroup);
        for (int unit = thread_index; unit < step_taps * kColumns * kFours; unit += kThreads) {
          const int four = unit % kFours, n = unit / kFours / step_taps, tap = unit / kFours % step_taps;
          const int c = c0 + four * 4;
          float4 w = float4(0.0f);
          if (first_channel + n < out_channels && c < channels) {
            const int from = (n * taps + phase_tap + tap0 + tap) * channels + c;
            w = read_up_to_four_of(weight, weight_type, from, channels - c, channels % 4 == 0);
          }
          threadgroup T* to = weights + (tap * kColumns + n) * kPitch + four * 4;
          LTX2RT_UNROLL
          for (int j = 0; j < 4; j++) to[j] = static_cast<T>(w[j]);
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);

        for (int tap = 0; tap < step_taps; tap++) {
          int offset = 0;  // of the tap in the region; a phase of one tap has its own region
          if (params.taps_per_phase > 1) {
            const int number = tap0 + tap, line = number / params.kernel_size[2];
            offset = ((line / params.kernel_size[1] * params.dilation[0] * region_rows +
                       line % params.kernel_size[1] * params.dilation[1]) *
                          region_columns +
                      number % params.kernel_size[2] * params.dilation[2]) *
                     kSlab;
          }
          LeftFragments<T, kFragments> inputs[4];
          LTX2RT_UNROLL
          for (int i = 0; i < 4; i++) inputs[i] = load_left<T, kFragments>(region + region_row[i] + offset, at);
          LTX2RT_UNROLL
          for (int j = 0; j < 4; j++) {
            const threadgroup T* column =
                weights + (tap * kColumns + tile_column + column_in_block(j, at.column)) * kPitch;
            fence(fenced);
            const RightFragments<T, kFragments> w = load_right<T, kFragments>(column, column + kPitch, at);
            fence(fenced);
            LTX2RT_UNROLL
            for (int f = 0; f < kFragments; f++) {
              simdgroup_float8x8 right = w.fragment(f);
              LTX2RT_UNROLL
              for (int i = 0; i < 4; i++) {
                simdgroup_float8x8 left = inputs[i].fragment(f);
                simdgroup_multiply_accumulate(sums[i][j], left, right, sums[i][j]);
              }
            }
          }
        }
      }
    }
  }

  const int channel = first_channel + tile_column + 4 * at.column;
  LTX2RT_UNROLL
  for (int i = 0; i < 4; i++) {
    const int m = tile_row + 8 * i + at.row;
    const int frame = first[0] + (m >> params.tile_shift_frame);
    const int row = first[1] + ((m >> params.tile_shift_row) & (params.tile_size[1] - 1));
    const int column = first[2] + (m & (params.tile_size[2] - 1));
    if (frame >= params.out_size[0] || row >= params.out_size[1] || column >= params.out_size[2]) continue;
    const int64 voxel =
        ((int64(batch) * params.out_size[0] + frame) * params.out_size[1] + row) * params.out_size[2] + column;
    LTX2RT_UNROLL
    for (int half_ = 0; half_ < 2; half_++) {
      const int o = channel + 4 * half_, count = out_channels - o;
      if (count <= 0) continue;
      const float2 a = elements_of(sums[i][2 * half_]), b = elements_of(sums[i][2 * half_ + 1]);
      float4 v = float4(a.x, a.y, b.x, b.y);
      if (bias_type != kAbsent) v += read_up_to_four_of(bias, bias_type, o, count, out_channels % 4 == 0);
      if (has_residual) {
        const device T* from = residual + batch * params.residual_strides[0] + frame * params.residual_strides[1] +
                               row * params.residual_strides[2] + column * params.residual_strides[3];
        v += read_up_to_four<T>(from, o, count, aligned_out);
      }
      write_up_to_four<T>(out + voxel * out_channels, o, count, out_channels % 4 == 0, v);
    }
  }
}

LTX2RT_KERNEL(causal_conv3d_float32_128x64, causal_conv3d<float, 4, 2>)
LTX2RT_KERNEL(causal_conv3d_float32_128x32, causal_conv3d<float, 4, 1>)
LTX2RT_KERNEL(causal_conv3d_float16_128x64, causal_conv3d<half, 4, 2>)
LTX2RT_KERNEL(causal_conv3d_float16_128x32, causal_conv3d<half, 4, 1>)
LTX2RT_KERNEL(causal_conv3d_bfloat16_128x64, causal_conv3d<bfloat, 4, 2>)
LTX2RT_KERNEL(causal_conv3d_bfloat16_128x32, causal_conv3d<bfloat, 4, 1>)
