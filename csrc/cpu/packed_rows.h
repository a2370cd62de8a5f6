// Rows of weights that are stored in blocks with scales, as float32, for *_simd.cpp files. Plain loops over neighbours,
// which compilers turn into vectors.
#pragma once

#include "csrc/cpu/linear_kernels.h"
#include "csrc/cpu/simd.h"

namespace ltx2rt::cpu::LTX2RT_ISA {

inline float f16_at(const uint8_t* bytes) {
  F16 half;
  memcpy(&half, bytes, sizeof half);
  return to_float(half);
}

// The value of an E4M3 code, without branches.
inline float e4m3_value(uint8_t code) {
  const uint32_t magnitude = code & 0x7f;
  const uint32_t normal = (magnitude << 20) + (120u << 23);
  const float subnormal = (float)(int32_t)magnitude * 0x1p-9f;
  uint32_t bits;
  memcpy(&bits, &subnormal, 4);
  bits = magnitude < 8 ? bits : normal;
  bits = magnitude == 0x7f ? 0x7fc00000 : bits;
  bits |= (uint32_t)(code & 0x80) << 24;
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

// The value of an E8M0 code: 2^(code - 127), zero for 0.
inline float e8m0_value(uint8_t code) {
  const uint32_t bits = (uint32_t)code << 23;
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

// Codes of E2M1 with a sign, times two.
constexpr float kE2m1Doubled[16] = {0, 1, 2, 3, 4, 6, 8, 12, -0.0f, -1, -2, -3, -4, -6, -8, -12};
// What makes them positive.
constexpr int kE2m1Zero = 12;

// Scale and minimum of sub-block j of 32 in the twelve bytes of Q4_K and Q5_K.
struct KScale {
  int scale, min;
};
inline KScale k_scale(const uint8_t* s, int j) {
  if (j < 4) return {s[j] & 63, s[j + 4] & 63};
  return {(s[j + 4] & 15) | (s[j - 4] >> 6) << 4, s[j + 4] >> 4 | (s[j] >> 6) << 4};
}

// 32 weights of sub-block j of a block of Q4_K or Q5_K.
template <bool kFifthBits>
inline void decode_q4_or_q5(const uint8_t* block, int j, float* out) {
  const KScale s = k_scale(block + 4, j);
  const float scale = f16_at(block) * (float)s.scale, min = f16_at(block + 2) * (float)s.min;
  const uint8_t* fifths = block + 16;
  const uint8_t* codes = block + (kFifthBits ? 48 : 16) + 32 * (j / 2);
  const int shift = 4 * (j % 2);
  for (int i = 0; i < 32; ++i) {
    int code = codes[i] >> shift & 15;
    if constexpr (kFifthBits) code |= (fifths[i] >> j & 1) << 4;
    out[i] = scale * (float)code - min;
  }
}

// 16 weights of group j of a block of Q6_K.
inline void decode_q6(const uint8_t* block, int j, float* out) {
  const int half = j / 8, run = j / 2 % 4, first = 16 * (j % 2);
  const uint8_t* low = block + 64 * half + 32 * (run % 2) + first;
  const uint8_t* high = block + 128 + 32 * half + first;
  const float scale = f16_at(block + 208) * (float)(int8_t)block[192 + j];
  for (int i = 0; i < 16; ++i) {
    const int code = (low[i] >> 4 * (run / 2) & 15) | (high[i] >> 2 * run & 3) << 4;
    out[i] = scale * (float)(code - 32);
  }
}

// Values that share a scale, at most: decode_packed takes whole numbers of them.
constexpr int64_t packed_group(WeightFormat format) {
  switch (format) {
    case WeightFormat::q8_0:
    case WeightFormat::q4_k:
    case WeightFormat::q5_k:
    case WeightFormat::mxfp8:
      return 32;
    case WeightFormat::q6_k:
    case WeightFormat::nvfp4:
      return 16;
    default:
      return 1;
  }
}

// Weights (n, k0 + i) for i < count of the formats from int8_rows on, without what the sums are multiplied with
// (WeightMatrix). k0 and count are multiples of packed_group.
__attribute__((noinline)) inline void decode_packed(const WeightMatrix& w, int64_t n, int64_t k0, int64_t count,
                                                    float* out) {
  const uint8_t* row = (const uint8_t*)w.values + n * w.row_bytes;
  const uint8_t* scales = (const uint8_t*)w.scale + n * w.groups;
  switch (w.format) {
    case WeightFormat::int8_rows:
      for (int64_t i = 0; i < count; ++i) out[i] = (float)(int8_t)row[k0 + i];
      return;
    case WeightFormat::q8_0:
      for (int64_t k = k0; k < k0 + count; k += 32, out += 32) {
        const uint8_t* block = row + k / 32 * 34;
        const float scale = f16_at(block);
        for (int i = 0; i < 32; ++i) out[i] = scale * (float)(int8_t)block[2 + i];
      }
      return;
    case WeightFormat::q4_k:
      for (int64_t k = k0; k < k0 + count; k += 32, out += 32) {
        decode_q4_or_q5<false>(row + k / 256 * 144, (int)(k / 32 % 8), out);
      }
      return;
    case WeightFormat::q5_k:
      for (int64_t k = k0; k < k0 + count; k += 32, out += 32) {
        decode_q4_or_q5<true>(row + k / 256 * 176, (int)(k / 32 % 8), out);
      }
      return;
    case WeightFormat::q6_k:
      for (int64_t k = k0; k < k0 + count; k += 16, out += 16) {
        decode_q6(row + k / 256 * 210, (int)(k / 16 % 16), out);
      }
      return;
    case WeightFormat::nvfp4:
      for (int64_t k = k0; k < k0 + count; k += 16, out += 16) {
        const float scale = e4m3_value(scales[k / 16]) * 0.5f;
        const uint8_t* codes = row + k / 2;
        for (int i = 0; i < 8; ++i) {
          out[2 * i] = scale * kE2m1Doubled[codes[i] >> 4];
          out[2 * i + 1] = scale * kE2m1Doubled[codes[i] & 15];
        }
      }
      return;
    case WeightFormat::mxfp8:
      for (int64_t k = k0; k < k0 + count; k += 32, out += 32) {
        const float scale = e8m0_value(scales[k / 32]);
        for (int i = 0; i < 32; ++i) out[i] = scale * e4m3_value(row[k + i]);
      }
      return;
    case WeightFormat::w4a8:
      for (int64_t k = k0; k < k0 + count; ++k, ++out) {
        *out = (float)w.levels[16 * scales[k / w.group_size] + (row[k / 2] >> 4 * (k % 2) & 15)];
      }
      return;
    default:
      return;
  }
}

}  // namespace ltx2rt::cpu::LTX2RT_ISA
