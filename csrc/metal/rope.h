// Rotary embedding of pairs of lanes by tables of cosines and sines, for q and for k.
#pragma once
#include <metal_stdlib>

#include "csrc/metal/elements.h"
#include "csrc/metal/rope_attention_params.h"

using namespace metal;

constant int norm_kind [[function_constant(0)]];     // AttentionNorm of the operand that the kernel prepares
constant int rope_axes [[function_constant(1)]];     // P; 0 without rotation
constant bool interleaved [[function_constant(2)]];  // pairs lanes 2i, 2i + 1; else i, i + K/2
constant bool rope_shared [[function_constant(3)]];  // all heads turn by the same angles

namespace ltx2rt {

using namespace metal_shared;

// Where a token stands in the tables, along each axis.
struct Position {
  int row[kMostRopeAxes];
};

// (cos, sin) of a pair of lanes of a token.
METAL_FUNC float2 turn_of(int pair, const thread Position& position, const device float* cosines,
                          const device float* sines, constant RopeParams& rope) {
  const int at = pair - rope.pad;
  if (at < 0) return float2(1.0f, 0.0f);
  const int axis = at % rope_axes;
  // Chosen, not indexed: an array indexed by a variable would leave the registers.
  int row = position.row[0];
  LTX2RT_UNROLL
  for (int a = 1; a < kMostRopeAxes; a++) row = axis == a ? position.row[a] : row;
  const int entry = row * rope.columns + at / rope_axes;
  return float2(cosines[entry], sines[entry]);
}

METAL_FUNC float2 turned(float2 pair, float2 turn) {
  return float2(pair.x * turn.x - pair.y * turn.y, pair.y * turn.x + pair.x * turn.y);
}

}  // namespace ltx2rt
