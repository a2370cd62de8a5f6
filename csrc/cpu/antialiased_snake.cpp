// CPU evaluation of antialiased_snake: tiles of samples and channels in parallel.
#include "csrc/antialiased_snake.h"

#include <algorithm>
#include <cmath>

#include "csrc/cpu/aligned_floats.h"
#include "csrc/cpu/antialiased_snake_kernels.h"
#include "csrc/cpu/modulated_norm_kernels.h"
#include "csrc/cpu/rows.h"
#include "csrc/cpu/thread_pool.h"
#include "mlx/allocator.h"
#include "mlx/backend/cpu/encoder.h"

namespace ltx2rt {
namespace {

constexpr float kLeastAmplitude = 1e-9f;
constexpr int64_t kGrainTiles = 4;  // some 10 microseconds

// A contiguous vector of any float dtype, read once per task.
class FloatVector {
 public:
  explicit FloatVector(const mx::array& a)
      : data_(a.data<char>()), type_(cpu::float_type(a.dtype())), size_(static_cast<int64_t>(a.size())) {}

  // f of every value, zeros up to a multiple of `multiple`.
  template <typename F>
  std::vector<float> map(int64_t multiple, const F& f) const {
    std::vector<float> values((size_ + multiple - 1) / multiple * multiple);
    cpu::norm_kernels().widen(type_, data_, values.data(), size_);
    std::transform(values.begin(), values.begin() + size_, values.begin(), f);
    return values;
  }

 private:
  const char* data_;
  cpu::FloatType type_;
  int64_t size_;
};

}  // namespace

void AntialiasedSnake::eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) {
  const auto& x = inputs[0];
  auto& out = outputs[0];
  out.set_data(mx::allocator::malloc(out.nbytes()));
  auto& encoder = mx::cpu::get_command_encoder(stream());
  for (const auto& input : inputs) encoder.set_input_array(input);
  encoder.set_output_array(out);

  const cpu::SnakeArgs shape{cpu::float_type(x.dtype()), x.data<char>(), out.data<char>(), x.shape(1), x.shape(2),
                             nullptr, nullptr, nullptr, nullptr};
  encoder.dispatch([shape, batch = static_cast<int64_t>(x.shape(0)), alpha = FloatVector(inputs[1]),
                    beta = FloatVector(inputs[2]), rise = FloatVector(inputs[3]), fall = FloatVector(inputs[4])] {
    const auto& kernels = cpu::snake_kernels();
    const auto frequency = alpha.map(kernels.group_channels, [](float a) { return std::exp(a); });
    const auto gain = beta.map(kernels.group_channels, [](float b) { return 1.0f / (std::exp(b) + kLeastAmplitude); });
    const auto doubled_rise = rise.map(1, [](float tap) { return 2.0f * tap; });
    const auto plain_fall = fall.map(1, [](float tap) { return tap; });
    auto args = shape;
    args.frequency = frequency.data();
    args.gain = gain.data();
    args.rise = doubled_rise.data();
    args.fall = plain_fall.data();
    const int64_t tiles = (args.samples + kernels.tile_samples - 1) / kernels.tile_samples;
    const int64_t groups = (args.channels + kernels.group_channels - 1) / kernels.group_channels;
    cpu::parallel_for(batch * tiles * groups, kGrainTiles, [&](int64_t begin, int64_t end) {
      const cpu::AlignedFloats work(kernels.work_floats);
      for (int64_t i = begin; i < end; ++i) {
        kernels.tile(args, i / groups / tiles, i / groups % tiles, i % groups, work.data());
      }
    });
  });
}

}  // namespace ltx2rt
