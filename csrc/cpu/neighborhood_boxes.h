// Boxes of queries of neighborhood attention: where they are, which keys they see, and what they carry from frame to
// frame; for *_simd.cpp files.
//
// Queries lie in the lanes of the vectors, so that the mask of a key is that of a vector, and the maximum and the sum
// over keys are plain vector operations. All keys that any query of a box sees are multiplied with all of them; what is
// outside a query's window gets the weight zero.
#pragma once
#include "csrc/cpu/neighborhood_cells.h"

namespace ltx2rt::cpu::LTX2RT_ISA {

// Keys whose scores are kept together, at least: they stay in the first-level cache.
constexpr int64_t kKeys = 256;
constexpr int64_t kMaxHead = 256;
constexpr float kMinusInfinity = -__builtin_inff();

// Most keys of a row that a box sees.
inline int64_t most_columns(const NeighborhoodArgs& args) {
  return smaller(places_of(args.columns), args.columns.window + kLanes);
}

// What the queries of a box carry from frame to frame.
template <typename Words>
struct State {
  State(float* memory, int64_t head_size)
      : queries(memory),
        sums(queries + head_size / kValues<Words> * kLanes),
        base(sums + head_size * kLanes),
        weights(base + kLanes),
        lengths(weights + kLanes) {}
  static int64_t floats(int64_t head_size) { return (head_size / kValues<Words> + head_size + 3) * kLanes; }

  float* queries;  // [words of a head][kLanes]
  float* sums;     // of weighted values [kLanes][head_size], in tiles [head_size][kLanes]
  float* base;     // what is subtracted from scores: the largest so far, in tiles or a little less
  float* weights;  // their sum
  float* lengths;  // of the queries, squared
};

// Scratch of a thread.
template <typename Words>
struct Work {
  // memory: null to know how much it takes. block_frames: most frames of a block.
  Work(float* memory, const NeighborhoodArgs& args, int64_t block_frames) {
    const int64_t size = args.head_size;
    const auto take = [&](int64_t count) {
      float* part = memory == nullptr ? nullptr : memory + taken;
      taken += round_up(count, 16);
      return part;
    };
    states = take(block_frames * kBlockCells * kBlockCells / kLanes * State<Words>::floats(size));
    for (auto& part : scores) part = take(score_rows(args) * kLanes);
    for (auto& part : starts) part = take(mask_columns(args) * kLanes);
    column_masks = take(kBlockCells * mask_columns(args) * kLanes);
    row_masks = take(kBlockCells * mask_rows(args) * kLanes);
    rows = take(2 * size);
    angles = take(Angles::floats(size));
  }
  static int64_t mask_columns(const NeighborhoodArgs& args) { return round_up(most_columns(args), 16); }
  static int64_t mask_rows(const NeighborhoodArgs& args) { return args.rows.window + kLanes + 2; }
  static int64_t score_rows(const NeighborhoodArgs& args) {
    return larger(kKeys, kValues<Words> * round_up(most_columns(args), 16));
  }

  float* states;        // of the boxes of a block
  float* scores[2];     // [keys][kLanes], then weights; of two boxes where tiles do two at a time
  float* starts[2];     // what scores are added to in tiles
  float* column_masks;  // all bits or none, of each column of boxes: [mask_columns][kLanes]
  float* row_masks;     // of each row of boxes: [mask_rows][kLanes]
  float* rows;          // of two cells
  float* angles;        // of one cell
  int64_t taken = 0;    // floats of all
};

// One box: where its queries are, and which keys of a frame they see.
struct Box {
  // frame: its first one, counted from that of the block.
  Box(const NeighborhoodArgs& args, const LaneBox& box, const NeighborhoodBlock& block, int64_t frame, int64_t row,
      int64_t column)
      : box(box), block(block), frame(frame), row(row), column(column) {
    first_place = window_begin(args.rows, row);
    end_place = window_end(args.rows, smaller(row + box.rows, block.end_row) - 1);
    first_key = window_begin(args.columns, column);
    end_key = window_end(args.columns, smaller(column + box.columns, block.end_column) - 1);
  }

  // Of a lane: its frame of the block, row and column. The block may have none of that.
  int64_t frame_of(int lane) const { return frame + lane / (box.rows * box.columns); }
  int64_t row_of(int lane) const { return row + lane / box.columns % box.rows; }
  int64_t column_of(int lane) const { return column + lane % box.columns; }
  bool there(int lane) const {
    return frame_of(lane) < block.frames && row_of(lane) < block.end_row && column_of(lane) < block.end_column;
  }

  LaneBox box;
  const NeighborhoodBlock& block;
  int64_t frame, row, column;
  int64_t first_place, end_place, first_key, end_key;
};

// The masks of the lanes whose window holds a place, for `count` places from `first` on. cell_of_lane: the cell of a
// lane; there is none from `end` on.
template <typename CellOfLane>
void fill_masks(const WindowAxis& axis, int64_t end, int64_t first, int64_t count, const CellOfLane& cell_of_lane,
                float* masks) {
  int32_t begins[kLanes], ends[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) {
    const int64_t cell = cell_of_lane(lane);
    begins[lane] = int32_t(cell < end ? window_begin(axis, cell) : 0);
    ends[lane] = int32_t(cell < end ? window_end(axis, cell) : 0);
  }
  VecI begin, after;
  memcpy(&begin, begins, sizeof begin);
  memcpy(&after, ends, sizeof after);
  for (int64_t i = 0; i < count; ++i) {
    const VecI place = splat_bits(int32_t(first + i));
    store(masks + i * kLanes, from_bits((VecI)(place >= begin) & (VecI)(place < after)));
  }
}

// The lanes of a box whose frame sees a frame of keys. seen_by: of its own frames.
inline VecI frame_mask(const LaneBox& box, uint32_t seen_by) {
  VecI mask;
  for (int lane = 0; lane < kLanes; ++lane) mask[lane] = seen_by >> lane / (box.rows * box.columns) & 1 ? -1 : 0;
  return mask;
}

// sums: [kLanes][head_size].
inline void store_box(const NeighborhoodArgs& args, const Box& box, const float* sums, const float* sum_of_weights) {
  const int64_t size = args.head_size;
  const NeighborhoodBlock& block = box.block;
  float row[kMaxHead];
  for (int lane = 0; lane < kLanes; ++lane) {
    if (!box.there(lane)) continue;
    const float factor = sum_of_weights[lane] == 0.0f ? 0.0f : 1.0f / sum_of_weights[lane];
    for (int64_t i = 0; i < size; i += kLanes) store(row + i, load(sums + lane * size + i) * factor);
    const int64_t frame = block.batch * args.frames + block.first_frame + box.frame_of(lane);
    const int64_t cell = (frame * args.rows.cells + box.row_of(lane)) * args.columns.cells + box.column_of(lane);
    store_floats(row, size, args.out, args.out_type, (cell * args.heads + block.head) * size);
  }
}

// Queries as Boxes::start asks for them, of any type and head size.
template <typename Words>
class QueryCells {
 public:
  // work: for a cell and its angles.
  QueryCells(const NeighborhoodArgs& args, float scale, const Work<Words>& work)
      : args_(args), scale_(scale), angles_(args, args.q_time, work.angles), row_(work.rows) {}

  // Words of lanes are so far apart.
  int64_t stride() const { return args_.head_size / kValues<Words> + 1; }
  // Rows of the rotary tables.
  void set_row(int64_t frame, int64_t row) {
    frame_ = frame;
    place_ = row;
  }
  // Stores the words of the query at `first` and returns its length, squared.
  float load(int64_t first, int64_t column, float* words) {
    if (args_.rotated) angles_.set(frame_, place_, column);
    load_cell(args_.q, first, args_.q_norm, args_, scale_, args_.rotated ? &angles_ : nullptr, row_);
    store_words<Words>(row_, args_.head_size, words);
    return sum_of_squares(row_, args_.head_size);
  }

 private:
  const NeighborhoodArgs& args_;
  float scale_;
  Angles angles_;
  float* row_;
  int64_t frame_ = 0, place_ = 0;
};

// The boxes of a block: `deep` along time, `down` and `across`.
template <typename Words>
struct Boxes {
  Boxes(const NeighborhoodArgs& args, const PackedPlane& plane, const LaneBox& lane_box, const NeighborhoodBlock& block,
        const Work<Words>& work)
      : args(args),
        plane(plane),
        lane_box(lane_box),
        block(block),
        work(work),
        deep((block.frames + lane_box.frames - 1) / lane_box.frames),
        down((block.end_row - block.row + lane_box.rows - 1) / lane_box.rows),
        across((block.end_column - block.column + lane_box.columns - 1) / lane_box.columns) {}

  Box box(int64_t d, int64_t i, int64_t j) const {
    return Box(args, lane_box, block, d * lane_box.frames, block.row + i * lane_box.rows,
               block.column + j * lane_box.columns);
  }
  State<Words> state(int64_t d, int64_t i, int64_t j) const {
    const int64_t size = args.head_size;
    return State<Words>(work.states + ((j * down + i) * deep + d) * State<Words>::floats(size), size);
  }
  // Which frames of box d see a frame of keys.
  uint32_t seen_by(int64_t d, const SeenFrame& seen) const {
    return seen.seen_by >> d * lane_box.frames & ((1u << lane_box.frames) - 1);
  }
  // Rows of the plane that the boxes of row i see, from an even one on and with an even one after the last in pairs.
  int64_t first_row(int64_t i) const {
    return (box(0, i, 0).first_place - plane.first_row) / kValues<Words> * kValues<Words>;
  }
  int64_t end_row(int64_t i) const { return round_up(box(0, i, 0).end_place - plane.first_row, kValues<Words>); }
  const float* row_masks(int64_t i) const { return work.row_masks + i * Work<Words>::mask_rows(args) * kLanes; }
  const float* column_masks(int64_t j) const {
    return work.column_masks + j * Work<Words>::mask_columns(args) * kLanes;
  }

  // Queries and masks of all; nothing has been seen yet. cells: QueryCells or the like.
  template <typename Cells>
  void start(Cells cells) const {
    for (int64_t j = 0; j < across; ++j) {
      const Box first = box(0, 0, j);
      fill_masks(
          args.columns, block.end_column, first.first_key, Work<Words>::mask_columns(args),
          [&](int lane) { return first.column_of(lane); }, (float*)column_masks(j));
    }
    for (int64_t i = 0; i < down; ++i) {
      const Box first = box(0, i, 0);
      fill_masks(
          args.rows, block.end_row, plane.first_row + first_row(i), end_row(i) - first_row(i),
          [&](int lane) { return first.row_of(lane); }, (float*)row_masks(i));
    }
    for (int64_t d = 0; d < deep; ++d) {
      for (int64_t i = 0; i < down; ++i) {
        load_queries(d, i, cells);
        for (int64_t j = 0; j < across; ++j) {
          const State<Words> at = state(d, i, j);
          for (int64_t n = 0; n < kLanes * args.head_size; n += kLanes) store(at.sums + n, zero());
          store(at.base, splat(kMinusInfinity));
          store(at.weights, zero());
        }
      }
    }
  }

 private:
  // The queries of a row of boxes, as words [words of a head][kLanes]; lanes without one hold zeros. Cells are read as
  // they lie in memory, and wait lane by lane where the sums will be.
  template <typename Cells>
  void load_queries(int64_t d, int64_t i, Cells& cells) const {
    const int64_t size = args.head_size, words = size / kValues<Words>, stride = cells.stride();
    const int64_t lanes_of_row = lane_box.columns;
    for (int lane = 0; lane < kLanes; lane += int(lanes_of_row)) {
      // The row of cells after this one, of these boxes or of those below.
      const int next = lane + int(lanes_of_row) < kLanes ? lane + int(lanes_of_row) : 0;
      const Box here = box(d, i, 0), after = box(d, next == 0 ? i + 1 : i, 0);
      const bool is_here = here.there(lane), is_after = after.there(next);
      const int64_t first = query(here, lane), first_after = query(after, next);
      const int64_t frame = block.first_frame + here.frame_of(lane), row = here.row_of(lane) + args.rows.window / 2;
      cells.set_row(frame, row);
      for (int64_t j = 0; j < across; ++j) {
        const State<Words> at = state(d, i, j);
        float* to = at.sums + lane * stride;
        for (int64_t c = 0; c < lanes_of_row; ++c, to += stride) {
          const int64_t column = block.column + j * lanes_of_row + c;
          if (column >= block.end_column || !is_here) {
            at.lengths[lane + c] = 0.0f;
            for (int64_t n = 0; n < words; ++n) to[n] = 0.0f;
            continue;
          }
          if (is_after) prefetch(args.q, first_after + column * args.q.column_stride, size);
          at.lengths[lane + c] =
              cells.load(first + column * args.q.column_stride, column + args.columns.window / 2, to);
        }
      }
    }
    for (int64_t j = 0; j < across; ++j) transpose(state(d, i, j).sums, stride, kLanes, words, state(d, i, j).queries);
  }
  // Where the query of column 0 lies, of the frame and row of a lane.
  int64_t query(const Box& of, int lane) const {
    return cell_offset(args.q, block.batch, block.first_frame + of.frame_of(lane), of.row_of(lane), 0,
                       block.head * args.head_size);
  }

 public:
  const NeighborhoodArgs& args;
  const PackedPlane& plane;
  const LaneBox& lane_box;
  const NeighborhoodBlock& block;
  const Work<Words>& work;
  int64_t deep, down, across;
};

}  // namespace ltx2rt::cpu::LTX2RT_ISA
