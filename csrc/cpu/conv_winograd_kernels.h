// What the Winograd form of the convolution of one instruction set offers to the code that schedules it.
//
// Height and width of a 3 x 3 kernel are done by F(2 x 2, 3 x 3) of Lavin and Gray, "Fast Algorithms for Convolutional
// Neural Networks" (2016): 2 x 2 outputs, a cell, come from 4 x 4 inputs by 16 products instead of 36.
#pragma once
#include <stdint.h>

#include "csrc/cpu/causal_conv3d_kernels.h"
#include "csrc/cpu/isa.h"
#include "csrc/cpu/run.h"

namespace ltx2rt::cpu {

constexpr int64_t kPoints = 16;    // products per cell and input channel
constexpr int64_t kWordStep = 16;  // words of a tap and of a group are multiples of it

// How the outputs are cut into slabs: boxes of frames and cells. The transformed inputs under a slab are kept as words
// (see ConvPlan): [input frames][kPoints][cells of one frame][pitch].
struct WinogradPlan {
  bool pairs;
  int64_t words;        // per input channel vector
  int64_t pitch;        // words from cell to cell
  int64_t slab[3];      // output frames, rows and columns of cells of a whole slab
  int64_t point_words;  // from point to point
  int64_t frame_words;  // from input frame to input frame
  // The sum over (kt, C) of each point, as in ConvPlan.
  const Run* runs;
  const int64_t* group_ends;
  int64_t groups;
  int64_t group_words;  // of the largest group
};

// Output frames first[0] up to count[0], rows and columns of cells likewise, of one batch item.
struct WinogradSlab {
  int64_t batch;
  int64_t first[3];
  int64_t count[3];
};

struct WinogradKernel {
  bool has_pairs;
  int64_t panel_columns;  // output channels per packed weight panel
  int64_t tile_rows;      // cells per register tile
  // Transforms and packs the part of one panel that belongs to tap `tap` of the frames: words [first, end) of each point,
  // multiples of kWordStep. panel: [kPoints][kt][words][panel_columns].
  void (*pack_weight)(const ConvArgs& args, const WinogradPlan& plan, int64_t panel_index, int64_t tap, int64_t first,
                      int64_t end, float* panel);
  // Transforms the rows of cells [first_row, end_row) of one input frame of a slab.
  void (*transform)(const ConvArgs& args, const WinogradPlan& plan, const WinogradSlab& slab, int64_t frame,
                    int64_t first_row, int64_t end_row, float* words, float* work);
  int64_t (*transform_floats)(const ConvArgs& args, const WinogradPlan& plan);
  // The outputs of the cells [first_cell, end_cell) of a slab, counted through frames, rows and columns, for the output
  // channels of the panels [first_panel, end_panel), which start at `panels`.
  void (*multiply)(const ConvArgs& args, const WinogradPlan& plan, const WinogradSlab& slab, int64_t first_cell,
                   int64_t end_cell, int64_t first_panel, int64_t end_panel, const float* words, const float* panels,
                   float* work);
  int64_t (*multiply_floats)(int64_t cells, int64_t panels);
  // pack_weight and multiply in one for all cells of a slab and one panel, whose packed words then stay in the cache.
  void (*pack_and_multiply)(const ConvArgs& args, const WinogradPlan& plan, const WinogradSlab& slab, int64_t panel,
                            const float* words, float* work);
  int64_t (*pack_and_multiply_floats)(const WinogradPlan& plan, int64_t cells);
};

LTX2RT_DISPATCH(const WinogradKernel&, conv_winograd_kernel)

}  // namespace ltx2rt::cpu
