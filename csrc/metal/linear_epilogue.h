// What the kernels of quantized_linear do to their sums: factor, bias, activation, gate and residual.
#pragma once
#include <metal_stdlib>

#include "csrc/metal/elements.h"
#include "csrc/metal/quantized_linear_params.h"

using namespace metal;

constant int bias_type [[function_constant(0)]];
constant int activation [[function_constant(1)]];
constant bool has_residual [[function_constant(2)]];
constant int gate_type [[function_constant(3)]];
constant bool has_gate_index [[function_constant(4)]];
constant int factor_kind [[function_constant(5)]];   // LinearFactor
constant bool aligned_x [[function_constant(6)]];    // K and the row stride of x are multiples of 4
constant bool aligned_w [[function_constant(7)]];    // whole words of W may be read (quantized_linear.cpp)
constant bool aligned_out [[function_constant(8)]];  // N and the row stride of the residual are multiples of 4

namespace ltx2rt {

using namespace metal_shared;

// Whether one float multiplies all of W.
METAL_FUNC bool has_factor() { return LinearFactor(factor_kind) == kFactorOfAll; }

// Operands of the epilogue; their presence is in the function constants.
struct Epilogue {
  const device uchar* bias;
  const device uchar* gate;
  const device int* gate_index;
  const device float* factors;  // of rows of W
  float factor;                 // of all of W
};

METAL_FUNC float activated(float v) {
  if (Activation(activation) == Activation::gelu_tanh) {
    const float inner = 0.7978845608028654f * (v + 0.044715f * v * v * v);
    return 0.5f * v * (1.0f + precise::tanh(inner));
  }
  if (Activation(activation) == Activation::silu) return v / (1.0f + precise::exp(-v));
  return v;
}

// What the weights of four neighbouring columns, of which `count` exist, are to be multiplied with.
METAL_FUNC float4 factors_of(int column, int count, const thread Epilogue& epilogue) {
  if (LinearFactor(factor_kind) == kFactorOfRow) {
    return read_up_to_four<float>(epilogue.factors, column, count, aligned_out);
  }
  return float4(has_factor() ? epilogue.factor : 1.0f);
}

// Finishes and stores the sums, factors applied, of four neighbouring columns of a row, of which `count` exist.
template <typename T>
METAL_FUNC void finish_four(float4 sums, int row, int column, int count, const thread Epilogue& epilogue,
                            const device T* residual, device T* out, constant LinearParams& params) {
  if (bias_type != kAbsent) sums += read_up_to_four_of(epilogue.bias, bias_type, column, count, aligned_out);
  LTX2RT_UNROLL
  for (int j = 0; j < 4; j++) sums[j] = activated(sums[j]);
  if (gate_type != kAbsent) {
    const int64 gate_row = has_gate_index ? table_row(epilogue.gate_index[row], params.gate_rows) : 0;
    const device uchar* gate = from_element(epilogue.gate, gate_type, gate_row * params.columns);
    sums *= read_up_to_four_of(gate, gate_type, column, count, aligned_out);
  }
  if (has_residual) {
    sums += read_up_to_four<T>(residual + row * params.residual_row_stride, column, count, aligned_out);
  }
  write_up_to_four<T>(out + int64(row) * params.columns, column, count, aligned_out, sums);
}

}  // namespace ltx2rt
