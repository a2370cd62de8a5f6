// Evaluation of our primitives on a CPU stream by the launch code that a GPU stream would use.
#include "csrc/antialiased_snake.h"
#include "csrc/causal_conv3d.h"
#include "csrc/modulated_norm.h"
#include "csrc/neighborhood_attention.h"
#include "csrc/quantized_linear.h"
#include "csrc/rope_attention.h"
#include "mlx/backend/metal/device.h"
#include "mlx/transforms.h"

namespace ltx2rt {
namespace {

// The simulator reads memory at once, so everything before on the stream must be done.
void evaluate(mx::Primitive& primitive, const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) {
  mx::synchronize(primitive.stream());
  auto& encoder = mx::metal::get_command_encoder(primitive.stream());
  encoder.start();
  try {
    primitive.eval_gpu(inputs, outputs);
    encoder.finish();
  } catch (...) {
    encoder.start();  // lets go of the arrays, which would outlive MLX
    throw;
  }
}

}  // namespace

#define LTX2RT_EVALUATE(P)                                                                          \
  void P::eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) { \
    evaluate(*this, inputs, outputs);                                                               \
  }
LTX2RT_EVALUATE(AntialiasedSnake)
LTX2RT_EVALUATE(CausalConv3d)
LTX2RT_EVALUATE(ModulatedNorm)
LTX2RT_EVALUATE(NeighborhoodAttention)
LTX2RT_EVALUATE(QuantizedLinear)
LTX2RT_EVALUATE(RopeAttention)

void check_cpu_settings() {}

}  // namespace ltx2rt
