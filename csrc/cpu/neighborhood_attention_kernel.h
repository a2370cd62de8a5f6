// What the neighborhood attention kernel of one instruction set offers to the code that schedules it.
//
// Queries lie in the lanes of a vector as a small box of cells, frames x rows x columns, so that their windows overlap
// most. The keys of some rows of a frame and one head, normalised and turned, are a packed plane; replicated edges have
// cells of their own there. Planes are packed once and read by all boxes that see their frame.
#pragma once
#include <stdint.h>

#include "csrc/cpu/float_type.h"
#include "csrc/cpu/isa.h"
#include "csrc/op_types.h"

namespace ltx2rt::cpu {

// Cells of an array read in place; strides in elements.
struct CellRows {
  const void* data;
  FloatType type;
  int64_t batch_stride, frame_stride, row_stride, column_stride, lane_stride;
};

// Rows or columns. Keys are counted in places: the cells, or with Border::replicate cells + window - 1 places of which
// place p is cell p - window / 2.
struct WindowAxis {
  int64_t cells, window;
  Border border;
};

// Cosines, then sines `part` floats after them.
struct AngleRows {
  const float* cos;
  int64_t part, pairs;  // pairs: columns of a row
};

struct NeighborhoodArgs {
  int64_t batch, frames, key_frames, heads, head_size;
  WindowAxis rows, columns;
  CellRows q, k, v;
  const float *q_norm, *k_norm;             // null: none
  bool rotated;                             // whether the four tables are there
  AngleRows q_time, k_time, height, width;  // rows: frames; rows of positions -window / 2, ...
  float norm_eps, scale;
  void* out;  // (batch, frames, rows, columns, heads * head_size), contiguous
  FloatType out_type;
};

// The cells of a box of queries.
struct LaneBox {
  int frames, rows, columns;
};

// Places of rows [first_row, first_row + rows), all columns. first_row may be -1 and the last row one too many, so that
// boxes begin at even rows: those hold zeros. box_columns: of the boxes that read it.
struct PackedPlane {
  int64_t first_row, rows, box_columns;
};

// What of keys and values is packed: some heads of one frame.
struct PackedFrame {
  int64_t batch, frame, first_head, heads;
};

// A block of queries of one head, worked on together while the keys of a frame are in the caches: cells from (row, column)
// to (end_row, end_column), at most kBlockCells of each, of at most block_frames frames. It is cut into boxes.
// Columns of boxes divide kBlockCells, and blocks begin at its multiples.
constexpr int64_t kBlockCells = 16;
struct NeighborhoodBlock {
  int64_t batch, head, first_frame;
  int frames;
  int64_t row, end_row, column, end_column;
};

// A frame of keys that queries of a box see. Bit i of seen_by: those of its frame i.
struct SeenFrame {
  int32_t frame;  // of k
  int32_t slot;   // where its planes lie
  uint32_t seen_by;
};

// The loops for one kind of words: float32 values, pairs of bfloat16 values, or tiles of those.
struct NeighborhoodLoops {
  // Rows and columns of keys are multiplied in whole numbers of these.
  int64_t row_unit, column_unit;
  int64_t block_frames;  // a power of two
  // Floats of the planes of one frame and head, and of the scratch of one thread. Both grow with the columns.
  int64_t (*plane_floats)(const NeighborhoodArgs& args, const PackedPlane& plane);
  int64_t (*work_floats)(const NeighborhoodArgs& args, int64_t box_columns);
  // Packs rows [first, first + 2) of a plane, counted from its first one. The planes of the heads are `stride` floats
  // apart. work: work_floats.
  void (*pack)(const NeighborhoodArgs& args, const PackedPlane& plane, const PackedFrame& part, int64_t first,
               float* planes, int64_t stride, float* work);
  // Attends. planes: of the head's slot 0; those of the next slot are `stride` floats after them.
  void (*attend)(const NeighborhoodArgs& args, const PackedPlane& plane, const LaneBox& box,
                 const NeighborhoodBlock& block, const SeenFrame* seen, int64_t seen_count, const float* planes,
                 int64_t stride, float* work);
};

struct NeighborhoodKernel {
  int lanes;  // queries of a box
  NeighborhoodLoops values;
  bool has_pairs;  // the processor has a dot product of bfloat16 pairs
  NeighborhoodLoops pairs;
  bool has_tiles;  // for heads of 64, where tiles are in use (isa.h)
  NeighborhoodLoops tiles;
};

LTX2RT_DISPATCH(const NeighborhoodKernel&, neighborhood_attention_kernel)

// ---- Windows, in places; static: see isa.h ----

static inline int64_t places_of(const WindowAxis& axis) {
  return axis.border == Border::replicate ? axis.cells + axis.window - 1 : axis.cells;
}

// The first place of the window of a cell, and the one after the last.
static inline int64_t window_begin(const WindowAxis& axis, int64_t cell) {
  if (axis.border == Border::replicate) return cell;
  const int64_t first = cell - axis.window / 2;
  const int64_t last_start = axis.border == Border::shift ? axis.cells - axis.window : first;
  return first < 0 ? 0 : first < last_start ? first : last_start;
}
static inline int64_t window_end(const WindowAxis& axis, int64_t cell) {
  if (axis.border != Border::mask) return window_begin(axis, cell) + axis.window;
  const int64_t end = cell - axis.window / 2 + axis.window;
  return end < axis.cells ? end : axis.cells;
}

// The cell that a place stands for, and the row of the rotary tables with its position.
static inline int64_t cell_of(const WindowAxis& axis, int64_t place) {
  if (axis.border != Border::replicate) return place;
  const int64_t cell = place - axis.window / 2;
  return cell < 0 ? 0 : cell < axis.cells ? cell : axis.cells - 1;
}
static inline int64_t position_of(const WindowAxis& axis, int64_t place) {
  return axis.border == Border::replicate ? place : place + axis.window / 2;
}

}  // namespace ltx2rt::cpu
