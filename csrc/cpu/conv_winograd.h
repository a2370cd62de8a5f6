// The Winograd form of causal_conv3d: for which calls, and its schedule.
#pragma once

#include <cstdint>
#include <vector>

#include "csrc/cpu/causal_conv3d_kernels.h"
#include "csrc/cpu/conv_winograd_kernels.h"
#include "csrc/cpu/dispatch.h"
#include "csrc/cpu/run.h"

namespace ltx2rt::cpu {

// Whether a call is computed in this form. Depends on dtypes, on the kernel and on the size of one frame, so that a
// frame has the same bits however many are computed with it.
bool suits_winograd(const ConvArgs& args);

// How the outputs of one call are cut into slabs, and who transforms and who multiplies what. Depends on the sizes,
// types and strides of `args` alone; its pointers are read by run().
class WinogradSchedule {
 public:
  // Throws std::invalid_argument where the inputs of a single output could not be addressed.
  WinogradSchedule(const ConvArgs& args, int threads, const WinogradKernel& kernel = conv_winograd_kernel());
  WinogradSchedule(const WinogradSchedule&) = delete;
  WinogradSchedule& operator=(const WinogradSchedule&) = delete;

  // Transformed inputs of a slab, packed weights of one round, and what each thread that takes part transforms or
  // multiplies.
  int64_t scratch_bytes() const { return layout_.bytes(); }

  // With scratch of at least scratch_bytes().
  void run(const Scratch& scratch) const noexcept;

 private:
  // The tasks that multiply one slab with some panels: cells times panels.
  struct Tasks {
    int64_t cells;   // of one task
    int64_t panels;  // likewise
    int64_t parts;   // of the panels
    int64_t count;
  };
  // The tasks that transform one slab.
  struct Rows {
    int64_t rows;    // of cells, of one task
    int64_t pieces;  // of an input frame
    int64_t count;
  };
  // What the threads of a loop take beside the shared scratch.
  struct Share {
    int64_t workers;
    int64_t bytes;  // of each
    int64_t total() const { return workers * bytes; }
  };

  int64_t input_frames(int64_t frames) const;
  void choose_slab();
  void make_runs();
  void share_out();
  Tasks tasks(int64_t cells, int64_t panels) const;
  Rows rows(int64_t frames, int64_t rows) const;
  WinogradSlab slab(int64_t index) const;
  void pack(int64_t first, int64_t end, const Scratch& scratch) const noexcept;
  void pack_and_multiply(const WinogradSlab& slab, const Scratch& scratch) const noexcept;
  void transform(const WinogradSlab& slab, const Scratch& scratch) const noexcept;
  void multiply(const WinogradSlab& slab, int64_t first, int64_t end, const Scratch& scratch) const noexcept;

  ConvArgs args_;
  const WinogradKernel& kernel_;
  int threads_;
  WinogradPlan plan_{};
  std::vector<Run> runs_;
  std::vector<int64_t> group_ends_;
  int64_t panel_words_;
  int64_t cells_[3];  // frames, rows and columns of cells
  int64_t axis_slabs_[3];
  int64_t slabs_;
  int64_t panels_;
  bool few_;              // all weights are used once, and packed where they are
  int64_t round_panels_;  // packed at one time
  Share transforming_, multiplying_;
  ScratchLayout layout_;
  int64_t words_at_;   // the transformed inputs
  int64_t packed_at_;  // the weights
  int64_t work_at_;    // the shares of the threads, of one loop at a time
};

}  // namespace ltx2rt::cpu
