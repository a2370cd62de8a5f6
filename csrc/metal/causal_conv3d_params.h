// Parameters of the shaders of causal_conv3d, shared with the code that launches them.
#pragma once
#include "csrc/metal/shared_types.h"
#include "csrc/op_types.h"

namespace ltx2rt {
namespace metal_shared {

// Axes are frames, rows, columns. Strides count elements of batch, frame, row, column; channels are neighbours.
//
// A threadgroup makes a tile of kConvTile outputs. For every slab of channels it stages the inputs under the tile, the
// region, and then sums over the taps of the kernel. Where the region of all taps fits into kConvRegion voxels there is
// one phase: region_step is 1, region_per_output the stride, and taps address the region at their distance. Else each
// tap is a phase of its own with a region of one voxel per output: region_step is the stride, region_per_output 1.
struct ConvParams {
  int64 x_strides[4];
  int64 halo_strides[4];
  int64 residual_strides[4];
  int32 in_size[3];  // frames counted with the halo
  int32 out_size[3];
  int32 kernel_size[3];
  int32 stride[3];
  int32 dilation[3];
  int32 pad_before[3];
  int32 tiles[3];        // along each axis
  int32 tile_size[3];    // outputs: powers of two with product kConvTile
  int32 region_size[3];  // voxels
  int32 region_step[3];
  int32 region_per_output[3];
  int32 taps_per_phase;  // all taps of the kernel, or 1
  int32 halo_frames;
  int32 channels;
  int32 out_channels;
  float negative_slope;
  int32 tile_shift_row;       // log2 of tile_size[2]
  int32 tile_shift_frame;     // log2 of tile_size[1] * tile_size[2]
  int32 first_channel_block;  // of this dispatch: its threadgroups are a part of all
  int32 first_tile;
  int32 first_batch;
  int32 unused;
};
static_assert(sizeof(ConvParams) == 272, "the shader and its host must agree");

struct ConvRowScaleParams {
  int64 strides[4];
  int32 size[3];
  int32 first_frame;  // of these frames among all, halo and x
  int32 total_frames;
  int32 channels;
  float eps;
  int32 first_group;  // of this dispatch
};
static_assert(sizeof(ConvRowScaleParams) == 64, "the shader and its host must agree");

// Function constants; an element type or kAbsent for operands.
enum ConvConstant {
  kConvPaddingFramesId = 0,
  kConvPaddingRowsId = 1,
  kConvPaddingColumnsId = 2,
  kConvHasNormId = 3,
  kConvScaleId = 4,
  kConvShiftId = 5,
  kConvActivationId = 6,
  kConvWeightId = 7,
  kConvBiasId = 8,
  kConvHasResidualId = 9,
  kConvHasHaloId = 10,
  kConvAlignedId = 11,
  kConvAlignedOutId = 12,
  kConvFencedId = 13,
};

enum {
  kConvTile = 128,       // outputs per threadgroup
  kConvRegion = 432,     // voxels that a region may have
  kConvSlabBytes = 32,   // of channels per voxel of the region
  kConvTapsPerStep = 3,  // whose weights are staged together
  kConvRowScaleSimdgroups = 8,
};

}  // namespace metal_shared
}  // namespace ltx2rt
