// Memory of outputs, scratch that the waiting tasks of a stream share, and the settings that every kernel reads.
#include "csrc/cpu/dispatch.h"

#include <algorithm>
#include <cstddef>
#include <mutex>
#include <new>
#include <unordered_map>

#include "csrc/cpu/isa.h"
#include "csrc/cpu/large_pages.h"
#include "csrc/cpu/thread_pool.h"
#include "csrc/fallback_primitive.h"
#include "mlx/allocator.h"

namespace ltx2rt::cpu {
namespace {

namespace mx = mlx::core;

constexpr std::align_val_t kAlignment{ScratchLayout::kLine};

struct KeptBlock {
  std::weak_ptr<std::byte> memory;
  int64_t bytes;
};

struct KeptBlocks {
  std::mutex mutex;
  std::unordered_map<int, KeptBlock> of_stream;
};

// Never destroyed: MLX's threads may outlive static objects.
KeptBlocks& kept_blocks() {
  static auto* blocks = new KeptBlocks;
  return *blocks;
}

}  // namespace

Scratch::Scratch(int64_t bytes)
    : memory_(static_cast<std::byte*>(::operator new(static_cast<size_t>(bytes), kAlignment)),
              [](std::byte* memory) { ::operator delete(memory, kAlignment); }),
      bytes_(bytes) {
  prefer_large_pages(memory_.get(), bytes);
}

Scratch stream_scratch(const mx::Stream& stream, int64_t bytes) {
  auto& kept = kept_blocks();
  const std::lock_guard<std::mutex> lock(kept.mutex);
  KeptBlock& block = kept.of_stream[stream.index];
  if (auto memory = block.memory.lock(); memory != nullptr && block.bytes >= bytes)
    return Scratch(std::move(memory), block.bytes);
  Scratch fresh(bytes);
  block = {fresh.memory_, bytes};
  return fresh;
}

Evaluation::Evaluation(mx::Primitive& primitive, const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs,
                       const mx::array* donor)
    : stream_(primitive.stream()),
      encoder_(mx::cpu::get_command_encoder(stream_)),
      empty_(std::all_of(outputs.begin(), outputs.end(), [](const mx::array& out) { return out.size() == 0; })) {
  auto& out = outputs[0];
  if (donor != nullptr && donor->is_donatable() && donor->flags().row_contiguous && donor->size() == out.size() &&
      donor->itemsize() == out.itemsize()) {
    out.copy_shared_buffer(*donor);
  } else {
    out.set_data(mx::allocator::malloc(out.nbytes()));
  }
  for (const auto& input : inputs) encoder_.set_input_array(input);
  encoder_.set_output_array(out);
}

}  // namespace ltx2rt::cpu

namespace ltx2rt {

void check_cpu_settings() {
  cpu::num_threads();
  cpu::active_isa();
}

}  // namespace ltx2rt
