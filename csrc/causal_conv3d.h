// The op causal_conv3d: 3-D convolution with in-place padding, a fused prologue and a fused epilogue.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "csrc/fallback_primitive.h"
#include "csrc/op_types.h"

namespace ltx2rt {

// Per axis: frames, height, width.
struct CausalConv3dOptions {
  std::array<int, 3> stride;
  std::array<int, 3> dilation;
  std::array<std::pair<int, int>, 3> padding;  // before, after
  std::array<PadMode, 3> padding_mode;
  std::optional<float> pixel_norm_eps;
  ConvActivation activation;
  float negative_slope;

  bool operator==(const CausalConv3dOptions&) const = default;
};

// The arguments that may be left out. Inputs of the primitive: x, weight, then those present in this order.
struct CausalConv3dExtras {
  std::optional<mx::array> bias;
  std::optional<mx::array> scale;
  std::optional<mx::array> shift;
  std::optional<mx::array> residual;
  std::optional<mx::array> halo;
};

// Shapes of the arguments; of those that may be left out, where they are given.
struct CausalConv3dShapes {
  mx::Shape x, weight;
  std::optional<mx::Shape> bias, scale, shift, residual, halo;
};

// Shape of the result. Throws std::invalid_argument where shapes and options do not fit together, and where the result
// would not fit into 32 bits along an axis or 2^60 values in all.
mx::Shape causal_conv3d_shape(const CausalConv3dShapes& shapes, const CausalConv3dOptions& options);

// Bytes that the CPU kernel takes for such a call besides inputs and output, with so many threads. Throws as
// causal_conv3d_shape, and where a single output needs more inputs in memory than can be addressed.
int64_t causal_conv3d_scratch_bytes(const CausalConv3dShapes& shapes, const CausalConv3dOptions& options,
                                    mx::Dtype dtype, mx::Dtype weight_dtype, int threads);

// Names as the Python arguments have them; throw std::invalid_argument for others.
PadMode parse_padding_mode(const std::string& name);
ConvActivation parse_conv_activation(const std::optional<std::string>& name);

// y   = activation(pixel_norm(concat(halo, x)) * (1 + scale) + shift)
// out = residual + bias + correlate(pad(y), weight)
//   x         (B, F, H, W, C)        float32 | float16 | bfloat16
//   weight    (O, kt, kh, kw, C)     any float dtype
//   bias      (O,)                   any float dtype
//   scale     (B, C)                 any float dtype
//   shift     (B, C)                 any float dtype
//   residual  (B, F', H', W', O)     dtype of x
//   halo      (B, f, H, W, C)        dtype of x: the frames before x; padding in time applies beyond them
//   out       (B, F', H', W', O)     dtype of x, F' = (f + F + padding - dilation * (kt - 1) - 1) / stride + 1
// pixel_norm(x) = x / sqrt(mean over C of x^2 + eps), only with pixel_norm_eps. Padding: zeros, edge (repeat the
// border) or reflect (mirror without the border; less than the size). The prologue and all sums are float32, and the
// result is rounded once, on store. With x and weight both bfloat16 the results of the prologue are rounded to bfloat16
// where the processor multiplies pairs of it and C is even. With 16-bit x, 3 x 3 taps of stride and dilation 1 over
// height and width, C a multiple of 32, O >= 16 and frames of at least 4 x 4 outputs the sums are taken in the Winograd form
// (csrc/cpu/conv_winograd_kernels.h), whose transformed inputs and weights are what is rounded. The bits of a frame
// depend neither on the number of frames nor on tiles or threads. Indices are 64-bit.
// Memory besides inputs and output: causal_conv3d_scratch_bytes. Packed weights, at most 16 MB or one panel of output
// channels, transformed inputs, at most 12 MB or, with more than 8 threads, 1.5 MB for each, and for each thread the
// inputs of a tile, at most 2 MB unless few outputs need more.
mx::array causal_conv3d(const mx::array& x, const mx::array& weight, const CausalConv3dExtras& extras,
                        const CausalConv3dOptions& options, const OpContext& context);

class CausalConv3d : public FallbackPrimitive {
 public:
  struct Present {
    bool bias, scale, shift, residual, halo;
    bool operator==(const Present&) const = default;
  };

  CausalConv3d(mx::Stream stream, Reference reference, CausalConv3dOptions options, Present present)
      : FallbackPrimitive(stream, std::move(reference)), options_(options), present_(present) {}

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override;
#ifdef LTX2RT_METAL
  void eval_gpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override;
#endif
  const char* name() const override { return "ltx2rt::CausalConv3d"; }
  bool is_equivalent(const mx::Primitive& other) const override {
    const auto& same = static_cast<const CausalConv3d&>(other);
    return options_ == same.options_ && present_ == same.present_;
  }
  std::vector<mx::Shape> output_shapes(const std::vector<mx::array>& inputs) override;

 private:
  CausalConv3dOptions options_;
  Present present_;
};

}  // namespace ltx2rt
