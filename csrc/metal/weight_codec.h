// Weights of quantized_linear as they are stored (csrc/quantized_linear.h), read eight at a time.
#pragma once
#include <metal_stdlib>

#include "csrc/metal/elements.h"
#include "csrc/metal/ggml_blocks.h"
#include "csrc/metal/quantized_linear_params.h"

using namespace metal;

constant int format [[function_constant(9)]];       // WeightFormat
constant int group_type [[function_constant(10)]];  // of the scales and zeros of affine weights

namespace ltx2rt {

using namespace metal_shared;

METAL_FUNC bool has_format(WeightFormat which) { return WeightFormat(format) == which; }
METAL_FUNC bool has_affine() { return is_affine(WeightFormat(format)); }
// Formats whose blocks of 256 weights are read in pairs of eight (ggml_blocks.h).
METAL_FUNC bool has_pairs() {
  return has_format(WeightFormat::q4_k) || has_format(WeightFormat::q5_k) || has_format(WeightFormat::q6_k);
}
// Whether eight neighbouring weights have a scale of their own, and a zero. Factors of a whole row or of all of W are
// left to the epilogue.
METAL_FUNC bool has_zeros() { return has_affine() || has_format(WeightFormat::q4_k) || has_format(WeightFormat::q5_k); }
METAL_FUNC bool has_scales() {
  return has_zeros() || has_format(WeightFormat::q6_k) || has_format(WeightFormat::q8_0) ||
         has_format(WeightFormat::nvfp4) || has_format(WeightFormat::mxfp8);
}

// Value of an E4M3 code times 2^-8, as the half with the same exponent and mantissa bits.
METAL_FUNC float e4m3_small(uint code) {
  if ((code & 0x7f) == 0x7f) return NAN;
  return float(as_type<half>(ushort((code & 0x80) << 8 | (code & 0x7f) << 7)));
}
constant constexpr float kE4m3Factor = 256.0f;
// Value of an E2M1 code times 2^-14, in the same way.
METAL_FUNC float e2m1_small(uint code) { return float(as_type<half>(ushort((code & 8) << 12 | (code & 7) << 9))); }
constant constexpr float kE2m1Factor = 16384.0f;
// Value of an E8M0 code: 2^(code - 127), and 0 for code 0.
METAL_FUNC float e8m0(uint code) { return as_type<float>(code << 23); }

// W from some row on, of which the functions below read weight i, counted through the rows.
struct StoredWeight {
  const device uchar* values;
  const device uchar* scale;
  const device uchar* zero;
  const threadgroup float* table;
  int group_size;
  int group_shift;  // log2 of group_size; negative where it is no power of two
  bool aligned;     // words of the format's size may be read
  METAL_FUNC int group(int i) const thread {
    return int(group_shift < 0 ? uint(i) / group_size : uint(i) >> group_shift);
  }
};

// The weight from a row of `depth` weights on.
METAL_FUNC StoredWeight from_row(StoredWeight w, int64 row, int depth) {
  const WeightBlock block = weight_block(WeightFormat(format));
  w.values += row * (depth / block.count * block.bytes);
  const int64 groups = row * w.group(depth);
  if (has_affine()) {
    w.scale = from_element(w.scale, group_type, groups);
    w.zero = from_element(w.zero, group_type, groups);
  } else if (scale_group(WeightFormat(format), 1) > 0) {
    w.scale += groups;
  }
  return w;
}

// The table of w4a8, copied where every thread reads it for each weight; others follow after a barrier.
enum { kTableSize = 16 };
METAL_FUNC void stage_table(threadgroup float* to, constant float* from, uint thread_index, uint threads) {
  if (!has_format(WeightFormat::w4a8)) return;
  for (uint i = thread_index; i < kTableSize; i += threads) to[i] = from[i];
  threadgroup_barrier(mem_flags::mem_threadgroup);
}

// Eight neighbouring weights: scale * codes + zero where has_scales() and has_zeros(). E4M3 values are 2^-8 of
// themselves in format e4m3.
struct CodedEight {
  Eight codes;
  float scale, zero;
};

METAL_FUNC float code_value(uint code) {
  if (has_format(WeightFormat::e4m3)) return e4m3_small(code);
  if (has_format(WeightFormat::mxfp8)) return e4m3_small(code) * kE4m3Factor;
  if (has_format(WeightFormat::int8_rows)) return float(as_type<char>(uchar(code)));
  return float(code);
}

// Codes of a byte each; beyond `count` those of the code 0.
METAL_FUNC Eight eight_of_bytes(const thread StoredWeight& w, int i, int count) {
  uint2 codes = uint2(0, 0);
  if (count >= 8) {
    codes = eight_bytes_by_four(w.values + i, w.aligned);
  } else {
    LTX2RT_UNROLL
    for (int j = 0; j < 8; j++) {
      if (j < count) codes[j / 4] |= uint(w.values[i + j]) << 8 * (j % 4);
    }
  }
  Eight values;
  LTX2RT_UNROLL
  for (int j = 0; j < 4; j++) {
    values.low[j] = code_value(byte_of(codes.x, j));
    values.high[j] = code_value(byte_of(codes.y, j));
  }
  return values;
}

// Codes of four bits each, in the order of the bytes; beyond `count` zeros. i is even.
METAL_FUNC uint eight_nibbles(const thread StoredWeight& w, int i, int count) {
  const device uchar* from = w.values + uint(i) / 2;
  if (w.aligned && count >= 8) return *(const device uint*)from;
  uint codes = 0;
  LTX2RT_UNROLL
  for (int j = 0; j < 4; j++) {
    if (2 * j < count) codes |= uint(from[j]) << 8 * j;
  }
  return codes;
}

// nvfp4: the high four bits of a byte come first.
METAL_FUNC Eight nvfp4_eight(uint codes) {
  Eight values;
  LTX2RT_UNROLL
  for (int j = 0; j < 4; j++) {
    const int shift = j % 2 == 0 ? 4 * j + 4 : 4 * j - 4;
    values.low[j] = e2m1_small(codes >> shift & 15);
    values.high[j] = e2m1_small(codes >> (16 + shift) & 15);
  }
  return values;
}

// w4a8: the levels, integers. Half of the eight may belong to another group.
METAL_FUNC Eight w4a8_eight(const thread StoredWeight& w, int i, int count) {
  const uint codes = eight_nibbles(w, i, count);
  const float first = e4m3_small(w.scale[w.group(i)]) * kE4m3Factor;
  const float second = w.group_size < 8 && count > 4 ? e4m3_small(w.scale[w.group(i + 4)]) * kE4m3Factor : first;
  Eight values;
  LTX2RT_UNROLL
  for (int j = 0; j < 4; j++) {
    values.low[j] = clamp(rint(w.table[codes >> 4 * j & 15] * first), -127.0f, 127.0f);
    values.high[j] = clamp(rint(w.table[codes >> (16 + 4 * j) & 15] * second), -127.0f, 127.0f);
  }
  return values;
}

// The first (0) or second (1) eight of a pair.
METAL_FUNC CodedEight coded_of(EightPair pair, uint number) {
  return CodedEight{eight_of(WeightFormat(format), pair, number), number == 0 ? pair.scale.x : pair.scale.y,
                    number == 0 ? pair.zero.x : pair.zero.y};
}

// Weights i to i + 7 of W; only the first `count` exist, the others are anything finite.
METAL_FUNC CodedEight read_coded(const thread StoredWeight& w, int i, int count) {
  CodedEight eight;
  eight.scale = 1.0f;
  eight.zero = 0.0f;
  if (has_pairs()) {
    const int distance = pair_distance(WeightFormat(format)), number = int(uint(i) / uint(distance) & 1);
    return coded_of(read_pair(WeightFormat(format), w.values, i - number * distance, w.aligned), number);
  }
  if (has_format(WeightFormat::q8_0)) {
    eight.codes = q8_0_eight(w.values, i, w.aligned, eight.scale);
  } else if (has_format(WeightFormat::nvfp4)) {
    eight.codes = nvfp4_eight(eight_nibbles(w, i, count));
    eight.scale = e4m3_small(w.scale[w.group(i)]) * (kE4m3Factor * kE2m1Factor);
  } else if (has_format(WeightFormat::w4a8)) {
    eight.codes = w4a8_eight(w, i, count);
  } else if (has_format(WeightFormat::int4)) {
    const uint codes = *(const device uint*)(w.values + uint(i) / 2);
    LTX2RT_UNROLL
    for (int j = 0; j < 4; j++) {
      eight.codes.low[j] = float(codes >> 4 * j & 15);
      eight.codes.high[j] = float(codes >> 4 * (4 + j) & 15);
    }
  } else if (WeightFormat(format) <= WeightFormat::bf16) {
    eight.codes = read_up_to_eight_of(w.values, format, i, count, w.aligned);
  } else {
    eight.codes = eight_of_bytes(w, i, count);
  }
  if (has_affine()) {
    eight.scale = read_element(w.scale, group_type, w.group(i));
    eight.zero = read_element(w.zero, group_type, w.group(i));
  } else if (has_format(WeightFormat::mxfp8)) {
    eight.scale = e8m0(w.scale[w.group(i)]);
  }
  return eight;
}

// The same of quantised weights, complete but for factors of a row or of all of W: without those E4M3 values, and levels
// of int8 and w4a8, are exact in all types, and so are E2M1 values with their scale.
METAL_FUNC Eight read_values(const thread StoredWeight& w, int i, int count) {
  const CodedEight eight = read_coded(w, i, count);
  Eight values = eight.codes;
  if (has_zeros()) {
    values.low = values.low * eight.scale + eight.zero;
    values.high = values.high * eight.scale + eight.zero;
  } else if (has_scales()) {
    values.low *= eight.scale;
    values.high *= eight.scale;
  } else if (has_format(WeightFormat::e4m3)) {
    values.low *= kE4m3Factor;
    values.high *= kE4m3Factor;
  }
  return values;
}

}  // namespace ltx2rt
