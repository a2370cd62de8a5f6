// The op quantized_linear: a matrix product with dense or quantised weights and a fused epilogue.
#pragma once

#include <optional>
#include <string>

#include "csrc/cpu/float_type.h"
#include "csrc/fallback_primitive.h"
#include "csrc/op_types.h"

namespace ltx2rt {

// W (N, K) as it is stored.
//   "dense"   values (N, K) float32 | float16 | bfloat16
//   "e4m3"    values (N, K) uint8, codes of float8 E4M3 (fn); scale one float32: W = decode(values) * scale
//   "affine"  values (N, K * bits / 32) uint32, bits 4 or 8, lowest bits first; scale and zero (N, K / group_size), any
//             of the float dtypes, group_size 32, 64 or 128: W = scale * code + zero (MLX's affine quantisation)
struct LinearWeight {
  std::string mode;
  mx::array values;
  std::optional<mx::array> scale;
  std::optional<mx::array> zero;
  int group_size;
  int bits;
};

// out = residual + gate[gate_index] * activation(x @ W^T + bias)
//   x           (..., K)  float32 | float16 | bfloat16, any strides
//   bias        (N,)      any of these dtypes, optional
//   activation  "none", "gelu_tanh" or "silu"
//   residual    (..., N)  dtype of x, optional, any strides
//   gate        (R, N)    any of these dtypes, optional
//   gate_index  (...)     int32, the gate row of each row of x (see checked_index.h); optional when R is 1
// Products and sums are float32, rounded once on store. A row's bits depend on that row, W and the epilogue's operands
// alone: not on the other rows, their number, or the number of threads (the order of sums is in linear_kernels.h).
mx::array quantized_linear(const mx::array& x, const LinearWeight& weight, const std::optional<mx::array>& bias,
                           const std::string& activation, const std::optional<mx::array>& residual,
                           const std::optional<mx::array>& gate, const std::optional<mx::array>& gate_index,
                           const OpContext& context);

// Bytes that the CPU kernel takes besides inputs and output, for `rows` rows of x of width `depth`, all of whose values
// are neighbours unless strided_x.
int64_t quantized_linear_scratch_bytes(int64_t rows, int64_t depth, int64_t width, cpu::FloatType x_type,
                                       WeightFormat format, bool strided_x, int threads);

// Inputs: x, values, then those of scale, zero, bias, residual, gate and gate_index that are present.
class QuantizedLinear : public FallbackPrimitive {
 public:
  struct Parameters {
    WeightFormat format;
    int group_size;
    Activation activation;
    bool has_scale;
    bool has_zero;
    bool has_bias;
    bool has_residual;
    bool has_gate;
    bool has_gate_index;
    bool operator==(const Parameters&) const = default;
  };

  QuantizedLinear(mx::Stream stream, Reference reference, const Parameters& parameters)
      : FallbackPrimitive(stream, std::move(reference)), parameters_(parameters) {}

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override;
#ifdef LTX2RT_METAL
  void eval_gpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override;
#endif
  const char* name() const override { return "ltx2rt::QuantizedLinear"; }
  bool is_equivalent(const mx::Primitive& other) const override {
    return parameters_ == static_cast<const QuantizedLinear&>(other).parameters_;
  }
  std::vector<mx::Shape> output_shapes(const std::vector<mx::array>& inputs) override;

 private:
  Parameters parameters_;
};

}  // namespace ltx2rt
