// Words of four 8-bit integers and their products, for *_simd.cpp files.
#pragma once

#include "csrc/cpu/simd.h"

namespace ltx2rt::cpu::LTX2RT_ISA {

// The dot products of AVX-512 VNNI and AVX-VNNI take one side without signs: rows of x hold their values plus 128, and
// sums start from -128 times the sum of the weights.
#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)
constexpr bool kBiasedQuads = true;
#else
constexpr bool kBiasedQuads = false;
#endif

// As FloatWords (fma_tile.h), with exact sums. Values of x are -127 to 127, weights -128 to 127.
struct QuadWords {
  static constexpr int64_t kValues = 4;
  using Operand = VecI;
  using Sum = VecI;
  static Operand broadcast(const float* word) {
    int32_t bits;
    memcpy(&bits, word, sizeof bits);
    return splat_bits(bits);
  }
  static Operand load_row(const float* words) {
    VecI bits;
    memcpy(&bits, words, sizeof bits);
    return bits;
  }
  // after: what follows the words of a panel.
  static Sum start(const float* after) { return kBiasedQuads ? load_row(after) : VecI{}; }
  static void store_sum(float* to, Sum sum, bool add) {
    if (add) sum += load_row(to);
    memcpy(to, &sum, sizeof sum);
  }

  static VecI add_product(VecI sum, VecI x, VecI w) {
#if defined(__AVX512VNNI__)
    return (VecI)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)x, (__m512i)w);
#elif defined(__AVX512BW__)
    constexpr __mmask64 kEvery = ~(__mmask64)0;
    const __m512i values = (__m512i)x, weights = (__m512i)w;
    const __m512i magnitudes = _mm512_maskz_abs_epi8(kEvery, weights);  // of -128 it is 128, which has no sign here
    const __m512i signs = _mm512_mask_sub_epi8(values, _mm512_movepi8_mask(weights), _mm512_setzero_si512(), values);
    // Two products of at most 127 * 128 fit into 16 bits.
    const __m512i pairs = _mm512_maskz_maddubs_epi16(~(__mmask32)0, magnitudes, signs);
    return sum + (VecI)_mm512_maskz_madd_epi16(0xffff, pairs, _mm512_set1_epi16(1));
#elif defined(__AVXVNNI__)
    return (VecI)_mm256_dpbusd_avx_epi32((__m256i)sum, (__m256i)x, (__m256i)w);
#elif defined(__AVX2__) && LTX2RT_LANES == 8
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8((__m256i)w), _mm256_sign_epi8((__m256i)x, (__m256i)w));
    return sum + (VecI)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
#elif defined(LTX2RT_NEON) && defined(__ARM_FEATURE_DOTPROD)
    return (VecI)vdotq_s32((int32x4_t)sum, (int8x16_t)x, (int8x16_t)w);
#elif defined(LTX2RT_NEON)
    const int8x16_t values = (int8x16_t)x, weights = (int8x16_t)w;
    const int32x4_t low = vpaddlq_s16(vmull_s8(vget_low_s8(values), vget_low_s8(weights)));
    const int32x4_t high = vpaddlq_s16(vmull_high_s8(values, weights));
    return sum + (VecI)vpaddq_s32(low, high);
#else
    for (int shift = 0; shift < 32; shift += 8) {
      sum += ((VecI)((VecU)x << (24 - shift)) >> 24) * ((VecI)((VecU)w << (24 - shift)) >> 24);
    }
    return sum;
#endif
  }
};

}  // namespace ltx2rt::cpu::LTX2RT_ISA
