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
//   "e4m3"    values (N, K) uint8, codes of float8 E4M3 (fn); scale float32, one or (N,), a row's:
//             W = decode(values) * scale
//   "affine"  values (N, K * bits / 32) uint32, bits 4 or 8, lowest bits first; scale and zero (N, K / group_size), any
//             of the float dtypes, group_size 32, 64 or 128: W = scale * code + zero (MLX's affine quantisation)
//   "int8"    values (N, K) int8; scale (N,) float32: W = values * scale
//   "q8_0", "q4_k", "q5_k", "q6_k"
//             values (N, K / 32 * 34 | K / 256 * 144 | K / 256 * 176 | K / 256 * 210) uint8: rows of GGML's blocks
//   "nvfp4"   values (N, K / 2) uint8, codes of E2M1, the high four bits first; scale (N, K / 16) uint8, codes of E4M3;
//             zero one float32, the scale of all: W = decode(values) * decode(scale) * zero; K a multiple of 16
//   "mxfp8"   values (N, K) uint8, codes of E4M3; scale (N, K / 32) uint8, codes b of E8M0, 2^(b - 127) but 0 for b = 0:
//             W = decode(values) * decode(scale); K a multiple of 32
//   "w4a8"    values (N, K / 2) uint8, codes of four bits, the low ones first; scale (N, K / group_size) uint8, codes of
//             E4M3 but no NaN; zero (N,) float32, a row's; table (16,) float32; group_size 4, 8 or a multiple of 16:
//             W = clamp(round_half_to_even(table[code] * decode(scale)), -127, 127) * zero
// rotation: 0, or G, a power of 4 that divides K. Then out is that of x R in place of x: each G values of a row of x are
// multiplied by R, the Kronecker power of h / 2 with -1 on the anti-diagonal of h (4, 4) and 1 elsewhere, in float32,
// and rounded to the dtype of x. R is its own inverse and symmetric: W R is what plain code would multiply with.
// int8_activations, of mode "int8" alone: each row of x (rotated) becomes codes q = round_half_to_even(x * 127 / m), m its
// largest magnitude, and the sum of products is (the exact sum of q * values) * (m / 127) * scale; 0 where m < 1e-35, NaN
// where a value of the row is NaN or infinite. K is at most 131072, or the sum might not fit into 32 bits.
struct LinearWeight {
  std::string mode;
  mx::array values;
  std::optional<mx::array> scale;
  std::optional<mx::array> zero;
  std::optional<mx::array> table;
  int group_size;
  int bits;
  int rotation;
  bool int8_activations;
  // On a GPU, for x of 16 bits and rows enough for tiles: operands are multiplied as float16, sums are float32 all the same.
  // The caller has seen that every value of W lies within float16's range (65504), but for factors of a row or of all of W.
  // Values of x up to 4.2e9 are taken; beyond they become infinite.
  bool half_operands;
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

// The format of a name: that of a dtype, "int8" and "int4" for affine weights, "int8_rows" for mode "int8", else of the
// mode. Throws std::invalid_argument.
WeightFormat parse_weight_format(const std::string& name);

// Bytes that the CPU kernel takes besides inputs and output, for `rows` rows of x of width `depth`, all of whose values
// are neighbours unless strided_x. rotation: that of the weight.
int64_t quantized_linear_scratch_bytes(int64_t rows, int64_t depth, int64_t width, cpu::FloatType x_type,
                                       WeightFormat format, bool strided_x, int rotation, bool int8_activations,
                                       int threads);

// Inputs: x, values, then those of scale, zero, table, bias, residual, gate and gate_index that are present.
class QuantizedLinear : public FallbackPrimitive {
 public:
  struct Parameters {
    WeightFormat format;
    int group_size;
    int rotation;
    bool int8_activations;
    bool half_operands;
    Activation activation;
    bool has_scale;
    bool has_zero;
    bool has_table;
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
