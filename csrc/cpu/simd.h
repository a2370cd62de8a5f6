// Float vectors of the instruction set that this *_simd.cpp file is being compiled for.
//
// Vec is a compiler vector type, so + - * / and comparisons work on it directly; the functions below add what the
// language lacks. float16 and bfloat16 are passed as raw 16-bit words.
#pragma once

#include <stdint.h>
#include <string.h>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "csrc/cpu/float_type.h"

#ifndef LTX2RT_ISA
#error "simd.h is for files that the build compiles once per instruction set"
#endif

namespace ltx2rt::cpu::LTX2RT_ISA {

#if defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float Vec __attribute__((vector_size(4 * kLanes)));
typedef int32_t VecI __attribute__((vector_size(4 * kLanes)));

// Distinct types for the two 16-bit formats, so that load and store can be chosen by overload.
struct F16 {
  uint16_t bits;
};
struct BF16 {
  uint16_t bits;
};

inline Vec splat(float value) { return value - Vec{}; }
inline Vec zero() { return Vec{}; }
inline VecI bits_of(Vec v) { return (VecI)v; }
inline Vec from_bits(VecI v) { return (Vec)v; }
inline Vec select(VecI mask, Vec yes, Vec no) { return from_bits((mask & bits_of(yes)) | (~mask & bits_of(no))); }

// a * b + c, rounded once where the processor can.
inline Vec fma(Vec a, Vec b, Vec c) {
#if defined(__AVX2__)
  return _mm256_fmadd_ps(a, b, c);
#else
  return a * b + c;
#endif
}

inline Vec max(Vec a, Vec b) { return select(a > b, a, b); }
inline Vec min(Vec a, Vec b) { return select(a < b, a, b); }

// Scalar conversions; also what the vector ones do lane by lane without F16C.
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

inline Vec load(const BF16* p) {
#if defined(__AVX2__)
  const __m128i words = _mm_loadu_si128((const __m128i*)p);
  return (Vec)_mm256_slli_epi32(_mm256_cvtepu16_epi32(words), 16);
#else
  Vec v;
  for (int i = 0; i < kLanes; ++i) v[i] = to_float(p[i]);
  return v;
#endif
}
inline void store(BF16* p, Vec v) {
#if defined(__AVX2__)
  const __m256i u = (__m256i)v;
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
  __m256i r = _mm256_srli_epi32(_mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
  const __m256i nan = _mm256_or_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(0x40));
  r = _mm256_blendv_epi8(r, nan, (__m256i)_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
  r = _mm256_permute4x64_epi64(_mm256_packus_epi32(r, r), 0x08);
  _mm_storeu_si128((__m128i*)p, _mm256_castsi256_si128(r));
#else
  for (int i = 0; i < kLanes; ++i) from_float(v[i], p[i]);
#endif
}

inline Vec load(const F16* p) {
#if defined(__AVX2__)
  return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p));
#else
  Vec v;
  for (int i = 0; i < kLanes; ++i) v[i] = to_float(p[i]);
  return v;
#endif
}
inline void store(F16* p, Vec v) {
#if defined(__AVX2__)
  _mm_storeu_si128((__m128i*)p, _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#else
  for (int i = 0; i < kLanes; ++i) from_float(v[i], p[i]);
#endif
}

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
  float lanes[kLanes];
  store(lanes, v);
  for (int width = kLanes / 2; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  }
  return lanes[0];
}

inline float reduce_max(Vec v) {
  float lanes[kLanes];
  store(lanes, v);
  float most = lanes[0];
  for (int i = 1; i < kLanes; ++i) most = lanes[i] > most ? lanes[i] : most;
  return most;
}

// e**x to about 1 unit in the last place for x in [-87, 88], clamped outside; NaN stays NaN.
inline Vec exp(Vec x) {
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
  return p * from_bits((bits_of(shifted) - bits_of(splat(12582912.0f)) + 127) << 23);
}

inline Vec sigmoid(Vec x) { return splat(1.0f) / (splat(1.0f) + exp(-x)); }
inline Vec silu(Vec x) { return x / (splat(1.0f) + exp(-x)); }
// 0.5 x (1 + tanh(u)) = x sigmoid(2u), u = sqrt(2/pi) (x + 0.044715 x^3).
inline Vec gelu_tanh(Vec x) {
  const Vec u = x * fma(x * x, splat(1.5957691216f * 0.044715f), splat(1.5957691216f));
  return x / (splat(1.0f) + exp(-u));
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
