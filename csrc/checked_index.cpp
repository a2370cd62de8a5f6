// Checks of index values, at once or when they are there.
#include "csrc/checked_index.h"

#include <algorithm>
#include <memory>
#include <stdexcept>
#include <utility>

#include "mlx/ops.h"
#include "mlx/stream.h"
#if defined(LTX2RT_METAL) && !defined(LTX2RT_METAL_SIM)
#include "mlx/backend/metal/device.h"
#endif

namespace ltx2rt {
namespace {

// Of a contiguous index whose values are in memory.
void check_values(const mx::array& index, int64_t rows, const std::string& subject, const std::string& object,
                  const IndexRange& range) {
  const auto* values = index.data<int32_t>();
  const auto [least, most] = std::minmax_element(values, values + index.size());
  if (index.size() == 0 || (*least >= (range.none ? -1 : -rows) && *most < rows)) return;
  throw std::runtime_error(subject + " holds " + std::to_string(*most >= rows ? *most : *least) + " but " + object +
                           " " + std::to_string(rows) + " " + range.rows + ".");
}

// A GPU's work is only handed over now and then; what is not would be waited for in vain. Streams of other threads have
// no encoder here and are none of ours.
void hand_over_gpu_work() {
#if defined(LTX2RT_METAL) && !defined(LTX2RT_METAL_SIM)
  for (const auto& stream : mx::get_streams()) {
    if (stream.device != mx::Device::gpu) continue;
    mx::metal::CommandEncoder* encoder = nullptr;
    try {
      encoder = &mx::metal::get_command_encoder(stream);
    } catch (const std::exception&) {
      continue;
    }
    encoder->end_encoding();
    encoder->commit();
  }
#endif
}

}  // namespace

mx::array checked_index(const mx::array& index, const mx::array& table, const std::string& subject,
                        const std::string& object, mx::Stream stream, const IndexRange& range) {
  const bool known = index.is_available() && index.flags().row_contiguous;
  if (known && !index.is_tracer() && !table.is_tracer()) {
    check_values(index, table.shape(range.rows_axis), subject, object, range);
    return index;
  }
  // The values are looked at by the CPU, wherever they are used.
  if (stream.device != mx::Device::cpu) stream = mx::default_stream(mx::Device::cpu);
  return mx::array(index.shape(), index.dtype(), std::make_shared<CheckedIndex>(stream, subject, object, range),
                   {known ? index : mx::contiguous(mx::stop_gradient(index, stream), false, stream),
                    mx::stop_gradient(table, stream)});
}

void CheckedIndex::eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) {
  const auto& index = inputs[0];
  // Throwing here is safe, throwing from a task on the stream's thread is not (csrc/cpu/dispatch.h); so the tasks that
  // compute the index have to be done.
  if (index.status() != mx::array::Status::available) {
    hand_over_gpu_work();
    mx::synchronize(stream());
  }
  check_values(index, inputs[1].shape(range_.rows_axis), subject_, object_, range_);
  outputs[0].copy_shared_buffer(index);
}

void CheckedIndex::eval_gpu(const std::vector<mx::array>&, std::vector<mx::array>&) {
  throw std::logic_error("[CheckedIndex] runs on the CPU.");
}

std::pair<std::vector<mx::array>, std::vector<int>> CheckedIndex::vmap(const std::vector<mx::array>& inputs,
                                                                       const std::vector<int>& axes) {
  IndexRange range = range_;
  if (axes[1] >= 0 && axes[1] <= range.rows_axis) ++range.rows_axis;
  return {{mx::array(inputs[0].shape(), inputs[0].dtype(),
                     std::make_shared<CheckedIndex>(stream(), subject_, object_, range),
                     {mx::contiguous(inputs[0], false, stream()), inputs[1]})},
          {axes[0]}};
}

}  // namespace ltx2rt
