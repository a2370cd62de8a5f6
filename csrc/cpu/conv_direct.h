// The direct form of causal_conv3d: its schedule.
#pragma once

#include <cstdint>
#include <vector>

#include "csrc/cpu/causal_conv3d_kernels.h"
#include "csrc/cpu/dispatch.h"
#include "csrc/cpu/run.h"

namespace ltx2rt::cpu {

// How the outputs of one call are cut into tiles, and who packs and computes what. Depends on the sizes, types,
// activation and strides of `args` alone; its pointers are read by run().
class ConvSchedule {
 public:
  // Throws std::invalid_argument where the inputs of a single output could not be addressed.
  ConvSchedule(const ConvArgs& args, int threads, const ConvKernel& kernel = causal_conv3d_kernel());
  ConvSchedule(const ConvSchedule&) = delete;
  ConvSchedule& operator=(const ConvSchedule&) = delete;

  // Packed weights of one round, and for each thread that takes part the inputs and sums of a tile.
  int64_t scratch_bytes() const { return layout_.bytes(); }

  // With scratch of at least scratch_bytes().
  void run(const Scratch& scratch) const noexcept;

 private:
  // The tasks of one round: the tiles times the parts that its panels are cut into.
  struct Tasks {
    int64_t panels;  // of one part
    int64_t parts;
  };

  void make_runs();
  Tasks tasks(int64_t panels) const;
  ConvTile tile(int64_t index) const;
  void pack(int64_t first, int64_t end, const Scratch& scratch) const noexcept;
  void convolve(int64_t first, int64_t end, const Scratch& scratch) const noexcept;

  ConvArgs args_;
  const ConvKernel& kernel_;
  int threads_;
  ConvPlan plan_;
  std::vector<Run> runs_;
  std::vector<int64_t> group_ends_;
  int64_t depth_;  // length of the summed index, in words
  int64_t panel_floats_;
  int64_t axis_tiles_[3];
  int64_t tiles_;
  int64_t panels_;
  int64_t round_panels_;  // packed at one time
  int64_t workers_;
  int64_t work_bytes_;  // of each
  ScratchLayout layout_;
  int64_t packed_at_;
  int64_t work_at_;
};

}  // namespace ltx2rt::cpu
