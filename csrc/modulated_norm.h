// The op modulated_norm: normalisation of rows followed by a gathered scale and shift.
#pragma once

#include <optional>
#include <string>

#include "csrc/fallback_primitive.h"
#include "csrc/op_types.h"

namespace ltx2rt {

// out[..., :] = norm(x[..., :]) * (1 + scale[index[...], :]) + shift[index[...], :]
//   x      (..., D)  float32 | float16 | bfloat16
//   scale  (R, D)    any of these dtypes, optional
//   shift  (R, D)    any of these dtypes, optional
//   index  (...)     int32, the row of scale and shift for each row of x (see checked_index.h); optional when R is 1
//   norm   "rms": x / sqrt(mean(x^2) + eps);  "layer": the same after subtracting the mean;  "none": x
// Computes in float32 and rounds once, on store. A row's result does not depend on the other rows.
mx::array modulated_norm(const mx::array& x, const std::optional<mx::array>& scale,
                         const std::optional<mx::array>& shift, const std::optional<mx::array>& index,
                         const std::string& norm, float eps, const OpContext& context);

// Bytes that the CPU kernel takes besides inputs and output, for `rows` rows of x.
int64_t modulated_norm_scratch_bytes(int64_t rows, int64_t width, int threads);

// Inputs: x, then those of scale, shift and index that are present.
class ModulatedNorm : public FallbackPrimitive {
 public:
  struct Parameters {
    NormKind norm;
    float eps;
    bool has_scale;
    bool has_shift;
    bool has_index;
    bool operator==(const Parameters&) const = default;
  };

  ModulatedNorm(mx::Stream stream, Reference reference, const Parameters& parameters)
      : FallbackPrimitive(stream, std::move(reference)), parameters_(parameters) {}

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override;
#ifdef LTX2RT_METAL
  void eval_gpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override;
#endif
  const char* name() const override { return "ltx2rt::ModulatedNorm"; }
  bool is_equivalent(const mx::Primitive& other) const override {
    return parameters_ == static_cast<const ModulatedNorm&>(other).parameters_;
  }
  std::vector<mx::Shape> output_shapes(const std::vector<mx::array>& inputs) override;

 private:
  Parameters parameters_;
};

}  // namespace ltx2rt
