// Squares of words transposed in registers of AVX-512, for *_simd.cpp files.
#pragma once

#include "csrc/cpu/simd.h"

namespace ltx2rt::cpu::LTX2RT_ISA {

#if defined(__AVX512F__)

// 16 x 16 words of four bytes transposed.
inline __attribute__((always_inline)) void transpose_words(__m512i r[16]) {
  __m512i a[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    a[i] = _mm512_maskz_unpacklo_epi32(0xffff, r[i], r[i + 1]);
    a[i + 1] = _mm512_maskz_unpackhi_epi32(0xffff, r[i], r[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_maskz_unpacklo_epi64(0xff, a[i], a[i + 2]);
    r[i + 1] = _mm512_maskz_unpackhi_epi64(0xff, a[i], a[i + 2]);
    r[i + 2] = _mm512_maskz_unpacklo_epi64(0xff, a[i + 1], a[i + 3]);
    r[i + 3] = _mm512_maskz_unpackhi_epi64(0xff, a[i + 1], a[i + 3]);
  }
  // r[4 q + j] holds in its lane l (of 128 bits) the words 4 l + j of the rows 4 q to 4 q + 3.
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    a[j] = _mm512_maskz_shuffle_i32x4(0xffff, r[j], r[4 + j], 0x44);
    a[4 + j] = _mm512_maskz_shuffle_i32x4(0xffff, r[j], r[4 + j], 0xee);
    a[8 + j] = _mm512_maskz_shuffle_i32x4(0xffff, r[8 + j], r[12 + j], 0x44);
    a[12 + j] = _mm512_maskz_shuffle_i32x4(0xffff, r[8 + j], r[12 + j], 0xee);
  }
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    r[j] = _mm512_maskz_shuffle_i32x4(0xffff, a[j], a[8 + j], 0x88);
    r[4 + j] = _mm512_maskz_shuffle_i32x4(0xffff, a[j], a[8 + j], 0xdd);
    r[8 + j] = _mm512_maskz_shuffle_i32x4(0xffff, a[4 + j], a[12 + j], 0x88);
    r[12 + j] = _mm512_maskz_shuffle_i32x4(0xffff, a[4 + j], a[12 + j], 0xdd);
  }
}

#endif

}  // namespace ltx2rt::cpu::LTX2RT_ISA
