// The op antialiased_snake: a periodic activation between interpolation to twice the sample rate and decimation.
#pragma once

#include "csrc/fallback_primitive.h"

namespace ltx2rt {

// With positions clamped to the ends of each sequence:
//   u[2p]     = 2 sum_j rise[11 - 2j] x[p - 3 + j],  u[2p + 1] = 2 sum_j rise[10 - 2j] x[p - 2 + j]   (j = 0..5)
//   w         = u + sin(exp(alpha) u)^2 / (exp(beta) + 1e-9)
//   out[p]    = sum_t fall[t] w[2p - 5 + t]                                                          (t = 0..11)
//   x            (B, S, C)  float32 | float16 | bfloat16
//   alpha, beta  (C,)       any of these dtypes
//   rise, fall   (12,)      any of these dtypes
// Computes in float32 and rounds once, on store; sin^2 is within 3e-7 of the exact value of its float32 angle, for
// every angle. A sample's result depends on its neighbours within 6 samples alone. Memory besides inputs and output:
// antialiased_snake_scratch_bytes.
mx::array antialiased_snake(const mx::array& x, const mx::array& alpha, const mx::array& beta, const mx::array& rise,
                            const mx::array& fall, const OpContext& context);

// Bytes that the CPU kernel takes for x (B, S, C) besides inputs and output, with so many threads. Throws
// std::invalid_argument for other shapes.
int64_t antialiased_snake_scratch_bytes(const mx::Shape& x, int threads);

// Inputs: x, alpha, beta, rise, fall, all contiguous.
class AntialiasedSnake : public FallbackPrimitive {
 public:
  using FallbackPrimitive::FallbackPrimitive;

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override;
#ifdef LTX2RT_METAL
  void eval_gpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override;
#endif
  const char* name() const override { return "ltx2rt::AntialiasedSnake"; }
  bool is_equivalent(const mx::Primitive&) const override { return true; }
  std::vector<mx::Shape> output_shapes(const std::vector<mx::array>& inputs) override;
};

}  // namespace ltx2rt
