// Python binding of the machine's ceilings.
#include "csrc/cpu/calibrate.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <optional>
#include <stdexcept>
#include <string>

#include "bindings/register.h"
#include "mlx/array.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace ltx2rt {
namespace {

void check_seconds(const std::string& function, double seconds) {
  if (!(seconds > 0 && seconds <= 3600)) {
    throw std::invalid_argument("[" + function + "] seconds must be above 0 and at most 3600 but is " +
                                std::to_string(seconds) + ".");
  }
}

double calibrate_arithmetic(const std::string& dtype, double seconds) {
  if (dtype != "float32" && dtype != "bfloat16") {
    throw std::invalid_argument("[calibrate_arithmetic] dtype must be \"float32\" or \"bfloat16\" but is \"" + dtype +
                                "\".");
  }
  check_seconds("calibrate_arithmetic", seconds);
  const nb::gil_scoped_release released;
  return cpu::arithmetic_rate(dtype == "bfloat16", seconds);
}

std::optional<double> calibrate_tiles(double seconds) {
  check_seconds("calibrate_tiles", seconds);
  const nb::gil_scoped_release released;
  return cpu::tile_rate(seconds);
}

double calibrate_read(mlx::core::array buffer) {
  const nb::gil_scoped_release released;
  buffer.eval();
  if (!buffer.flags().row_contiguous || buffer.nbytes() < 4096) {
    throw std::invalid_argument("[calibrate_read] buffer must be contiguous and hold at least 4096 bytes.");
  }
  return cpu::read_rate(buffer.data<char>(), buffer.nbytes());
}

}  // namespace

void bind_calibrate(nb::module_& m) {
  m.def("calibrate_arithmetic", &calibrate_arithmetic, "dtype"_a, "seconds"_a,
        "Floating point operations per second of a register-only loop on all threads; dtype float32 or bfloat16.");
  m.def("calibrate_tiles", &calibrate_tiles, "seconds"_a,
        "The same of bfloat16 products in Intel's AMX tiles, which some kernels use; None where there are none.");
  m.def("calibrate_read", &calibrate_read, "buffer"_a,
        "Bytes per second of reading an array once on all threads; the array should be well above the caches.");
}

}  // namespace ltx2rt
