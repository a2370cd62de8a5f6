// What rope_attention needs before it begins: keys that are normed and rotated once, and statistics of whole rows of q.
// Nothing here needs simdgroup matrices.
#include <metal_stdlib>

#include "csrc/metal/elements.h"
#include "csrc/metal/rope.h"
#include "csrc/metal/rope_attention_params.h"

using namespace metal;
using namespace ltx2rt;
using namespace ltx2rt::metal_shared;

// 1 / sqrt(mean of squares + eps) of whole rows. x: T; out (rows): float. One simdgroup per row.
template <typename T>
[[kernel, max_total_threads_per_threadgroup(32 * kRowScaleSimdgroups)]] void rope_attention_row_scale(
    const device T* x [[buffer(0)]], device float* out [[buffer(1)]],
    constant AttentionRowScaleParams& params [[buffer(2)]], uint group [[threadgroup_position_in_grid]],
    uint lane [[thread_index_in_simdgroup]], uint simdgroup [[simdgroup_index_in_threadgroup]]) {
  const int row = (params.first_group + group) * kRowScaleSimdgroups + simdgroup;
  if (row >= params.rows) return;
  x += row / params.tokens * params.strides[0] + row % params.tokens * params.strides[1];
  float sum = 0.0f;
  for (int i = 4 * int(lane); i < params.width; i += 4 * 32) {
    const float4 v = widen<T>(((const device vec<T, 4>*)(x + i))[0]);
    sum += dot(v, v);
  }
  sum = simd_sum(sum);
  if (lane == 0) out[row] = precise::rsqrt(sum / float(params.width) + params.norm_eps);
}

// k, normed and rotated, as (batch, head, token, K). A thread takes kKeysValuesPerThread / 8 units of four pairs of
// lanes of params.tokens_per_group tokens, for which it reads the weights of the norm once.
// Grid: (ceil(tokens / tokens_per_group), batch, 1), or a part of it, of at least heads * K / kKeysValuesPerThread
// threads, whole simdgroups.
template <typename T, int K>
[[kernel, max_total_threads_per_threadgroup(kKeysMostThreads)]] void rope_attention_keys(
    const device T* k [[buffer(0)]], const device float* norm [[buffer(1)]], const device float* cosines [[buffer(2)]],
    const device float* sines [[buffer(3)]], const device int* index [[buffer(4)]], device T* out [[buffer(5)]],
    constant AttentionKeysParams& params [[buffer(6)]], uint2 group [[threadgroup_position_in_grid]],
    uint thread_index [[thread_index_in_threadgroup]], uint2 threads [[threads_per_threadgroup]],
    uint lane [[thread_index_in_simdgroup]], uint simdgroup [[simdgroup_index_in_threadgroup]],
    uint simdgroups [[simdgroups_per_threadgroup]]) {
  constexpr int kUnits = kKeysValuesPerThread / 8, kUnitsPerHead = K / 8;
  threadgroup float partial[2][32];  // of every other token, so that one barrier per token is enough
  const int batch = params.first_batch + group.y;
  const int first_token = (params.first_group + group.x) * params.tokens_per_group;
  const int tokens = min(params.tokens_per_group, params.tokens - first_token);
  const int units = params.heads * kUnitsPerHead;

  k += batch * params.k_strides[0] + first_token * params.k_strides[1];
  const int token_stride = int(params.k_strides[1]);
  if (rope_axes > 0) index += batch * params.rope.index_batch_stride + int64(first_token) * rope_axes;
  float4 low_weight[kUnits], high_weight[kUnits];
  device T* out_of_unit[kUnits];
  LTX2RT_UNROLL
  for (int i = 0; i < kUnits; i++) {
    const int unit = i * int(threads.x) + int(thread_index);
    const int head = unit / kUnitsPerHead, place = unit % kUnitsPerHead;
    out_of_unit[i] = out + ((int64(batch) * params.heads + head) * params.tokens + first_token) * K;
    low_weight[i] = high_weight[i] = float4(1.0f);
    if (norm_kind == kNotNormed || unit >= units) continue;
    const device float* weight = norm + (norm_kind == kNormWholeRow ? head * K : 0) + (interleaved ? 8 : 4) * place;
    low_weight[i] = ((const device float4*)weight)[0];
    high_weight[i] = ((const device float4*)(weight + (interleaved ? 4 : K / 2)))[0];
  }

  for (int t = 0; t < tokens; t++) {
    const device T* row_of_k = k + t * token_stride;
    float4 first[kUnits], second[kUnits];  // of split pairs: both halves; interleaved: eight neighbours
    float sum = 0.0f;
    LTX2RT_UNROLL
    for (int i = 0; i < kUnits; i++) {
      const int unit = i * int(threads.x) + int(thread_index);
      const int head = unit / kUnitsPerHead, place = unit % kUnitsPerHead;
      const device T* from = row_of_k + head * K + (interleaved ? 8 : 4) * place;
      const bool inside = unit < units;
      first[i] = inside ? widen<T>(((const device vec<T, 4>*)from)[0]) : float4(0.0f);
      second[i] = inside ? widen<T>(((const device vec<T, 4>*)(from + (interleaved ? 4 : K / 2)))[0]) : float4(0.0f);
      float square = dot(first[i], first[i]) + dot(second[i], second[i]);
      if (norm_kind == kNormPerHead) {
        for (ushort step = 1; step < kUnitsPerHead; step *= 2) square += simd_shuffle_xor(square, step);
        const float scale = precise::rsqrt(square / float(K) + params.norm_eps);
        first[i] *= scale;
        second[i] *= scale;
      }
      sum += square;
    }
    float scale = 1.0f;
    if (norm_kind == kNormWholeRow) {
      sum = simd_sum(sum);
      if (simdgroups > 1) {
        if (lane == 0) partial[t % 2][simdgroup] = sum;
        threadgroup_barrier(mem_flags::mem_threadgroup);
        sum = simd_sum(lane < simdgroups ? partial[t % 2][lane] : 0.0f);
      }
      scale = precise::rsqrt(sum / float(params.heads * K) + params.norm_eps);
    }

    Position position;
    if (rope_axes > 0) {
      int row = 0;
      if (int(lane) < rope_axes) {
        row = table_row(index[t * rope_axes + int(lane)], params.rope.rows);
      }
      LTX2RT_UNROLL
      for (int a = 0; a < kMostRopeAxes; a++) position.row[a] = simd_shuffle(row, ushort(a));
    }
    LTX2RT_UNROLL
    for (int i = 0; i < kUnits; i++) {
      const int unit = i * int(threads.x) + int(thread_index);
      if (unit >= units) continue;
      const int head = unit / kUnitsPerHead, place = unit % kUnitsPerHead;
      const int low = (interleaved ? 8 : 4) * place, high = low + (interleaved ? 4 : K / 2);
      float4 a = first[i] * scale * low_weight[i], b = second[i] * scale * high_weight[i];
      if (rope_axes > 0) {
        const int pair = 4 * place + (rope_shared ? 0 : head * (K / 2));
        LTX2RT_UNROLL
        for (int j = 0; j < 4; j++) {
          const float2 turn = turn_of(pair + j, position, cosines, sines, params.rope);
          if (interleaved) {
            thread float4& values = j < 2 ? a : b;
            const int at = 2 * (j % 2);
            const float2 pair_of_values = turned(float2(values[at], values[at + 1]), turn);
            values[at] = pair_of_values.x;
            values[at + 1] = pair_of_values.y;
          } else {
            const float2 pair_of_values = turned(float2(a[j], b[j]), turn);
            a[j] = pair_of_values.x;
            b[j] = pair_of_values.y;
          }
        }
      }
      device T* row = out_of_unit[i] + t * K;
      ((device vec<T, 4>*)(row + low))[0] = narrow<T>(a);
      ((device vec<T, 4>*)(row + high))[0] = narrow<T>(b);
    }
  }
}

LTX2RT_KERNEL(rope_attention_keys_float32_32, rope_attention_keys<float, 32>)
LTX2RT_KERNEL(rope_attention_keys_float32_64, rope_attention_keys<float, 64>)
LTX2RT_KERNEL(rope_attention_keys_float32_128, rope_attention_keys<float, 128>)
LTX2RT_KERNEL(rope_attention_keys_float16_32, rope_attention_keys<half, 32>)
LTX2RT_KERNEL(rope_attention_keys_float16_64, rope_attention_keys<half, 64>)
LTX2RT_KERNEL(rope_attention_keys_float16_128, rope_attention_keys<half, 128>)
LTX2RT_KERNEL(rope_attention_keys_bfloat16_32, rope_attention_keys<bfloat, 32>)
LTX2RT_KERNEL(rope_attention_keys_bfloat16_64, rope_attention_keys<bfloat, 64>)
LTX2RT_KERNEL(rope_attention_keys_bfloat16_128, rope_attention_keys<bfloat, 128>)
LTX2RT_KERNEL(rope_attention_row_scale_float32, rope_attention_row_scale<float>)
LTX2RT_KERNEL(rope_attention_row_scale_float16, rope_attention_row_scale<half>)
LTX2RT_KERNEL(rope_attention_row_scale_bfloat16, rope_attention_row_scale<bfloat>)
