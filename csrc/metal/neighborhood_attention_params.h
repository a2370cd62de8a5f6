// Parameters of the shader of neighborhood_attention, shared with the code that launches it.
#pragma once
#include "csrc/metal/shared_types.h"
#include "csrc/op_types.h"

namespace ltx2rt {
namespace metal_shared {

// Strides count elements; the lanes of a head are neighbours. All are multiples of 4, and so are the offsets of q, k
// and v in their buffers. Offsets within a frame fit into 32 bits.
struct NeighborhoodParams {
  int64 q_strides[2];  // batch, frame
  int64 k_strides[2];
  int64 v_strides[2];
  int32 q_cell_strides[2];  // row, column
  int32 k_cell_strides[2];
  int32 v_cell_strides[2];
  int32 size[3];     // of q: T, H, W
  int32 bricks[2];   // along H and W
  int32 window[2];   // Kh, Kw
  int32 borders[2];  // Border, of height and width
  int32 pairs[3];    // Ft, Fh, Fw
  int32 key_frames;  // S
  int32 slots;       // J
  int32 heads;
  int32 first_brick;  // of this dispatch: its threadgroups are a part of all
  int32 first_head;
  int32 first_batch;
  float scale;
  float norm_eps;
};
static_assert(sizeof(NeighborhoodParams) == 152, "the shader and its host must agree");

// Function constants.
enum NeighborhoodConstant {
  kNeighborhoodQNormId = 0,
  kNeighborhoodKNormId = 1,
  kNeighborhoodRopeId = 2,
  kNeighborhoodFencedId = 3,
};

enum {
  kNeighborhoodHead = 64,  // K
  // Queries of a threadgroup, along frames, rows and columns. Eight simdgroups: two along rows, four along columns, each
  // with two blocks of 2 x 2 x 2 queries, one behind the other in time.
  kBrickFrames = 4,
  kBrickRows = 4,
  kBrickColumns = 8,
  kNeighborhoodThreads = 256,
  kMostKeySlots = 16,        // J
  kNeighborhoodTurns = 256,  // fours of cosines and sines that a threadgroup keeps
};

}  // namespace metal_shared
}  // namespace ltx2rt
