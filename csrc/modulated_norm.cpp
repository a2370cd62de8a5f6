// Checks of modulated_norm and its lazy array.
#include "csrc/modulated_norm.h"

#include "csrc/checked_index.h"
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

// Inputs of the op, null where absent.
struct Operands {
  const mx::array* x;
  const mx::array* scale;
  const mx::array* shift;
  const mx::array* index;
};

void check_shapes(const Operands& o) {
  require(o.x->ndim() >= 1, kOp, "x must have at least one axis but is a scalar.");
  require(o.scale || o.shift || !o.index, kOp, "index needs scale or shift, but neither is given.");
  const auto width = o.x->shape(-1);
  for (const auto& [name, table] : {std::pair{"scale", o.scale}, std::pair{"shift", o.shift}}) {
    if (!table) continue;
    require(table->ndim() == 2 && table->shape(1) == width && table->shape(0) >= 1, kOp, name, " must have shape (R,",
            width, ") with R >= 1 but has ", table->shape(), ".");
    require(o.index || table->shape(0) == 1, kOp, "index is needed because ", name, " has ", table->shape(0), " rows.");
  }
  if (o.scale && o.shift) {
    require(o.scale->shape() == o.shift->shape(), kOp, "scale and shift must have the same rows but have shapes ",
            o.scale->shape(), " and ", o.shift->shape(), ".");
  }
  if (o.index) require_shape(*o.index, leading_shape(*o.x), kOp, "index");
}

}  // namespace

mx::array modulated_norm(const mx::array& x, const std::optional<mx::array>& scale,
                         const std::optional<mx::array>& shift, const std::optional<mx::array>& index,
                         const std::string& norm, float eps, const OpContext& context) {
  const auto given = [](const std::optional<mx::array>& a) { return a ? &*a : nullptr; };
  require_float(x, kOp, "x");
  if (scale) require_float(*scale, kOp, "scale");
  if (shift) require_float(*shift, kOp, "shift");
  if (index) require_int32(*index, kOp, "index");
  const ModulatedNorm::Parameters parameters{parse_norm(norm), eps, scale.has_value(), shift.has_value(),
                                             index.has_value()};
  require(eps >= 0, kOp, "eps must not be negative but is ", eps, ".");
  check_shapes({&x, given(scale), given(shift), given(index)});

  std::vector<mx::array> inputs{x};
  for (const auto* part : {&scale, &shift}) {
    if (*part) inputs.push_back(mx::contiguous(**part, false, context.stream));
  }
  if (index) {
    inputs.push_back(checked_index(*index, scale ? *scale : *shift, "[modulated_norm] index", "scale and shift have",
                                   context.stream));
  }
  return lazy_or_reference<ModulatedNorm>(context, metal_plan::norm_has_shader(x.shape(-1)), x.shape(), x.dtype(),
                                          std::move(inputs), parameters);
}

std::vector<mx::Shape> ModulatedNorm::output_shapes(const std::vector<mx::array>& inputs) {
  auto part = [&inputs, next = size_t{1}](bool present) mutable { return present ? &inputs[next++] : nullptr; };
  const auto* scale = part(parameters_.has_scale);
  const auto* shift = part(parameters_.has_shift);
  const auto* index = part(parameters_.has_index);
  check_shapes({&inputs[0], scale, shift, index});
  require_kernel(stream(), metal_plan::norm_has_shader(inputs[0].shape(-1)), kOp);
  return {inputs[0].shape()};
}

}  // namespace ltx2rt
