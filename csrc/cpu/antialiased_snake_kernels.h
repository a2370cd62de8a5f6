// The inner loops of antialiased_snake, chosen by instruction set.
#pragma once

#include "csrc/cpu/float_type.h"
#include "csrc/cpu/isa.h"

namespace ltx2rt::cpu {

// One call; x and out are contiguous (batch, samples, channels).
struct SnakeArgs {
  FloatType type;
  const void* x;
  void* out;
  int64_t samples, channels;
  // Per channel: the sine's frequency and the factor of its square; as many as whole groups of channels need.
  const float* frequency;
  const float* gain;
  const float* rise;  // 12 taps of interpolation, the factor 2 included
  const float* fall;  // 12 taps of decimation
};

// A tile is `tile_samples` samples of `group_channels` channels, fewer at the far borders.
struct SnakeKernels {
  int64_t tile_samples;
  int64_t group_channels;
  int64_t work_floats;  // of one tile
  void (*tile)(const SnakeArgs& args, int64_t batch, int64_t tile, int64_t group, float* work);
};

LTX2RT_DISPATCH(const SnakeKernels&, snake_kernels)

}  // namespace ltx2rt::cpu
