// Checks of rope_attention and its lazy array.
#include "csrc/rope_attention.h"

#include <algorithm>

#include "csrc/checks.h"
#include "csrc/metal/launch_plans.h"
#include "mlx/ops.h"

namespace ltx2rt {
namespace {

constexpr auto kOp = "rope_attention";

void check_norm(const std::optional<mx::array>& norm, int heads, int head_size, const char* name) {
  if (!norm) return;
  require_float(*norm, kOp, name);
  require(norm->ndim() == 1 && (norm->shape(0) == heads * head_size || norm->shape(0) == head_size), kOp, name,
          " must have shape (", heads * head_size, ") or (", head_size, ") but has ", norm->shape(), ".");
}

void check_rope(const std::optional<RopeTable>& rope, const mx::array& x, int heads, int head_size,
                const std::string& name) {
  if (!rope) return;
  const auto& [cos, sin, index] = *rope;
  require(head_size % 2 == 0, kOp, name, " needs an even head size but it is ", head_size, ".");
  require_float(cos, kOp, (name + ".cos").c_str());
  require_float(sin, kOp, (name + ".sin").c_str());
  require(cos.ndim() == 2 && cos.shape(0) >= 1, kOp, name, ".cos must have shape (R,M) with R >= 1 but has ",
          cos.shape(), ".");
  require_shape(sin, cos.shape(), kOp, (name + ".sin").c_str());
  require(index.dtype() == mx::int32, kOp, name, ".index must be int32 but is ", index.dtype(), ".");
  const bool fits = (index.ndim() == 2 && index.shape(0) == x.shape(1)) ||
                    (index.ndim() == 3 && (index.shape(0) == x.shape(0) || index.shape(0) == 1) &&
                     index.shape(1) == x.shape(1));
  require(fits && index.shape(-1) >= 1, kOp, name, ".index must have shape (", x.shape(1), ",P) or (", x.shape(0), ",",
          x.shape(1), ",P) but has ", index.shape(), ".");
  const int64_t used = int64_t{cos.shape(1)} * index.shape(-1), lanes = int64_t{heads} * head_size / 2;
  require(used <= lanes, kOp, name, " turns M*P = ", used, " lanes but there are only ", lanes, ".");
}

}  // namespace

mx::array rope_attention(const mx::array& q, const mx::array& k, const mx::array& v, const RopeAttentionExtras& extras,
                         const RopeAttentionOptions& options, const OpContext& context) {
  const auto [heads, kv_heads, eps, interleaved, causal, scale] = options;
  require_float(q, kOp, "q");
  require(heads >= 1, kOp, "num_heads must be positive but is ", heads, ".");
  require(kv_heads >= 1 && heads % kv_heads == 0, kOp, "num_kv_heads must divide num_heads ", heads, " but is ",
          kv_heads, ".");
  require(q.ndim() == 3 && q.shape(2) >= heads && q.shape(2) % heads == 0, kOp,
          "q must have shape (B,Tq,N*K) with N = ", heads, " but has ", q.shape(), ".");
  const int head_size = q.shape(2) / heads;
  require(k.ndim() == 3 && k.shape(0) == q.shape(0) && k.shape(2) == kv_heads * head_size, kOp,
          "k must have shape (", q.shape(0), ",Tk,", kv_heads * head_size, ") but has ", k.shape(), ".");
  require_shape(v, k.shape(), kOp, "v");
  for (const auto& [name, x] : {std::pair{"k", &k}, std::pair{"v", &v}}) {
    require(x->dtype() == q.dtype(), kOp, name, " must have q's dtype ", q.dtype(), " but has ", x->dtype(), ".");
  }
  require(eps >= 0, kOp, "norm_eps must not be negative but is ", eps, ".");
  check_norm(extras.q_norm, heads, head_size, "q_norm");
  check_norm(extras.k_norm, kv_heads, head_size, "k_norm");
  check_rope(extras.rope_q, q, heads, head_size, "rope_q");
  check_rope(extras.rope_k, k, kv_heads, head_size, "rope_k");
  const mx::Shape scores{q.shape(0), heads, q.shape(1), k.shape(1)};
  if (extras.bias) {
    require_float(*extras.bias, kOp, "bias");
    const auto& shape = extras.bias->shape();
    bool fits = shape.size() <= 4;
    for (size_t i = 1; fits && i <= shape.size(); ++i) {
      fits = shape[shape.size() - i] == 1 || shape[shape.size() - i] == scores[4 - i];
    }
    require(fits, kOp, "bias must broadcast to (B,N,Tq,Tk) = ", scores, " but has shape ", shape, ".");
  }
  if (extras.gate_logits) {
    require_float(*extras.gate_logits, kOp, "gate_logits");
    require_shape(*extras.gate_logits, {q.shape(0), q.shape(1), heads}, kOp, "gate_logits");
  }

  if (q.size() == 0 || k.size() == 0) return mx::zeros(q.shape(), q.dtype(), context.stream);
  std::vector<mx::array> inputs{q, k, v};
  const auto plain = [&](const mx::array& a, mx::Dtype dtype) {
    inputs.push_back(mx::contiguous(mx::astype(a, dtype, context.stream), false, context.stream));
  };
  for (const auto* norm : {&extras.q_norm, &extras.k_norm}) {
    if (*norm) plain(**norm, mx::float32);
  }
  for (const auto* rope : {&extras.rope_q, &extras.rope_k}) {
    if (!*rope) continue;
    plain((*rope)->cos, mx::float32);
    plain((*rope)->sin, mx::float32);
    plain((*rope)->index, mx::int32);
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
  int rope_axes = 0;
  for (const auto* rope : {&extras.rope_q, &extras.rope_k}) {
    if (*rope) rope_axes = std::max(rope_axes, (*rope)->index.shape(-1));
  }
  const bool has_shader = metal_plan::attention_has_shader(head_size, kv_heads, k.shape(1), rope_axes);
  return lazy_or_reference<RopeAttention>(context, has_shader, q.shape(), q.dtype(), std::move(inputs), options, present);
}

}  // namespace ltx2rt
