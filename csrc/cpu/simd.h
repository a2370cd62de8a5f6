// Float vectors of the instruction set that this *_simd.cpp file is being compiled for.
//
// Vec is a compiler vector type, so + - * / and comparisons work on it directly; the functions below add what the
// language lacks. float16 and bfloat16 are passed as raw 16-bit words.
#pragma once

#include <stdint.h>
#include <string.h>

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "csrc/cpu/float_type.h"

#ifndef LTX2RT_ISA
#error "simd.h is for files that the build compiles once per instruction set"
#endif

// What the build asks for beside the compiler's flags: LTX2RT_PORTABLE, the language alone; LTX2RT_EMULATE_AVX512, the
// 16 lanes of AVX-512 in pairs of AVX2's; LTX2RT_EMULATE_BF16, its dot product likewise.
#if defined(__AVX512F__) || defined(LTX2RT_EMULATE_AVX512)
#define LTX2RT_LANES 16
#elif defined(__AVX2__)
#define LTX2RT_LANES 8
#else
#define LTX2RT_LANES 4
#endif
#if defined(__aarch64__) && !defined(LTX2RT_PORTABLE)
#define LTX2RT_NEON
#endif
#if defined(__AVX512BF16__) || defined(LTX2RT_EMULATE_BF16) || \
    (defined(LTX2RT_NEON) && defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC))
#define LTX2RT_BF16_DOT
#endif

namespace ltx2rt::cpu::LTX2RT_ISA {

constexpr int kLanes = LTX2RT_LANES;

typedef float Vec __attribute__((vector_size(4 * kLanes)));
typedef int32_t VecI __attribute__((vector_size(4 * kLanes)));
typedef uint32_t VecU __attribute__((vector_size(4 * kLanes)));
typedef uint16_t VecH __attribute__((vector_size(2 * kLanes)));  // words of half the width

// Distinct types for the two 16-bit formats, so that load and store can be chosen by overload.
struct F16 {
  uint16_t bits;
};
struct BF16 {
  uint16_t bits;
};

inline Vec splat(float value) { return value - Vec{}; }
inline Vec zero() { return Vec{}; }
inline VecI splat_bits(int32_t bits) { return bits - VecI{}; }
inline VecI bits_of(Vec v) { return (VecI)v; }
inline Vec from_bits(VecI v) { return (Vec)v; }
inline Vec select(VecI mask, Vec yes, Vec no) { return from_bits((mask & bits_of(yes)) | (~mask & bits_of(no))); }

#if LTX2RT_LANES == 16
struct Halves {
  __m256 low, high;
};
static_assert(sizeof(Halves) == sizeof(Vec));
inline Halves halves_of(Vec v) { return __builtin_bit_cast(Halves, v); }
inline Vec join(__m256 low, __m256 high) { return __builtin_bit_cast(Vec, (Halves{low, high})); }
#endif

// True if any lane has any bit set.
inline bool any(VecI bits) {
#if defined(__AVX512F__)
  return _mm512_test_epi32_mask((__m512i)bits, (__m512i)bits) != 0;
#elif LTX2RT_LANES == 8
  return !_mm256_testz_si256((__m256i)bits, (__m256i)bits);
#else
  int32_t all = 0;
  for (int i = 0; i < kLanes; ++i) all |= bits[i];
  return all != 0;
#endif
}

// a * b + c, rounded once where the processor can.
inline Vec fma(Vec a, Vec b, Vec c) {
#if defined(__AVX512F__)
  return _mm512_fmadd_ps(a, b, c);
#elif LTX2RT_LANES == 16
  const Halves x = halves_of(a), y = halves_of(b), z = halves_of(c);
  return join(_mm256_fmadd_ps(x.low, y.low, z.low), _mm256_fmadd_ps(x.high, y.high, z.high));
#elif defined(__AVX2__)
  return _mm256_fmadd_ps(a, b, c);
#elif defined(LTX2RT_NEON)
  return (Vec)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
  return a * b + c;
#endif
}

// b where a lane of a or b is NaN.
inline Vec max(Vec a, Vec b) {
#if defined(__AVX512F__)
  return _mm512_maskz_max_ps(0xffff, a, b);
#else
  return select(a > b, a, b);
#endif
}
inline Vec min(Vec a, Vec b) {
#if defined(__AVX512F__)
  return _mm512_maskz_min_ps(0xffff, a, b);
#else
  return select(a < b, a, b);
#endif
}

// Scalar conversions; also what the vector ones do lane by lane where the processor has none.
inline float to_float(float x) { return x; }
inline float to_float(BF16 x) {
  const uint32_t u = (uint32_t)x.bits << 16;
  float f;
  memcpy(&f, &u, 4);
  return f;
}
inline float to_float(F16 x) {
  const uint32_t sign = (uint32_t)(x.bits & 0x8000) << 16;
  const uint32_t magnitude = x.bits & 0x7fff;
  float f;
  if (magnitude >= 0x7c00) {
    const uint32_t u = sign | 0x7f800000 | (magnitude & 0x3ff) << 13;
    memcpy(&f, &u, 4);
    return f;
  }
  // Moved to float32's exponent position the value is 2^-112 of itself, subnormals included.
  uint32_t u = magnitude << 13;
  memcpy(&f, &u, 4);
  f *= 0x1p112f;
  memcpy(&u, &f, 4);
  u |= sign;
  memcpy(&f, &u, 4);
  return f;
}
inline void from_float(float x, float& out) { out = x; }
inline void from_float(float x, BF16& out) {
  uint32_t u;
  memcpy(&u, &x, 4);
  out.bits = x != x ? (uint16_t)(u >> 16 | 0x40) : (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}
inline void from_float(float x, F16& out) {
  uint32_t u;
  memcpy(&u, &x, 4);
  const uint32_t sign = u >> 16 & 0x8000;
  u &= 0x7fffffff;
  if (u > 0x7f800000) {
    out.bits = (uint16_t)(sign | 0x7e00);
  } else if (u >= 0x477ff000) {  // rounds to 65536 or more
    out.bits = (uint16_t)(sign | 0x7c00);
  } else if (u < 0x38800000) {  // subnormal: adding 0.5 leaves the rounded multiple of 2^-24 in the mantissa
    float f;
    memcpy(&f, &u, 4);
    f += 0.5f;
    memcpy(&u, &f, 4);
    out.bits = (uint16_t)(sign | (u - 0x3f000000));
  } else {
    u += 0xfff + (u >> 13 & 1);
    out.bits = (uint16_t)(sign | (u - 0x38000000) >> 13);
  }
}

inline Vec load(const float* p) {
  Vec v;
  memcpy(&v, p, sizeof v);
  return v;
}
inline void store(float* p, Vec v) { memcpy(p, &v, sizeof v); }

// Words with zeros above them, and the low words; where the compiler would take the vectors apart, by name.
inline VecU widen_words(VecH words) {
#if defined(__AVX512F__)
  return (VecU)_mm512_maskz_cvtepu16_epi32(0xffff, (__m256i)words);
#elif LTX2RT_LANES == 8
  return (VecU)_mm256_cvtepu16_epi32((__m128i)words);
#else
  return __builtin_convertvector(words, VecU);
#endif
}
inline VecH low_words(VecU words) {
#if defined(__AVX512F__)
  return (VecH)_mm512_maskz_cvtepi32_epi16(0xffff, (__m512i)words);
#else
  return __builtin_convertvector(words, VecH);
#endif
}

inline Vec widen_bf16(VecH words) { return (Vec)(widen_words(words) << 16); }

inline Vec widen_f16(VecH words) {
#if defined(__AVX512F__)
  return _mm512_maskz_cvtph_ps(0xffff, (__m256i)words);
#elif LTX2RT_LANES == 16
  return join(_mm256_cvtph_ps(_mm256_castsi256_si128((__m256i)words)),
              _mm256_cvtph_ps(_mm256_extracti128_si256((__m256i)words, 1)));
#elif defined(__AVX2__)
  return _mm256_cvtph_ps((__m128i)words);
#elif defined(LTX2RT_NEON)
  return (Vec)vcvt_f32_f16((float16x4_t)words);
#else
  Vec v;
  for (int i = 0; i < kLanes; ++i) v[i] = to_float(F16{words[i]});
  return v;
#endif
}

// To nearest even; NaN stays NaN, and subnormal values stay, which the instructions for bfloat16 would make zero.
inline VecH narrow_bf16(Vec v) {
#if LTX2RT_LANES == 8
  const __m256i u = (__m256i)v;
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
  __m256i r = _mm256_srli_epi32(_mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
  const __m256i nan = _mm256_or_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(0x40));
  r = _mm256_blendv_epi8(r, nan, (__m256i)_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
  r = _mm256_permute4x64_epi64(_mm256_packus_epi32(r, r), 0x08);
  return (VecH)_mm256_castsi256_si128(r);
#else
  const VecU u = (VecU)v;
  const VecU rounded = (u + 0x7fff + (u >> 16 & 1)) >> 16, nan = u >> 16 | 0x40;
  const VecU is_nan = (VecU)(v != v);
  return low_words((is_nan & nan) | (~is_nan & rounded));
#endif
}

// The masks of all ones spare GCC 12 a warning about its own header.
inline VecH narrow_f16(Vec v) {
#if defined(__AVX512F__)
  return (VecH)_mm512_maskz_cvtps_ph(0xffff, v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#elif LTX2RT_LANES == 16
  constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  const Halves x = halves_of(v);
  return (VecH)_mm256_set_m128i(_mm256_cvtps_ph(x.high, kNearest), _mm256_cvtps_ph(x.low, kNearest));
#elif defined(__AVX2__)
  return (VecH)_mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#elif defined(LTX2RT_NEON)
  return (VecH)vcvt_f16_f32((float32x4_t)v);
#else
  VecH words;
  for (int i = 0; i < kLanes; ++i) {
    F16 half;
    from_float(v[i], half);
    words[i] = half.bits;
  }
  return words;
#endif
}

inline VecH load_words(const void* p) {
  VecH words;
  memcpy(&words, p, sizeof words);
  return words;
}
inline Vec load(const BF16* p) { return widen_bf16(load_words(p)); }
inline Vec load(const F16* p) { return widen_f16(load_words(p)); }
inline void store(BF16* p, Vec v) {
  const VecH words = narrow_bf16(v);
  memcpy(p, &words, sizeof words);
}
inline void store(F16* p, Vec v) {
  const VecH words = narrow_f16(v);
  memcpy(p, &words, sizeof words);
}

#ifdef LTX2RT_BF16_DOT

// sum + x.low * y.low + x.high * y.high per lane of bfloat16 pairs, the first of a pair in the low half. The bits are
// the processor's own:
// vdpbf16ps: sum = fma(x.high, y.high, sum), then sum = fma(x.low, y.low, sum), each rounded once to nearest even
//   whatever MXCSR says; subnormal inputs and results become zero. Emulated below.
// bfdot: round_to_odd(round_to_odd(x.low * y.low) + round_to_odd(x.high * y.high)) added to sum, rounded to odd;
//   subnormal inputs and results become zero. With FPCR.EBF set, as no operating system does, the products are exact.
inline Vec dot_pairs(Vec sum, VecI x, VecI y) {
#if defined(__AVX512BF16__)
  return _mm512_dpbf16_ps(sum, (__m512bh)x, (__m512bh)y);
#elif defined(LTX2RT_NEON)
  return (Vec)vbfdotq_f32((float32x4_t)sum, (bfloat16x8_t)x, (bfloat16x8_t)y);
#else
  const auto flush = [](VecI v) { return from_bits(v & (((v & 0x7f800000) != 0) | (int32_t)0x80000000)); };
  sum = fma(flush(x & (int32_t)0xffff0000), flush(y & (int32_t)0xffff0000), flush(bits_of(sum)));
  sum = fma(flush(x << 16), flush(y << 16), flush(bits_of(sum)));
  return flush(bits_of(sum));
#endif
}

// Pairs of the values of low and high, rounded to nearest even; NaN stays NaN. Subnormal values become zero where the
// processor's own conversion does that.
inline VecI pair_words(Vec low, Vec high) {
#if defined(__AVX512BF16__)
  const __m512i order =
      (__m512i)(VecU){0x00100000, 0x00110001, 0x00120002, 0x00130003, 0x00140004, 0x00150005, 0x00160006, 0x00170007,
                      0x00180008, 0x00190009, 0x001a000a, 0x001b000b, 0x001c000c, 0x001d000d, 0x001e000e, 0x001f000f};
  return (VecI)_mm512_maskz_permutexvar_epi16(~0u, order, (__m512i)_mm512_cvtne2ps_pbh(high, low));
#else
  const VecU words = widen_words(narrow_bf16(low));
  return (VecI)(words | widen_words(narrow_bf16(high)) << 16);
#endif
}
// The same of values that are bfloat16 already.
inline VecI pair_words(const BF16* low, const BF16* high) {
  return (VecI)(widen_words(load_words(low)) | widen_words(load_words(high)) << 16);
}

// v rounded to bfloat16 for dot_pairs alone, which takes subnormal values as zero, so that they may become zero here.
inline void store_for_dot(BF16* p, Vec v) {
#if defined(__AVX512BF16__)
  const __m256bh words = _mm512_cvtneps_pbh(v);
  memcpy(p, &words, sizeof words);
#else
  store(p, v);
#endif
}

#endif

// The first n < kLanes values, zeros after them.
template <typename T>
inline Vec load_part(const T* p, int64_t n) {
  T buffer[kLanes] = {};
  memcpy(buffer, p, (size_t)n * sizeof(T));
  return load(buffer);
}
template <typename T>
inline void store_part(T* p, Vec v, int64_t n) {
  T buffer[kLanes];
  store(buffer, v);
  memcpy(p, buffer, (size_t)n * sizeof(T));
}

// Lanes added pairwise, in a fixed order.
inline float reduce_add(Vec v) {
#if defined(__AVX512F__)
  // In registers: what is stored as a vector and read back in parts keeps the next loads waiting.
  const __m256 eight = (__m256)_mm512_maskz_extractf64x4_pd(0xff, (__m512d)v, 0) +
                       (__m256)_mm512_maskz_extractf64x4_pd(0xff, (__m512d)v, 1);
  const __m128 four = _mm256_castps256_ps128(eight) + _mm256_extractf128_ps(eight, 1);
  const __m128 two = four + _mm_movehl_ps(four, four);
  return two[0] + two[1];
#else
  float lanes[kLanes];
  store(lanes, v);
  for (int width = kLanes / 2; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  }
  return lanes[0];
#endif
}

inline float reduce_max(Vec v) {
  float lanes[kLanes];
  store(lanes, v);
  float most = lanes[0];
  for (int i = 1; i < kLanes; ++i) most = lanes[i] > most ? lanes[i] : most;
  return most;
}

// e**x to about 1 unit in the last place for x in [-87, 88]; below, e**-87.3; above 88.37, infinity; NaN stays NaN.
inline Vec exp(Vec x) {
  const auto too_large = x > splat(88.37626f);
  x = min(splat(88.37626f), max(splat(-87.33654f), x));
  // x = n ln 2 + r with n an integer and |r| <= ln(2)/2; adding 1.5 * 2^23 rounds to the nearest integer.
  const Vec shifted = fma(x, splat(1.44269504f), splat(12582912.0f));
  const Vec n = shifted - splat(12582912.0f);
  Vec r = fma(n, splat(-0.693359375f), x);
  r = fma(n, splat(2.12194440e-4f), r);
  Vec p = splat(1.0f / 5040);
  p = fma(p, r, splat(1.0f / 720));
  p = fma(p, r, splat(1.0f / 120));
  p = fma(p, r, splat(1.0f / 24));
  p = fma(p, r, splat(1.0f / 6));
  p = fma(p, r, splat(0.5f));
  p = fma(p, r, splat(1.0f));
  p = fma(p, r, splat(1.0f));
  p *= from_bits((bits_of(shifted) - bits_of(splat(12582912.0f)) + 127) << 23);
  return select(too_large, splat(__builtin_inff()), p);
}

// e**x for x <= 0 with a relative error below 1e-4, which does not show in bfloat16; 0 where e**x is subnormal or the
// processor's own subnormal value; NaN stays NaN.
inline Vec coarse_exp(Vec x) {
  const Vec t = x * splat(1.44269504f);
#if defined(__AVX512DQ__)
  constexpr int kFraction = 0x09;  // t - floor(t); 0 of -inf
  const Vec r = _mm512_maskz_reduce_ps(0xffff, t, kFraction);
  Vec p = splat(0.07802452f);
  p = fma(p, r, splat(0.22606716f));
  p = fma(p, r, splat(0.69583353f));
  p = fma(p, r, splat(0.99992522f));
  return _mm512_maskz_scalef_ps(0xffff, p, t);
#else
  // Adding 1.5 * 2^23 rounds to the nearest integer; -127 becomes the exponent of 0.
  const Vec shifted = max(splat(-127.0f), t) + splat(12582912.0f);
  const Vec r = max(splat(-127.0f), t) - (shifted - splat(12582912.0f));
  Vec p = splat(0.05517167f);
  p = fma(p, r, splat(0.24261113f));
  p = fma(p, r, splat(0.69326099f));
  p = fma(p, r, splat(0.99992807f));
  return p * from_bits((bits_of(shifted) - bits_of(splat(12582912.0f)) + 127) << 23);
#endif
}

inline Vec sigmoid(Vec x) { return splat(1.0f) / (splat(1.0f) + exp(-x)); }
inline Vec silu(Vec x) { return x / (splat(1.0f) + exp(-x)); }
// 0.5 x (1 + tanh(u)) = x sigmoid(2u), u = sqrt(2/pi) (x + 0.044715 x^3).
inline Vec gelu_tanh(Vec x) {
  const Vec u = x * fma(x * x, splat(1.5957691216f * 0.044715f), splat(1.5957691216f));
  return x / (splat(1.0f) + exp(-u));
}

// Memory of a workspace that nobody has written yet, or that is only read as T from here on, as an array of T.
template <typename T>
inline T* as_array(void* memory) {
  return (T*)memory;
}

// Calls action(T*) with the storage type of `type` in place of the type of data.
template <typename Action>
inline void with_type(FloatType type, const void* data, const Action& action) {
  switch (type) {
    case FloatType::f32:
      return action((const float*)data);
    case FloatType::f16:
      return action((const F16*)data);
    case FloatType::bf16:
      return action((const BF16*)data);
  }
}

}  // namespace ltx2rt::cpu::LTX2RT_ISA
