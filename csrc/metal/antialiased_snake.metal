// x + sin(exp(alpha) x)^2 / (exp(beta) + 1e-9) at twice the sample rate, between interpolation and decimation by
// filters of 12 taps. A thread walks along one channel and keeps what both filters need in registers.
#include <metal_stdlib>

#include "csrc/metal/antialiased_snake_params.h"
#include "csrc/metal/elements.h"

using namespace metal;
using namespace ltx2rt;
using namespace ltx2rt::metal_shared;

constant int alpha_type [[function_constant(0)]];
constant int beta_type [[function_constant(1)]];
constant int rise_type [[function_constant(2)]];
constant int fall_type [[function_constant(3)]];

constant constexpr int kTaps = 12;
constant constexpr int kWindow = 7;  // samples under a doubled pair, and pairs under an output

METAL_FUNC float periodic(float u, float frequency, float gain) {
  const float sine = precise::sin(u * frequency);
  return fma(sine * sine, gain, u);
}

// x, out: T, contiguous (batch, samples, channels); alpha, beta (channels) and rise, fall (12): of their types.
// Grid: (ceil(channels / 32), ceil(samples / (kSnakeRun * kSnakeSimdgroups)), batch), or a part of it.
template <typename T>
[[kernel, max_total_threads_per_threadgroup(32 * kSnakeSimdgroups)]] void antialiased_snake(
    const device T* x [[buffer(0)]], const device uchar* alpha [[buffer(1)]], const device uchar* beta [[buffer(2)]],
    const device uchar* rise [[buffer(3)]], const device uchar* fall [[buffer(4)]], device T* out [[buffer(5)]],
    constant SnakeParams& params [[buffer(6)]], uint3 group [[threadgroup_position_in_grid]],
    uint lane [[thread_index_in_simdgroup]], uint simdgroup [[simdgroup_index_in_threadgroup]]) {
  const int samples = params.samples, channels = params.channels;
  const int first = ((params.first_run_block + int(group.y)) * kSnakeSimdgroups + int(simdgroup)) * kSnakeRun;
  if (first >= samples) return;

  // Each lane reads one tap of either filter and gets the others from its neighbours.
  float own_rise = 0.0f, own_fall = 0.0f;
  if (int(lane) < kTaps) {
    own_rise = 2.0f * read_element(rise, rise_type, lane);
    own_fall = read_element(fall, fall_type, lane);
  }
  float up[kTaps], down[kTaps];
  LTX2RT_UNROLL
  for (int t = 0; t < kTaps; t++) {
    up[t] = simd_shuffle(own_rise, ushort(t));
    down[t] = simd_shuffle(own_fall, ushort(t));
  }

  const int channel = (params.first_channel_block + int(group.x)) * 32 + int(lane);
  if (channel >= channels) return;
  const int64 item = int64(params.first_batch + int(group.z)) * samples * channels + channel;
  const int origin = max(first - 6, 0);  // the first sample that this thread reads
  x += item + int64(origin) * channels;
  out += item + int64(first) * channels;
  const float frequency = precise::exp(read_element(alpha, alpha_type, channel));
  const float gain = 1.0f / (precise::exp(read_element(beta, beta_type, channel)) + 1e-9f);

  // Pair j, the values at 2j and 2j + 1 of the doubled rate, needs samples j - 3 to j + 3; output p pairs
  // p - 3 to p + 3. The window of samples moves with j inside the sound; pairs outside repeat the value at the end.
  float window[kWindow];
  const int start = first - 3;
  LTX2RT_UNROLL
  for (int i = 0; i < kWindow; i++) {
    window[i] = float(x[(clamp(max(start, 0) - 3 + i, 0, samples - 1) - origin) * channels]);
  }
  float even[kWindow], odd[kWindow];  // of pair start + step, at step % kWindow
  for (int block = 0; block < kSnakeRun + kWindow - 1; block += kWindow) {
    LTX2RT_UNROLL
    for (int i = 0; i < kWindow; i++) {
      const int step = block + i, j = start + step;
      if (step > 0 && j > 0 && j < samples) {
        LTX2RT_UNROLL
        for (int w = 0; w < kWindow - 1; w++) window[w] = window[w + 1];
        window[kWindow - 1] = float(x[(min(j + 3, samples - 1) - origin) * channels]);
      }
      float low = 0.0f, high = 0.0f;
      LTX2RT_UNROLL
      for (int w = 0; w < 6; w++) {
        low = fma(window[w], up[11 - 2 * w], low);
        high = fma(window[w + 1], up[10 - 2 * w], high);
      }
      low = periodic(low, frequency, gain);
      high = periodic(high, frequency, gain);
      even[i] = j >= samples ? high : low;
      odd[i] = j < 0 ? low : high;

      const int p = j - 3;
      if (p < first || p >= first + kSnakeRun || p >= samples) continue;
      // The pairs of output p, from p - 3 on, begin one place after pair j.
      float sum = down[0] * odd[(i + 1) % kWindow];
      LTX2RT_UNROLL
      for (int t = 0; t < 5; t++) {
        sum = fma(down[1 + 2 * t], even[(i + 2 + t) % kWindow], sum);
        sum = fma(down[2 + 2 * t], odd[(i + 2 + t) % kWindow], sum);
      }
      sum = fma(down[11], even[i], sum);
      out[(p - first) * channels] = static_cast<T>(sum);
    }
  }
}

LTX2RT_KERNEL(antialiased_snake_float32, antialiased_snake<float>)
LTX2RT_KERNEL(antialiased_snake_float16, antialiased_snake<half>)
LTX2RT_KERNEL(antialiased_snake_bfloat16, antialiased_snake<bfloat>)
