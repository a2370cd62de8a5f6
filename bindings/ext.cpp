// The Python module ltx2rt._ext.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "bindings/register.h"
#include "csrc/cpu/large_pages.h"
#include "mlx/allocator.h"
#include "mlx/array.h"
#include "mlx/version.h"

namespace nb = nanobind;
namespace mx = mlx::core;
using namespace nb::literals;

namespace {

mx::array uninitialized(const std::vector<int>& shape, mx::Dtype dtype) {
  int64_t bytes = mx::size_of(dtype);
  for (const int size : shape) {
    if (size < 0)
      throw std::invalid_argument("[uninitialized] sizes must not be negative but one is " + std::to_string(size) +
                                  ".");
    if (__builtin_mul_overflow(bytes, int64_t{size}, &bytes)) {
      throw std::invalid_argument("[uninitialized] an array of this shape has more than 2^63 bytes.");
    }
  }
  mx::array array(mx::allocator::malloc(bytes), mx::Shape(shape.begin(), shape.end()), dtype);
  if (bytes > 0) ltx2rt::cpu::prefer_large_pages(array.data<char>(), bytes);
  return array;
}

}  // namespace

NB_MODULE(_ext, m) {
  nb::module_::import_("mlx.core");  // registers mx.array, so that signatures and stubs can name it
  m.attr("MLX_VERSION") = std::to_string(MLX_VERSION_MAJOR) + "." + std::to_string(MLX_VERSION_MINOR) + "." +
                          std::to_string(MLX_VERSION_PATCH);
  m.def(
      "shares_arrays", [](const mx::array& a) { return a.size() == 1; }, "a"_a,
      "True for an array of one element; fails when this module and MLX cannot exchange arrays.");
  m.def("uninitialized", &uninitialized, "shape"_a, "dtype"_a,
        "An array whose memory holds anything: to be filled before it is used. No pages are touched; a large array "
        "asks for "
        "large ones, which the system may refuse.");
  ltx2rt::bind_antialiased_snake(m);
  ltx2rt::bind_calibrate(m);
  ltx2rt::bind_causal_conv3d(m);
  ltx2rt::bind_join_group(m);
  ltx2rt::bind_modulated_norm(m);
  ltx2rt::bind_neighborhood_attention(m);
  ltx2rt::bind_rope_attention(m);
  ltx2rt::bind_quantized_linear(m);
  ltx2rt::bind_runtime(m);
  ltx2rt::bind_scratch_bytes(m);
  ltx2rt::bind_testing(m);
}
