// CPU schedule of the direct convolution: how the outputs are cut into tiles, and who packs and computes what.
#include "csrc/cpu/conv_direct.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <sstream>
#include <stdexcept>

#include "csrc/ceil_div.h"
#include "csrc/cpu/thread_pool.h"

namespace ltx2rt::cpu {
namespace {

constexpr int64_t kPanelFloats = 4 << 20;    // packed weights at one time, if a panel is not larger
constexpr int64_t kGroupFloats = 4096;       // of a weight panel, half the first-level cache
constexpr int64_t kCachedRegion = 48 << 10;  // words of a region that leave room in the second-level cache
constexpr int64_t kMaxRegion = 512 << 10;    // words of a region, if one register tile does not need more
constexpr int64_t kMaxOutputs = 384;
constexpr int64_t kPackPiece = 2048;  // summed words of one packing task
constexpr int64_t kMinPanels = 4;     // of one task: fewer repeat the prologue too often
constexpr int64_t kFloatBytes = sizeof(float);
constexpr double kAddressable = double(int64_t{1} << 46);  // words of the largest region

int64_t extent(const ConvArgs& args, int axis, int64_t outputs) {
  return (outputs - 1) * args.stride[axis] + (args.kernel[axis] - 1) * args.dilation[axis] + 1;
}

// Words per voxel.
int64_t words_of(const ConvArgs& args, const ConvPlan& plan) { return plan.pairs ? args.channels / 2 : args.channels; }

// Sizes to try for one axis of a tile: the axis cut into equal parts.
std::vector<int64_t> candidates(int64_t size) {
  std::vector<int64_t> sizes;
  for (int64_t most : {1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384}) {
    const int64_t even = ceil_div(size, ceil_div(size, most));
    if (sizes.empty() || sizes.back() != even) sizes.push_back(even);
    if (most >= size) break;
  }
  return sizes;
}

// Estimated time of one output of a tile, in units of one fused multiply-add of a vector pair. The terms: the products,
// the prologue of the region shared by the tile's outputs, bringing the weights into the cache once per tile, and the
// threads that have nothing to do at the end.
double tile_cost(const ConvArgs& args, const ConvKernel& kernel, const ConvPlan& plan, double threads) {
  const double outputs = double(plan.tile[0] * plan.tile[1] * plan.tile[2]);
  const double region = double(plan.region[0]) * double(plan.region[1]) * double(plan.region[2]);
  const double depth = double(args.kernel[0] * args.kernel[1] * args.kernel[2] * words_of(args, plan));
  const double panels = double(ceil_div(args.out_channels, kernel.panel_columns));
  const double rows = double(kernel.tile_rows) * double(ceil_div(int64_t(outputs), kernel.tile_rows));
  const double products = depth * panels * rows / outputs * (region * double(plan.pitch) > kCachedRegion ? 1.1 : 1.0);
  const double values = region * double(args.channels) * (args.activation == ConvActivation::silu ? 3.0 : 1.5);
  const double weights = depth * panels * 8.0;
  double tasks = double(args.batch * ceil_div(int64_t(panels), kMinPanels));
  for (int axis = 0; axis < 3; ++axis) tasks *= double(ceil_div(args.out_size[axis], plan.tile[axis]));
  const double turns = std::ceil(tasks / threads);
  return (products + (values + weights) / outputs) * turns * threads / tasks;
}

ConvPlan choose_tile(const ConvArgs& args, const ConvKernel& kernel, int threads) {
  ConvPlan best{}, plan{};
  // Wide voxels get a gap, so that neighbours do not compete for the same cache sets.
  plan.pairs =
      kernel.has_pairs && args.type == FloatType::bf16 && args.weight_type == FloatType::bf16 && args.channels % 2 == 0;
  plan.pitch = words_of(args, plan) >= 256 ? words_of(args, plan) + 16 : words_of(args, plan);
  double least = std::numeric_limits<double>::infinity();
  for (int64_t frames : candidates(std::min<int64_t>(args.out_size[0], 8))) {
    for (int64_t rows : candidates(args.out_size[1])) {
      for (int64_t columns : candidates(args.out_size[2])) {
        const int64_t sizes[] = {frames, rows, columns};
        int64_t outputs = 1;
        double region = double(plan.pitch);  // of words, more than an integer may hold
        for (int axis = 0; axis < 3; ++axis) {
          plan.tile[axis] = sizes[axis];
          plan.region[axis] = extent(args, axis, sizes[axis]);
          outputs *= plan.tile[axis];
          region *= double(plan.region[axis]);
        }
        if (outputs > kMaxOutputs || (region > kMaxRegion && outputs > kernel.tile_rows)) break;
        const double cost = tile_cost(args, kernel, plan, threads);
        if (cost >= least) continue;
        least = cost;
        best = plan;
      }
    }
  }
  return best;
}

}  // namespace

ConvSchedule::ConvSchedule(const ConvArgs& args, int threads, const ConvKernel& kernel)
    : args_(args), kernel_(kernel), threads_(threads), plan_(choose_tile(args, kernel, threads)) {
  const auto [frames, rows, columns] = plan_.region;
  if (double(frames) * double(rows) * double(columns) * double(plan_.pitch) > kAddressable) {
    std::ostringstream message;
    message << "[causal_conv3d] the kernel spans " << frames << " x " << rows << " x " << columns << " inputs of "
            << args.channels << " channels, which cannot be in memory together; use a smaller dilation.";
    throw std::invalid_argument(message.str());
  }
  depth_ = args.kernel[0] * args.kernel[1] * args.kernel[2] * words_of(args, plan_);
  panel_floats_ = depth_ * kernel.panel_columns;
  make_runs();
  plan_.runs = runs_.data();
  plan_.group_ends = group_ends_.data();
  plan_.groups = static_cast<int64_t>(group_ends_.size());
  tiles_ = args.batch;
  for (int axis = 0; axis < 3; ++axis) {
    axis_tiles_[axis] = ceil_div(args.out_size[axis], plan_.tile[axis]);
    tiles_ *= axis_tiles_[axis];
  }
  panels_ = ceil_div(args.out_channels, kernel.panel_columns);
  const int64_t rounds = ceil_div(panels_, std::max<int64_t>(1, kPanelFloats / panel_floats_));
  round_panels_ = ceil_div(panels_, rounds);
  workers_ = std::min<int64_t>(threads, tiles_ * tasks(round_panels_).parts);
  work_bytes_ = ScratchLayout::round_up(kernel.work_floats(args_, plan_) * kFloatBytes);
  packed_at_ = layout_.add(round_panels_ * panel_floats_ * kFloatBytes);
  work_at_ = layout_.add_slots(workers_, work_bytes_);
}

void ConvSchedule::run(const Scratch& scratch) const noexcept {
  for (int64_t first = 0; first < panels_; first += round_panels_) {
    const int64_t end = std::min(panels_, first + round_panels_);
    pack(first, end, scratch);
    convolve(first, end, scratch);
  }
}

// The summed index in pieces that lie together in the region, none longer than a group.
void ConvSchedule::make_runs() {
  const int64_t group = std::max<int64_t>(1, kGroupFloats / kernel_.panel_columns);
  const bool taps_touch = args_.dilation[2] == 1 && plan_.pitch == words_of(args_, plan_);
  const int64_t taps = taps_touch ? 1 : args_.kernel[2];
  const int64_t length = depth_ / (args_.kernel[0] * args_.kernel[1] * taps);
  int64_t in_group = 0;
  for (int64_t f = 0; f < args_.kernel[0]; ++f) {
    for (int64_t r = 0; r < args_.kernel[1]; ++r) {
      for (int64_t c = 0; c < taps; ++c) {
        const int64_t voxel =
            (f * args_.dilation[0] * plan_.region[1] + r * args_.dilation[1]) * plan_.region[2] + c * args_.dilation[2];
        for (int64_t done = 0; done < length;) {
          const int64_t here = std::min(length - done, group - in_group);
          runs_.push_back({voxel * plan_.pitch + done, here});
          done += here;
          in_group += here;
          if (in_group < group) continue;
          group_ends_.push_back(static_cast<int64_t>(runs_.size()));
          in_group = 0;
        }
      }
    }
  }
  if (in_group > 0) group_ends_.push_back(static_cast<int64_t>(runs_.size()));
}

ConvSchedule::Tasks ConvSchedule::tasks(int64_t panels) const {
  const int64_t wanted = ceil_div(4 * threads_, tiles_);  // tasks per tile that keep all threads busy
  const int64_t part = std::max(std::min(kMinPanels, panels), ceil_div(panels, wanted));
  return {part, ceil_div(panels, part)};
}

ConvTile ConvSchedule::tile(int64_t index) const {
  ConvTile tile{};
  for (int axis = 2; axis >= 0; --axis) {
    tile.first[axis] = index % axis_tiles_[axis] * plan_.tile[axis];
    tile.count[axis] = std::min(plan_.tile[axis], args_.out_size[axis] - tile.first[axis]);
    index /= axis_tiles_[axis];
  }
  tile.batch = index;
  return tile;
}

void ConvSchedule::pack(int64_t first, int64_t end, const Scratch& scratch) const noexcept {
  auto* const packed = scratch.at<float>(packed_at_);
  const int64_t pieces = ceil_div(depth_, kPackPiece);
  const auto body = [&](int64_t from, int64_t to) noexcept {
    for (int64_t i = from; i < to; ++i) {
      const int64_t panel = i / pieces, start = i % pieces * kPackPiece;
      kernel_.pack_weight(args_, plan_, first + panel, start, std::min(depth_, start + kPackPiece),
                          packed + panel * panel_floats_);
    }
  };
  parallel_for((end - first) * pieces, 1, body, threads_);
}

void ConvSchedule::convolve(int64_t first, int64_t end, const Scratch& scratch) const noexcept {
  const auto* const packed = scratch.at<float>(packed_at_);
  const auto [panels, parts] = tasks(end - first);
  const auto body = [&, panels = panels, parts = parts](int64_t from, int64_t to, int worker) noexcept {
    auto* const work = scratch.at<float>(work_at_ + worker * work_bytes_);
    for (int64_t i = from; i < to; ++i) {
      const int64_t panel = first + i % parts * panels;
      kernel_.convolve(args_, plan_, tile(i / parts), panel, std::min(end, panel + panels),
                       packed + (panel - first) * panel_floats_, work);
    }
  };
  parallel_for(tiles_ * parts, 1, body, static_cast<int>(workers_));
}

}  // namespace ltx2rt::cpu
