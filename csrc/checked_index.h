// Indices of tables that must lie within them, as an error of whoever builds or evaluates the op.
#pragma once

#include <string>
#include <vector>

#include "mlx/array.h"
#include "mlx/primitives.h"
#include "mlx/utils.h"

namespace ltx2rt {
namespace mx = mlx::core;

// The same index, contiguous, whose values were found to lie in [-R, R), R being the rows of `table`.
//   index    int32, any shape
//   table    (R, ...)
//   subject  how the error begins, e.g. "[modulated_norm] index"
//   object   whose rows they are, e.g. "scale and shift have"
// Values that are known already are checked now, before any work is done. Those still to be computed, and those of an
// index or for a table that is an argument of a function being traced, are checked when the array is evaluated, which
// waits for them. Throws std::runtime_error, now or then.
mx::array checked_index(const mx::array& index, const mx::array& table, const std::string& subject,
                        const std::string& object, mx::Stream stream);

// Inputs: the index and its table, of which only the shape is read; no derivatives flow through either.
class CheckedIndex : public mx::Primitive {
 public:
  // rows_axis: the axis of the table along which its rows lie.
  CheckedIndex(mx::Stream stream, std::string subject, std::string object, int rows_axis)
      : mx::Primitive(stream), subject_(std::move(subject)), object_(std::move(object)), rows_axis_(rows_axis) {}

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override;
  void eval_gpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override;

  std::pair<std::vector<mx::array>, std::vector<int>> vmap(const std::vector<mx::array>& inputs,
                                                           const std::vector<int>& axes) override;
  const char* name() const override { return "ltx2rt::CheckedIndex"; }
  bool is_equivalent(const mx::Primitive& other) const override {
    const auto& same = static_cast<const CheckedIndex&>(other);
    return subject_ == same.subject_ && object_ == same.object_ && rows_axis_ == same.rows_axis_;
  }
  std::vector<mx::Shape> output_shapes(const std::vector<mx::array>& inputs) override { return {inputs[0].shape()}; }

 private:
  std::string subject_, object_;
  int rows_axis_;
};

}  // namespace ltx2rt
