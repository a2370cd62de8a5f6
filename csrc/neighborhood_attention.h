// The op neighborhood_attention: attention of every cell of a volume to a window of cells around it.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "csrc/cpu/float_type.h"
#include "csrc/fallback_primitive.h"
#include "csrc/op_types.h"

namespace ltx2rt {

// Cosines [0] and sines [1] of the rotary angles, float32. The axes own consecutive lanes of a head: 2 Ft for time, then
// 2 Fh, then 2 Fw; lanes 2j and 2j + 1 of an axis turn by the angle of column j.
//   q_time  (2, T, Ft)
//   k_time  (2, S, Ft)
//   height  (2, H + Kh - 1, Fh)   row r: position r - Kh / 2
//   width   (2, W + Kw - 1, Fw)   row r: position r - Kw / 2
struct NeighborhoodRope {
  mx::array q_time;
  mx::array k_time;
  mx::array height;
  mx::array width;
};

// shift, mask or replicate. Throws std::invalid_argument.
Border parse_border(const std::string& name);

struct NeighborhoodOptions {
  int num_heads;
  int window_height, window_width;  // Kh, Kw
  Border border_height, border_width;
  float norm_eps;
  float scale;

  bool operator==(const NeighborhoodOptions&) const = default;
};

// The arguments that may be left out. Inputs of the primitive: q, k, v, key_frames, then those present in this order, the
// rope as q_time, k_time, height, width.
struct NeighborhoodExtras {
  std::optional<mx::array> q_norm;
  std::optional<mx::array> k_norm;
  std::optional<NeighborhoodRope> rope;
};

// out[b, t, h, w, n] = sum over (s, i, j) of p[s, i, j] v[b, s, i, j, n], where s runs over the values >= 0 of
// key_frames[t], (i, j) over the window of (h, w),
// p = softmax over all of them of (q'[b, t, h, w, n] . k'[b, s, i, j, n] * scale),
// q' = rope(rms_norm(q)) and k' = rope(rms_norm(k)).
//   q           (B, T, H, W, N*K)  float32 | float16 | bfloat16, K a multiple of 16 up to 256; any strides
//   k, v        (B, S, H, W, N*K)  dtype of q; any strides
//   key_frames  (T, J)             int32 in [-1, S); -1: none; a frame that stands there twice counts twice
//   q_norm      (K,)               any float dtype: RMSNorm weight of each head
//   k_norm      (K,)               likewise
//   rope        2 (Ft + Fh + Fw) = K
//   out         (B, T, H, W, N*K)  dtype of q
// Window of query h of an axis of L cells, K of them:
//   shift      cells clamp(h - K/2, 0, L - K) ... + K - 1; needs L >= K
//   mask       cells h - K/2 ... h - K/2 + K - 1, those outside left out
//   replicate  the same cells; one outside is the nearest cell of the volume, turned by the angle of where it is
// Norms, rotation, scores, softmax and sums are float32; one rounding, on store. On processors that multiply pairs of
// bfloat16, and for bfloat16 inputs, q', k' and the weights p are rounded to bfloat16 before they are multiplied. A query
// that sees no key gives zeros.
mx::array neighborhood_attention(const mx::array& q, const mx::array& k, const mx::array& v,
                                 const mx::array& key_frames, const NeighborhoodExtras& extras,
                                 const NeighborhoodOptions& options, const OpContext& context);

// What decides how much memory the CPU kernel takes.
struct NeighborhoodShape {
  int64_t batch, frames, height, width, heads, head_size;
  int64_t key_frames;  // S
  int64_t slots;       // J
  int64_t window_height, window_width;
  Border border_height, border_width;
  cpu::FloatType type;  // of q
};

// Bytes that the CPU kernel takes besides inputs and output. They do not grow with the number of frames.
int64_t neighborhood_attention_scratch_bytes(const NeighborhoodShape& shape, int threads);

class NeighborhoodAttention : public FallbackPrimitive {
 public:
  struct Present {
    bool q_norm, k_norm, rope;
    bool operator==(const Present&) const = default;
  };

  NeighborhoodAttention(mx::Stream stream, Reference reference, NeighborhoodOptions options, Present present)
      : FallbackPrimitive(stream, std::move(reference)), options_(options), present_(present) {}

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override;
#ifdef LTX2RT_METAL
  void eval_gpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override;
#endif
  const char* name() const override { return "ltx2rt::NeighborhoodAttention"; }
  bool is_equivalent(const mx::Primitive& other) const override {
    const auto& same = static_cast<const NeighborhoodAttention&>(other);
    return options_ == same.options_ && present_ == same.present_;
  }
  std::vector<mx::Shape> output_shapes(const std::vector<mx::array>& inputs) override;

 private:
  NeighborhoodOptions options_;
  Present present_;
};

}  // namespace ltx2rt
