// 8 x 8 simdgroup matrices loaded with whole vectors. A sum over depth may run in any order, and so may the columns of
// a tile; both orders are chosen here so that each lane's elements of several fragments are neighbours in memory.
#pragma once
#include <metal_simdgroup>
#include <metal_simdgroup_matrix>
#include <metal_stdlib>

#include "csrc/metal/elements.h"

using namespace metal;

namespace ltx2rt {

// A lane holds elements (row, column) and (row, column + 1) of a fragment: the layout that MLX's kernels rely on too.
struct LanePosition {
  short row;
  short column;
};
METAL_FUNC LanePosition lane_position(uint lane) {
  const short quad = short(lane) / 4;
  const short row = (quad & 4) + (short(lane) / 2) % 4;
  const short column = (quad & 2) * 2 + (short(lane) % 2) * 2;
  return LanePosition{row, column};
}

// E: float, or half for operands that are multiplied as they are.
template <typename E>
METAL_FUNC simdgroup_matrix<E, 8, 8> fragment_of(E first, E second) {
  simdgroup_matrix<E, 8, 8> fragment;
  reinterpret_cast<thread vec<E, 2>&>(fragment.thread_elements()) = vec<E, 2>(first, second);
  return fragment;
}
METAL_FUNC float2 elements_of(thread simdgroup_float8x8& fragment) {
  return reinterpret_cast<thread float2&>(fragment.thread_elements());
}

// Keeps the compiler from moving loads and products across it, so that fewer values wait in registers: MLX's kernels
// have it around loads and products, ours where the function constant `fenced` of a pipeline asks for it. It orders
// nothing that is not ordered already; which of both variants is faster only a GPU can tell.
METAL_FUNC void fence(bool fenced) {
  if (fenced) simdgroup_barrier(mem_flags::mem_none);
}

// Count neighbouring values of a tile, as type E; the address is a multiple of Count elements.
template <typename T, int Count, typename E = float>
struct Values {
  E v[Count];
};
template <typename T, int Count, typename E = float>
METAL_FUNC Values<T, Count, E> load_values(const threadgroup T* from) {
  Values<T, Count, E> values;
  if constexpr (Count % 8 == 0 && sizeof(T) == 2) {
    LTX2RT_UNROLL
    for (int i = 0; i < Count / 8; i++) {
      const uint4 bits = ((const threadgroup uint4*)from)[i];
      const float4 low = widen<T>(as_type<vec<T, 4>>(bits.xy));
      const float4 high = widen<T>(as_type<vec<T, 4>>(bits.zw));
      LTX2RT_UNROLL
      for (int j = 0; j < 4; j++) {
        values.v[i * 8 + j] = E(low[j]);
        values.v[i * 8 + 4 + j] = E(high[j]);
      }
    }
  } else if constexpr (Count % 4 == 0) {
    LTX2RT_UNROLL
    for (int i = 0; i < Count / 4; i++) {
      const float4 four = widen<T>(((const threadgroup vec<T, 4>*)from)[i]);
      LTX2RT_UNROLL
      for (int j = 0; j < 4; j++) values.v[i * 4 + j] = E(four[j]);
    }
  } else if constexpr (Count == 2) {
    const vec<T, 2> two = ((const threadgroup vec<T, 2>*)from)[0];
    values.v[0] = E(two.x);
    values.v[Count - 1] = E(two.y);
  } else {
    values.v[0] = E(from[0]);
  }
  return values;
}

// Depth: a block of 8 * F values of the summed index k. Fragment f, index c of it, stands for k = F * c + f.
//
// The left operand's row of the lane: fragment f of the block holds elements f and F + f of 2 F neighbours.
template <typename T, int F, typename E = float>
struct LeftFragments {
  Values<T, 2 * F, E> values;
  METAL_FUNC simdgroup_matrix<E, 8, 8> fragment(int f) const thread {
    return fragment_of(values.v[f], values.v[F + f]);
  }
};
template <typename T, int F, typename E = float>
METAL_FUNC LeftFragments<T, F, E> load_left(const threadgroup T* row, LanePosition at) {
  return LeftFragments<T, F, E>{load_values<T, 2 * F, E>(row + F * at.column)};
}

// The right operand, stored with one row of depth per column: fragment f holds element f of F neighbours of two
// columns.
template <typename T, int F, typename E = float>
struct RightFragments {
  Values<T, F, E> first, second;
  METAL_FUNC simdgroup_matrix<E, 8, 8> fragment(int f) const thread { return fragment_of(first.v[f], second.v[f]); }
};
template <typename T, int F, typename E = float>
METAL_FUNC RightFragments<T, F, E> load_right(const threadgroup T* first, const threadgroup T* second,
                                              LanePosition at) {
  return RightFragments<T, F, E>{load_values<T, F, E>(first + F * at.row), load_values<T, F, E>(second + F * at.row)};
}

// Columns of a block of 32: column c of fragment j stands for 8 * (c / 2) + 2 * j + c % 2, so that a lane's columns of
// all four fragments are the eight neighbours from 4 * at.column on.
METAL_FUNC short column_in_block(short fragment, short column) { return column / 2 * 8 + 2 * fragment + column % 2; }

}  // namespace ltx2rt
