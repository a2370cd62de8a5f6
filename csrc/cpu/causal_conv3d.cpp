// CPU evaluation of causal_conv3d: how the outputs are cut into tiles, and who packs and computes what.
#include "csrc/causal_conv3d.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "csrc/cpu/aligned_floats.h"
#include "csrc/cpu/causal_conv3d_kernel.h"
#include "csrc/cpu/conv_winograd.h"
#include "csrc/cpu/rows.h"
#include "csrc/cpu/thread_pool.h"
#include "mlx/allocator.h"
#include "mlx/backend/cpu/encoder.h"

namespace ltx2rt {
namespace {

using cpu::ConvArgs;
using cpu::ConvKernel;
using cpu::ConvPlan;
using cpu::ConvTile;

constexpr int64_t kPanelFloats = 4 << 20;   // packed weights at one time, if a panel is not larger
constexpr int64_t kGroupFloats = 4096;      // of a weight panel, half the first-level cache
constexpr int64_t kCachedRegion = 48 << 10; // words of a region that leave room in the second-level cache
constexpr int64_t kMostRegion = 512 << 10;  // words of a region, if one register tile does not need more
constexpr int64_t kMostOutputs = 384;
constexpr int64_t kPackPiece = 2048;        // summed words of one packing task
constexpr int64_t kLeastPanels = 4;         // of one task: fewer repeat the prologue too often

int64_t blocks_of(int64_t n, int64_t block) { return (n + block - 1) / block; }

cpu::Voxels voxels(const mx::array& a) {
  cpu::Voxels v{a.data<char>(), {}};
  for (int axis = 0; axis < 5; ++axis) v.strides[axis] = a.strides(axis);
  return v;
}

int64_t extent(const ConvArgs& args, int axis, int64_t outputs) {
  return (outputs - 1) * args.stride[axis] + (args.kernel[axis] - 1) * args.dilation[axis] + 1;
}

// Words per voxel.
int64_t words_of(const ConvArgs& args, const ConvPlan& plan) { return plan.pairs ? args.channels / 2 : args.channels; }

// Sizes to try for one axis of a tile: the axis cut into equal parts.
std::vector<int64_t> candidates(int64_t size) {
  std::vector<int64_t> sizes;
  for (int64_t most : {1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384}) {
    const int64_t even = blocks_of(size, blocks_of(size, most));
    if (sizes.empty() || sizes.back() != even) sizes.push_back(even);
    if (most >= size) break;
  }
  return sizes;
}

// Estimated time of one output of a tile, in units of one fused multiply-add of a vector pair. The terms: the products,
// the prologue of the region shared by the tile's outputs, bringing the weights into the cache once per tile, and the
// threads that have nothing to do at the end.
double tile_cost(const ConvArgs& args, const ConvKernel& kernel, const ConvPlan& plan) {
  const double outputs = double(plan.tile[0] * plan.tile[1] * plan.tile[2]);
  const double region = double(plan.region[0] * plan.region[1] * plan.region[2]);
  const double depth = double(args.kernel[0] * args.kernel[1] * args.kernel[2] * words_of(args, plan));
  const double panels = double(blocks_of(args.out_channels, kernel.panel_columns));
  const double rows = double(kernel.tile_rows) * double(blocks_of(int64_t(outputs), kernel.tile_rows));
  const double products = depth * panels * rows / outputs * (region * double(plan.pitch) > kCachedRegion ? 1.1 : 1.0);
  const double values = region * double(args.channels) * (args.activation == ConvActivation::silu ? 3.0 : 1.5);
  const double weights = depth * panels * 8.0;
  double tasks = double(args.batch * blocks_of(int64_t(panels), kLeastPanels));
  for (int axis = 0; axis < 3; ++axis) tasks *= double(blocks_of(args.out_size[axis], plan.tile[axis]));
  const double threads = cpu::num_threads(), turns = std::ceil(tasks / threads);
  return (products + (values + weights) / outputs) * turns * threads / tasks;
}

ConvPlan choose_tile(const ConvArgs& args, const ConvKernel& kernel) {
  ConvPlan best{}, plan{};
  // Wide voxels get a gap, so that neighbours do not compete for the same cache sets.
  plan.pairs = kernel.has_pairs && args.type == cpu::FloatType::bf16 && args.weight_type == cpu::FloatType::bf16 &&
               args.channels % 2 == 0;
  plan.pitch = words_of(args, plan) >= 256 ? words_of(args, plan) + 16 : words_of(args, plan);
  double least = std::numeric_limits<double>::infinity();
  for (int64_t frames : candidates(std::min<int64_t>(args.out_size[0], 8))) {
    for (int64_t rows : candidates(args.out_size[1])) {
      for (int64_t columns : candidates(args.out_size[2])) {
        const int64_t sizes[] = {frames, rows, columns};
        int64_t outputs = 1, region = plan.pitch;
        for (int axis = 0; axis < 3; ++axis) {
          plan.tile[axis] = sizes[axis];
          plan.region[axis] = extent(args, axis, sizes[axis]);
          outputs *= plan.tile[axis];
          region *= plan.region[axis];
        }
        if (outputs > kMostOutputs || (region > kMostRegion && outputs > kernel.tile_rows)) break;
        const double cost = tile_cost(args, kernel, plan);
        if (cost >= least) continue;
        least = cost;
        best = plan;
      }
    }
  }
  return best;
}

class Scheduler {
 public:
  explicit Scheduler(const ConvArgs& args)
      : args_(args),
        kernel_(cpu::causal_conv3d_kernel()),
        plan_(choose_tile(args, kernel_)),
        depth_(args.kernel[0] * args.kernel[1] * args.kernel[2] * words_of(args, plan_)),
        panel_floats_(depth_ * kernel_.panel_columns) {
    make_runs();
    plan_.runs = runs_.data();
    plan_.group_ends = group_ends_.data();
    plan_.groups = static_cast<int64_t>(group_ends_.size());
    for (int axis = 0; axis < 3; ++axis) tiles_[axis] = blocks_of(args.out_size[axis], plan_.tile[axis]);
  }

  void run() const {
    const int64_t panels = blocks_of(args_.out_channels, kernel_.panel_columns);
    const int64_t rounds = blocks_of(panels, std::max<int64_t>(1, kPanelFloats / panel_floats_));
    const int64_t together = blocks_of(panels, rounds);
    const cpu::AlignedFloats packed(together * panel_floats_);
    for (int64_t first = 0; first < panels; first += together) {
      const int64_t end = std::min(panels, first + together);
      pack(first, end, packed.data());
      convolve(first, end, packed.data());
    }
  }

 private:
  // The summed index in pieces that lie together in the region, none longer than a group.
  void make_runs() {
    const int64_t group = std::max<int64_t>(1, kGroupFloats / kernel_.panel_columns);
    const bool taps_touch = args_.dilation[2] == 1 && plan_.pitch == words_of(args_, plan_);
    const int64_t taps = taps_touch ? 1 : args_.kernel[2];
    const int64_t length = depth_ / (args_.kernel[0] * args_.kernel[1] * taps);
    int64_t in_group = 0;
    for (int64_t f = 0; f < args_.kernel[0]; ++f) {
      for (int64_t r = 0; r < args_.kernel[1]; ++r) {
        for (int64_t c = 0; c < taps; ++c) {
          const int64_t voxel = (f * args_.dilation[0] * plan_.region[1] + r * args_.dilation[1]) * plan_.region[2] +
                                c * args_.dilation[2];
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

  void pack(int64_t first, int64_t end, float* packed) const {
    const int64_t pieces = blocks_of(depth_, kPackPiece);
    cpu::parallel_for((end - first) * pieces, 1, [&](int64_t from, int64_t to) {
      for (int64_t i = from; i < to; ++i) {
        const int64_t panel = i / pieces, start = i % pieces * kPackPiece;
        kernel_.pack_weight(args_, plan_, first + panel, start, std::min(depth_, start + kPackPiece),
                            packed + panel * panel_floats_);
      }
    });
  }

  ConvTile tile(int64_t index) const {
    ConvTile tile{};
    for (int axis = 2; axis >= 0; --axis) {
      tile.first[axis] = index % tiles_[axis] * plan_.tile[axis];
      tile.count[axis] = std::min(plan_.tile[axis], args_.out_size[axis] - tile.first[axis]);
      index /= tiles_[axis];
    }
    tile.batch = index;
    return tile;
  }

  void convolve(int64_t first, int64_t end, const float* packed) const {
    const int64_t tiles = args_.batch * tiles_[0] * tiles_[1] * tiles_[2];
    const int64_t wanted = blocks_of(4 * cpu::num_threads(), tiles);  // tasks per tile that keep all threads busy
    const int64_t together = std::max(std::min(kLeastPanels, end - first), blocks_of(end - first, wanted));
    const int64_t parts = blocks_of(end - first, together);
    cpu::parallel_for(tiles * parts, 1, [&](int64_t from, int64_t to) {
      const cpu::AlignedFloats work(kernel_.work_floats(args_, plan_));
      for (int64_t i = from; i < to; ++i) {
        const int64_t panel = first + i % parts * together;
        kernel_.convolve(args_, plan_, tile(i / parts), panel, std::min(end, panel + together),
                         packed + (panel - first) * panel_floats_, work.data());
      }
    });
  }

  ConvArgs args_;
  const ConvKernel& kernel_;
  ConvPlan plan_;
  std::vector<cpu::Run> runs_;
  std::vector<int64_t> group_ends_;
  int64_t depth_;  // length of the summed index, in words
  int64_t panel_floats_;
  int64_t tiles_[3];
};

}  // namespace

void CausalConv3d::eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) {
  auto& out = outputs[0];
  out.set_data(mx::allocator::malloc(out.nbytes()));
  auto& encoder = mx::cpu::get_command_encoder(stream());
  for (const auto& input : inputs) encoder.set_input_array(input);
  encoder.set_output_array(out);
  if (out.size() == 0) return;

  const auto &x = inputs[0], &weight = inputs[1];
  ConvArgs args{};
  args.type = cpu::float_type(x.dtype());
  args.x = voxels(x);
  args.batch = x.shape(0);
  args.channels = x.shape(4);
  args.out_channels = weight.shape(0);
  args.weight = weight.data<char>();
  args.weight_type = cpu::float_type(weight.dtype());
  size_t next = 2;
  if (present_.bias) args.bias = inputs[next++].data<float>();
  if (present_.scale) args.scale = inputs[next++].data<float>();
  if (present_.shift) args.shift = inputs[next++].data<float>();
  if (present_.residual) args.residual = voxels(inputs[next++]);
  if (present_.halo) {
    args.halo_frames = inputs[next].shape(1);
    args.halo = voxels(inputs[next]);
  }
  for (int axis = 0; axis < 3; ++axis) {
    args.in_size[axis] = x.shape(axis + 1) + (axis == 0 ? args.halo_frames : 0);
    args.out_size[axis] = out.shape(axis + 1);
    args.kernel[axis] = weight.shape(axis + 1);
    args.stride[axis] = options_.stride[axis];
    args.dilation[axis] = options_.dilation[axis];
    args.pad_before[axis] = options_.padding[axis].first;
    args.pad_mode[axis] = options_.padding_mode[axis];
  }
  args.pixel_norm = options_.pixel_norm_eps.has_value();
  args.pixel_norm_eps = options_.pixel_norm_eps.value_or(0.0f);
  args.activation = options_.activation;
  args.negative_slope = options_.negative_slope;
  args.out = out.data<char>();
  encoder.dispatch([args] {
    if (cpu::suits_winograd(args)) {
      cpu::run_winograd(args);
    } else {
      Scheduler(args).run();
    }
  });
}

}  // namespace ltx2rt
