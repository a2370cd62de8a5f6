// Indices of tables that must lie within them, as an error of whoever builds or evaluates the op.
#pragma once

#include <string>
#include <vector>

#include "mlx/array.h"
#include "mlx/primitives.h"
#include "mlx/utils.h"

namespace ltx2rt {
namespace mx = mlx::core;

// Which values an index may hold.
struct IndexRange {
  int rows_axis = 0;          // the axis of the table along which its R rows lie
  bool none = false;          // values lie in [-1, R), -1 meaning none; else in [-R, R), negative ones counting from R
  std::string rows = "rows";  // what the errors call them

  bool operator==(const IndexRange&) const = default;
};

// The same index, contiguous, whose values were found to lie in the range.
//   index    int32, any shape
//   table    (R, ...), or with its rows along another axis
//   subject  how the error begins, e.g. "[modulated_norm] index"
//   object   whose rows they are, e.g. "scale and shift have"
// Values that are known already are checked now, before any work is done. Those still to be computed, and those of an
// index or for a table that is an argument of a function being traced, are checked when the array is evaluated, which
// waits for them. Throws std::runtime_error, now or then.
mx::array checked_index(const mx::array& index, const mx::array& table, const std::string& subject,
                        const std::string& object, mx::Stream stream, const IndexRange& range = {});

// Inputs: the index and its table, of which only the shape is read; no derivatives flow through either.
class CheckedIndex : public mx::Primitive {
 public:
  CheckedIndex(mx::Stream stream, std::string subject, std::string object, IndexRange range)
      : mx::Primitive(stream), subject_(std::move(subject)), object_(std::move(object)), range_(std::move(range)) {}

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override;
  void eval_gpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override;

  std::pair<std::vector<mx::array>, std::vector<int>> vmap(const std::vector<mx::array>& inputs,
                                                           const std::vector<int>& axes) override;
  const char* name() const override { return "ltx2rt::CheckedIndex"; }
  bool is_equivalent(const mx::Primitive& other) const override {
    const auto& same = static_cast<const CheckedIndex&>(other);
    return subject_ == same.subject_ && object_ == same.object_ && range_ == same.range_;
  }
  std::vector<mx::Shape> output_shapes(const std::vector<mx::array>& inputs) override { return {inputs[0].shape()}; }

 private:
  std::string subject_, object_;
  IndexRange range_;
};

}  // namespace ltx2rt
