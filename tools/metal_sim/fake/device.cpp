// The fake Device and CommandEncoder: they keep what Metal would be told, check the limits of its documentation, and
// pass each dispatch to the simulator.
#include "mlx/backend/metal/device.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

namespace ltx2rt::metal_sim {
namespace {

Executor& current_executor() {
  static Executor executor;
  return executor;
}

}  // namespace

void set_executor(Executor executor) { current_executor() = std::move(executor); }

void execute(const Dispatch& dispatch) {
  if (!current_executor()) throw std::logic_error("the simulated Metal device has no executor.");
  current_executor()(dispatch);
}

}  // namespace ltx2rt::metal_sim

namespace mlx::core::metal {
namespace {

namespace sim = ltx2rt::metal_sim;

constexpr int kMostBuffers = 31;
constexpr size_t kMostInlineBytes = 4096;
constexpr size_t kMostThreadgroupBytes = 32768;

void require(bool ok, const std::string& message) {
  if (!ok) throw std::logic_error("Metal: " + message);
}

void require_index(int idx) {
  require(idx >= 0 && idx < kMostBuffers, "buffer index " + std::to_string(idx) + "; indices are 0 to 30.");
}

// Elements that the strides of an array reach before and after its first one.
std::pair<int64_t, int64_t> reach(const array& a) {
  int64_t before = 0, after = 0;
  for (int axis = 0; axis < static_cast<int>(a.ndim()); ++axis) {
    const int64_t span = (a.shape(axis) - 1) * a.strides(axis);
    (span < 0 ? before : after) += span;
  }
  return {before, after};
}

bool is_float(Dtype dtype) { return dtype == float32 || dtype == float16 || dtype == bfloat16; }

// Whether an element still has all its bits set, as set_output_array leaves it: a NaN that no kernel stores.
template <typename Bits>
size_t count_untouched(const array& a) {
  const auto* bits = a.data<Bits>();
  return std::count(bits, bits + a.size(), static_cast<Bits>(-1));
}

}  // namespace

void CommandEncoder::set_compute_pipeline_state(MTL::ComputePipelineState* kernel) {
  // Metal keeps arguments from one pipeline to the next; here each binds its own, so that none relies on the last one.
  arguments_.clear();
  threadgroup_memory_.clear();
  pipeline_ = kernel;
}

void CommandEncoder::set_array(const array& a, int idx, int64_t offset, bool writes) {
  require_index(idx);
  require(a.data_shared_ptr() != nullptr, "buffer " + std::to_string(idx) + " has no data.");
  const auto [before, after] = reach(a);
  const int64_t item = a.itemsize();
  // a.offset() counts bytes from the start of the Metal buffer, which begins on a page.
  const int64_t first = a.offset() + before * item;
  const int64_t lead = std::min<int64_t>(first, first % 16);
  sim::Argument argument{writes ? sim::Argument::output : sim::Argument::input, {}};
  argument.data = const_cast<char*>(a.data<char>()) + before * item - lead;
  argument.size = lead + (after - before + 1) * item;
  argument.offset = lead - before * item + offset;
  argument.dtype = a.dtype();
  require(offset >= 0 && argument.offset < argument.size,
          "buffer " + std::to_string(idx) + " starts at or beyond the end of its array.");
  arguments_.insert_or_assign(idx, std::move(argument));
}

void CommandEncoder::set_input_array(const array& a, int idx, int64_t offset) { set_array(a, idx, offset, false); }

void CommandEncoder::set_output_array(array& a, int idx, int64_t offset) {
  require(a.flags().row_contiguous, "output " + std::to_string(idx) + " is not contiguous.");
  if (outputs_.try_emplace(a.data<void>(), a).second) std::memset(a.data<char>(), 0xff, a.nbytes());
  set_array(a, idx, offset, true);
}

void CommandEncoder::add_temporary(array arr) { temporaries_.push_back(std::move(arr)); }

void CommandEncoder::add_temporaries(std::vector<array> arrays) {
  for (auto& a : arrays) add_temporary(std::move(a));
}

void CommandEncoder::set_inline(const void* bytes, size_t size, int idx) {
  require_index(idx);
  require(size > 0 && size <= kMostInlineBytes,
          "buffer " + std::to_string(idx) + ": " + std::to_string(size) + " inline bytes; 1 to 4096 are allowed.");
  const auto* from = static_cast<const char*>(bytes);
  arguments_.insert_or_assign(idx, sim::Argument{sim::Argument::inline_bytes, std::vector<char>(from, from + size)});
}

void CommandEncoder::set_threadgroup_memory_length(size_t length, int idx) {
  require_index(idx);
  require(length % 16 == 0, "threadgroup memory of " + std::to_string(length) + " bytes; 16 must divide it.");
  threadgroup_memory_[idx] = length;
  size_t total = 0;
  for (const auto& [_, bytes] : threadgroup_memory_) total += bytes;
  require(total <= kMostThreadgroupBytes, "threadgroup memory of " + std::to_string(total) + " bytes; 32768 exist.");
}

void CommandEncoder::dispatch(MTL::Size grid, MTL::Size group, bool grid_is_threads) {
  require(pipeline_ != nullptr, "a dispatch without a pipeline.");
  const auto threads = group.width * group.height * group.depth;
  const auto most = pipeline_->maxTotalThreadsPerThreadgroup();
  require(threads >= 1 && threads <= most, "a threadgroup of " + std::to_string(threads) + " threads; 1 to " +
                                               std::to_string(most) + " are allowed.");
  require(grid.width >= 1 && grid.height >= 1 && grid.depth >= 1, "an empty grid.");
  require(grid.width <= UINT32_MAX && grid.height <= UINT32_MAX && grid.depth <= UINT32_MAX, "a grid beyond 2^32.");
  order();
  sim::execute({pipeline_, arguments_, threadgroup_memory_, grid, group, grid_is_threads});
}

// Metal runs dispatches at once unless a barrier is between them. MLX's encoder puts one before a dispatch that uses
// what an earlier one wrote; it is not relied upon for a write after reads, which is found here.
void CommandEncoder::order() {
  Ranges reads, writes;
  for (const auto& [idx, argument] : arguments_) {
    if (argument.kind == sim::Argument::inline_bytes) continue;
    (argument.kind == sim::Argument::output ? writes : reads).emplace(argument.data, argument.data + argument.size);
  }
  const auto meets = [](const Ranges& earlier, const sim::Argument& argument) {
    return std::any_of(earlier.begin(), earlier.end(), [&](const auto& range) {
      return argument.data < range.second && range.first < argument.data + argument.size;
    });
  };
  bool uses_written = false;
  for (const auto& [idx, argument] : arguments_) {
    if (argument.kind != sim::Argument::inline_bytes) uses_written = uses_written || meets(written_, argument);
  }
  if (uses_written) barrier();
  for (const auto& [idx, argument] : arguments_) {
    if (argument.kind == sim::Argument::input) {
      require(!meets(writes, argument) && !meets(written_at_once_, argument),
              "buffer " + std::to_string(idx) + " is read while it is written.");
    } else if (argument.kind == sim::Argument::output) {
      require(!meets(read_, argument), "buffer " + std::to_string(idx) + " is written while an earlier dispatch may "
                                           "still read it; a barrier has to be between them.");
    }
  }
  read_.merge(reads);
  (concurrent_ ? written_at_once_ : written_).merge(writes);
}

void CommandEncoder::barrier() {
  read_.clear();
  written_.clear();
}

void CommandEncoder::dispatch_threadgroups(MTL::Size grid_dims, MTL::Size group_dims) {
  dispatch(grid_dims, group_dims, false);
}

void CommandEncoder::dispatch_threads(MTL::Size grid_dims, MTL::Size group_dims) {
  dispatch(grid_dims, group_dims, true);
}

void CommandEncoder::start() {
  outputs_.clear();
  temporaries_.clear();
  concurrent_ = false;
  barrier();
  written_at_once_.clear();
  set_compute_pipeline_state(nullptr);
}

void CommandEncoder::finish() {
  const auto outputs = std::move(outputs_);
  start();
  for (const auto& [_, a] : outputs) {
    if (!is_float(a.dtype())) continue;
    const size_t untouched = a.itemsize() == 4 ? count_untouched<uint32_t>(a) : count_untouched<uint16_t>(a);
    require(untouched == 0, std::to_string(untouched) + " of " + std::to_string(a.size()) +
                                " elements of an output were never written.");
  }
}

MTL::Library* Device::get_library(const std::string& name, const std::string& path) {
  throw std::runtime_error("the simulated Metal device has no compiled library " + path + "/" + name + ".");
}

MTL::Library* Device::get_library(const std::string& name, const CompileOptions& compile_options,
                                  const std::function<std::string(void)>& builder) {
  require(compile_options.math_mode == MathMode::Safe, "the simulator knows precise arithmetic only.");
  auto& library = libraries_[name];
  if (!library) library = std::make_unique<MTL::Library>(builder());
  return library.get();
}

void Device::clear_library(const std::string& name) {
  const auto found = libraries_.find(name);
  if (found == libraries_.end()) return;
  kernels_.erase(found->second.get());
  libraries_.erase(found);
}

std::vector<std::string> Device::libraries() const {
  std::vector<std::string> names;
  for (const auto& [name, _] : libraries_) names.push_back(name);
  return names;
}

MTL::ComputePipelineState* Device::get_kernel(const std::string& base_name, MTL::Library* mtl_lib,
                                              const std::string& hash_name, const MTLFCList& func_consts,
                                              const std::vector<MTL::Function*>& linked_functions) {
  require(linked_functions.empty(), "linked functions are not simulated.");
  auto& kernel = kernels_[mtl_lib][hash_name.empty() ? base_name : hash_name];
  if (kernel) return kernel.get();
  std::vector<MTL::ConstantValue> constants;
  for (const auto& [value, type, index] : func_consts) {
    MTL::ConstantValue constant{index, type, {}};
    std::memcpy(&constant.f, value, type == MTL::DataTypeBool ? 1 : 4);
    constants.push_back(constant);
  }
  kernel = std::make_unique<MTL::ComputePipelineState>(mtl_lib, base_name, std::move(constants));
  return kernel.get();
}

Device& device(mlx::core::Device) {
  static Device the_device;
  return the_device;
}

CommandEncoder& get_command_encoder(Stream) {
  static CommandEncoder the_encoder;
  return the_encoder;
}

}  // namespace mlx::core::metal
