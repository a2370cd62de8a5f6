// How an op starts on the CPU: memory of its output, scratch, and the one way to hand work to MLX's threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include "csrc/cpu/float_environment.h"
#include "mlx/array.h"
#include "mlx/backend/cpu/encoder.h"
#include "mlx/primitives.h"

namespace ltx2rt::cpu {

// Where the parts of one block of scratch lie. Each part starts on a cache line, so that the slots of different threads
// share none. The function that tells the size of a kernel's scratch and the kernel itself lay out their parts with the
// same calls.
class ScratchLayout {
 public:
  static constexpr int64_t kLine = 64;

  // Bytes from the start of the block to a new part of `bytes` bytes.
  int64_t add(int64_t bytes) {
    const int64_t start = bytes_;
    bytes_ += round_up(bytes);
    return start;
  }
  // The same for `slots` parts of `bytes` each, round_up(bytes) apart.
  int64_t add_slots(int64_t slots, int64_t bytes) { return add(slots * round_up(bytes)); }

  int64_t bytes() const { return bytes_; }

  static constexpr int64_t round_up(int64_t bytes) { return (bytes + kLine - 1) / kLine * kLine; }

 private:
  int64_t bytes_ = 0;
};

// Uninitialised memory that starts on a cache line and lives until the last copy of this handle is gone: a dispatched
// task keeps one.
class Scratch {
 public:
  // Throws std::bad_alloc.
  explicit Scratch(int64_t bytes);

  // The part that starts `offset` bytes into the block.
  template <typename T>
  T* at(int64_t offset) const {
    return reinterpret_cast<T*>(memory_.get() + offset);
  }
  int64_t bytes() const { return bytes_; }

 private:
  friend Scratch stream_scratch(const mlx::core::Stream& stream, int64_t bytes);
  Scratch(std::shared_ptr<std::byte> memory, int64_t bytes) : memory_(std::move(memory)), bytes_(bytes) {}

  std::shared_ptr<std::byte> memory_;
  int64_t bytes_;
};

// Scratch for one task of a CPU stream, which runs its tasks one after the other: the block that tasks still waiting on
// the same stream keep is given again if it is large enough. A larger one takes its place, and nobody writes to that
// before the last task that keeps the smaller one is done: however far MLX runs ahead, the pages in use are those of the
// task that takes most.
Scratch stream_scratch(const mlx::core::Stream& stream, int64_t bytes);

// The beginning of an eval_cpu. Gives the output memory and names all arrays to the stream's encoder.
//
//   cpu::Evaluation evaluation(*this, inputs, outputs);
//   if (evaluation.empty()) return;
//   const auto scratch = evaluation.scratch(kernel_scratch_bytes(..., threads));
//   evaluation.dispatch([=]() noexcept { ... });
//
// Whatever can fail belongs before dispatch: an exception from eval_cpu reaches whoever evaluates, and the array can be
// evaluated again. One that left a dispatched task would not: MLX 0.32 then loses count of its tasks, and sooner or later
// waits for ever.
class Evaluation {
 public:
  // donor: an input whose elements are read before the same elements of the output are written, or null. Its memory
  // becomes the output's if nobody else needs it.
  Evaluation(mlx::core::Primitive& primitive, const std::vector<mlx::core::array>& inputs,
             std::vector<mlx::core::array>& outputs, const mlx::core::array* donor = nullptr);

  // Nothing is to be computed.
  bool empty() const { return empty_; }

  Scratch scratch(int64_t bytes) const { return stream_scratch(stream_, bytes); }

  // Runs task() on the stream's thread. Pointers into the inputs and outputs stay valid until it is done.
  template <typename Task>
  void dispatch(Task task) {
    static_assert(std::is_nothrow_invocable_v<Task&>, "a task on MLX's threads must be noexcept");
    encoder_.dispatch([task = std::move(task)]() noexcept {
      const DefaultFloatEnvironment environment;
      task();
    });
  }

 private:
  mlx::core::Stream stream_;
  mlx::core::cpu::CommandEncoder& encoder_;
  bool empty_;
};

}  // namespace ltx2rt::cpu
