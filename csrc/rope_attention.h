// The op rope_attention: attention with everything that stands between the projections fused.
#pragma once

#include <optional>
#include <vector>

#include "csrc/cpu/float_type.h"
#include "csrc/fallback_primitive.h"

namespace ltx2rt {

// Rotary angles shared by all tokens with the same position: the angle of lane l of token t is
// table[index[t, p], j] with l - pad = j * P + p; the first pad = lanes - M * P lanes are not rotated.
//   cos, sin  (R, M)                 any float dtype
//   index     (T, P) or (B, T, P)    int32, negative ones count from R (see checked_index.h)
struct RopeTable {
  mx::array cos;
  mx::array sin;
  mx::array index;
};

struct RopeAttentionOptions {
  int num_heads;
  int num_kv_heads;
  float norm_eps;
  bool interleaved;  // pairs lanes 2i, 2i + 1; else i, i + K/2
  bool causal;       // query i sees keys j <= i + Tk - Tq
  float scale;

  bool operator==(const RopeAttentionOptions&) const = default;
};

// The arguments that may be left out. Inputs of the primitive: q, k, v, then those present in this order, a rope table
// as cos, sin, index.
struct RopeAttentionExtras {
  std::optional<mx::array> q_norm;
  std::optional<mx::array> k_norm;
  std::optional<RopeTable> rope_q;
  std::optional<RopeTable> rope_k;
  std::optional<mx::array> bias;
  std::optional<mx::array> gate_logits;
};

// out[b, t, h] = 2 sigmoid(gate_logits[b, t, h]) * sum over s of p[s] v[b, s, g], where
// p = softmax over s of (q'[b, t, h] . k'[b, s, g] * scale + bias[b, h, t, s]),
// q' = rope(rms_norm(q)), k' = rope(rms_norm(k)) and g = h * Nkv / N
//   q            (B, Tq, N*K)      float32 | float16 | bfloat16
//   k, v         (B, Tk, Nkv*K)    dtype of q
//   q_norm       (N*K,) or (K,)    any float dtype: RMSNorm weight over the whole width or over each head
//   k_norm       (Nkv*K,) or (K,)  any float dtype
//   rope_q       M*P <= K/2: shared by all heads; else head h owns lanes [h*K/2, (h+1)*K/2) of N*K/2
//   rope_k       the same for Nkv heads; absent: not rotated
//   bias         broadcastable to (B, N, Tq, Tk), any float dtype
//   gate_logits  (B, Tq, N)        any float dtype
//   out          (B, Tq, N*K)      dtype of q
// Norms, rotation, scores, softmax and sums are float32; one rounding, on store. On processors that multiply pairs of
// bfloat16, and for bfloat16 inputs, q', k' and the weights p are rounded to bfloat16 before they are multiplied. A
// query whose scores are all -inf, or that has no key at all, gives zeros; one whose scores are all equally low
// (finfo.min of a mask) gives the mean of v.
// Memory besides inputs and output: packed keys and values, at most 32 MB, and under 1 MB per thread.
mx::array rope_attention(const mx::array& q, const mx::array& k, const mx::array& v, const RopeAttentionExtras& extras,
                         const RopeAttentionOptions& options, const OpContext& context);

// What decides how much memory the CPU kernel takes.
struct AttentionShape {
  int64_t batch, queries, keys, heads, kv_heads, head_size;
  cpu::FloatType type;                  // of q
  bool q_norm_is_wide, k_norm_is_wide;  // over all heads rather than over each
};

// Bytes that the CPU kernel takes besides inputs and output.
int64_t rope_attention_scratch_bytes(const AttentionShape& shape, int threads);

class RopeAttention : public FallbackPrimitive {
 public:
  struct Present {
    bool q_norm, k_norm, rope_q, rope_k, bias, gate_logits;
    bool operator==(const Present&) const = default;
  };

  RopeAttention(mx::Stream stream, Reference reference, RopeAttentionOptions options, Present present)
      : FallbackPrimitive(stream, std::move(reference)), options_(options), present_(present) {}

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override;
#ifdef LTX2RT_METAL
  void eval_gpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override;
#endif
  const char* name() const override { return "ltx2rt::RopeAttention"; }
  bool is_equivalent(const mx::Primitive& other) const override {
    const auto& same = static_cast<const RopeAttention&>(other);
    return options_ == same.options_ && present_ == same.present_;
  }
  std::vector<mx::Shape> output_shapes(const std::vector<mx::array>& inputs) override;

 private:
  RopeAttentionOptions options_;
  Present present_;
};

}  // namespace ltx2rt
