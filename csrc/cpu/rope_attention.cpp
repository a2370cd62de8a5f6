// CPU evaluation of rope_attention: what is packed when, and which thread does which block of queries.
#include "csrc/rope_attention.h"

#include <algorithm>
#include <utility>

#include "csrc/ceil_div.h"
#include "csrc/cpu/dispatch.h"
#include "csrc/cpu/rope_attention_kernel.h"
#include "csrc/cpu/rows.h"
#include "csrc/cpu/thread_pool.h"

namespace ltx2rt {
namespace {

using cpu::AttentionArgs;
using cpu::AttentionKernel;
using cpu::AttentionLoops;
using cpu::kKeyBlock;
using cpu::kQueryBlock;
using cpu::kQueryUnit;

// Packed keys and values of the heads that are worked on together: about this much stays in the second-level caches...
constexpr int64_t kPackedFloats = 1 << 19;
// ...but more is taken to give every thread work, or for one long head. Beyond it, keys are packed piece by piece.
constexpr int64_t kMostPackedFloats = 8 << 20;
// States of query blocks that wait for the next piece of keys.
constexpr int64_t kStateFloats = 4 << 20;
// Heads are neighbours in memory. Those of one token that lie within so many values are packed one after the other:
// memory is read far faster in such pieces than a head at a time.
constexpr int64_t kRowValues = 512;

// Whether the norm takes the mean over all heads, which is found before.
bool norm_is_wide(const cpu::Projection& x) { return x.norm != nullptr && !x.norm_per_head; }

cpu::TokenRows token_rows(const mx::array& a) {
  return {a.data<char>(), cpu::float_type(a.dtype()), a.strides(0), a.strides(1), a.strides(2)};
}

cpu::RopeRows rope_rows(const mx::array& cos, const mx::array& sin, const mx::array& index, int64_t heads,
                        int64_t head_size) {
  const int64_t axes = index.shape(-1), used = cos.shape(1) * axes, half = head_size / 2;
  const bool shared = used <= half;
  const bool per_batch = index.ndim() == 3 && index.shape(0) > 1;
  return {.cos = cos.data<float>(),
          .sin = sin.data<float>(),
          .index = index.data<int32_t>(),
          .index_batch_stride = per_batch ? index.shape(1) * axes : 0,
          .rows = cos.shape(0),
          .columns = cos.shape(1),
          .axes = axes,
          .pad = (shared ? half : heads * half) - used,
          .shared = shared};
}

// What is packed together, and where the scratch of the whole call and of each thread lies.
struct Plan {
  explicit Plan(const AttentionShape& s, int most_threads) : threads(most_threads) {
    const auto& loops = cpu::rope_attention_kernel().loops(s.type, s.head_size);
    constexpr int64_t kFloat = sizeof(float);
    group = s.heads / s.kv_heads;
    query_blocks = ceil_div(s.queries, kQueryBlock);
    block_queries = ceil_div(ceil_div(s.queries, query_blocks), kQueryUnit) * kQueryUnit;
    key_blocks = ceil_div(s.keys, kKeyBlock);
    block_floats = loops.block_floats(s.head_size);
    state_floats = loops.state_floats(s.head_size);
    q_rms = layout.add(s.q_norm_is_wide ? s.batch * s.queries * kFloat : 0);
    k_rms = layout.add(s.k_norm_is_wide ? s.batch * s.keys * kFloat : 0);
    const int64_t tasks_per_head = group * query_blocks;
    const int64_t most_blocks = std::max<int64_t>(1, kMostPackedFloats / block_floats);
    in_pieces = key_blocks > most_blocks;
    int64_t packed_blocks, tasks;
    if (in_pieces) {
      piece_blocks = packed_blocks = most_blocks;
      waiting_states = tasks = std::clamp<int64_t>(kStateFloats / state_floats, 1, tasks_per_head);
      states = layout.add(waiting_states * state_floats * kFloat);
    } else {
      const int64_t blocks_per_head = std::max<int64_t>(1, key_blocks);
      const int64_t cached = kPackedFloats / block_floats / blocks_per_head;
      const int64_t busy = ceil_div(4 * threads, tasks_per_head);
      round_heads = std::min({std::max({cached, busy, int64_t{1}}), most_blocks / blocks_per_head, s.kv_heads});
      packed_blocks = round_heads * key_blocks;
      tasks = round_heads * tasks_per_head;
    }
    blocks = layout.add(packed_blocks * block_floats * kFloat);
    workers = static_cast<int>(std::min<int64_t>(threads, tasks));
    state_bytes = in_pieces ? 0 : cpu::ScratchLayout::round_up(state_floats * kFloat);
    worker_bytes = state_bytes + cpu::ScratchLayout::round_up(loops.work_floats(s.head_size) * kFloat);
    work = layout.add_slots(workers, worker_bytes);
  }

  int threads;
  int64_t group;  // query heads per key head
  int64_t query_blocks;
  int64_t block_queries;  // of all blocks but the last: they are made about equal
  int64_t key_blocks;
  int64_t block_floats, state_floats;
  bool in_pieces;                                // the keys of one head do not fit
  int64_t round_heads = 0;                       // else: key heads that are packed together
  int64_t piece_blocks = 0, waiting_states = 0;  // in pieces: blocks of one, query blocks that wait for the next

  int64_t q_rms, k_rms, blocks, states = 0;
  int workers;                              // threads that attend at the same time at most
  int64_t work, worker_bytes, state_bytes;  // of each of them: a state unless states wait, then the loops' own scratch
  cpu::ScratchLayout layout;
};

class AttentionSchedule {
 public:
  AttentionSchedule(const AttentionArgs& args, const Plan& plan, const cpu::Scratch& scratch)
      : args_(args),
        plan_(plan),
        scratch_(scratch),
        kernel_(cpu::rope_attention_kernel()),
        loops_(kernel_.loops(args.q.rows.type, args.head_size)) {}

  void run() {
    find_rms(args_.q, scratch_.at<float>(plan_.q_rms));
    find_rms(args_.k, scratch_.at<float>(plan_.k_rms));
    if (plan_.in_pieces) return attend_by_pieces();
    for (int64_t batch = 0; batch < args_.batch; ++batch) {
      for (int64_t head = 0; head < args_.k.heads; head += plan_.round_heads)
        attend_heads(batch, head, std::min(plan_.round_heads, args_.k.heads - head));
    }
  }

 private:
  void find_rms(cpu::Projection& x, float* out) {
    if (!norm_is_wide(x)) return;
    x.inverse_rms = out;
    const auto body = [&](int64_t begin, int64_t end) {
      kernel_.inverse_rms(x, args_.head_size, args_.norm_eps, begin, end, out);
    };
    cpu::parallel_for(args_.batch * x.tokens, 16, body, plan_.threads);
  }

  // Query block `block` of the group * query_blocks that read a key head.
  cpu::QueryBlock query_block(int64_t batch, int64_t kv_head, int64_t block) const {
    const int64_t first = block % plan_.query_blocks * plan_.block_queries;
    return {.batch = batch,
            .head = kv_head * plan_.group + block / plan_.query_blocks,
            .first = first,
            .count = static_cast<int>(std::min(plan_.block_queries, args_.q.tokens - first))};
  }

  void pack(int64_t batch, int64_t kv_head, int64_t heads, int64_t block, float* to, int64_t stride) const {
    const int64_t first = block * kKeyBlock;
    loops_.pack(args_, batch, kv_head, heads, first,
                static_cast<int>(std::min<int64_t>(kKeyBlock, args_.k.tokens - first)), to, stride);
  }

  // Packs all keys of some heads, then attends with them.
  void attend_heads(int64_t batch, int64_t first_head, int64_t heads) const {
    const int64_t key_blocks = plan_.key_blocks, stride = key_blocks * plan_.block_floats;
    float* blocks = scratch_.at<float>(plan_.blocks);
    int64_t together = std::clamp<int64_t>(kRowValues / args_.head_size, 1, heads);
    while (together > 1 && key_blocks * ceil_div(heads, together) < 2 * plan_.threads) together = ceil_div(together, 2);
    const auto pack_some = [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t block = i % key_blocks, head = i / key_blocks * together;
        pack(batch, first_head + head, std::min(together, heads - head), block,
             blocks + head * stride + block * plan_.block_floats, stride);
      }
    };
    cpu::parallel_for(key_blocks * ceil_div(heads, together), 1, pack_some, plan_.threads);
    const int64_t tasks = plan_.group * plan_.query_blocks;
    const auto attend = [&](int64_t begin, int64_t end, int worker) {
      auto [state, work] = worker_scratch(worker);
      for (int64_t i = begin; i < end; ++i) {
        const int64_t head = i / tasks;  // in turn, so that its keys stay in the second-level cache
        const auto queries = query_block(batch, first_head + head, i % tasks);
        loops_.start(args_, queries, state, work);
        loops_.advance(args_, queries, 0, args_.k.tokens, blocks + head * stride, state, work);
        loops_.finish(args_, queries, state, work);
      }
    };
    cpu::parallel_for(heads * tasks, 1, attend, plan_.workers);
  }

  // One head at a time, its keys in pieces, for as many query blocks as there is room for their states.
  void attend_by_pieces() const {
    const int64_t tasks = plan_.group * plan_.query_blocks;
    auto *blocks = scratch_.at<float>(plan_.blocks), *states = scratch_.at<float>(plan_.states);
    for (int64_t all = 0; all < args_.batch * args_.k.heads; ++all) {
      const int64_t batch = all / args_.k.heads, head = all % args_.k.heads;
      for (int64_t first = 0; first < tasks; first += plan_.waiting_states) {
        for (int64_t piece = 0; piece < plan_.key_blocks; piece += plan_.piece_blocks) {
          const int64_t here = std::min(plan_.piece_blocks, plan_.key_blocks - piece);
          const auto pack_some = [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) pack(batch, head, 1, piece + i, blocks + i * plan_.block_floats, 0);
          };
          cpu::parallel_for(here, 1, pack_some, plan_.threads);
          const auto attend = [&](int64_t begin, int64_t end, int worker) {
            float* work = worker_scratch(worker).second;
            for (int64_t i = begin; i < end; ++i) {
              const auto queries = query_block(batch, head, first + i);
              float* state = states + i * plan_.state_floats;
              if (piece == 0) loops_.start(args_, queries, state, work);
              loops_.advance(args_, queries, piece * kKeyBlock, std::min((piece + here) * kKeyBlock, args_.k.tokens),
                             blocks, state, work);
              if (piece + here == plan_.key_blocks) loops_.finish(args_, queries, state, work);
            }
          };
          cpu::parallel_for(std::min(plan_.waiting_states, tasks - first), 1, attend, plan_.workers);
        }
      }
    }
  }

  // A thread's state and the scratch of the loops.
  std::pair<float*, float*> worker_scratch(int worker) const {
    const int64_t start = plan_.work + worker * plan_.worker_bytes;
    return {scratch_.at<float>(start), scratch_.at<float>(start + plan_.state_bytes)};
  }

  AttentionArgs args_;
  const Plan& plan_;
  const cpu::Scratch& scratch_;
  const AttentionKernel& kernel_;
  const AttentionLoops& loops_;
};

}  // namespace

int64_t rope_attention_scratch_bytes(const AttentionShape& shape, int threads) {
  return shape.batch * shape.queries == 0 ? 0 : Plan(shape, threads).layout.bytes();
}

void RopeAttention::eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) {
  cpu::Evaluation evaluation(*this, inputs, outputs);
  if (evaluation.empty()) return;

  const auto &q = inputs[0], &k = inputs[1], &v = inputs[2];
  const int64_t head_size = q.shape(2) / options_.num_heads;
  AttentionArgs args{};
  args.batch = q.shape(0);
  args.head_size = head_size;
  args.q.rows = token_rows(q);
  args.q.tokens = q.shape(1);
  args.q.heads = options_.num_heads;
  args.k.rows = token_rows(k);
  args.k.tokens = k.shape(1);
  args.k.heads = options_.num_kv_heads;
  args.v = token_rows(v);
  args.norm_eps = options_.norm_eps;
  args.scale = options_.scale;
  args.interleaved = options_.interleaved;
  args.causal = options_.causal;
  size_t next = 3;
  for (const auto& [present, x] : {std::pair{present_.q_norm, &args.q}, std::pair{present_.k_norm, &args.k}}) {
    if (!present) continue;
    const auto& norm = inputs[next++];
    x->norm = norm.data<float>();
    x->norm_per_head = norm.shape(0) != x->heads * head_size;
  }
  for (const auto& [present, x] : {std::pair{present_.rope_q, &args.q}, std::pair{present_.rope_k, &args.k}}) {
    if (!present) continue;
    x->rope = rope_rows(inputs[next], inputs[next + 1], inputs[next + 2], x->heads, head_size);
    next += 3;
  }
  if (present_.bias) {
    const auto& bias = inputs[next++];
    args.bias = bias.data<char>();
    args.bias_type = cpu::float_type(bias.dtype());
    for (int axis = 0; axis < 4; ++axis) args.bias_strides[axis] = bias.shape(axis) == 1 ? 0 : bias.strides(axis);
  }
  if (present_.gate_logits) {
    const auto& gate = inputs[next];
    args.gate_logits = gate.data<char>();
    args.gate_type = cpu::float_type(gate.dtype());
    for (int axis = 0; axis < 3; ++axis) args.gate_strides[axis] = gate.strides(axis);
  }
  args.out = outputs[0].data<char>();
  args.out_type = cpu::float_type(q.dtype());
  const Plan plan({.batch = args.batch,
                   .queries = args.q.tokens,
                   .keys = args.k.tokens,
                   .heads = args.q.heads,
                   .kv_heads = args.k.heads,
                   .head_size = head_size,
                   .type = args.q.rows.type,
                   .q_norm_is_wide = norm_is_wide(args.q),
                   .k_norm_is_wide = norm_is_wide(args.k)},
                  cpu::num_threads());
  const auto scratch = evaluation.scratch(plan.layout.bytes());
  evaluation.dispatch([args, plan, scratch]() noexcept { AttentionSchedule(args, plan, scratch).run(); });
}

}  // namespace ltx2rt
