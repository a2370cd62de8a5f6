// The inner loops of quantized_linear for rows of 8-bit codes and weights of int8_rows, chosen by instruction set.
#pragma once

#include "csrc/cpu/isa.h"
#include "csrc/cpu/linear_kernels.h"

namespace ltx2rt::cpu {

struct CodeKernels {
  // Prepare takes rows of codes, whatever type it is told. A panel of k values takes a row of words more.
  LinearLoops quads;
  // The same in tiles, where those are in use (isa.h), and in tiles of few rows: as those of LinearKernels.
  bool has_tiles;
  LinearLoops tiles;
  LinearLoops row_tiles;
};

LTX2RT_DISPATCH_CODES(const CodeKernels&, code_kernels)

}  // namespace ltx2rt::cpu
