// Weights of quantized_linear as they are stored, read eight at a time.
#pragma once
#include <metal_stdlib>

#include "csrc/metal/elements.h"
#include "csrc/metal/quantized_linear_params.h"

using namespace metal;

constant int format [[function_constant(9)]];       // WeightFormat
constant int group_type [[function_constant(10)]];  // of the scales and zeros of affine weights

namespace ltx2rt {

using namespace metal_shared;

METAL_FUNC bool is_affine() {
  return WeightFormat(format) == WeightFormat::int8 || WeightFormat(format) == WeightFormat::int4;
}

// Value of an E4M3 code times 2^-8, as the half with the same exponent and mantissa bits.
METAL_FUNC float e4m3_small(uint code) {
  if ((code & 0x7f) == 0x7f) return NAN;
  return float(as_type<half>(ushort((code & 0x80) << 8 | (code & 0x7f) << 7)));
}
constant constexpr float kE4m3Factor = 256.0f;

// Eight neighbouring weights from value i on (a multiple of 8), before scales: the values of dense weights, E4M3 values
// times 2^-8, codes of affine ones. Beyond `count` zeros.
struct Eight {
  float4 low, high;
};
METAL_FUNC Eight read_eight(const device uchar* weight, int64 i, int count, bool aligned_w) {
  Eight w;
  if (WeightFormat(format) == WeightFormat::int8 || WeightFormat(format) == WeightFormat::e4m3) {
    uchar codes[8];
    if (aligned_w && count >= 8) {
      const uchar4 low = ((const device uchar4*)weight)[i / 4], high = ((const device uchar4*)weight)[i / 4 + 1];
      LTX2RT_UNROLL
      for (int j = 0; j < 4; j++) {
        codes[j] = low[j];
        codes[4 + j] = high[j];
      }
    } else {
      LTX2RT_UNROLL
      for (int j = 0; j < 8; j++) codes[j] = j < count ? weight[i + j] : uchar(0);
    }
    LTX2RT_UNROLL
    for (int j = 0; j < 4; j++) {
      w.low[j] = WeightFormat(format) == WeightFormat::e4m3 ? e4m3_small(codes[j]) : float(codes[j]);
      w.high[j] = WeightFormat(format) == WeightFormat::e4m3 ? e4m3_small(codes[4 + j]) : float(codes[4 + j]);
    }
  } else if (WeightFormat(format) == WeightFormat::int4) {
    const uint codes = ((const device uint*)weight)[i / 8];
    LTX2RT_UNROLL
    for (int j = 0; j < 4; j++) {
      w.low[j] = float(codes >> 4 * j & 15);
      w.high[j] = float(codes >> 4 * (4 + j) & 15);
    }
  } else {
    w.low = read_up_to_four_of(weight, format, i, count, aligned_w);
    w.high = read_up_to_four_of(weight, format, i + 4, count - 4, aligned_w);
  }
  return w;
}

// The values of eight quantised weights of a row of W, from value k of the row on: E4M3 without their factor, which is
// exact in all types; affine ones complete. `at` is the place of the first in W, `group` that of its scale and zero.
METAL_FUNC Eight read_values(const device uchar* weight, const device uchar* scale, const device uchar* zero, int64 at,
                             int64 group, int count, bool aligned_w) {
  Eight w = read_eight(weight, at, count, aligned_w);
  if (is_affine()) {
    const float s = read_element(scale, group_type, group), z = read_element(zero, group_type, group);
    w.low = w.low * s + z;
    w.high = w.high * s + z;
  } else {
    w.low *= kE4m3Factor;
    w.high *= kE4m3Factor;
  }
  return w;
}

}  // namespace ltx2rt
