// Parameters of the shader antialiased_snake, shared with the code that launches it.
#pragma once
#include "csrc/metal/shared_types.h"

namespace ltx2rt {
namespace metal_shared {

// x and out are contiguous (batch, samples, channels).
struct SnakeParams {
  int32 samples;
  int32 channels;
  int32 first_channel_block;  // of this dispatch: its threadgroups are a part of all
  int32 first_run_block;
  int32 first_batch;
  int32 unused;
};
static_assert(sizeof(SnakeParams) == 24, "the shader and its host must agree");

// Function constants: element types.
enum SnakeConstant { kSnakeAlphaId = 0, kSnakeBetaId = 1, kSnakeRiseId = 2, kSnakeFallId = 3 };

enum {
  kSnakeRun = 56,        // samples that a thread makes of one channel; a multiple of the 7 pairs of its window
  kSnakeSimdgroups = 4,  // per threadgroup, each with a run of 32 channels
};

}  // namespace metal_shared
}  // namespace ltx2rt
