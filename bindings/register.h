// One registration function per file of bindings/, called by ext.cpp.
#pragma once

#include <nanobind/nanobind.h>

namespace ltx2rt {

void bind_antialiased_snake(nanobind::module_& m);
void bind_calibrate(nanobind::module_& m);
void bind_causal_conv3d(nanobind::module_& m);
void bind_join_group(nanobind::module_& m);
void bind_modulated_norm(nanobind::module_& m);
void bind_neighborhood_attention(nanobind::module_& m);
void bind_rope_attention(nanobind::module_& m);
void bind_quantized_linear(nanobind::module_& m);
void bind_runtime(nanobind::module_& m);
void bind_scratch_bytes(nanobind::module_& m);
void bind_testing(nanobind::module_& m);

}  // namespace ltx2rt
