// The measuring loops of one instruction set: arithmetic that never leaves the registers, and reading.
#pragma once
#include <stdint.h>

#include "csrc/cpu/isa.h"

namespace ltx2rt::cpu {

struct CalibrationKernels {
  // `iterations` passes over independent chains of multiply-adds; adds their result to *sink, so that they are not
  // optimised away, and returns the number of floating point operations. bf16 is the fastest product of bfloat16
  // values with float32 sums that the instruction set has: its dot product, or else the float32 multiply-add.
  int64_t (*multiply_f32)(int64_t iterations, float* sink);
  int64_t (*multiply_bf16)(int64_t iterations, float* sink);
  // Reads every byte once; bytes is a multiple of 512.
  uint64_t (*read)(const char* from, int64_t bytes);
};

LTX2RT_DISPATCH(const CalibrationKernels&, calibration_kernels)

}  // namespace ltx2rt::cpu
