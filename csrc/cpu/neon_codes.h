// Codes of eight weight columns in NEON registers: transposition, and the bytes of their values by table, for
// *_simd.cpp files.
#pragma once

#include "csrc/cpu/simd.h"

namespace ltx2rt::cpu::LTX2RT_ISA {

#ifdef LTX2RT_NEON

// 16 bytes of each of eight rows, transposed: r[i] holds byte 2i of the eight rows and, eight bytes further, byte 2i + 1.
inline __attribute__((always_inline)) void transpose_codes(uint8x16_t r[8]) {
  uint8x16_t a[8], b[8];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    a[2 * i] = vzip1q_u8(r[i], r[i + 4]);
    a[2 * i + 1] = vzip2q_u8(r[i], r[i + 4]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {  // rows of even numbers, then of odd ones
    b[2 * i] = vzip1q_u8(a[i], a[i + 4]);
    b[2 * i + 1] = vzip2q_u8(a[i], a[i + 4]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {  // bytes 4i to 4i + 3
    r[2 * i] = vzip1q_u8(b[i], b[i + 4]);
    r[2 * i + 1] = vzip2q_u8(b[i], b[i + 4]);
  }
}

// Four words of each of eight rows, transposed: r[2k] holds word k of the rows 0 to 3, r[2k + 1] that of 4 to 7.
inline __attribute__((always_inline)) void transpose_words(const uint32x4_t rows[8], uint32x4_t r[8]) {
#pragma GCC unroll 2
  for (int half = 0; half < 2; ++half) {
    const uint32x4_t* four = rows + 4 * half;
    const uint32x4_t a = vzip1q_u32(four[0], four[2]), b = vzip2q_u32(four[0], four[2]);
    const uint32x4_t c = vzip1q_u32(four[1], four[3]), d = vzip2q_u32(four[1], four[3]);
    r[half] = vzip1q_u32(a, c);
    r[2 + half] = vzip2q_u32(a, c);
    r[4 + half] = vzip1q_u32(b, d);
    r[6 + half] = vzip2q_u32(b, d);
  }
}

// The bfloat16 of 16 codes by their bytes.
struct Bf16Bytes {
  uint8x16_t low, high;
};

// Of 2^-8 times each E4M3 value, as e4m3_as_f16 has it. The exponent's bias is greater by 112, which moves a magnitude up
// by four bits and adds 0x38 to the high byte; those below 8 are subnormal and, with their neighbours, come from a table.
inline __attribute__((always_inline)) Bf16Bytes e4m3_bytes(uint8x16_t codes) {
  constexpr uint8x16_t kHighs = {0x00, 0x37, 0x37, 0x37, 0x38, 0x38, 0x38, 0x38,
                                 0x38, 0x38, 0x38, 0x38, 0x38, 0x38, 0x38, 0x38};
  constexpr uint8x16_t kLows = {0x00, 0x00, 0x80, 0xc0, 0x00, 0x20, 0x40, 0x60,
                                0x80, 0x90, 0xa0, 0xb0, 0xc0, 0xd0, 0xe0, 0xf0};
  const uint8x16_t magnitude = vandq_u8(codes, vdupq_n_u8(0x7f));
  const uint8x16_t is_nan = vceqq_u8(magnitude, vdupq_n_u8(0x7f));
  uint8x16_t high = vqtbx1q_u8(vsraq_n_u8(vdupq_n_u8(0x38), magnitude, 4), kHighs, magnitude);
  uint8x16_t low = vqtbx1q_u8(vshlq_n_u8(magnitude, 4), kLows, magnitude);
  high = vbslq_u8(is_nan, vdupq_n_u8(0x7f), high);
  low = vbslq_u8(is_nan, vdupq_n_u8(0xc0), low);
  return {low, vbslq_u8(vdupq_n_u8(0x80), codes, high)};
}

// Whether one of 128 codes of E4M3 is NaN, 0x7f or 0xff.
inline __attribute__((always_inline)) bool has_e4m3_nan(const uint8x16_t r[8]) {
  uint8x16_t largest = vdupq_n_u8(0);
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) largest = vmaxq_u8(largest, vorrq_u8(r[i], vdupq_n_u8(0x80)));
  return vmaxvq_u8(largest) == 0xff;
}

// Eight codes in the high bytes of words, which are not NaN, as float32: float16 (see e4m3_as_f16) in between, whose sign
// stays while the rest moves down by a bit.
inline __attribute__((always_inline)) void e4m3_floats(uint8x16_t words, Vec* vecs) {
  const uint16x8_t moved = (uint16x8_t)vshrq_n_s16((int16x8_t)words, 1);
  const float16x8_t halves = (float16x8_t)vbicq_u16(moved, vdupq_n_u16(0x4000));
  vecs[0] = (Vec)vcvt_f32_f16(vget_low_f16(halves));
  vecs[1] = (Vec)vcvt_high_f32_f16(halves);
}

// Codes 0 to 7 (half 0) or 8 to 15 as float32, each put into a word by table.
template <int kHalf>
inline __attribute__((always_inline)) void code_floats(uint8x16_t codes, Vec* vecs) {
#pragma GCC unroll 2
  for (int v = 0; v < 2; ++v) {
    const uint32x4_t first = (uint32x4_t){0, 1, 2, 3} + (uint32_t)(8 * kHalf + 4 * v);
    const uint8x16_t places = (uint8x16_t)(first | 0xffffff00u);  // a place beyond the table gives zero
    vecs[v] = (Vec)vcvtq_f32_u32((uint32x4_t)vqtbl1q_u8(codes, places));
  }
}

#ifdef LTX2RT_BF16_DOT
// Two vectors rounded to bfloat16, to nearest even; NaN stays NaN.
inline __attribute__((always_inline)) uint16x8_t rounded_words(const Vec* vecs) {
  const bfloat16x8_t low = vcvtq_low_bf16_f32((float32x4_t)vecs[0]);
  return (uint16x8_t)vcvtq_high_bf16_f32(low, (float32x4_t)vecs[1]);
}
#endif

#endif

}  // namespace ltx2rt::cpu::LTX2RT_ISA
