// CPU evaluation of antialiased_snake and its schedule.
#include "csrc/antialiased_snake.h"

#include <algorithm>
#include <cmath>

#include "csrc/checks.h"
#include "csrc/cpu/antialiased_snake.h"
#include "csrc/ceil_div.h"
#include "csrc/cpu/rows.h"
#include "csrc/cpu/thread_pool.h"

namespace ltx2rt {
namespace cpu {
namespace {

constexpr float kMinAmplitude = 1e-9f;
constexpr int64_t kGrainTiles = 4;  // some 10 microseconds
constexpr int64_t kTaps = 12;
constexpr int64_t kFloatBytes = sizeof(float);

}  // namespace

SnakeSchedule::SnakeSchedule(const SnakeCall& call, int threads, const SnakeKernels& kernels, const NormKernels& norms)
    : call_(call),
      kernels_(kernels),
      norms_(norms),
      tiles_(ceil_div(call.samples, kernels.tile_samples)),
      groups_(ceil_div(call.channels, kernels.group_channels)),
      workers_(std::min<int64_t>(threads, ceil_div(call.batch * tiles_ * groups_, kGrainTiles))),
      work_bytes_(ScratchLayout::round_up(kernels.work_floats * kFloatBytes)) {
  const int64_t channel_bytes = groups_ * kernels.group_channels * kFloatBytes;
  frequency_at_ = layout_.add(channel_bytes);
  gain_at_ = layout_.add(channel_bytes);
  rise_at_ = layout_.add(kTaps * kFloatBytes);
  fall_at_ = layout_.add(kTaps * kFloatBytes);
  work_at_ = layout_.add_slots(workers_, work_bytes_);
}

void SnakeSchedule::run(const Scratch& scratch) const noexcept {
  // f of the n values of a vector, and zeros up to `whole`.
  const auto map = [&](const FloatVector& from, int64_t n, int64_t whole, int64_t at, const auto& f) {
    auto* const to = scratch.at<float>(at);
    norms_.widen(from.type, from.data, to, n);
    std::transform(to, to + n, to, f);
    std::fill(to + n, to + whole, 0.0f);
    return to;
  };
  const int64_t whole = groups_ * kernels_.group_channels;
  const SnakeArgs args{
      call_.type,
      call_.x,
      call_.out,
      call_.samples,
      call_.channels,
      map(call_.alpha, call_.channels, whole, frequency_at_, [](float a) { return std::exp(a); }),
      map(call_.beta, call_.channels, whole, gain_at_, [](float b) { return 1.0f / (std::exp(b) + kMinAmplitude); }),
      map(call_.rise, kTaps, kTaps, rise_at_, [](float tap) { return 2.0f * tap; }),
      map(call_.fall, kTaps, kTaps, fall_at_, [](float tap) { return tap; })};
  const auto body = [&](int64_t begin, int64_t end, int worker) noexcept {
    auto* const work = scratch.at<float>(work_at_ + worker * work_bytes_);
    for (int64_t i = begin; i < end; ++i) {
      kernels_.tile(args, i / groups_ / tiles_, i / groups_ % tiles_, i % groups_, work);
    }
  };
  parallel_for(call_.batch * tiles_ * groups_, kGrainTiles, body, static_cast<int>(workers_));
}

}  // namespace cpu

int64_t antialiased_snake_scratch_bytes(const mx::Shape& x, int threads) {
  require(x.size() == 3, "antialiased_snake", "x must have shape (B,S,C) but has ", x, ".");
  if (x[0] == 0 || x[1] == 0 || x[2] == 0) return 0;
  cpu::SnakeCall call{};
  call.batch = x[0];
  call.samples = x[1];
  call.channels = x[2];
  return cpu::SnakeSchedule(call, threads).scratch_bytes();
}

void AntialiasedSnake::eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) {
  cpu::Evaluation evaluation(*this, inputs, outputs);
  if (evaluation.empty()) return;
  const auto& x = inputs[0];
  const auto vector = [&](int input) {
    return cpu::FloatVector{inputs[input].data<char>(), cpu::float_type(inputs[input].dtype())};
  };
  const cpu::SnakeCall call{cpu::float_type(x.dtype()),
                            x.data<char>(),
                            outputs[0].data<char>(),
                            x.shape(0),
                            x.shape(1),
                            x.shape(2),
                            vector(1),
                            vector(2),
                            vector(3),
                            vector(4)};
  const cpu::SnakeSchedule schedule(call, cpu::num_threads());
  auto scratch = evaluation.scratch(schedule.scratch_bytes());
  evaluation.dispatch([schedule, scratch = std::move(scratch)]() noexcept { schedule.run(scratch); });
}

}  // namespace ltx2rt
