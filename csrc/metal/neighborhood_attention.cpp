// Metal evaluation of neighborhood_attention: one kernel, which norms and rotates as it reads.
#include "csrc/neighborhood_attention.h"

#include <cstdlib>

#include "csrc/metal/launch.h"

namespace ltx2rt {
namespace {

using metal::Launch;

// q, k or v as the shader reads them: lanes that are neighbours, everything a multiple of four elements, and a frame
// within which 32 bits address every element; copied if not so.
mx::array readable(Launch& launch, const mx::array& a) {
  bool fits = metal::starts_at_four(a) && (a.shape(4) == 1 || a.strides(4) == 1);
  int64_t reach = a.shape(4);
  for (int axis = 0; axis < 4; ++axis) {
    const int64_t size = a.shape(axis), stride = a.strides(axis);
    fits = fits && (size == 1 || stride % 4 == 0);
    if (axis >= 2) reach += (size - 1) * std::abs(stride);
  }
  return fits && reach <= INT32_MAX ? a : launch.copy(a);
}

}  // namespace

void NeighborhoodAttention::eval_gpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) {
  Launch launch(stream());
  auto& out = outputs[0];
  launch.allocate(out);
  if (out.size() == 0) return;
  const auto q = readable(launch, inputs[0]), k = readable(launch, inputs[1]), v = readable(launch, inputs[2]);
  const auto& key_frames = inputs[3];

  // Weights and turns are read in fours.
  const mx::array* next = inputs.data() + 4;
  std::vector<mx::array> kept;
  kept.reserve(6);
  const auto given = [&](bool present) -> const mx::array* {
    if (!present) return nullptr;
    const mx::array& operand = *next++;
    if (operand.size() == 0) return nullptr;  // the table of an axis that turns nothing
    if (metal::starts_at_four(operand)) return &operand;
    return &kept.emplace_back(launch.copy(operand));
  };
  const mx::array* q_norm = given(present_.q_norm);
  const mx::array* k_norm = given(present_.k_norm);
  const mx::array* tables = next;  // q_time, k_time, height, width
  const mx::array* rope[4];
  for (auto& table : rope) table = given(present_.rope);

  const auto set_strides = [](int64_t (&outer)[2], int32_t (&cells)[2], const mx::array& a) {
    for (int axis = 0; axis < 2; ++axis) {
      outer[axis] = a.strides(axis);
      // Of an axis of one element the stride may be anything.
      cells[axis] = a.shape(axis + 2) == 1 ? 0 : static_cast<int32_t>(a.strides(axis + 2));
    }
  };
  metal_shared::NeighborhoodParams params{};
  set_strides(params.q_strides, params.q_cell_strides, q);
  set_strides(params.k_strides, params.k_cell_strides, k);
  set_strides(params.v_strides, params.v_cell_strides, v);
  for (int axis = 0; axis < 3; ++axis) params.size[axis] = q.shape(axis + 1);
  params.bricks[0] = metal_plan::ceil_div(params.size[1], metal_shared::kBrickRows);
  params.bricks[1] = metal_plan::ceil_div(params.size[2], metal_shared::kBrickColumns);
  params.window[0] = options_.window_height;
  params.window[1] = options_.window_width;
  params.borders[0] = static_cast<int32_t>(options_.border_height);
  params.borders[1] = static_cast<int32_t>(options_.border_width);
  if (present_.rope) {
    params.pairs[0] = tables[0].shape(2);
    params.pairs[1] = tables[2].shape(2);
    params.pairs[2] = tables[3].shape(2);
  }
  params.key_frames = k.shape(1);
  params.slots = key_frames.shape(1);
  params.heads = options_.num_heads;
  params.scale = options_.scale;
  params.norm_eps = options_.norm_eps;

  launch.use("neighborhood_attention", "neighborhood_attention_" + metal::type_name(q.dtype()),
             {{metal_shared::kNeighborhoodQNormId, present_.q_norm},
              {metal_shared::kNeighborhoodKNormId, present_.k_norm},
              {metal_shared::kNeighborhoodRopeId, present_.rope},
              {metal_shared::kNeighborhoodFencedId, fenced()}});
  auto& encoder = launch.encoder();
  encoder.set_input_array(q, 0);
  encoder.set_input_array(k, 1);
  encoder.set_input_array(v, 2);
  encoder.set_output_array(out, 3);
  encoder.set_input_array(key_frames, 5);
  launch.bind(q_norm, 6);
  launch.bind(k_norm, 7);
  for (int i = 0; i < 4; ++i) launch.bind(rope[i], 8 + i);
  const int64_t bricks =
      metal_plan::ceil_div(params.size[0], metal_shared::kBrickFrames) * params.bricks[0] * params.bricks[1];
  launch.dispatch({bricks, options_.num_heads, q.shape(0)}, metal_shared::kNeighborhoodThreads,
                  metal_plan::neighborhood_operations(params.slots, params.window[0], params.window[1]),
                  [&](const int64_t (&first)[3]) {
                    params.first_brick = first[0];
                    params.first_head = first[1];
                    params.first_batch = first[2];
                    encoder.set_bytes(params, 4);
                  });
}

}  // namespace ltx2rt
