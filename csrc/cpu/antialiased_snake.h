// The schedule of antialiased_snake: tiles of samples and channels in parallel.
#pragma once

#include <cstdint>

#include "csrc/cpu/antialiased_snake_kernels.h"
#include "csrc/cpu/dispatch.h"
#include "csrc/cpu/modulated_norm_kernels.h"

namespace ltx2rt::cpu {

// A contiguous vector of any float dtype.
struct FloatVector {
  const void* data;
  FloatType type;
};

// One call; x and out are contiguous (batch, samples, channels) and not empty.
struct SnakeCall {
  FloatType type;
  const void* x;
  void* out;
  int64_t batch, samples, channels;
  FloatVector alpha, beta;  // of each channel
  FloatVector rise, fall;   // 12 taps
};

// Depends on the sizes of the call alone; its pointers are read by run().
class SnakeSchedule {
 public:
  SnakeSchedule(const SnakeCall& call, int threads, const SnakeKernels& kernels = snake_kernels(),
                const NormKernels& norms = norm_kernels());

  int64_t scratch_bytes() const { return layout_.bytes(); }

  // With scratch of at least scratch_bytes().
  void run(const Scratch& scratch) const noexcept;

 private:
  SnakeCall call_;
  const SnakeKernels& kernels_;
  const NormKernels& norms_;
  int64_t tiles_, groups_;
  int64_t workers_;
  int64_t work_bytes_;  // of each
  ScratchLayout layout_;
  int64_t frequency_at_, gain_at_, rise_at_, fall_at_;
  int64_t work_at_;
};

}  // namespace ltx2rt::cpu
