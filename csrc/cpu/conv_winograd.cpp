// Schedule of the Winograd form: how the outputs are cut into slabs, who transforms and who multiplies what.
#include "csrc/cpu/conv_winograd.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "csrc/cpu/aligned_floats.h"
#include "csrc/cpu/conv_winograd_kernel.h"
#include "csrc/cpu/thread_pool.h"

namespace ltx2rt::cpu {
namespace {

constexpr int64_t kPanelWords = 4 << 20;  // packed weights at one time, if a panel is not larger
constexpr int64_t kSlabWords = 3 << 20;   // transformed inputs, if one row of four cells does not need more
constexpr int64_t kLineFloats = 64 << 10; // of a line of inputs that a thread transforms, likewise
constexpr int64_t kGroupWords = 192;      // of the sum: their part of a panel leaves room in the first-level cache
constexpr int64_t kTaskCells = 48;        // whose sums, 8 KiB each, leave room in the second-level cache
constexpr int64_t kPackPiece = 128;       // words per point of one packing task
constexpr int64_t kFewCells = 96;         // of all outputs: then packed weights are used once and never kept

int64_t blocks_of(int64_t n, int64_t block) { return (n + block - 1) / block; }

std::vector<int64_t> candidates(int64_t size) {
  std::vector<int64_t> sizes;
  for (int64_t parts = 1; parts <= size; ++parts) {
    const int64_t even = blocks_of(size, parts);
    if (sizes.empty() || sizes.back() != even) sizes.push_back(even);
  }
  return sizes;
}

class Scheduler {
 public:
  explicit Scheduler(const ConvArgs& args) : args_(args), kernel_(conv_winograd_kernel()) {
    plan_.pairs = kernel_.has_pairs && args.type == FloatType::bf16 && args.weight_type == FloatType::bf16;
    plan_.words = plan_.pairs ? args.channels / 2 : args.channels;
    // Wide cells get a gap, so that neighbours do not compete for the same cache sets.
    plan_.pitch = plan_.words >= 256 ? plan_.words + 16 : plan_.words;
    cells_[0] = args.out_size[0];
    for (int axis = 1; axis < 3; ++axis) cells_[axis] = blocks_of(args.out_size[axis], 2);
    choose_slab();
    plan_.point_words = plan_.slab[1] * plan_.slab[2] * plan_.pitch;
    plan_.frame_words = kPoints * plan_.point_words;
    make_runs();
    plan_.runs = runs_.data();
    plan_.group_ends = group_ends_.data();
    plan_.groups = static_cast<int64_t>(group_ends_.size());
    panel_words_ = kPoints * args.kernel[0] * plan_.words * kernel_.panel_columns;
    for (int axis = 0; axis < 3; ++axis) slabs_[axis] = blocks_of(cells_[axis], plan_.slab[axis]);
  }

  void run() const {
    const int64_t panels = blocks_of(args_.out_channels, kernel_.panel_columns);
    const int64_t slabs = args_.batch * slabs_[0] * slabs_[1] * slabs_[2];
    if (slabs == 1 && cells_[0] * cells_[1] * cells_[2] <= kFewCells) {
      run_few(panels);
      return;
    }
    const int64_t rounds = blocks_of(panels, std::max<int64_t>(1, kPanelWords / panel_words_));
    const int64_t together = blocks_of(panels, rounds);
    const AlignedFloats packed(together * panel_words_), words(input_frames(plan_.slab[0]) * plan_.frame_words);
    for (int64_t first = 0; first < panels; first += together) {
      const int64_t end = std::min(panels, first + together);
      pack(first, end, packed.data());
      for (int64_t i = 0; i < slabs; ++i) {
        const WinogradSlab part = slab(i);
        if (slabs > 1 || first == 0) transform(part, words.data());
        multiply(part, first, end, words.data(), packed.data());
      }
    }
  }

 private:
  int64_t input_frames(int64_t frames) const {
    return (frames - 1) * args_.stride[0] + (args_.kernel[0] - 1) * args_.dilation[0] + 1;
  }

  // The slab that transforms the fewest inputs more than once.
  void choose_slab() {
    double least = std::numeric_limits<double>::infinity();
    for (int64_t columns : candidates(cells_[2])) {
      if ((2 * columns + 2) * args_.channels > kLineFloats && columns > 4) continue;
      for (int64_t rows : candidates(cells_[1])) {
        for (int64_t frames : candidates(cells_[0])) {
          const bool smallest = frames == 1 && rows == 1 && columns <= 4;
          if (input_frames(frames) * kPoints * rows * columns * plan_.pitch > kSlabWords && !smallest) continue;
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
  }

  void make_runs() {
    const int64_t depth = args_.kernel[0] * plan_.words;
    const int64_t group = blocks_of(blocks_of(depth, blocks_of(depth, kGroupWords)), kWordStep) * kWordStep;
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

  WinogradSlab slab(int64_t index) const {
    WinogradSlab slab{};
    for (int axis = 2; axis >= 0; --axis) {
      slab.first[axis] = index % slabs_[axis] * plan_.slab[axis];
      slab.count[axis] = std::min(plan_.slab[axis], cells_[axis] - slab.first[axis]);
      index /= slabs_[axis];
    }
    slab.batch = index;
    return slab;
  }

  void pack(int64_t first, int64_t end, float* packed) const {
    const int64_t pieces = blocks_of(plan_.words, kPackPiece), taps = args_.kernel[0];
    parallel_for((end - first) * taps * pieces, 1, [&](int64_t from, int64_t to) {
      for (int64_t i = from; i < to; ++i) {
        const int64_t panel = i / (taps * pieces), start = i % pieces * kPackPiece;
        kernel_.pack_weight(args_, plan_, first + panel, i / pieces % taps, start,
                            std::min(plan_.words, start + kPackPiece), packed + panel * panel_words_);
      }
    });
  }

  void run_few(int64_t panels) const {
    const AlignedFloats words(input_frames(plan_.slab[0]) * plan_.frame_words);
    const WinogradSlab all = slab(0);
    transform(all, words.data());
    parallel_for(panels, 1, [&](int64_t from, int64_t to) {
      const AlignedFloats work(kernel_.pack_and_multiply_floats(plan_, cells_[0] * cells_[1] * cells_[2]));
      for (int64_t panel = from; panel < to; ++panel)
        kernel_.pack_and_multiply(args_, plan_, all, panel, words.data(), work.data());
    });
  }

  void transform(const WinogradSlab& slab, float* words) const {
    const int64_t frames = input_frames(slab.count[0]);
    const int64_t rows = blocks_of(slab.count[1], blocks_of(4 * num_threads(), frames));  // of one task
    const int64_t pieces = blocks_of(slab.count[1], rows);
    parallel_for(frames * pieces, 1, [&](int64_t from, int64_t to) {
      const AlignedFloats work(kernel_.transform_floats(args_, plan_));
      for (int64_t i = from; i < to; ++i) {
        const int64_t row = i % pieces * rows;
        kernel_.transform(args_, plan_, slab, i / pieces, row, std::min(slab.count[1], row + rows), words,
                          work.data());
      }
    });
  }

  void multiply(const WinogradSlab& slab, int64_t first, int64_t end, const float* words, const float* packed) const {
    const int64_t cells = slab.count[0] * slab.count[1] * slab.count[2];
    const int64_t tiles = blocks_of(cells, kernel_.tile_rows);  // register tiles, the last one may be partly filled
    const int64_t task = blocks_of(tiles, blocks_of(tiles, kTaskCells / kernel_.tile_rows)) * kernel_.tile_rows;
    const int64_t tasks = blocks_of(cells, task);
    const int64_t parts = std::min(end - first, blocks_of(8 * num_threads(), tasks));
    const int64_t together = blocks_of(end - first, parts);
    parallel_for(tasks * parts, 1, [&](int64_t from, int64_t to) {
      const AlignedFloats work(kernel_.multiply_floats(task));
      for (int64_t i = from; i < to; ++i) {
        const int64_t cell = i / parts * task, panel = first + i % parts * together;
        if (panel >= end) continue;
        kernel_.multiply(args_, plan_, slab, cell, std::min(cells, cell + task), panel, std::min(end, panel + together),
                         words, packed + (panel - first) * panel_words_, work.data());
      }
    });
  }

  ConvArgs args_;
  const WinogradKernel& kernel_;
  WinogradPlan plan_{};
  std::vector<Run> runs_;
  std::vector<int64_t> group_ends_;
  int64_t panel_words_;
  int64_t cells_[3];  // frames, rows and columns of cells
  int64_t slabs_[3];
};

}  // namespace

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

void run_winograd(const ConvArgs& args) { Scheduler(args).run(); }

}  // namespace ltx2rt::cpu
