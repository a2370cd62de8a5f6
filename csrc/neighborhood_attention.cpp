// Checks of neighborhood_attention and its lazy array.
#include "csrc/neighborhood_attention.h"

#include <string>

#include "csrc/checked_index.h"
#include "csrc/checks.h"
#include "csrc/metal/launch_plans.h"
#include "mlx/ops.h"

namespace ltx2rt {
namespace {

constexpr auto kOp = "neighborhood_attention";
constexpr int kHeadUnit = 16, kMaxHead = 256;

// Inputs of the op, null where absent.
struct Operands {
  const mx::array* q;
  const mx::array* k;
  const mx::array* v;
  const mx::array* key_frames;
  const mx::array* q_norm = nullptr;
  const mx::array* k_norm = nullptr;
  const mx::array* rope[4] = {};  // q_time, k_time, height, width
};

constexpr const char* kRopeNames[] = {"rope.q_time", "rope.k_time", "rope.height", "rope.width"};

void check_axis(int cells, int window, Border border, const char* axis) {
  require(window >= 1, kOp, "window must be positive but is ", window, " along the ", axis, ".");
  require(border != Border::shift || window <= cells, kOp, "a window of ", window,
          " cells cannot be shifted inside along the ", axis, ", which has ", cells, ".");
}

void check_rope(const Operands& o, const NeighborhoodOptions& options, int head_size) {
  if (!o.rope[0]) return;
  const auto &q = *o.q, &k = *o.k;
  const int rows[] = {q.shape(1), k.shape(1), q.shape(2) + options.window_height - 1,
                      q.shape(3) + options.window_width - 1};
  for (int i = 0; i < 4; ++i) {
    const auto& table = *o.rope[i];
    require(table.ndim() == 3 && table.shape(0) == 2 && table.shape(1) == rows[i], kOp, kRopeNames[i],
            " must have shape (2,", rows[i], ",F) but has ", table.shape(), ".");
  }
  require(o.rope[0]->shape(2) == o.rope[1]->shape(2), kOp, "rope.k_time must turn as many pairs of lanes as ",
          "rope.q_time, ", o.rope[0]->shape(2), ", but turns ", o.rope[1]->shape(2), ".");
  const int lanes = 2 * (o.rope[0]->shape(2) + o.rope[2]->shape(2) + o.rope[3]->shape(2));
  require(lanes == head_size, kOp, "rope turns ", lanes, " lanes but a head has ", head_size, ".");
}

void check_shapes(const Operands& o, const NeighborhoodOptions& options) {
  const auto &q = *o.q, &k = *o.k;
  const int heads = options.num_heads;
  require(heads >= 1, kOp, "num_heads must be positive but is ", heads, ".");
  require(q.ndim() == 5 && q.shape(4) >= heads && q.shape(4) % heads == 0, kOp,
          "q must have shape (B,T,H,W,N*K) with N = ", heads, " but has ", q.shape(), ".");
  const int head_size = q.shape(4) / heads;
  require(head_size % kHeadUnit == 0 && head_size <= kMaxHead, kOp, "heads must have a multiple of ", kHeadUnit,
          " values up to ", kMaxHead, " but q has ", head_size, ".");
  const mx::Shape& s = q.shape();
  require(k.ndim() == 5 && k.shape(0) == s[0] && k.shape(2) == s[2] && k.shape(3) == s[3] && k.shape(4) == s[4], kOp,
          "k must have shape (", s[0], ",S,", s[2], ",", s[3], ",", s[4], ") but has ", k.shape(), ".");
  require_shape(*o.v, k.shape(), kOp, "v");
  require(o.key_frames->ndim() == 2 && o.key_frames->shape(0) == s[1], kOp, "key_frames must have shape (", s[1],
          ",J) but has ", o.key_frames->shape(), ".");
  check_axis(s[2], options.window_height, options.border_height, "height");
  check_axis(s[3], options.window_width, options.border_width, "width");
  if (o.q_norm) require_shape(*o.q_norm, {head_size}, kOp, "q_norm");
  if (o.k_norm) require_shape(*o.k_norm, {head_size}, kOp, "k_norm");
  check_rope(o, options, head_size);
}

bool has_shader(const Operands& o, const NeighborhoodOptions& options) {
  const auto& q = *o.q;
  const int64_t window[] = {options.window_height, options.window_width};
  int64_t pairs[3] = {};
  for (int axis = 0; o.rope[0] && axis < 3; ++axis) pairs[axis] = o.rope[axis == 0 ? 0 : axis + 1]->shape(2);
  return metal_plan::neighborhood_has_shader(q.shape(4) / options.num_heads, o.key_frames->shape(1), q.shape(2),
                                             q.shape(3), q.shape(4), window, o.rope[0] ? pairs : nullptr);
}

}  // namespace

Border parse_border(const std::string& name) {
  if (name == "shift") return Border::shift;
  if (name == "mask") return Border::mask;
  require(name == "replicate", kOp, "borders must be \"shift\", \"mask\" or \"replicate\" but one is \"", name, "\".");
  return Border::replicate;
}

mx::array neighborhood_attention(const mx::array& q, const mx::array& k, const mx::array& v,
                                 const mx::array& key_frames, const NeighborhoodExtras& extras,
                                 const NeighborhoodOptions& options, const OpContext& context) {
  require_float(q, kOp, "q");
  for (const auto& [name, x] : {std::pair{"k", &k}, std::pair{"v", &v}}) {
    require(x->dtype() == q.dtype(), kOp, name, " must have q's dtype ", q.dtype(), " but has ", x->dtype(), ".");
  }
  require_int32(key_frames, kOp, "key_frames");
  Operands operands{.q = &q, .k = &k, .v = &v, .key_frames = &key_frames};
  for (const auto& [name, part, to] : {std::tuple{"q_norm", &extras.q_norm, &operands.q_norm},
                                       std::tuple{"k_norm", &extras.k_norm, &operands.k_norm}}) {
    if (!*part) continue;
    require_float(**part, kOp, name);
    *to = &**part;
  }
  if (extras.rope) {
    const mx::array* tables[] = {&extras.rope->q_time, &extras.rope->k_time, &extras.rope->height, &extras.rope->width};
    for (int i = 0; i < 4; ++i) {
      require_float(*tables[i], kOp, kRopeNames[i]);
      operands.rope[i] = tables[i];
    }
  }
  require(options.norm_eps >= 0, kOp, "norm_eps must not be negative but is ", options.norm_eps, ".");
  check_shapes(operands, options);

  if (q.size() == 0 || k.size() == 0 || key_frames.size() == 0) return mx::zeros(q.shape(), q.dtype(), context.stream);
  std::vector<mx::array> inputs{q, k, v};
  inputs.push_back(checked_index(key_frames, k, "[neighborhood_attention] key_frames", "k has", context.stream,
                                 {.rows_axis = 1, .none = true, .rows = "frames"}));
  const auto plain = [&](const mx::array* a) {
    if (a) inputs.push_back(mx::contiguous(mx::astype(*a, mx::float32, context.stream), false, context.stream));
  };
  plain(operands.q_norm);
  plain(operands.k_norm);
  for (const auto* table : operands.rope) plain(table);
  const NeighborhoodAttention::Present present{extras.q_norm.has_value(), extras.k_norm.has_value(),
                                               extras.rope.has_value()};
  return lazy_or_reference<NeighborhoodAttention>(context, has_shader(operands, options), q.shape(), q.dtype(),
                                                  std::move(inputs), options, present);
}

std::vector<mx::Shape> NeighborhoodAttention::output_shapes(const std::vector<mx::array>& inputs) {
  auto part = [&inputs, next = size_t{4}](bool present) mutable { return present ? &inputs[next++] : nullptr; };
  Operands o{.q = &inputs[0], .k = &inputs[1], .v = &inputs[2], .key_frames = &inputs[3]};
  o.q_norm = part(present_.q_norm);
  o.k_norm = part(present_.k_norm);
  for (const mx::array*& table : o.rope) table = part(present_.rope);
  check_shapes(o, options_);
  require_kernel(stream(), has_shader(o, options_), kOp);
  return {inputs[0].shape()};
}

}  // namespace ltx2rt
