// The pixel norm that causal_conv3d applies to its input: the reciprocal norm of each voxel. Nothing here needs
// simdgroup matrices.
#include <metal_stdlib>

#include "csrc/metal/causal_conv3d_params.h"
#include "csrc/metal/elements.h"

using namespace metal;
using namespace ltx2rt;
using namespace ltx2rt::metal_shared;

constant bool aligned [[function_constant(11)]];  // channels and strides are multiples of 4

// 1 / sqrt(mean over channels of x^2 + eps) of each voxel, into (batch, total_frames, rows, columns). One simdgroup
// each.
template <typename T>
[[kernel, max_total_threads_per_threadgroup(32 * kConvRowScaleSimdgroups)]] void causal_conv3d_row_scale(
    const device T* x [[buffer(0)]], device float* out [[buffer(1)]], constant ConvRowScaleParams& params [[buffer(2)]],
    uint2 group [[threadgroup_position_in_grid]], uint lane [[thread_index_in_simdgroup]],
    uint simdgroup [[simdgroup_index_in_threadgroup]]) {
  const int voxels = params.size[0] * params.size[1] * params.size[2];
  const int voxel = (params.first_group + group.x) * kConvRowScaleSimdgroups + simdgroup, batch = group.y;
  if (voxel >= voxels) return;
  const int column = voxel % params.size[2], line = voxel / params.size[2];
  const int row = line % params.size[1], frame = line / params.size[1];
  x += batch * params.strides[0] + frame * params.strides[1] + row * params.strides[2] + column * params.strides[3];
  float sum = 0.0f;
  for (int c = 4 * int(lane); c < params.channels; c += 4 * 32) {
    const float4 v = read_up_to_four<T>(x, c, params.channels - c, aligned);
    sum += dot(v, v);
  }
  sum = simd_sum(sum);
  const int64 at = (int64(batch) * params.total_frames + params.first_frame) * params.size[1] * params.size[2] + voxel;
  if (lane == 0) out[at] = precise::rsqrt(sum / float(params.channels) + params.eps);
}

LTX2RT_KERNEL(causal_conv3d_row_scale_float32, causal_conv3d_row_scale<float>)
LTX2RT_KERNEL(causal_conv3d_row_scale_float16, causal_conv3d_row_scale<half>)
LTX2RT_KERNEL(causal_conv3d_row_scale_bfloat16, causal_conv3d_row_scale<bfloat>)
