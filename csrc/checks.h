// Argument checks of the ops: one helper, so that all errors read "[op] what is wrong, what was received".
#pragma once

#include <optional>
#include <sstream>
#include <stdexcept>

#include "mlx/mlx.h"

namespace ltx2rt {
namespace mx = mlx::core;

// Throws std::invalid_argument (ValueError in Python) as "[op] parts..." unless ok.
template <typename... Parts>
void require(bool ok, const char* op, const Parts&... parts) {
  if (ok) return;
  std::ostringstream message;
  message << "[" << op << "] ";
  (message << ... << parts);
  throw std::invalid_argument(message.str());
}

inline bool is_kernel_float(mx::Dtype dtype) {
  return dtype == mx::float32 || dtype == mx::float16 || dtype == mx::bfloat16;
}

inline void require_float(const mx::array& a, const char* op, const char* name) {
  require(is_kernel_float(a.dtype()), op, name, " must be float32, float16 or bfloat16 but is ", a.dtype(), ".");
}

inline void require_shape(const mx::Shape& has, const mx::Shape& shape, const char* op, const char* name) {
  require(has == shape, op, name, " must have shape ", shape, " but has ", has, ".");
}

inline void require_shape(const mx::array& a, const mx::Shape& shape, const char* op, const char* name) {
  require_shape(a.shape(), shape, op, name);
}

inline void require_int32(const mx::array& a, const char* op, const char* name) {
  require(a.dtype() == mx::int32, op, name, " must be int32 but is ", a.dtype(), ".");
}

// An array's shape without its last axis.
inline mx::Shape leading_shape(const mx::array& a) { return {a.shape().begin(), a.shape().end() - 1}; }

}  // namespace ltx2rt
