// CPU evaluation of rope_attention: what is packed when, and which thread does which block of queries.
#include "csrc/rope_attention.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "csrc/cpu/aligned_floats.h"
#include "csrc/cpu/rope_attention_kernel.h"
#include "csrc/cpu/rows.h"
#include "csrc/cpu/thread_pool.h"
#include "mlx/allocator.h"
#include "mlx/backend/cpu/encoder.h"

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

int64_t blocks_of(int64_t n, int64_t block) { return (n + block - 1) / block; }

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

class Scheduler {
 public:
  explicit Scheduler(const AttentionArgs& args)
      : args_(args),
        kernel_(cpu::rope_attention_kernel()),
        loops_(kernel_.loops(args.q.rows.type)),
        group_(args.q.heads / args.k.heads),
        query_blocks_(blocks_of(args.q.tokens, kQueryBlock)),
        block_queries_(blocks_of(blocks_of(args.q.tokens, query_blocks_), kQueryUnit) * kQueryUnit),
        key_blocks_(blocks_of(args.k.tokens, kKeyBlock)),
        block_floats_(loops_.block_floats(args.head_size)),
        state_floats_(loops_.state_floats(args.head_size)),
        work_floats_(loops_.work_floats(args.head_size)) {}

  void run() {
    check_index(args_.q, "rope_q");
    check_index(args_.k, "rope_k");
    const cpu::AlignedFloats q_rms(rms_count(args_.q)), k_rms(rms_count(args_.k));
    find_rms(args_.q, q_rms.data());
    find_rms(args_.k, k_rms.data());
    const int64_t most_blocks = std::max<int64_t>(1, kMostPackedFloats / block_floats_);
    if (key_blocks_ <= most_blocks) {
      const int64_t tasks_per_head = group_ * query_blocks_, blocks_per_head = std::max<int64_t>(1, key_blocks_);
      const int64_t cached = kPackedFloats / block_floats_ / blocks_per_head;
      const int64_t busy = blocks_of(4 * cpu::num_threads(), tasks_per_head);
      const int64_t round = std::min({std::max({cached, busy, int64_t{1}}), most_blocks / blocks_per_head, args_.k.heads});
      const cpu::AlignedFloats blocks(round * key_blocks_ * block_floats_);
      for (int64_t batch = 0; batch < args_.batch; ++batch) {
        for (int64_t head = 0; head < args_.k.heads; head += round)
          attend_heads(batch, head, std::min(round, args_.k.heads - head), blocks.data());
      }
    } else {
      attend_by_pieces(most_blocks);
    }
  }

 private:
  void check_index(const cpu::Projection& x, const char* name) const {
    if (x.rope.cos == nullptr) return;
    const int64_t count = (x.rope.index_batch_stride > 0 ? args_.batch : 1) * x.tokens * x.rope.axes;
    for (int64_t i = 0; i < count; ++i) {
      if (x.rope.index[i] >= -x.rope.rows && x.rope.index[i] < x.rope.rows) continue;
      throw std::out_of_range(std::string("[rope_attention] ") + name + ".index holds " +
                              std::to_string(x.rope.index[i]) + " but the table has " + std::to_string(x.rope.rows) +
                              " rows.");
    }
  }

  static bool needs_rms(const cpu::Projection& x) { return x.norm != nullptr && !x.norm_per_head; }
  int64_t rms_count(const cpu::Projection& x) const { return needs_rms(x) ? args_.batch * x.tokens : 0; }

  void find_rms(cpu::Projection& x, float* out) {
    x.inverse_rms = out;
    cpu::parallel_for(rms_count(x), 16, [&](int64_t begin, int64_t end) {
      kernel_.inverse_rms(x, args_.head_size, args_.norm_eps, begin, end, out);
    });
  }

  // Query block `block` of the group_ * query_blocks_ that read a key head.
  cpu::QueryBlock query_block(int64_t batch, int64_t kv_head, int64_t block) const {
    const int64_t first = block % query_blocks_ * block_queries_;
    return {.batch = batch,
            .head = kv_head * group_ + block / query_blocks_,
            .first = first,
            .count = static_cast<int>(std::min(block_queries_, args_.q.tokens - first))};
  }

  void pack(int64_t batch, int64_t kv_head, int64_t heads, int64_t block, float* to, int64_t stride) const {
    const int64_t first = block * kKeyBlock;
    loops_.pack(args_, batch, kv_head, heads, first,
                static_cast<int>(std::min<int64_t>(kKeyBlock, args_.k.tokens - first)), to, stride);
  }

  // Packs all keys of some heads, then attends with them.
  void attend_heads(int64_t batch, int64_t first_head, int64_t heads, float* blocks) const {
    const int64_t stride = key_blocks_ * block_floats_;
    int64_t together = std::clamp<int64_t>(kRowValues / args_.head_size, 1, heads);
    while (together > 1 && key_blocks_ * blocks_of(heads, together) < 2 * cpu::num_threads()) together = blocks_of(together, 2);
    cpu::parallel_for(key_blocks_ * blocks_of(heads, together), 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t block = i % key_blocks_, head = i / key_blocks_ * together;
        pack(batch, first_head + head, std::min(together, heads - head), block,
             blocks + head * stride + block * block_floats_, stride);
      }
    });
    const int64_t tasks = group_ * query_blocks_;
    cpu::parallel_for(heads * tasks, 1, [&](int64_t begin, int64_t end) {
      const cpu::AlignedFloats state(state_floats_), work(work_floats_);
      for (int64_t i = begin; i < end; ++i) {
        const int64_t head = i / tasks;  // in turn, so that its keys stay in the second-level cache
        const auto queries = query_block(batch, first_head + head, i % tasks);
        loops_.start(args_, queries, state.data(), work.data());
        loops_.advance(args_, queries, 0, args_.k.tokens, blocks + head * stride, state.data(), work.data());
        loops_.finish(args_, queries, state.data());
      }
    });
  }

  // One head at a time, its keys in pieces of piece_blocks blocks, for as many query blocks as fit with their states.
  void attend_by_pieces(int64_t piece_blocks) const {
    const int64_t tasks = group_ * query_blocks_;
    const int64_t together = std::clamp<int64_t>(kStateFloats / state_floats_, 1, tasks);
    const cpu::AlignedFloats blocks(piece_blocks * block_floats_), states(together * state_floats_);
    for (int64_t all = 0; all < args_.batch * args_.k.heads; ++all) {
      const int64_t batch = all / args_.k.heads, head = all % args_.k.heads;
      for (int64_t first = 0; first < tasks; first += together) {
        for (int64_t piece = 0; piece < key_blocks_; piece += piece_blocks) {
          const int64_t here = std::min(piece_blocks, key_blocks_ - piece);
          cpu::parallel_for(here, 1, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) pack(batch, head, 1, piece + i, blocks.data() + i * block_floats_, 0);
          });
          cpu::parallel_for(std::min(together, tasks - first), 1, [&](int64_t begin, int64_t end) {
            const cpu::AlignedFloats work(work_floats_);
            for (int64_t i = begin; i < end; ++i) {
              const auto queries = query_block(batch, head, first + i);
              float* state = states.data() + i * state_floats_;
              if (piece == 0) loops_.start(args_, queries, state, work.data());
              loops_.advance(args_, queries, piece * kKeyBlock,
                              std::min((piece + here) * kKeyBlock, args_.k.tokens), blocks.data(), state, work.data());
              if (piece + here == key_blocks_) loops_.finish(args_, queries, state);
            }
          });
        }
      }
    }
  }

  AttentionArgs args_;
  const AttentionKernel& kernel_;
  const AttentionLoops& loops_;
  int64_t group_;  // query heads per key head
  int64_t query_blocks_;
  int64_t block_queries_;  // of all blocks but the last: they are made about equal
  int64_t key_blocks_;
  int64_t block_floats_;
  int64_t state_floats_;
  int64_t work_floats_;
};

}  // namespace

void RopeAttention::eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) {
  auto& out = outputs[0];
  out.set_data(mx::allocator::malloc(out.nbytes()));
  auto& encoder = mx::cpu::get_command_encoder(stream());
  for (const auto& input : inputs) encoder.set_input_array(input);
  encoder.set_output_array(out);
  if (out.size() == 0) return;

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
  args.out = out.data<char>();
  args.out_type = cpu::float_type(out.dtype());
  encoder.dispatch([args] { Scheduler(args).run(); });
}

}  // namespace ltx2rt
