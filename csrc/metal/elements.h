// Reading operands whose element type a function constant gives, four values at a time where they are aligned.
#pragma once
#include <metal_stdlib>

#include "csrc/metal/shared_types.h"

using namespace metal;

// Small arrays live in registers only while every index into them is constant, so loops over them are unrolled.
#define LTX2RT_UNROLL _Pragma("clang loop unroll(full)")

// A kernel that can be launched, each on a line of its own at the end of a shader: its name, and a function. When the
// source is compiled at run time, only the line of the kernel that is asked for is in it (tools/embed_shaders.py).
#define LTX2RT_KERNEL(name, ...) template [[host_name(#name)]] [[kernel]] decltype(__VA_ARGS__) __VA_ARGS__;

namespace ltx2rt {

using metal_shared::int32;
using metal_shared::int64;

// Values are converted one by one: vector conversions from bfloat are not the same in all versions of the language.
template <typename T>
METAL_FUNC float4 widen(vec<T, 4> v) {
  return float4(float(v.x), float(v.y), float(v.z), float(v.w));
}

template <typename T>
METAL_FUNC vec<T, 4> narrow(float4 v) {
  return vec<T, 4>(static_cast<T>(v.x), static_cast<T>(v.y), static_cast<T>(v.z), static_cast<T>(v.w));
}

// The row of a table that an index names: negative ones count from the end. Others are errors that a kernel cannot
// report; they read the nearest row.
METAL_FUNC int table_row(int index, int rows) { return clamp(index < 0 ? index + rows : index, 0, rows - 1); }

// Where an array lies is found with 64 bits, once; from there on, elements are counted with 32, which is what a GPU adds
// to an address at no cost. launch_plans.h keeps what a loop reaches that near.

// An array of the given type from element i on.
METAL_FUNC const device uchar* from_element(const device uchar* array, int type, int64 i) {
  return array + i * (type == metal_shared::kFloat32 ? 4 : 2);
}

// Element i of an array of the given type.
METAL_FUNC float read_element(const device uchar* array, int type, int i) {
  if (type == metal_shared::kFloat16) return float(((const device half*)array)[i]);
  if (type == metal_shared::kBfloat16) return float(((const device bfloat*)array)[i]);
  return ((const device float*)array)[i];
}

// Elements i to i + 3; i is a multiple of 4 and the array is aligned to four of its elements.
METAL_FUNC float4 read_four(const device uchar* array, int type, int i) {
  if (type == metal_shared::kFloat16) return widen<half>(*(const device half4*)((const device half*)array + i));
  if (type == metal_shared::kBfloat16) return widen<bfloat>(*(const device bfloat4*)((const device bfloat*)array + i));
  return *(const device float4*)((const device float*)array + i);
}

// Elements i to i + 3 of which only the first `count` exist; the others are 0.
template <typename T>
METAL_FUNC float4 read_up_to_four(const device T* array, int i, int count, bool aligned) {
  if (aligned && count >= 4) return widen<T>(*(const device vec<T, 4>*)(array + i));
  float4 v = float4(0.0f);
  LTX2RT_UNROLL
  for (int j = 0; j < 4; j++) {
    if (j < count) v[j] = float(array[i + j]);
  }
  return v;
}

METAL_FUNC float4 read_up_to_four_of(const device uchar* array, int type, int i, int count, bool aligned) {
  if (aligned && count >= 4) return read_four(array, type, i);
  float4 v = float4(0.0f);
  LTX2RT_UNROLL
  for (int j = 0; j < 4; j++) {
    if (j < count) v[j] = read_element(array, type, i + j);
  }
  return v;
}

// Eight values in a row.
struct Eight {
  float4 low, high;
};

// Elements i to i + 7 of which only the first `count` exist, the others are 0; one read of eight values of two bytes
// where `aligned` says that fours are.
template <typename T>
METAL_FUNC Eight read_up_to_eight(const device T* array, int i, int count, bool aligned) {
  if constexpr (sizeof(T) == 2) {
    if (aligned && count >= 8) {
      const uint4 bits = uint4(*(const device packed_uint4*)(array + i));
      return Eight{widen<T>(as_type<vec<T, 4>>(bits.xy)), widen<T>(as_type<vec<T, 4>>(bits.zw))};
    }
  }
  return Eight{read_up_to_four<T>(array, i, count, aligned), read_up_to_four<T>(array, i + 4, count - 4, aligned)};
}

METAL_FUNC Eight read_up_to_eight_of(const device uchar* array, int type, int i, int count, bool aligned) {
  if (type == metal_shared::kFloat16) return read_up_to_eight<half>((const device half*)array, i, count, aligned);
  if (type == metal_shared::kBfloat16) return read_up_to_eight<bfloat>((const device bfloat*)array, i, count, aligned);
  return read_up_to_eight<float>((const device float*)array, i, count, aligned);
}

template <typename T>
METAL_FUNC void write_up_to_four(device T* array, int i, int count, bool aligned, float4 v) {
  if (aligned && count >= 4) {
    *(device vec<T, 4>*)(array + i) = narrow<T>(v);
    return;
  }
  LTX2RT_UNROLL
  for (int j = 0; j < 4; j++) {
    if (j < count) array[i + j] = static_cast<T>(v[j]);
  }
}

}  // namespace ltx2rt
