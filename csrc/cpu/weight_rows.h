// Weights (n, k) of every stored format, one by one, for *_simd.cpp files.
#pragma once

#include "csrc/cpu/linear_kernels.h"
#include "csrc/cpu/packed_rows.h"
#include "csrc/cpu/simd.h"

namespace ltx2rt::cpu::LTX2RT_ISA {

constexpr int kPanelVecs = 2;
constexpr int64_t kPanelColumns = kPanelVecs * kLanes;
static_assert(kPanelColumns <= kMaxPanelColumns);
// Few rows of float32 values are multiplied with so many panels in turn: each sum is one chain, and those of one panel
// alone would wait for each other.
constexpr int kFewPanels = LTX2RT_LANES == 8 ? 2 : 1;

// float16 bits of 2^-8 times the E4M3 value: the exponent field moves by one bit less than the bias asks for.
inline F16 e4m3_as_f16(uint8_t code) {
  const uint32_t magnitude = code & 0x7f;
  return {(uint16_t)((magnitude == 0x7f ? 0x7e00 : magnitude << 7) | (uint32_t)(code & 0x80) << 8)};
}

// Scale and zero of the panel's columns in one group.
struct GroupVecs {
  Vec scale[kPanelVecs];
  Vec zero[kPanelVecs];
};

inline GroupVecs load_group(const WeightMatrix& w, int64_t n0, int64_t group) {
  float scale[kPanelColumns] = {}, zero[kPanelColumns] = {};
  const int64_t valid = w.columns - n0 < kPanelColumns ? w.columns - n0 : kPanelColumns;
  const auto gather = [&](const void* from, float* to) {
    with_type(w.group_type, from, [&](auto* values) {
      for (int64_t n = 0; n < valid; ++n) to[n] = to_float(values[(n0 + n) * w.groups + group]);
    });
  };
  gather(w.scale, scale);
  gather(w.zero, zero);
  GroupVecs vecs;
  for (int v = 0; v < kPanelVecs; ++v) {
    vecs.scale[v] = load(scale + v * kLanes);
    vecs.zero[v] = load(zero + v * kLanes);
  }
  return vecs;
}

// Weights (n, k0 + i) for i < count, as panels have them.
inline void decode_row(const WeightMatrix& w, int64_t n, int64_t k0, int64_t count, float* out) {
  const char* row = (const char*)w.values + n * w.row_bytes;
  const auto widen = [&](auto* values) {
    for (int64_t i = 0; i < count; ++i) out[i] = to_float(values[k0 + i]);
  };
  switch (w.format) {
    case WeightFormat::f32:
      return widen((const float*)row);
    case WeightFormat::f16:
      return widen((const F16*)row);
    case WeightFormat::bf16:
      return widen((const BF16*)row);
    case WeightFormat::e4m3:
      for (int64_t i = 0; i < count; ++i) out[i] = to_float(e4m3_as_f16((uint8_t)row[k0 + i]));
      return;
    case WeightFormat::int8:
    case WeightFormat::int4:
      break;
    default:
      return decode_packed(w, n, k0, count, out);
  }
  const uint8_t* codes = (const uint8_t*)row;
  with_type(w.group_type, w.scale, [&](auto* scales) {
    const auto* zeros = (decltype(scales))w.zero;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t k = k0 + i;
      const int64_t at = n * w.groups + k / w.group_size;
      const int code = w.format == WeightFormat::int8 ? codes[k] : codes[k / 2] >> 4 * (k % 2) & 15;
      out[i] = (float)code * to_float(scales[at]) + to_float(zeros[at]);
    }
  });
}

// Vectors of the panel for so many k at a time.
constexpr int64_t kStepValues = 16;

// Weights (n0 + lane, k0 + i) for i < count, at most kSlowValues, without wide instructions.
constexpr int64_t kSlowValues = 32;
__attribute__((noinline)) inline void decode_slowly(const WeightMatrix& w, int64_t n0, int64_t k0, int64_t count,
                                                    Vec (*to)[kPanelVecs]) {
  const int64_t group = packed_group(w.format), before = k0 % group;  // groups are decoded as a whole
  const int64_t decoded = (before + count + group - 1) / group * group;
  float rows[kPanelColumns][2 * kSlowValues] = {};
  const int64_t valid = w.columns - n0 < kPanelColumns ? w.columns - n0 : kPanelColumns;
  for (int64_t n = 0; n < valid; ++n) decode_row(w, n0 + n, k0 - before, decoded, rows[n]);
  for (int64_t i = 0; i < count; ++i) {
    float across[kPanelColumns];
    for (int64_t n = 0; n < kPanelColumns; ++n) across[n] = rows[n][before + i];
    for (int v = 0; v < kPanelVecs; ++v) to[i][v] = load(across + v * kLanes);
  }
}

}  // namespace ltx2rt::cpu::LTX2RT_ISA
