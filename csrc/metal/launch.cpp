// Bounded dispatches and copies into contiguous memory.
#include "csrc/metal/launch.h"

#include <algorithm>
#include <stdexcept>

#include "csrc/metal/strided_copy_params.h"

namespace ltx2rt::metal {
namespace {

// Of dispatch_threads: threads per row of the grid, which has fewer than 2^32 along each axis; short enough that the
// small problems of the self-proof have several rows.
constexpr int64_t kThreadRow = 1 << 12;

int64_t most_operations() {
#ifdef LTX2RT_METAL_SIM
  return most_operations_per_dispatch();
#else
  return metal_plan::kMostOperationsPerDispatch;
#endif
}

#ifdef LTX2RT_METAL_SIM
int64_t reach_of_tests = metal_plan::kReach;
#endif

// Axes of more than one element from the innermost outwards, neighbours joined where one stride steps through both.
std::vector<std::pair<int64_t, int64_t>> joined_axes(const mx::array& a, int first_axis, int end_axis) {
  std::vector<std::pair<int64_t, int64_t>> axes;  // (size, stride)
  for (int axis = end_axis - 1; axis >= first_axis; --axis) {
    const int64_t size = a.shape(axis), stride = a.strides(axis);
    if (size == 1) continue;
    if (!axes.empty() && axes.back().first * axes.back().second == stride) {
      axes.back().first *= size;
    } else {
      axes.emplace_back(size, stride);
    }
  }
  return axes;
}

}  // namespace

#ifdef LTX2RT_METAL_SIM
int64_t& most_operations_per_dispatch() {
  static int64_t most = metal_plan::kMostOperationsPerDispatch;
  return most;
}

int64_t& slab_bytes() {
  static int64_t bytes = metal_plan::kSlabBytes;
  return bytes;
}

int64_t& least_depth_in_parts() {
  static int64_t depth = metal_plan::kLeastDepthInParts;
  return depth;
}

void set_reach(int64_t elements) { reach_of_tests = elements; }
#endif

int64_t reach() {
#ifdef LTX2RT_METAL_SIM
  return reach_of_tests;
#else
  return metal_plan::kReach;
#endif
}

int32_t element_type(mx::Dtype dtype) {
  if (dtype == mx::float32) return metal_shared::kFloat32;
  if (dtype == mx::float16) return metal_shared::kFloat16;
  if (dtype == mx::bfloat16) return metal_shared::kBfloat16;
  throw std::invalid_argument("the Metal kernels have no such element type");
}

int32_t element_type(const mx::array* operand) {
  return operand ? element_type(operand->dtype()) : static_cast<int32_t>(metal_shared::kAbsent);
}

std::string type_name(mx::Dtype dtype) {
  constexpr const char* kNames[] = {"float32", "float16", "bfloat16"};
  return kNames[element_type(dtype)];
}

bool starts_at_four(const mx::array& a) { return a.offset() % (4 * static_cast<int64_t>(a.itemsize())) == 0; }

mx::array Launch::temporary(mx::Shape shape, mx::Dtype dtype) {
  mx::array a(std::move(shape), dtype, nullptr, {});
  allocate(a);
  encoder_.add_temporary(a);
  return a;
}

void Launch::use(std::string_view shader, const std::string& kernel, const std::vector<FunctionConstant>& constants) {
  MTL::ComputePipelineState* pipeline = shader_kernel(device_, shader, kernel, constants);
  kernel_ = kernel;
  most_threads_ = static_cast<int64_t>(pipeline->maxTotalThreadsPerThreadgroup());
  encoder_.set_compute_pipeline_state(pipeline);
}

void Launch::bind(const mx::array* operand, int idx) {
  if (!operand && !unread_) unread_ = temporary({4}, mx::float32);
  encoder_.set_input_array(operand ? *operand : *unread_, idx);
}

void Launch::dispatch(const int64_t (&grid)[3], int threads, int64_t operations,
                      const std::function<void(const int64_t (&first)[3])>& set_part) {
  if (threads > most_threads_) {
    throw std::runtime_error("the Metal kernel " + kernel_ + " needs threadgroups of " + std::to_string(threads) +
                             " threads, of which this GPU allows it " + std::to_string(most_threads_) +
                             "; LTX2RT_KERNELS=reference does without our kernels.");
  }
  const auto part = metal_plan::first_grid_part(grid, operations, most_operations());
  // Nothing orders the parts among themselves, so that the last threadgroups of one do not wait for the next.
  const auto at_once = encoder_.start_concurrent();
  int64_t first[3];
  for (first[2] = 0; first[2] < grid[2]; first[2] += part.count[2]) {
    for (first[1] = 0; first[1] < grid[1]; first[1] += part.count[1]) {
      for (first[0] = 0; first[0] < grid[0]; first[0] += part.count[0]) {
        set_part(first);
        int64_t size[3];
        for (int axis = 0; axis < 3; ++axis) size[axis] = std::min(part.count[axis], grid[axis] - first[axis]);
        encoder_.dispatch_threadgroups(MTL::Size(size[0], size[1], size[2]), MTL::Size(threads, 1, 1));
      }
    }
  }
}

void Launch::dispatch_threads(int64_t count, int64_t operations,
                              const std::function<void(int64_t first, int64_t end)>& set_part) {
  const int64_t step = metal_plan::units_per_dispatch(count, operations, most_operations());
  const int64_t threads = std::min<int64_t>(metal_shared::kRowThreads, most_threads_);
  const auto at_once = encoder_.start_concurrent();
  for (int64_t first = 0; first < count; first += step) {
    const int64_t part = std::min(step, count - first), row = std::min(part, kThreadRow);
    set_part(first, first + part);
    const MTL::Size grid(row, metal_plan::ceil_div(part, row), 1), group(std::min(row, threads), 1, 1);
    encoder_.dispatch_threads(grid, group);
  }
}

mx::array Launch::copy(const mx::array& a) {
  metal_shared::StridedCopyParams params{};
  const auto axes = joined_axes(a, 0, a.ndim());
  if (axes.size() > metal_shared::kCopyAxes) throw std::invalid_argument("the Metal kernels copy at most 6 axes.");
  for (int axis = 0; axis < metal_shared::kCopyAxes; ++axis) {
    const bool used = axis < static_cast<int>(axes.size());
    params.sizes[axis] = used ? static_cast<int32_t>(axes[axis].first) : 1;
    params.strides[axis] = used ? axes[axis].second : 0;
  }
  const int64_t elements = a.size();
  auto made = temporary(a.shape(), a.dtype());
  use("strided_copy", "strided_copy_" + std::to_string(a.itemsize()), {});
  encoder_.set_input_array(a, 0);
  encoder_.set_output_array(made, 1);
  const int64_t cost = metal_plan::kOperationsPerByte * 2 * static_cast<int64_t>(a.itemsize());
  dispatch_threads(elements, cost, [&](int64_t first, int64_t end) {
    params.first = first;
    params.end = end;
    encoder_.set_bytes(params, 2);
  });
  return made;
}

EvenRows even_rows(Launch& launch, const mx::array& a, int64_t reached) {
  const int last = static_cast<int>(a.ndim()) - 1;
  const int64_t width = a.shape(last);
  if (width == 1 || a.strides(last) == 1) {
    const auto axes = joined_axes(a, 0, last);
    const int64_t stride = axes.empty() ? width : axes[0].second;
    if (axes.size() <= 1 && metal_plan::within_reach(reached, stride, width, reach())) return {a, stride};
  }
  return {launch.copy(a), width};
}

}  // namespace ltx2rt::metal
