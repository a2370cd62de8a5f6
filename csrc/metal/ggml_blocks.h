// GGML's blocks of quantised weights (csrc/quantized_linear.h), read eight weights at a time. Blocks lie side by side in
// rows of bytes: float16 values and codes are where two bytes (q8_0, q6_k) or four (q4_k, q5_k) are aligned in them, if
// the first block begins so, and are read no wider than that; `aligned` says whether it does.
#pragma once
#include <metal_stdlib>

#include "csrc/metal/elements.h"
#include "csrc/op_types.h"

using namespace metal;

namespace ltx2rt {

METAL_FUNC uint four_bytes(const device uchar* from) {
  return uint(from[0]) | uint(from[1]) << 8 | uint(from[2]) << 16 | uint(from[3]) << 24;
}
METAL_FUNC uint2 eight_bytes_by_two(const device uchar* from, bool aligned) {
  if (aligned) return as_type<uint2>(ushort4(*(const device packed_ushort4*)from));
  return uint2(four_bytes(from), four_bytes(from + 4));
}
METAL_FUNC uint2 eight_bytes_by_four(const device uchar* from, bool aligned) {
  if (aligned) return uint2(*(const device packed_uint2*)from);
  return uint2(four_bytes(from), four_bytes(from + 4));
}
METAL_FUNC float half_at(const device uchar* from, bool aligned) {
  if (aligned) return float(*(const device half*)from);
  return float(as_type<half>(ushort(uint(from[0]) | uint(from[1]) << 8)));
}
METAL_FUNC float half_of(uint bits) { return float(as_type<half>(ushort(bits))); }
METAL_FUNC uint byte_of(uint word, uint i) { return word >> 8 * i & 0xff; }

// q8_0: 32 weights d * q. float16 d; signed bytes q.
METAL_FUNC Eight q8_0_eight(const device uchar* blocks, uint i, bool aligned, thread float& scale) {
  const device uchar* block = blocks + i / 32 * weight_block(WeightFormat::q8_0).bytes;
  scale = half_at(block, aligned);
  const uint2 codes = eight_bytes_by_two(block + 2 + i % 32, aligned);
  Eight w;
  LTX2RT_UNROLL
  for (int j = 0; j < 4; j++) {
    w.low[j] = float(as_type<char>(uchar(byte_of(codes.x, j))));
    w.high[j] = float(as_type<char>(uchar(byte_of(codes.y, j))));
  }
  return w;
}

// In blocks of 256 weights eight bytes hold the low four bits of sixteen: eight neighbours, and eight more at this
// distance. They are read together where both are wanted.
METAL_FUNC int pair_distance(WeightFormat format) { return format == WeightFormat::q6_k ? 64 : 32; }

struct EightPair {
  uint2 low_bits;   // of a byte, of the first eight; then of the second
  uint2 high_bits;  // the others, at the lowest places of each byte those of the first eight
  float2 scale, zero;
};

// Scale and zero of 32 weights (scale * q + zero) of q4_k and q5_k: number `sub` of a block that begins with
// float16 d, float16 m, and twelve bytes with eight scales and minima of six bits.
METAL_FUNC float2 k_scale_and_zero(uint4 header, uint sub) {
  const uint a = byte_of(header.y, sub % 4), b = byte_of(header.z, sub % 4), c = byte_of(header.w, sub % 4);
  const uint scale = sub < 4 ? a & 63 : (c & 15) | a >> 6 << 4;
  const uint minimum = sub < 4 ? b & 63 : c >> 4 | b >> 6 << 4;
  return float2(half_of(header.x & 0xffff) * float(scale), -(half_of(header.x >> 16) * float(minimum)));
}

// q4_k: 256 weights. The header; 128 bytes: four runs of 32, low bits of 32 weights and high bits of the next 32.
// q5_k: the same with 32 bytes of fifth bits between: bit s of byte l is that of weight 32 * s + l.
METAL_FUNC EightPair q45_k_pair(const device uchar* block, uint first, bool fifth_bits, bool aligned) {
  uint4 header;
  if (aligned) {
    header = uint4(*(const device packed_uint4*)block);
  } else {
    header = uint4(four_bytes(block), four_bytes(block + 4), four_bytes(block + 8), four_bytes(block + 12));
  }
  const uint sub = first / 32, in_run = first % 32;
  EightPair pair;
  pair.low_bits = eight_bytes_by_four(block + (fifth_bits ? 48 : 16) + sub / 2 * 32 + in_run, aligned);
  pair.high_bits = uint2(0, 0);
  if (fifth_bits) pair.high_bits = eight_bytes_by_four(block + 16 + in_run, aligned) >> sub;
  const float2 a = k_scale_and_zero(header, sub), b = k_scale_and_zero(header, sub + 1);
  pair.scale = float2(a.x, b.x);
  pair.zero = float2(a.y, b.y);
  return pair;
}

// q6_k: 256 weights d * scale * (q - 32). 128 bytes of low bits and 64 of high pairs, half for each 128 weights; sixteen
// scales, signed bytes; float16 d. Weight 32 * t + l of 128 has the low (t < 2) or high bits of byte 32 * (t % 2) + l,
// and pair t of byte l.
METAL_FUNC EightPair q6_k_pair(const device uchar* block, uint first, bool aligned) {
  const uint half_ = first / 128, in_half = first % 128;
  const float d = half_at(block + 208, aligned);
  const device uchar* scale = block + 192 + first / 16;
  EightPair pair;
  pair.low_bits = eight_bytes_by_two(block + 64 * half_ + in_half, aligned);
  pair.high_bits = eight_bytes_by_two(block + 128 + 32 * half_ + in_half % 32, aligned) >> 2 * (in_half / 32);
  pair.scale = d * float2(float(as_type<char>(scale[0])), float(as_type<char>(scale[4])));
  pair.zero = float2(0.0f, 0.0f);
  return pair;
}

// The pair whose first eight weights begin with weight i.
METAL_FUNC EightPair read_pair(WeightFormat format, const device uchar* blocks, uint i, bool aligned) {
  const uint number = i / 256, first = i % 256;
  if (format == WeightFormat::q6_k) {
    return q6_k_pair(blocks + number * weight_block(WeightFormat::q6_k).bytes, first, aligned);
  }
  if (format == WeightFormat::q5_k) {
    return q45_k_pair(blocks + number * weight_block(WeightFormat::q5_k).bytes, first, true, aligned);
  }
  return q45_k_pair(blocks + number * weight_block(WeightFormat::q4_k).bytes, first, false, aligned);
}

// The codes of the first (0) or second (1) eight of a pair.
METAL_FUNC Eight eight_of(WeightFormat format, EightPair pair, uint number) {
  Eight w;
  const uint2 low = pair.low_bits >> 4 * number;
  LTX2RT_UNROLL
  for (int j = 0; j < 4; j++) {
    uint first = byte_of(low.x, j) & 15, second = byte_of(low.y, j) & 15;
    if (format == WeightFormat::q5_k) {
      const uint2 high = pair.high_bits >> number;
      first |= (byte_of(high.x, j) & 1) << 4;
      second |= (byte_of(high.y, j) & 1) << 4;
    } else if (format == WeightFormat::q6_k) {
      const uint2 high = pair.high_bits >> 4 * number;
      first |= (byte_of(high.x, j) & 3) << 4;
      second |= (byte_of(high.y, j) & 3) << 4;
    }
    const int offset = format == WeightFormat::q6_k ? 32 : 0;
    w.low[j] = float(int(first) - offset);
    w.high[j] = float(int(second) - offset);
  }
  return w;
}

}  // namespace ltx2rt
