// Measuring loops for one instruction set.
#include "csrc/cpu/calibrate_kernels.h"
#include "csrc/cpu/simd.h"

#if defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
#include <arm_neon.h>
#endif

namespace ltx2rt::cpu::LTX2RT_ISA {
namespace {

// Enough independent chains to hide the latency of every pipe, few enough to stay in the registers with two operands.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kChains = 24;
#else
constexpr int kChains = 12;
#endif

// Runs step on every chain, `iterations` times, and adds up the chains. They start from different values: a compiler
// computes equal chains once.
template <typename Chain, typename Start, typename Step, typename Sum>
void run_chains(int64_t iterations, float* sink, const Start& start, const Step& step, const Sum& sum) {
  Chain chains[kChains];
#pragma GCC unroll 24
  for (int i = 0; i < kChains; ++i) chains[i] = start(*sink + (float)i);
  for (int64_t n = 0; n < iterations; ++n) {
#pragma GCC unroll 24
    for (int i = 0; i < kChains; ++i) chains[i] = step(chains[i]);
  }
#pragma GCC unroll 24
  for (int i = 0; i < kChains; ++i) *sink += sum(chains[i]);
}

int64_t multiply_f32(int64_t iterations, float* sink) {
  const Vec factor = splat(0.999f), offset = splat(0.001f);
  run_chains<Vec>(
      iterations, sink, [](float value) { return splat(value); }, [&](Vec chain) { return fma(chain, factor, offset); },
      [](Vec chain) { return chain[0]; });
  return iterations * kChains * kLanes * 2;
}

#if defined(__AVX512BF16__)

int64_t multiply_bf16(int64_t iterations, float* sink) {
  const __m512bh x = (__m512bh)_mm512_set1_epi16(0x3c00), y = (__m512bh)_mm512_set1_epi16(0x3c00);
  run_chains<__m512>(
      iterations, sink, [](float value) { return _mm512_set1_ps(value); },
      [&](__m512 chain) { return _mm512_dpbf16_ps(chain, x, y); }, [](__m512 chain) { return chain[0]; });
  return iterations * kChains * 16 * 4;
}

#elif defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)

int64_t multiply_bf16(int64_t iterations, float* sink) {
  const bfloat16x8_t x = vreinterpretq_bf16_u16(vdupq_n_u16(0x3c00)), y = x;
  run_chains<float32x4_t>(
      iterations, sink, [](float value) { return vdupq_n_f32(value); },
      [&](float32x4_t chain) { return vbfmmlaq_f32(chain, x, y); },
      [](float32x4_t chain) { return vgetq_lane_f32(chain, 0); });
  return iterations * kChains * 4 * 8;
}

#else

int64_t multiply_bf16(int64_t iterations, float* sink) { return multiply_f32(iterations, sink); }

#endif

uint64_t read(const char* from, int64_t bytes) {
  VecI chains[8] = {};
  for (int64_t at = 0; at + (int64_t)sizeof chains <= bytes; at += sizeof chains) {
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      VecI words;
      memcpy(&words, from + at + i * (int64_t)sizeof words, sizeof words);
      chains[i] ^= words;
    }
  }
  VecI all = chains[0];
  for (int i = 1; i < 8; ++i) all ^= chains[i];
  uint64_t sum = 0;
  for (int i = 0; i < kLanes; ++i) sum += (uint32_t)all[i];
  return sum;
}

}  // namespace

const CalibrationKernels& calibration_kernels() {
  static constexpr CalibrationKernels kernels{multiply_f32, multiply_bf16, read};
  return kernels;
}

}  // namespace ltx2rt::cpu::LTX2RT_ISA
