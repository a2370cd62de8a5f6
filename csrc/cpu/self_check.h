// Comparison of the kernels of an instruction set with the portable ones, on small awkward problems.
#pragma once

#include <string>

#include "csrc/cpu/antialiased_snake_kernels.h"
#include "csrc/cpu/causal_conv3d_kernels.h"
#include "csrc/cpu/conv_winograd_kernels.h"
#include "csrc/cpu/isa.h"
#include "csrc/cpu/code_kernels.h"
#include "csrc/cpu/linear_kernels.h"
#include "csrc/cpu/modulated_norm_kernels.h"
#include "csrc/cpu/neighborhood_attention_kernel.h"
#include "csrc/cpu/rope_attention_kernel.h"

namespace ltx2rt::cpu {

struct KernelTables {
  LinearKernels linear;
  CodeKernels codes;
  NormKernels norm;
  AttentionKernel attention;
  NeighborhoodKernel neighborhood;
  ConvKernel conv;
  WinogradKernel winograd;
  SnakeKernels snake;
};

KernelTables kernel_tables(Isa isa);

// Empty, or which kernel differs from the portable one, where and by how much. Takes some ten milliseconds.
std::string find_fault(const KernelTables& kernels);

inline std::string find_kernel_fault(Isa isa) { return find_fault(kernel_tables(isa)); }

}  // namespace ltx2rt::cpu
