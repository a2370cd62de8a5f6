// The softmax of attention on scores that lie in 8 x 8 fragments, a block of keys at a time.
#pragma once
#include <metal_simdgroup>
#include <metal_stdlib>

#include "csrc/metal/elements.h"

using namespace metal;

namespace ltx2rt {

// The sum over the four lanes that hold one row of a fragment.
METAL_FUNC float sum_of_row(float v) {
  v += simd_shuffle_xor(v, ushort(1));
  return v + simd_shuffle_xor(v, ushort(8));
}
METAL_FUNC float max_of_row(float v) {
  v = max(v, simd_shuffle_xor(v, ushort(1)));
  return max(v, simd_shuffle_xor(v, ushort(8)));
}

// Scores are finite, so that no arithmetic mode may treat them as it likes: this is one of a key that a query does not
// see.
constant constexpr float kHidden = -3.40282347e38f;

// exp of a difference that is at most 0. Far below it is 0 in float, also where the difference has no float or no
// multiple; NaN stays NaN.
METAL_FUNC float exp_below(float difference) {
  return fast::exp2((difference < -128.0f ? -128.0f : difference) * M_LOG2E_F);
}

}  // namespace ltx2rt
