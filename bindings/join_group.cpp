// Joining a group of machines without holding Python's lock.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <string>

#include "bindings/register.h"
#include "mlx/distributed/distributed.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace ltx2rt {

void join_group(const std::string& backend, bool anew) {
  if (anew) {
    // MLX keeps a group for each backend; who holds the one that was joined before keeps it.
    mlx::core::distributed::clear_backends();
  }
  mlx::core::distributed::init(true, backend);
}

void bind_join_group(nb::module_& m) {
  m.def("join_group", &join_group, "backend"_a, "anew"_a = false, nb::call_guard<nb::gil_scoped_release>(),
        "Waits until all machines of the group are there. mlx.core.distributed.init(backend=...) gives the group "
        "afterwards; called first, it would hold Python's lock while it waits, so that nothing could end it. "
        "anew: one more group than was joined before.");
}

}  // namespace ltx2rt
