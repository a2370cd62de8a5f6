// An array seen as rows along its last axis, whatever its strides.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <utility>
#include <vector>

#include "csrc/cpu/float_type.h"
#include "mlx/array.h"

namespace ltx2rt::cpu {

inline FloatType float_type(mlx::core::Dtype dtype) {
  if (dtype == mlx::core::float32) return FloatType::f32;
  if (dtype == mlx::core::float16) return FloatType::f16;
  if (dtype == mlx::core::bfloat16) return FloatType::bf16;
  throw std::invalid_argument("not a float type of the kernels");
}

// Addresses of an evaluated array's rows. Holds no reference to the array: for use inside dispatched tasks.
class Rows {
 public:
  explicit Rows(const mlx::core::array& a) : data_(a.data<char>()), item_(static_cast<int64_t>(a.itemsize())) {
    const int last = static_cast<int>(a.ndim()) - 1;
    stride_ = a.shape(last) > 1 ? a.strides(last) : 1;
    for (int axis = last - 1; axis >= 0; --axis) {
      if (a.shape(axis) == 1) continue;
      const int64_t size = a.shape(axis);
      const int64_t stride = a.strides(axis);
      if (!axes_.empty() && axes_.back().second * axes_.back().first == stride) {
        axes_.back().first *= size;
      } else {
        axes_.emplace_back(size, stride);
      }
    }
  }

  // First element of row r, counting over all leading axes.
  const char* row(int64_t r) const {
    int64_t offset = 0;
    for (const auto& [size, stride] : axes_) {
      offset += r % size * stride;
      r /= size;
    }
    return data_ + offset * item_;
  }

  // Elements between neighbours of a row.
  int64_t stride() const { return stride_; }
  int64_t item_size() const { return item_; }

 private:
  const char* data_;
  int64_t item_;
  int64_t stride_ = 1;
  std::vector<std::pair<int64_t, int64_t>> axes_;  // (size, stride), innermost first
};

// Row r, n values from `first` on, as contiguous values: in place, or copied to `buffer` (n * item_size bytes).
inline const char* contiguous_row(const Rows& rows, int64_t r, int64_t first, int64_t n, char* buffer) {
  const int64_t item = rows.item_size();
  const char* from = rows.row(r) + first * rows.stride() * item;
  if (rows.stride() == 1) return from;
  for (int64_t i = 0; i < n; ++i) std::memcpy(buffer + i * item, from + i * rows.stride() * item, item);
  return buffer;
}

// The row of a table of `rows` rows that an index means. The index was checked before (csrc/checked_index.h); should its
// memory have been changed since, the nearest row is read, as shaders do, and nothing outside the table.
inline int64_t table_row(int32_t index, int64_t rows) {
  return std::clamp<int64_t>(index < 0 ? index + rows : index, 0, rows - 1);
}

}  // namespace ltx2rt::cpu
