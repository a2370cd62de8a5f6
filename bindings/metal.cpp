// What Python has to know of the Metal side of this build.
#include <nanobind/nanobind.h>

#include "bindings/register.h"

namespace ltx2rt {

void bind_metal(nanobind::module_& m) {
#ifdef LTX2RT_METAL
  m.attr("METAL") = true;
#else
  m.attr("METAL") = false;
#endif
}

}  // namespace ltx2rt
