// Checks of rope_attention and its lazy array.
#include "csrc/rope_attention.h"

#include <algorithm>

#include "csrc/checked_index.h"
#include "csrc/checks.h"
#include "csrc/metal/launch_plans.h"
#include "mlx/ops.h"

namespace ltx2rt {
namespace {

constexpr auto kOp = "rope_attention";

// A rotary table of the primitive's inputs; null: absent.
struct RopeOperand {
  const mx::array* cos = nullptr;
  const mx::array* sin = nullptr;
  const mx::array* index = nullptr;
};

// Inputs of the op, null where absent.
struct Operands {
  const mx::array* q;
  const mx::array* k;
  const mx::array* v;
  const mx::array* q_norm = nullptr;
  const mx::array* k_norm = nullptr;
  RopeOperand rope_q = {};
  RopeOperand rope_k = {};
  const mx::array* bias = nullptr;
  const mx::array* gate_logits = nullptr;
};

void check_norm(const mx::array* norm, int heads, int head_size, const char* name) {
  if (!norm) return;
  require(norm->ndim() == 1 && (norm->shape(0) == heads * head_size || norm->shape(0) == head_size), kOp, name,
          " must have shape (", heads * head_size, ") or (", head_size, ") but has ", norm->shape(), ".");
}

void check_rope(const RopeOperand& rope, const mx::array& x, int heads, int head_size, const std::string& name) {
  if (!rope.cos) return;
  const auto &cos = *rope.cos, &index = *rope.index;
  require(head_size % 2 == 0, kOp, name, " needs an even head size but it is ", head_size, ".");
  require(cos.ndim() == 2 && cos.shape(0) >= 1, kOp, name, ".cos must have shape (R,M) with R >= 1 but has ",
          cos.shape(), ".");
  require_shape(*rope.sin, cos.shape(), kOp, (name + ".sin").c_str());
  const bool fits =
      (index.ndim() == 2 && index.shape(0) == x.shape(1)) ||
      (index.ndim() == 3 && (index.shape(0) == x.shape(0) || index.shape(0) == 1) && index.shape(1) == x.shape(1));
  require(fits && index.shape(-1) >= 1, kOp, name, ".index must have shape (", x.shape(1), ",P) or (", x.shape(0), ",",
          x.shape(1), ",P) but has ", index.shape(), ".");
  const int64_t used = int64_t{cos.shape(1)} * index.shape(-1), lanes = int64_t{heads} * head_size / 2;
  require(used <= lanes, kOp, name, " turns M*P = ", used, " lanes but there are only ", lanes, ".");
}

void check_shapes(const Operands& o, int heads, int kv_heads) {
  const auto &q = *o.q, &k = *o.k;
  require(heads >= 1, kOp, "num_heads must be positive but is ", heads, ".");
  require(kv_heads >= 1 && heads % kv_heads == 0, kOp, "num_kv_heads must divide num_heads ", heads, " but is ",
          kv_heads, ".");
  require(q.ndim() == 3 && q.shape(2) >= heads && q.shape(2) % heads == 0, kOp,
          "q must have shape (B,Tq,N*K) with N = ", heads, " but has ", q.shape(), ".");
  const int head_size = q.shape(2) / heads;
  require(k.ndim() == 3 && k.shape(0) == q.shape(0) && k.shape(2) == kv_heads * head_size, kOp, "k must have shape (",
          q.shape(0), ",Tk,", kv_heads * head_size, ") but has ", k.shape(), ".");
  require_shape(*o.v, k.shape(), kOp, "v");
  check_norm(o.q_norm, heads, head_size, "q_norm");
  check_norm(o.k_norm, kv_heads, head_size, "k_norm");
  check_rope(o.rope_q, q, heads, head_size, "rope_q");
  check_rope(o.rope_k, k, kv_heads, head_size, "rope_k");
  if (o.bias) {
    const mx::Shape scores{q.shape(0), heads, q.shape(1), k.shape(1)};
    const auto& shape = o.bias->shape();
    bool fits = shape.size() <= 4;
    for (size_t i = 1; fits && i <= shape.size(); ++i) {
      fits = shape[shape.size() - i] == 1 || shape[shape.size() - i] == scores[4 - i];
    }
    require(fits, kOp, "bias must broadcast to (B,N,Tq,Tk) = ", scores, " but has shape ", shape, ".");
  }
  if (o.gate_logits) require_shape(*o.gate_logits, {q.shape(0), q.shape(1), heads}, kOp, "gate_logits");
}

void check_rope_dtypes(const std::optional<RopeTable>& rope, const std::string& name) {
  if (!rope) return;
  require_float(rope->cos, kOp, (name + ".cos").c_str());
  require_float(rope->sin, kOp, (name + ".sin").c_str());
  require_int32(rope->index, kOp, (name + ".index").c_str());
}

bool has_shader(const Operands& o, int heads, int kv_heads) {
  int rope_axes = 0;
  int64_t rope_values = 0;
  for (const auto* rope : {&o.rope_q, &o.rope_k}) {
    if (!rope->index) continue;
    rope_axes = std::max(rope_axes, rope->index->shape(-1));
    rope_values = std::max(rope_values, int64_t{rope->cos->shape(0)} * rope->cos->shape(1));
  }
  return metal_plan::attention_has_shader(o.q->shape(2) / heads, kv_heads, o.k->shape(1), rope_axes, rope_values);
}

}  // namespace

mx::array rope_attention(const mx::array& q, const mx::array& k, const mx::array& v, const RopeAttentionExtras& extras,
                         const RopeAttentionOptions& options, const OpContext& context) {
  require_float(q, kOp, "q");
  for (const auto& [name, x] : {std::pair{"k", &k}, std::pair{"v", &v}}) {
    require(x->dtype() == q.dtype(), kOp, name, " must have q's dtype ", q.dtype(), " but has ", x->dtype(), ".");
  }
  for (const auto& [name, part] : {std::pair{"q_norm", &extras.q_norm}, std::pair{"k_norm", &extras.k_norm},
                                   std::pair{"bias", &extras.bias}, std::pair{"gate_logits", &extras.gate_logits}}) {
    if (*part) require_float(**part, kOp, name);
  }
  check_rope_dtypes(extras.rope_q, "rope_q");
  check_rope_dtypes(extras.rope_k, "rope_k");
  require(options.norm_eps >= 0, kOp, "norm_eps must not be negative but is ", options.norm_eps, ".");
  const auto given = [](const std::optional<mx::array>& a) { return a ? &*a : nullptr; };
  const auto table = [](const std::optional<RopeTable>& rope) {
    return rope ? RopeOperand{&rope->cos, &rope->sin, &rope->index} : RopeOperand{};
  };
  const Operands operands{.q = &q,
                          .k = &k,
                          .v = &v,
                          .q_norm = given(extras.q_norm),
                          .k_norm = given(extras.k_norm),
                          .rope_q = table(extras.rope_q),
                          .rope_k = table(extras.rope_k),
                          .bias = given(extras.bias),
                          .gate_logits = given(extras.gate_logits)};
  check_shapes(operands, options.num_heads, options.num_kv_heads);

  if (q.size() == 0 || k.size() == 0) return mx::zeros(q.shape(), q.dtype(), context.stream);
  std::vector<mx::array> inputs{q, k, v};
  const auto plain = [&](const mx::array& a) {
    inputs.push_back(mx::contiguous(mx::astype(a, mx::float32, context.stream), false, context.stream));
  };
  for (const auto* norm : {&extras.q_norm, &extras.k_norm}) {
    if (*norm) plain(**norm);
  }
  for (const auto& [subject, rope] : {std::pair{"[rope_attention] rope_q.index", &extras.rope_q},
                                      std::pair{"[rope_attention] rope_k.index", &extras.rope_k}}) {
    if (!*rope) continue;
    plain((*rope)->cos);
    plain((*rope)->sin);
    inputs.push_back(checked_index((*rope)->index, (*rope)->cos, subject, "the table has", context.stream));
  }
  if (extras.bias) {
    mx::Shape shape = extras.bias->shape();
    shape.insert(shape.begin(), 4 - shape.size(), 1);
    inputs.push_back(mx::reshape(*extras.bias, shape, context.stream));
  }
  if (extras.gate_logits) inputs.push_back(*extras.gate_logits);
  const RopeAttention::Present present{extras.q_norm.has_value(), extras.k_norm.has_value(),
                                       extras.rope_q.has_value(), extras.rope_k.has_value(),
                                       extras.bias.has_value(),   extras.gate_logits.has_value()};
  return lazy_or_reference<RopeAttention>(context, has_shader(operands, options.num_heads, options.num_kv_heads),
                                          q.shape(), q.dtype(), std::move(inputs), options, present);
}

std::vector<mx::Shape> RopeAttention::output_shapes(const std::vector<mx::array>& inputs) {
  auto part = [&inputs, next = size_t{3}](bool present) mutable { return present ? &inputs[next++] : nullptr; };
  Operands o{.q = &inputs[0], .k = &inputs[1], .v = &inputs[2]};
  o.q_norm = part(present_.q_norm);
  o.k_norm = part(present_.k_norm);
  for (const auto& [present, rope] : {std::pair{present_.rope_q, &o.rope_q}, std::pair{present_.rope_k, &o.rope_k}}) {
    for (const mx::array** array : {&rope->cos, &rope->sin, &rope->index}) *array = part(present);
  }
  o.bias = part(present_.bias);
  o.gate_logits = part(present_.gate_logits);
  check_shapes(o, options_.num_heads, options_.num_kv_heads);
  require_kernel(stream(), has_shader(o, options_.num_heads, options_.num_kv_heads), kOp);
  return {inputs[0].shape()};
}

}  // namespace ltx2rt
