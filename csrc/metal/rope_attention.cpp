// Metal evaluation of rope_attention: row statistics of q and normed, rotated keys first where they are needed.
#include "csrc/rope_attention.h"

#include "csrc/metal/launch.h"

namespace ltx2rt {
namespace {

using metal::FunctionConstant;
using metal::Launch;

// An operand's rotary table: cos, sin, index.
struct Rope {
  const mx::array* parts = nullptr;
  explicit operator bool() const { return parts != nullptr; }

  metal_shared::RopeParams params(int64_t heads, int64_t head_size) const {
    if (!parts) return {};
    const auto &cos = parts[0], &index = parts[2];
    const int64_t axes = index.shape(-1), used = cos.shape(1) * axes, half = head_size / 2;
    const int64_t stride = index.ndim() == 3 && index.shape(0) > 1 ? index.shape(1) * axes : 0;
    const int64_t lanes = used <= half ? half : heads * half;
    return {stride, cos.shape(0), cos.shape(1), static_cast<int32_t>(lanes - used), 0};
  }

  void add_constants(std::vector<FunctionConstant>& to, int64_t head_size, bool interleaved) const {
    const bool shared = parts && int64_t{parts[0].shape(1)} * parts[2].shape(-1) <= head_size / 2;
    to.push_back({metal_shared::kAttentionRopeAxesId, parts ? parts[2].shape(-1) : 0});
    to.push_back({metal_shared::kAttentionInterleavedId, interleaved});
    to.push_back({metal_shared::kAttentionRopeSharedId, shared});
  }

  void bind(Launch& launch, int first) const {
    for (int i = 0; i < 3; ++i) launch.bind(parts ? parts + i : nullptr, first + i);
  }
};

int32_t norm_kind(const mx::array* norm, int64_t width) {
  if (!norm) return metal_shared::kNotNormed;
  return norm->size() == static_cast<size_t>(width) ? metal_shared::kNormWholeRow : metal_shared::kNormPerHead;
}

// q, k or v as the shaders read them: lanes that are neighbours, everything a multiple of four elements, tokens of a
// block not too far apart; copied if not so.
mx::array readable(Launch& launch, const mx::array& a) {
  bool fits = metal::starts_at_four(a) && (a.shape(2) == 1 || a.strides(2) == 1) &&
              metal_plan::within_reach(metal_plan::kReachedKeys, a.shape(1) == 1 ? 0 : a.strides(1), a.shape(2),
                                       metal::reach());
  for (int axis = 0; axis < 2; ++axis) fits = fits && (a.shape(axis) == 1 || a.strides(axis) % 4 == 0);
  return fits ? a : launch.copy(a);
}

mx::array row_scales(Launch& launch, const mx::array& q, float eps) {
  const int64_t rows = int64_t{q.shape(0)} * q.shape(1);
  auto scales = launch.temporary({static_cast<int>(rows)}, mx::float32);
  launch.use("rope_attention_keys", "rope_attention_row_scale_" + metal::type_name(q.dtype()), {});
  auto& encoder = launch.encoder();
  encoder.set_input_array(q, 0);
  encoder.set_output_array(scales, 1);
  metal_shared::AttentionRowScaleParams params{{q.strides(0), q.strides(1)}, q.shape(1), q.shape(2), eps,
                                               static_cast<int32_t>(rows),   0,          0};
  constexpr int64_t kRows = metal_shared::kRowScaleSimdgroups;
  launch.dispatch({metal_plan::ceil_div(rows, kRows), 1, 1}, 32 * kRows,
                  metal_plan::kOperationsPerByte * kRows * q.shape(2) * q.itemsize(), [&](const int64_t (&first)[3]) {
                    params.first_group = first[0];
                    encoder.set_bytes(params, 2);
                  });
  return scales;
}

// k normed and rotated, (batch, kv head, token, K).
mx::array prepared_keys(Launch& launch, const mx::array& k, const mx::array* norm, const Rope& rope, int kv_heads,
                        float eps, bool interleaved) {
  const int head_size = k.shape(2) / kv_heads;
  auto keys = launch.temporary({k.shape(0), kv_heads, k.shape(1), head_size}, k.dtype());
  std::vector<FunctionConstant> constants{{metal_shared::kAttentionNormKindId, norm_kind(norm, k.shape(2))}};
  rope.add_constants(constants, head_size, interleaved);
  const std::string kernel = "rope_attention_keys_" + metal::type_name(k.dtype()) + "_" + std::to_string(head_size);
  launch.use("rope_attention_keys", kernel, constants);
  auto& encoder = launch.encoder();
  encoder.set_input_array(k, 0);
  launch.bind(norm, 1);
  rope.bind(launch, 2);
  encoder.set_output_array(keys, 5);
  metal_shared::AttentionKeysParams params{};
  params.k_strides[0] = k.strides(0);
  params.k_strides[1] = k.strides(1);
  params.rope = rope.params(kv_heads, head_size);
  params.tokens = k.shape(1);
  params.heads = kv_heads;
  params.norm_eps = eps;
  params.tokens_per_group = metal_plan::attention_keys_tokens(int64_t{k.shape(0)} * k.shape(1));
  // The row is read and written, and a pair of lanes comes with a cosine and a sine.
  const int64_t bytes = int64_t{params.tokens_per_group} * k.shape(2) * (2 * k.itemsize() + 4);
  launch.dispatch({metal_plan::ceil_div(params.tokens, params.tokens_per_group), k.shape(0), 1},
                  metal_plan::attention_keys_threads(k.shape(2)), metal_plan::kOperationsPerByte * bytes,
                  [&](const int64_t (&first)[3]) {
                    params.first_group = first[0];
                    params.first_batch = first[1];
                    encoder.set_bytes(params, 6);
                  });
  return keys;
}

}  // namespace

void RopeAttention::eval_gpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) {
  Launch launch(stream());
  const auto [heads, kv_heads, eps, interleaved, causal, scale] = options_;
  auto& out = outputs[0];
  launch.allocate(out);
  if (out.size() == 0) return;
  const mx::array* next = inputs.data() + 3;
  const auto given = [&](bool present, int count = 1) {
    const mx::array* first = present ? next : nullptr;
    if (present) next += count;
    return first;
  };
  const mx::array* q_weight = given(present_.q_norm);
  const mx::array* k_weight = given(present_.k_norm);
  const Rope rope_q{given(present_.rope_q, 3)}, rope_k{given(present_.rope_k, 3)};
  const mx::array* bias = given(present_.bias);
  std::optional<mx::array> near_bias;
  if (bias &&
      !metal_plan::bias_within_reach(bias->shape(2) == 1 ? 0 : bias->strides(2),
                                     bias->shape(3) == 1 ? 0 : bias->strides(3), bias->shape(3), metal::reach())) {
    near_bias = launch.copy(*bias);
    bias = &*near_bias;
  }
  const mx::array* gate = given(present_.gate_logits);

  // Four weights of a norm are read at once.
  std::optional<mx::array> q_aligned, k_aligned;
  const auto aligned = [&](const mx::array* weight, std::optional<mx::array>& copy) {
    if (!weight || metal::starts_at_four(*weight)) return weight;
    copy = launch.copy(*weight);
    return static_cast<const mx::array*>(&*copy);
  };
  const mx::array* q_norm = aligned(q_weight, q_aligned);
  const mx::array* k_norm = aligned(k_weight, k_aligned);

  const auto q = readable(launch, inputs[0]), v = readable(launch, inputs[2]);
  auto k = readable(launch, inputs[1]);
  const int head_size = q.shape(2) / heads, batch = q.shape(0), queries = q.shape(1), keys = k.shape(1);
  const auto tile = metal_plan::attention_tile(head_size);

  metal_shared::AttentionParams params{};
  params.q_strides[0] = q.strides(0);
  params.q_strides[1] = q.strides(1);
  params.v_strides[0] = v.strides(0);
  params.v_strides[1] = head_size;
  params.v_strides[2] = v.strides(1);
  params.k_strides[0] = k.strides(0);
  params.k_strides[1] = head_size;
  params.k_strides[2] = k.strides(1);
  if (k_norm || rope_k) {
    k = prepared_keys(launch, k, k_norm, rope_k, kv_heads, eps, interleaved);
    for (int i = 0; i < 3; ++i) params.k_strides[i] = k.strides(i);
  }
  const int32_t kind = norm_kind(q_norm, q.shape(2));
  std::optional<mx::array> scales;
  if (kind == metal_shared::kNormWholeRow) scales = row_scales(launch, q, eps);
  for (int axis = 0; bias && axis < 4; ++axis) {
    params.bias_strides[axis] = bias->shape(axis) == 1 ? 0 : bias->strides(axis);
  }
  for (int axis = 0; gate && axis < 3; ++axis) params.gate_strides[axis] = gate->strides(axis);
  params.rope = rope_q.params(heads, head_size);
  params.heads = heads;
  params.heads_per_kv_head = heads / kv_heads;
  params.queries = queries;
  params.keys = keys;
  params.scale = scale;
  params.norm_eps = eps;

  std::vector<FunctionConstant> constants{{metal_shared::kAttentionNormKindId, kind}};
  rope_q.add_constants(constants, head_size, interleaved);
  constants.push_back({metal_shared::kAttentionBiasId, metal::element_type(bias)});
  constants.push_back({metal_shared::kAttentionGateId, metal::element_type(gate)});
  constants.push_back({metal_shared::kAttentionCausalId, causal});
  constants.push_back({metal_shared::kAttentionFencedId, fenced()});
  launch.use("rope_attention", "rope_attention_" + metal::type_name(q.dtype()) + "_" + std::to_string(head_size),
             constants);
  auto& encoder = launch.encoder();
  encoder.set_input_array(q, 0);
  encoder.set_input_array(k, 1);
  encoder.set_input_array(v, 2);
  encoder.set_output_array(out, 3);
  launch.bind(q_norm, 5);
  launch.bind(scales ? &*scales : nullptr, 6);
  rope_q.bind(launch, 7);
  launch.bind(bias, 10);
  launch.bind(gate, 11);
  launch.dispatch({metal_plan::ceil_div(queries, tile.queries), heads, batch}, tile.threads,
                  4 * int64_t{tile.queries} * keys * head_size, [&](const int64_t (&first)[3]) {
                    params.first_query_block = first[0];
                    params.first_head = first[1];
                    params.first_batch = first[2];
                    encoder.set_bytes(params, 4);
                  });
}

}  // namespace ltx2rt
