// The Python module _ext_metal_sim: the ops of _ext, evaluated by their Metal launch code on the fake device.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "bindings/register.h"
#include "csrc/metal/launch.h"
#include "mlx/version.h"

namespace nb = nanobind;
using namespace nb::literals;
namespace sim = ltx2rt::metal_sim;

namespace {

nb::object constant(const MTL::ConstantValue& value) {
  switch (value.type) {
    case MTL::DataTypeBool:
      return nb::cast(value.b);
    case MTL::DataTypeInt:
      return nb::cast(value.i);
    default:
      return nb::cast(value.f);
  }
}

nb::object argument(const sim::Argument& a) {
  if (a.kind == sim::Argument::inline_bytes) return nb::bytes(a.bytes.data(), a.bytes.size());
  std::string dtype;
  if (a.dtype == mlx::core::float32) dtype = "float32";
  if (a.dtype == mlx::core::float16) dtype = "float16";
  if (a.dtype == mlx::core::bfloat16) dtype = "bfloat16";
  return nb::make_tuple(reinterpret_cast<uintptr_t>(a.data), a.size, a.offset, dtype, a.kind == sim::Argument::output);
}

nb::tuple triple(const MTL::Size& size) { return nb::make_tuple(size.width, size.height, size.depth); }

// Calls execute(source, kernel, constants, arguments, threadgroup_memory, grid, group, grid_is_threads).
void call(const nb::object& execute, const sim::Dispatch& dispatch) {
  nb::dict constants, arguments, threadgroup_memory;
  for (const auto& value : dispatch.pipeline->constants()) constants[nb::int_(value.index)] = constant(value);
  for (const auto& [idx, a] : dispatch.arguments) arguments[nb::int_(idx)] = argument(a);
  for (const auto& [idx, bytes] : dispatch.threadgroup_memory) threadgroup_memory[nb::int_(idx)] = bytes;
  execute(dispatch.pipeline->library().source(), dispatch.pipeline->function(), constants, arguments,
          threadgroup_memory, triple(dispatch.grid), triple(dispatch.group), dispatch.grid_is_threads);
}

void set_executor(nb::object execute) {
  if (execute.is_none()) return sim::set_executor({});
  // Held for as long as the process lives unless replaced; the interpreter may be gone by then.
  PyObject* held = execute.release().ptr();
  const std::shared_ptr<PyObject> function(held, [](PyObject* object) {
    if (!Py_IsInitialized()) return;
    const nb::gil_scoped_acquire gil;
    Py_DECREF(object);
  });
  sim::set_executor([function](const sim::Dispatch& dispatch) {
    const nb::gil_scoped_acquire gil;
    call(nb::borrow(function.get()), dispatch);
  });
}

// Calls of the encoder that Metal or the order of dispatches forbids; each throws.
void misuse(const std::string& what) {
  using mlx::core::array;
  const auto stream = mlx::core::default_stream(mlx::core::Device::cpu);
  auto& encoder = mlx::core::metal::get_command_encoder(stream);
  const auto fresh = [] {
    array a({8}, mlx::core::float32, nullptr, {});
    a.set_data(mlx::core::allocator::malloc(a.nbytes()));
    return a;
  };
  encoder.start();
  auto a = fresh();
  const MTL::Library library("");
  MTL::ComputePipelineState pipeline(&library, "none", {});
  encoder.set_compute_pipeline_state(&pipeline);
  const MTL::Size one(1, 1, 1);
  const std::map<std::string, std::function<void()>> calls{
      {"buffer index", [&] { encoder.set_input_array(a, 31); }},
      {"bytes index", [&] { encoder.set_bytes(1.0f, -1); }},
      {"inline bytes", [&] { encoder.set_vector_bytes(std::vector<char>(4097), 0); }},
      {"no data", [&] { encoder.set_input_array(array({8}, mlx::core::float32, nullptr, {}), 0); }},
      {"offset", [&] { encoder.set_input_array(a, 0, 32); }},
      {"threadgroup length", [&] { encoder.set_threadgroup_memory_length(24, 0); }},
      {"threadgroup memory", [&] { encoder.set_threadgroup_memory_length(32784, 0); }},
      {"threads", [&] { encoder.dispatch_threadgroups(one, MTL::Size(32, 33, 1)); }},
      {"no threads", [&] { encoder.dispatch_threads(one, MTL::Size(0, 1, 1)); }},
      {"empty grid", [&] { encoder.dispatch_threadgroups(MTL::Size(1, 0, 1), one); }},
      {"no pipeline", [&] { encoder.start(), encoder.dispatch_threadgroups(one, one); }},
      {"in place", [&] {
         encoder.set_input_array(a, 0);
         encoder.set_output_array(a, 1);
         encoder.dispatch_threadgroups(one, one);
       }},
      {"read at once", [&] {
         auto other = fresh();
         const auto at_once = encoder.start_concurrent();
         encoder.set_output_array(a, 0);
         encoder.dispatch_threadgroups(one, one);
         encoder.set_output_array(other, 0);
         encoder.set_input_array(a, 1);
         encoder.dispatch_threadgroups(one, one);
       }},
      {"written after a read", [&] {
         auto other = fresh(), third = fresh();
         encoder.set_input_array(a, 0);
         encoder.set_output_array(other, 1);
         encoder.dispatch_threadgroups(one, one);
         encoder.set_compute_pipeline_state(&pipeline);
         encoder.set_output_array(third, 0);
         encoder.dispatch_threadgroups(one, one);
         encoder.barrier();
         encoder.set_output_array(a, 0);  // allowed: a barrier is between
         encoder.dispatch_threadgroups(one, one);
         encoder.set_compute_pipeline_state(&pipeline);
         encoder.set_input_array(third, 0);
         encoder.set_output_array(other, 1);
         encoder.dispatch_threadgroups(one, one);
         encoder.set_compute_pipeline_state(&pipeline);
         encoder.set_output_array(third, 2);
         encoder.dispatch_threadgroups(one, one);
       }},
      {"unwritten", [&] {
         encoder.set_output_array(a, 0);
         encoder.dispatch_threadgroups(one, one);
         encoder.finish();
       }},
  };
  calls.at(what)();
}

}  // namespace

NB_MODULE(_ext_metal_sim, m) {
  nb::module_::import_("mlx.core");
  m.attr("MLX_VERSION") = std::to_string(MLX_VERSION_MAJOR) + "." + std::to_string(MLX_VERSION_MINOR) + "." +
                          std::to_string(MLX_VERSION_PATCH);
  ltx2rt::bind_antialiased_snake(m);
  ltx2rt::bind_causal_conv3d(m);
  ltx2rt::bind_modulated_norm(m);
  ltx2rt::bind_neighborhood_attention(m);
  ltx2rt::bind_rope_attention(m);
  ltx2rt::bind_quantized_linear(m);
  m.def("set_executor", &set_executor, "execute"_a.none(),
        "What runs each dispatch: tools.metal_sim.device.SimulatedDevice; None: nothing does, and a dispatch raises.");
  m.def("misuse", &misuse, "what"_a, "One of the encoder's forbidden calls.");
  m.def("set_slab_bytes", [](int64_t bytes) {
    ltx2rt::metal::slab_bytes() = bytes > 0 ? bytes : ltx2rt::metal_plan::kSlabBytes;
  }, "bytes"_a, "Cuts slabs of expanded weights at another size; 0 for the product's.");
  m.def("set_least_depth_in_parts", [](int64_t depth) {
    ltx2rt::metal::least_depth_in_parts() = depth > 0 ? depth : ltx2rt::metal_plan::kLeastDepthInParts;
  }, "depth"_a, "From which K on sums are made in parts; 0 for the product's.");
  m.def("set_reach", [](int64_t elements) {
    ltx2rt::metal::set_reach(elements > 0 ? elements : ltx2rt::metal_plan::kReach);
  }, "elements"_a, "How far shaders count from where an operand begins; 0 for what they do.");
  m.def("set_most_threads_per_threadgroup", [](unsigned most) {
    MTL::ComputePipelineState::most_threads() = most > 0 ? most : 1024;
  }, "most"_a, "What every pipeline allows from now on; 0 for 1024.");
  m.def("compiled_libraries", [] { return mlx::core::metal::device(mlx::core::Device::gpu).libraries(); },
        "Names of the libraries that the device has compiled and not forgotten.");
  m.def("forget_libraries", [] {
    auto& device = mlx::core::metal::device(mlx::core::Device::gpu);
    for (const auto& name : device.libraries()) device.clear_library(name);
  }, "As a new process would.");
  m.def("set_most_operations_per_dispatch", [](int64_t most) {
    ltx2rt::metal::most_operations_per_dispatch() = most > 0 ? most : ltx2rt::metal_plan::kMostOperationsPerDispatch;
  }, "most"_a, "Cuts dispatches at another limit; 0 for the product's.");
}
