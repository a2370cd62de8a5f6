// Schedule of the Winograd form: how the outputs are cut into slabs, who transforms and who multiplies what.
#include "csrc/cpu/conv_winograd.h"

#include <algorithm>
#include <limits>
#include <sstream>
#include <stdexcept>

#include "csrc/ceil_div.h"
#include "csrc/cpu/thread_pool.h"

namespace ltx2rt::cpu {
namespace {

constexpr int64_t kPanelWords = 4 << 20;         // packed weights at one time, if a panel is not larger
constexpr int64_t kSlabWords = 3 << 20;          // transformed inputs, if one row of four cells does not need more
constexpr int64_t kThreadSlabWords = 384 << 10;  // of every thread, if that is more: tasks enough between two barriers
constexpr int64_t kLineFloats = 64 << 10;        // of a line of inputs that a thread transforms, likewise
constexpr int64_t kGroupWords = 192;  // of the sum: their part of a panel leaves room in the first-level cache
constexpr int64_t kTaskCells = 48;    // whose sums, 8 KiB each, leave room in the second-level cache
constexpr int64_t kPackPiece = 128;   // words per point of one packing task
constexpr int64_t kFewCells = 96;     // of all outputs: then packed weights are used once and never kept
constexpr int64_t kFloatBytes = sizeof(float);
constexpr double kAddressable = double(int64_t{1} << 46);  // words of the largest slab

std::vector<int64_t> candidates(int64_t size) {
  std::vector<int64_t> sizes;
  for (int64_t parts = 1; parts <= size; ++parts) {
    const int64_t even = ceil_div(size, parts);
    if (sizes.empty() || sizes.back() != even) sizes.push_back(even);
  }
  return sizes;
}

}  // namespace

WinogradSchedule::WinogradSchedule(const ConvArgs& args, int threads, const WinogradKernel& kernel)
    : args_(args), kernel_(kernel), threads_(threads) {
  plan_.pairs = kernel_.has_pairs && args.type == FloatType::bf16 && args.weight_type == FloatType::bf16;
  plan_.words = plan_.pairs ? args.channels / 2 : args.channels;
  // Wide cells get a gap, so that neighbours do not compete for the same cache sets.
  plan_.pitch = plan_.words >= 256 ? plan_.words + 16 : plan_.words;
  cells_[0] = args.out_size[0];
  for (int axis = 1; axis < 3; ++axis) cells_[axis] = ceil_div(args.out_size[axis], 2);
  choose_slab();
  plan_.point_words = plan_.slab[1] * plan_.slab[2] * plan_.pitch;
  plan_.frame_words = kPoints * plan_.point_words;
  make_runs();
  plan_.runs = runs_.data();
  plan_.group_ends = group_ends_.data();
  plan_.groups = static_cast<int64_t>(group_ends_.size());
  panel_words_ = kPoints * args.kernel[0] * plan_.words * kernel_.panel_columns;
  slabs_ = args.batch;
  for (int axis = 0; axis < 3; ++axis) {
    axis_slabs_[axis] = ceil_div(cells_[axis], plan_.slab[axis]);
    slabs_ *= axis_slabs_[axis];
  }
  panels_ = ceil_div(args.out_channels, kernel_.panel_columns);
  few_ = slabs_ == 1 && cells_[0] * cells_[1] * cells_[2] <= kFewCells;
  const int64_t rounds = ceil_div(panels_, std::max<int64_t>(1, kPanelWords / panel_words_));
  round_panels_ = ceil_div(panels_, rounds);
  share_out();
  words_at_ = layout_.add(input_frames(plan_.slab[0]) * plan_.frame_words * kFloatBytes);
  packed_at_ = layout_.add(few_ ? 0 : round_panels_ * panel_words_ * kFloatBytes);
  work_at_ = layout_.add(std::max(transforming_.total(), multiplying_.total()));
}

void WinogradSchedule::run(const Scratch& scratch) const noexcept {
  if (few_) {
    transform(slab(0), scratch);
    pack_and_multiply(slab(0), scratch);
    return;
  }
  for (int64_t first = 0; first < panels_; first += round_panels_) {
    const int64_t end = std::min(panels_, first + round_panels_);
    pack(first, end, scratch);
    for (int64_t i = 0; i < slabs_; ++i) {
      const WinogradSlab part = slab(i);
      if (slabs_ > 1 || first == 0) transform(part, scratch);
      multiply(part, first, end, scratch);
    }
  }
}

int64_t WinogradSchedule::input_frames(int64_t frames) const {
  return (frames - 1) * args_.stride[0] + (args_.kernel[0] - 1) * args_.dilation[0] + 1;
}

// The slab that transforms the fewest inputs more than once.
void WinogradSchedule::choose_slab() {
  const auto slab_words = [this](int64_t frames, int64_t rows, int64_t columns) {  // more than an integer may hold
    return double(input_frames(frames)) * double(kPoints * rows * columns) * double(plan_.pitch);
  };
  const auto most = double(std::max(kSlabWords, threads_ * kThreadSlabWords));
  double least = std::numeric_limits<double>::infinity();
  for (int64_t columns : candidates(cells_[2])) {
    if ((2 * columns + 2) * args_.channels > kLineFloats && columns > 4) continue;
    for (int64_t rows : candidates(cells_[1])) {
      for (int64_t frames : candidates(cells_[0])) {
        const bool smallest = frames == 1 && rows == 1 && columns <= 4;
        if (slab_words(frames, rows, columns) > most && !smallest) continue;
        double cost = double(input_frames(frames)) / double(frames);
        cost *= double(rows + 1) / double(rows) * (double(columns + 1) / double(columns));
        if (cost >= least) continue;
        least = cost;
        plan_.slab[0] = frames;
        plan_.slab[1] = rows;
        plan_.slab[2] = columns;
      }
    }
  }
  if (slab_words(plan_.slab[0], plan_.slab[1], plan_.slab[2]) <= kAddressable) return;
  std::ostringstream message;
  message << "[causal_conv3d] the kernel spans " << input_frames(1) << " frames of " << args_.channels
          << " channels, which cannot be in memory together; use a smaller dilation.";
  throw std::invalid_argument(message.str());
}

void WinogradSchedule::make_runs() {
  const int64_t depth = args_.kernel[0] * plan_.words;
  const int64_t group = ceil_div(ceil_div(depth, ceil_div(depth, kGroupWords)), kWordStep) * kWordStep;
  plan_.group_words = group;
  int64_t in_group = 0;
  for (int64_t tap = 0; tap < args_.kernel[0]; ++tap) {
    for (int64_t done = 0; done < plan_.words;) {
      const int64_t here = std::min(plan_.words - done, group - in_group);
      runs_.push_back({tap * args_.dilation[0] * plan_.frame_words + done, here});
      done += here;
      in_group += here;
      if (in_group < group) continue;
      group_ends_.push_back(static_cast<int64_t>(runs_.size()));
      in_group = 0;
    }
  }
  if (in_group > 0) group_ends_.push_back(static_cast<int64_t>(runs_.size()));
}

// The most that the loops over any slab take: slabs at the far borders are smaller, and their tasks cut otherwise.
void WinogradSchedule::share_out() {
  const auto line_bytes = [](int64_t floats) { return ScratchLayout::round_up(floats * kFloatBytes); };
  const int64_t all = cells_[0] * cells_[1] * cells_[2];
  transforming_ = {0, line_bytes(kernel_.transform_floats(args_, plan_))};
  multiplying_ =
      few_ ? Share{std::min<int64_t>(threads_, panels_), line_bytes(kernel_.pack_and_multiply_floats(plan_, all))}
           : Share{0, 0};
  for (int border = 0; border < 8; ++border) {
    int64_t count[3];
    for (int axis = 0; axis < 3; ++axis) {
      const int64_t rest = cells_[axis] % plan_.slab[axis];
      count[axis] = (border >> axis & 1) != 0 && rest > 0 ? rest : plan_.slab[axis];
    }
    const auto grow = [this](Share& share, int64_t tasks, int64_t bytes) {
      share = {std::max(share.workers, std::min<int64_t>(threads_, tasks)), std::max(share.bytes, bytes)};
    };
    grow(transforming_, rows(input_frames(count[0]), count[1]).count, 0);
    if (few_) continue;
    for (int64_t panels : {round_panels_, panels_ - (panels_ - 1) / round_panels_ * round_panels_}) {
      const Tasks cut = tasks(count[0] * count[1] * count[2], panels);
      grow(multiplying_, cut.count, line_bytes(kernel_.multiply_floats(cut.cells, cut.panels)));
    }
  }
}

WinogradSchedule::Tasks WinogradSchedule::tasks(int64_t cells, int64_t panels) const {
  const int64_t tiles = ceil_div(cells, kernel_.tile_rows);  // register tiles, the last one may be partly filled
  const int64_t task = ceil_div(tiles, ceil_div(tiles, kTaskCells / kernel_.tile_rows)) * kernel_.tile_rows;
  const int64_t tasks = ceil_div(cells, task);
  const int64_t parts = std::min(panels, ceil_div(8 * threads_, tasks));
  return {task, ceil_div(panels, parts), parts, tasks * parts};
}

WinogradSchedule::Rows WinogradSchedule::rows(int64_t frames, int64_t rows) const {
  const int64_t task = ceil_div(rows, ceil_div(4 * threads_, frames)), pieces = ceil_div(rows, task);
  return {task, pieces, frames * pieces};
}

WinogradSlab WinogradSchedule::slab(int64_t index) const {
  WinogradSlab slab{};
  for (int axis = 2; axis >= 0; --axis) {
    slab.first[axis] = index % axis_slabs_[axis] * plan_.slab[axis];
    slab.count[axis] = std::min(plan_.slab[axis], cells_[axis] - slab.first[axis]);
    index /= axis_slabs_[axis];
  }
  slab.batch = index;
  return slab;
}

void WinogradSchedule::pack(int64_t first, int64_t end, const Scratch& scratch) const noexcept {
  auto* const packed = scratch.at<float>(packed_at_);
  const int64_t pieces = ceil_div(plan_.words, kPackPiece), taps = args_.kernel[0];
  const auto body = [&](int64_t from, int64_t to) noexcept {
    for (int64_t i = from; i < to; ++i) {
      const int64_t panel = i / (taps * pieces), start = i % pieces * kPackPiece;
      kernel_.pack_weight(args_, plan_, first + panel, i / pieces % taps, start,
                          std::min(plan_.words, start + kPackPiece), packed + panel * panel_words_);
    }
  };
  parallel_for((end - first) * taps * pieces, 1, body, threads_);
}

void WinogradSchedule::pack_and_multiply(const WinogradSlab& slab, const Scratch& scratch) const noexcept {
  const auto body = [&](int64_t from, int64_t to, int worker) noexcept {
    auto* const work = scratch.at<float>(work_at_ + worker * multiplying_.bytes);
    for (int64_t panel = from; panel < to; ++panel)
      kernel_.pack_and_multiply(args_, plan_, slab, panel, scratch.at<float>(words_at_), work);
  };
  parallel_for(panels_, 1, body, static_cast<int>(multiplying_.workers));
}

void WinogradSchedule::transform(const WinogradSlab& slab, const Scratch& scratch) const noexcept {
  const Rows cut = rows(input_frames(slab.count[0]), slab.count[1]);
  const auto body = [&](int64_t from, int64_t to, int worker) noexcept {
    auto* const work = scratch.at<float>(work_at_ + worker * transforming_.bytes);
    for (int64_t i = from; i < to; ++i) {
      const int64_t row = i % cut.pieces * cut.rows;
      kernel_.transform(args_, plan_, slab, i / cut.pieces, row, std::min(slab.count[1], row + cut.rows),
                        scratch.at<float>(words_at_), work);
    }
  };
  parallel_for(cut.count, 1, body, static_cast<int>(transforming_.workers));
}

void WinogradSchedule::multiply(const WinogradSlab& slab, int64_t first, int64_t end,
                                const Scratch& scratch) const noexcept {
  const auto *const words = scratch.at<float>(words_at_), *const packed = scratch.at<float>(packed_at_);
  const int64_t cells = slab.count[0] * slab.count[1] * slab.count[2];
  const Tasks cut = tasks(cells, end - first);
  const auto body = [&](int64_t from, int64_t to, int worker) noexcept {
    auto* const work = scratch.at<float>(work_at_ + worker * multiplying_.bytes);
    for (int64_t i = from; i < to; ++i) {
      const int64_t cell = i / cut.parts * cut.cells, panel = first + i % cut.parts * cut.panels;
      if (panel >= end) continue;
      kernel_.multiply(args_, plan_, slab, cell, std::min(cells, cell + cut.cells), panel,
                       std::min(end, panel + cut.panels), words, packed + (panel - first) * panel_words_, work);
    }
  };
  parallel_for(cut.count, 1, body, static_cast<int>(multiplying_.workers));
}

bool suits_winograd(const ConvArgs& args) {
  // float32 sums of transformed values lose a digit, which float32 results would show. Few channels do not pay for the
  // transforms, and small frames not for the 16 points that stand for 9 taps.
  if (args.type == FloatType::f32 || args.channels % 32 != 0 || args.out_channels < 16) return false;
  for (int axis = 1; axis < 3; ++axis) {
    if (args.kernel[axis] != 3 || args.stride[axis] != 1 || args.dilation[axis] != 1 || args.out_size[axis] < 4)
      return false;
  }
  return true;
}

}  // namespace ltx2rt::cpu
