// Rows of any float dtype and stride as float32 and back, for *_simd.cpp files.
#pragma once
#include "csrc/cpu/simd.h"
#include "csrc/cpu/transpose_words.h"

namespace ltx2rt::cpu::LTX2RT_ISA {

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

inline float load_one(const void* data, FloatType type, int64_t i) {
  float value = 0.0f;
  with_type(type, data, [&](auto* p) { value = to_float(p[i]); });
  return value;
}

// out[i] = data[first + i * stride] for i < n; counted in elements.
inline void load_floats(const void* data, FloatType type, int64_t first, int64_t stride, int64_t n, float* out) {
  with_type(type, data, [&](auto* p) {
    p += first;
    int64_t i = 0;
    if (stride == 1)
      for (; i + kLanes <= n; i += kLanes) store(out + i, load(p + i));
    for (; i < n; ++i) out[i] = to_float(p[i * stride]);
  });
}

// data[first + i] = x[i] for i < n, rounded to nearest even.
inline void store_floats(const float* x, int64_t n, void* data, FloatType type, int64_t first) {
  const auto store_as = [&](auto* p) {
    p += first;
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) store(p + i, load(x + i));
    for (; i < n; ++i) from_float(x[i], p[i]);
  };
  switch (type) {
    case FloatType::f32:
      return store_as((float*)data);
    case FloatType::f16:
      return store_as((F16*)data);
    case FloatType::bf16:
      return store_as((BF16*)data);
  }
}

// Sum of squares in four interleaved chains of vectors: an order that depends on n alone.
inline float sum_of_squares(const float* x, int64_t n) {
  Vec chains[4] = {};
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    for (int c = 0; c < 4; ++c) {
      const Vec v = load(x + i + c * kLanes);
      chains[c] = fma(v, v, chains[c]);
    }
  }
  for (; i + kLanes <= n; i += kLanes) {
    const Vec v = load(x + i);
    chains[0] = fma(v, v, chains[0]);
  }
  float total = reduce_add((chains[0] + chains[1]) + (chains[2] + chains[3]));
  for (; i < n; ++i) total += x[i] * x[i];
  return total;
}

// to[i * to_stride + r] = from[r * stride + i] for r < rows and i < columns; rows is a multiple of kLanes.
#if defined(__AVX512F__)
inline void transpose(const float* from, int64_t stride, int64_t rows, int64_t columns, float* to, int64_t to_stride) {
  for (int64_t r = 0; r < rows; r += 16) {
    for (int64_t i = 0; i < columns; i += 16) {
      const int64_t here = smaller(16, columns - i);
      const __mmask16 chosen = (__mmask16)(0xffff >> (16 - here));
      __m512i words[16];
#pragma GCC unroll 16
      for (int k = 0; k < 16; ++k) words[k] = _mm512_maskz_loadu_epi32(chosen, from + (r + k) * stride + i);
      transpose_words(words);
#pragma GCC unroll 16
      for (int k = 0; k < 16; ++k) {
        if (k < here) _mm512_storeu_si512(to + (i + k) * to_stride + r, words[k]);
      }
    }
  }
}
#else
inline void transpose(const float* from, int64_t stride, int64_t rows, int64_t columns, float* to, int64_t to_stride) {
#if defined(__AVX2__)
  constexpr int64_t kSquare = 8;
#else
  constexpr int64_t kSquare = 4;
#endif
  static_assert(kLanes % kSquare == 0);
  for (int64_t r = 0; r < rows; r += kSquare) {
    int64_t i = 0;
#if defined(__AVX2__)
    for (; i + 8 <= columns; i += 8) {
      __m256 a[8], b[8];
      for (int k = 0; k < 8; ++k) a[k] = _mm256_loadu_ps(from + (r + k) * stride + i);
      for (int k = 0; k < 8; k += 2) {
        b[k] = _mm256_unpacklo_ps(a[k], a[k + 1]);
        b[k + 1] = _mm256_unpackhi_ps(a[k], a[k + 1]);
      }
      for (int k = 0; k < 8; k += 4) {
        a[k] = _mm256_shuffle_ps(b[k], b[k + 2], 0x44);
        a[k + 1] = _mm256_shuffle_ps(b[k], b[k + 2], 0xee);
        a[k + 2] = _mm256_shuffle_ps(b[k + 1], b[k + 3], 0x44);
        a[k + 3] = _mm256_shuffle_ps(b[k + 1], b[k + 3], 0xee);
      }
      for (int k = 0; k < 4; ++k) {
        _mm256_storeu_ps(to + (i + k) * to_stride + r, _mm256_permute2f128_ps(a[k], a[k + 4], 0x20));
        _mm256_storeu_ps(to + (i + k + 4) * to_stride + r, _mm256_permute2f128_ps(a[k], a[k + 4], 0x31));
      }
    }
#elif __has_builtin(__builtin_shufflevector)
    for (; i + 4 <= columns; i += 4) {
      Vec a[4];
      for (int k = 0; k < 4; ++k) a[k] = load(from + (r + k) * stride + i);
      const Vec b0 = __builtin_shufflevector(a[0], a[1], 0, 4, 1, 5);
      const Vec b1 = __builtin_shufflevector(a[0], a[1], 2, 6, 3, 7);
      const Vec b2 = __builtin_shufflevector(a[2], a[3], 0, 4, 1, 5);
      const Vec b3 = __builtin_shufflevector(a[2], a[3], 2, 6, 3, 7);
      store(to + i * to_stride + r, __builtin_shufflevector(b0, b2, 0, 1, 4, 5));
      store(to + (i + 1) * to_stride + r, __builtin_shufflevector(b0, b2, 2, 3, 6, 7));
      store(to + (i + 2) * to_stride + r, __builtin_shufflevector(b1, b3, 0, 1, 4, 5));
      store(to + (i + 3) * to_stride + r, __builtin_shufflevector(b1, b3, 2, 3, 6, 7));
    }
#endif
    for (; i < columns; ++i)
      for (int64_t k = 0; k < kSquare; ++k) to[i * to_stride + r + k] = from[(r + k) * stride + i];
  }
}
#endif

inline void transpose(const float* from, int64_t stride, int64_t rows, int64_t columns, float* to) {
  transpose(from, stride, rows, columns, to, rows);
}

}  // namespace ltx2rt::cpu::LTX2RT_ISA
