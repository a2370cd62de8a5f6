// What the convolution kernel of one instruction set offers to the code that schedules it.
#pragma once
#include <stdint.h>

#include "csrc/cpu/float_type.h"
#include "csrc/cpu/isa.h"
#include "csrc/cpu/run.h"
#include "csrc/op_types.h"

namespace ltx2rt::cpu {

// A channels-last array read in place; strides in elements: batch, frame, row, column, channel.
struct Voxels {
  const void* data;
  int64_t strides[5];
};

// Everything about one call; index 0, 1, 2 of an axis array is frames, height, width.
struct ConvArgs {
  FloatType type;  // of x, halo, residual and out
  Voxels x;
  Voxels halo;
  int64_t halo_frames;
  int64_t batch, channels, out_channels;
  int64_t in_size[3];  // frames counted with the halo
  int64_t out_size[3];
  int64_t kernel[3], stride[3], dilation[3], pad_before[3];
  PadMode pad_mode[3];

  bool pixel_norm;
  float pixel_norm_eps;
  const float* scale;  // (batch, channels), or null
  const float* shift;  // (batch, channels), or null
  ConvActivation activation;
  float negative_slope;

  const void* weight;  // (out_channels, kernel..., channels), contiguous
  FloatType weight_type;
  const float* bias;  // or null
  Voxels residual;    // data null: none
  void* out;          // contiguous
};

// How the outputs are cut into tiles. A tile's inputs, its region, are kept as words after the prologue and the padding:
// [region frames][region rows][region columns][pitch]. A word is a float32 value, or a pair of bfloat16 values of
// neighbouring channels.
struct ConvPlan {
  int64_t tile[3];    // outputs per tile, fewer at the far borders
  int64_t region[3];  // inputs under a whole tile
  bool pairs;         // needs an even number of channels and bfloat16 weights
  int64_t pitch;      // words per voxel of the region, at least those of its channels
  // The sum over (kt, kh, kw, C) as runs relative to the region voxel under an output's first tap. Group g holds the
  // runs [group_ends[g - 1], group_ends[g]): as many as leave their part of a weight panel in the first-level cache.
  const Run* runs;
  const int64_t* group_ends;
  int64_t groups;
};

// Outputs first[axis] up to count[axis] of one batch item.
struct ConvTile {
  int64_t batch;
  int64_t first[3];
  int64_t count[3];
};

struct ConvKernel {
  bool has_pairs;         // the instruction set multiplies pairs of bfloat16
  int64_t panel_columns;  // output channels per packed weight panel
  int64_t tile_rows;      // outputs per register tile
  // Packs the words [first, end) of the summed index of one panel; panel holds panel_columns words for each of them.
  void (*pack_weight)(const ConvArgs& args, const ConvPlan& plan, int64_t panel_index, int64_t first, int64_t end,
                      float* panel);
  int64_t (*work_floats)(const ConvArgs& args, const ConvPlan& plan);
  // One tile, for the output channels of the panels [first_panel, end_panel), which start at `panels`.
  void (*convolve)(const ConvArgs& args, const ConvPlan& plan, const ConvTile& tile, int64_t first_panel,
                   int64_t end_panel, const float* panels, float* work);
};

LTX2RT_DISPATCH(const ConvKernel&, causal_conv3d_kernel)

}  // namespace ltx2rt::cpu
