// Metal evaluation of antialiased_snake.
#include "csrc/antialiased_snake.h"

#include "csrc/metal/antialiased_snake_params.h"
#include "csrc/metal/launch.h"

namespace ltx2rt {

void AntialiasedSnake::eval_gpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) {
  metal::Launch launch(stream());
  const auto &x = inputs[0], &alpha = inputs[1], &beta = inputs[2], &rise = inputs[3], &fall = inputs[4];
  auto& out = outputs[0];
  launch.allocate(out);
  launch.use("antialiased_snake", "antialiased_snake_" + metal::type_name(x.dtype()),
             {{metal_shared::kSnakeAlphaId, metal::element_type(&alpha)},
              {metal_shared::kSnakeBetaId, metal::element_type(&beta)},
              {metal_shared::kSnakeRiseId, metal::element_type(&rise)},
              {metal_shared::kSnakeFallId, metal::element_type(&fall)}});
  auto& encoder = launch.encoder();
  for (int i = 0; i < 5; ++i) encoder.set_input_array(inputs[i], i);
  encoder.set_output_array(out, 5);
  metal_shared::SnakeParams params{x.shape(1), x.shape(2), 0, 0, 0, 0};
  constexpr int64_t kRuns = metal_shared::kSnakeRun * metal_shared::kSnakeSimdgroups;
  const int64_t cost = 32 * kRuns * metal_plan::kOperationsPerByte * 2 * static_cast<int64_t>(x.itemsize());
  launch.dispatch({metal_plan::ceil_div(x.shape(2), 32), metal_plan::ceil_div(x.shape(1), kRuns), x.shape(0)},
                  32 * metal_shared::kSnakeSimdgroups, cost, [&](const int64_t (&first)[3]) {
                    params.first_channel_block = first[0];
                    params.first_run_block = first[1];
                    params.first_batch = first[2];
                    encoder.set_bytes(params, 6);
                  });
}

}  // namespace ltx2rt
