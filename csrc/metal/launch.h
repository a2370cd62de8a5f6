// What the launch code of all kernels shares: types as shaders number them, layouts they can read, bounded dispatches.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "csrc/metal/kernel_library.h"
#include "csrc/metal/launch_plans.h"
#include "mlx/allocator.h"
#include "mlx/array.h"
#include "mlx/backend/metal/device.h"

namespace ltx2rt::metal {
namespace mx = mlx::core;

// metal_shared::ElementType of a float dtype, kAbsent for an operand that is not there.
int32_t element_type(mx::Dtype dtype);
int32_t element_type(const mx::array* operand);
// "float32", "float16" or "bfloat16", as kernels are named.
std::string type_name(mx::Dtype dtype);

// Whether an array begins, in its buffer, at a multiple of four of its elements: what vector loads need.
bool starts_at_four(const mx::array& a);

// One primitive's evaluation: its device and encoder, and the arrays it makes.
class Launch {
 public:
  explicit Launch(mx::Stream stream)
      : device_(mx::metal::device(stream.device)), encoder_(mx::metal::get_command_encoder(stream)) {}

  mx::metal::CommandEncoder& encoder() { return encoder_; }

  // Memory for an output, and for an array that lives until the work is done.
  static void allocate(mx::array& out) { out.set_data(mx::allocator::malloc(out.nbytes())); }
  mx::array temporary(mx::Shape shape, mx::Dtype dtype);

  // Makes a kernel current; its arguments follow. A dispatch of more threads per threadgroup than its pipeline allows
  // on this GPU throws std::runtime_error, which names both.
  void use(std::string_view shader, const std::string& kernel, const std::vector<FunctionConstant>& constants);

  // Operand `idx`, or, for one that the kernel's constants switch off, a few bytes that nobody reads: Metal wants every
  // argument bound, and at an offset that is a multiple of its element.
  void bind(const mx::array* operand, int idx);

  // Dispatches a grid of threadgroups, each of which costs `operations`, in parts of at most
  // kMostOperationsPerDispatch. set_part tells the kernel where a part begins; parts write disjoint outputs.
  void dispatch(const int64_t (&grid)[3], int threads, int64_t operations,
                const std::function<void(const int64_t (&first)[3])>& set_part);

  // The same of `count` threads in a row, of which each costs `operations`, in threadgroups of as many as the pipeline
  // allows, at most kRowThreads. Each part may start a few threads from `end` on, which must do nothing.
  void dispatch_threads(int64_t count, int64_t operations,
                        const std::function<void(int64_t first, int64_t end)>& set_part);

  // The same array in memory of its own, contiguous.
  mx::array copy(const mx::array& a);

 private:
  mx::metal::Device& device_;
  mx::metal::CommandEncoder& encoder_;
  std::string kernel_;        // that is current
  int64_t most_threads_ = 0;  // per threadgroup, of its pipeline
  std::optional<mx::array> unread_;
};

// Rows along the last axis at one distance from each other.
struct EvenRows {
  mx::array array;
  int64_t stride;  // elements
};
// An array as even rows whose values are neighbours: in place, or copied. A loop of the shader reaches `reached` of them.
EvenRows even_rows(Launch& launch, const mx::array& a, int64_t reached = 1);

// How far from where an operand begins shaders count: metal_plan::kReach, or less in tests.
int64_t reach();

#ifdef LTX2RT_METAL_SIM
// The limits of dispatch(), of quantized_linear's slabs and of its sums in parts, so that tests of these can be small.
int64_t& most_operations_per_dispatch();
int64_t& slab_bytes();
int64_t& least_depth_in_parts();
void set_reach(int64_t elements);
#endif

}  // namespace ltx2rt::metal
