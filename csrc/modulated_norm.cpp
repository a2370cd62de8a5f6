// Checks of modulated_norm and its lazy array.
#include "csrc/modulated_norm.h"

#include "csrc/checks.h"
#include "csrc/metal/launch_plans.h"

namespace ltx2rt {
namespace {

constexpr auto kOp = "modulated_norm";

NormKind parse_norm(const std::string& norm) {
  if (norm == "rms") return NormKind::rms;
  if (norm == "layer") return NormKind::layer;
  require(norm == "none", kOp, "norm must be \"rms\", \"layer\" or \"none\" but is \"", norm, "\".");
  return NormKind::none;
}

}  // namespace

mx::array modulated_norm(const mx::array& x, const std::optional<mx::array>& scale,
                         const std::optional<mx::array>& shift, const std::optional<mx::array>& index,
                         const std::string& norm, float eps, const OpContext& context) {
  require_float(x, kOp, "x");
  require(x.ndim() >= 1, kOp, "x must have at least one axis but is a scalar.");
  const ModulatedNorm::Parameters parameters{parse_norm(norm), eps, scale.has_value(), shift.has_value(),
                                             index.has_value()};
  require(eps >= 0, kOp, "eps must not be negative but is ", eps, ".");
  require(scale || shift || !index, kOp, "index needs scale or shift, but neither is given.");
  const auto width = x.shape(-1);
  int rows = 1;
  for (const auto& [name, table] : {std::pair{"scale", &scale}, std::pair{"shift", &shift}}) {
    if (!*table) continue;
    const auto& values = **table;
    require_float(values, kOp, name);
    require(values.ndim() == 2 && values.shape(1) == width && values.shape(0) >= 1, kOp, name, " must have shape (R,",
            width, ") with R >= 1 but has ", values.shape(), ".");
    rows = values.shape(0);
    require(index || rows == 1, kOp, "index is needed because ", name, " has ", rows, " rows.");
  }
  if (scale && shift) {
    require(scale->shape() == shift->shape(), kOp, "scale and shift must have the same rows but have shapes ",
            scale->shape(), " and ", shift->shape(), ".");
  }
  require_index(index, mx::Shape(x.shape().begin(), x.shape().end() - 1), kOp, "index");

  std::vector<mx::array> inputs{x};
  for (const auto* part : {&scale, &shift, &index}) {
    if (*part) inputs.push_back(mx::contiguous(**part, false, context.stream));
  }
  return lazy_or_reference<ModulatedNorm>(context, metal_plan::norm_has_shader(width), x.shape(), x.dtype(),
                                          std::move(inputs), parameters);
}

}  // namespace ltx2rt
