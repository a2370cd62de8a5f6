// Neighborhood attention inner loops: packing with norm and rotation, scores, running softmax, weighted values.
//
// Queries lie in the lanes of the vectors, so that the mask of a key is that of a vector, and the maximum and the sum
// over keys are plain vector operations. All keys that any query of a box sees are multiplied with all of them; what is
// outside a query's window gets the weight zero.
#include "csrc/cpu/amx.h"
#include "csrc/cpu/float_rows.h"
#include "csrc/cpu/fma_tile.h"
#include "csrc/cpu/neighborhood_attention_kernel.h"

namespace ltx2rt::cpu::LTX2RT_ISA {
namespace {

// Keys whose scores are kept together, at least: they stay in the first-level cache.
constexpr int64_t kKeys = 256;
// Rows of scores of one tile, and of one tile of sums: queries by vectors of values.
#if LTX2RT_LANES == 16 || defined(__aarch64__)
constexpr int kScoreRows = 16, kSumVecs = 4;
#else
constexpr int kScoreRows = 12, kSumVecs = 2;
#endif
constexpr int kSumRows = 4;
// Values that make up whole vectors for every instruction set, as op and plan ask for.
constexpr int64_t kHeadUnit = 16;
static_assert(kLanes % kSumRows == 0 && kHeadUnit % kLanes == 0);
// The head size of the published models, for which there are loops of their own.
constexpr int64_t kUsualHead = 64;
constexpr int64_t kMaxHead = 256;

constexpr float kMinusInfinity = -__builtin_inff();

// Values in one word of 32 bits: of the channels of a key, and of neighbouring rows of values.
template <typename Words>
constexpr int64_t kValues = __is_same(Words, FloatWords) ? 1 : 2;

int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

// A packed plane holds keys as [rows][columns][words of a head], then values as [rows / kValues][columns][head_size]
// words.
template <typename Words>
int64_t plane_floats(const NeighborhoodArgs& args, const PackedPlane& plane) {
  return plane.rows * places_of(args.columns) * 2 * args.head_size / kValues<Words>;
}

// Most keys of a row that a box sees.
int64_t most_columns(const NeighborhoodArgs& args) {
  return smaller(places_of(args.columns), args.columns.window + kLanes);
}

// Most queries of a block.
constexpr int64_t kMostQueries = kBlockFrames * kBlockCells * kBlockCells;

// What the queries of a box carry from frame to frame.
template <typename Words>
struct State {
  State(float* memory, int64_t head_size)
      : queries(memory),
        sums(queries + head_size / kValues<Words> * kLanes),
        base(sums + head_size * kLanes),
        weights(base + kLanes) {}
  static int64_t floats(int64_t head_size) { return (head_size / kValues<Words> + head_size + 2) * kLanes; }

  float* queries;  // [words of a head][kLanes]
  float* sums;     // of weighted values [kLanes][head_size], in tiles [head_size][kLanes]
  float* base;     // what is subtracted from scores: the largest so far, in tiles or a little less
  float* weights;  // their sum
};

// Scratch of a thread.
template <typename Words>
struct Work {
  // memory: null to know how much it takes.
  Work(float* memory, const NeighborhoodArgs& args) {
    const int64_t size = args.head_size;
    const auto take = [&](int64_t count) {
      float* part = memory == nullptr ? nullptr : memory + taken;
      taken += round_up(count, 16);
      return part;
    };
    states = take(kMostQueries / kLanes * State<Words>::floats(size));
    for (auto& part : scores) part = take(score_rows(args) * kLanes);
    for (auto& part : starts) part = take(mask_columns(args) * kLanes);
    column_masks = take(kBlockCells * mask_columns(args) * kLanes);
    row_masks = take(kBlockCells * mask_rows(args) * kLanes);
    rows = take((kLanes + 2) * (size + 1));
    angles = take(size);
  }
  static int64_t floats(const NeighborhoodArgs& args) { return Work(nullptr, args).taken; }
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
  float* rows;          // of values or queries
  float* angles;        // of one key, cosines and then sines
  int64_t taken = 0;    // floats of all
};

// angles = cos and then sin of the pairs of lanes of a cell at rows of the tables.
void gather_angles(const NeighborhoodArgs& args, const AngleRows& time, int64_t frame, int64_t row, int64_t column,
                   float* angles) {
  const int64_t half = args.head_size / 2;
  const AngleRows* axes[] = {&time, &args.height, &args.width};
  const int64_t at[] = {frame, row, column};
  float* to = angles;
  for (int axis = 0; axis < 3; ++axis) {
    const AngleRows& table = *axes[axis];
    const float* from = table.cos + at[axis] * table.pairs;
    for (int64_t i = 0; i < table.pairs; ++i) {
      to[i] = from[i];
      to[half + i] = from[table.part + i];
    }
    to += table.pairs;
  }
}

// One head of one cell in float32, normalised and turned by `angles` (null: not).
void load_cell(const CellRows& x, int64_t first, const float* norm, const NeighborhoodArgs& args, float scale,
               const float* angles, float* row) {
  const int64_t size = args.head_size, half = size / 2;
  load_floats(x.data, x.type, first, x.lane_stride, size, row);
  if (norm != nullptr) {
    const float factor = scale / __builtin_sqrtf(sum_of_squares(row, size) / float(size) + args.norm_eps);
    for (int64_t i = 0; i < size; i += kLanes) store(row + i, load(row + i) * factor * load(norm + i));
  } else if (scale != 1.0f) {
    for (int64_t i = 0; i < size; i += kLanes) store(row + i, load(row + i) * scale);
  }
  if (angles == nullptr) return;
  const float* __restrict cos = angles, * __restrict sin = angles + half;
  for (int64_t i = 0; i < half; ++i) {
    const float a = row[2 * i], b = row[2 * i + 1];
    row[2 * i] = a * cos[i] - b * sin[i];
    row[2 * i + 1] = b * cos[i] + a * sin[i];
  }
}

// A row of values as words.
template <typename Words>
void store_words(const float* row, int64_t size, float* words) {
  if constexpr (kValues<Words> == 1) {
    for (int64_t i = 0; i < size; i += kLanes) store(words + i, load(row + i));
  } else {
#ifdef LTX2RT_BF16_DOT
    BF16* to = as_array<BF16>(words);
    for (int64_t i = 0; i < size; i += kLanes) store_for_dot(to + i, load(row + i));
#endif
  }
}

int64_t cell_offset(const CellRows& x, int64_t batch, int64_t frame, int64_t row, int64_t column, int64_t lane) {
  return batch * x.batch_stride + frame * x.frame_stride + row * x.row_stride + column * x.column_stride +
         lane * x.lane_stride;
}

// Asks for one head of a cell, whose neighbours in memory are other heads.
void prefetch(const CellRows& x, int64_t first, int64_t lanes) {
  const int64_t item = size_of(x.type), bytes = x.lane_stride == 1 ? lanes * item : 1;
  const char* from = (const char*)x.data + first * item;
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(from + i);
}
// Columns ahead of the one being packed that are asked for.
constexpr int64_t kAhead = 12;

// Where there is no cell. Offsets are negative along axes that are read backwards.
constexpr int64_t kNowhere = INT64_MIN;

// Words of the values of one column: of one row, or pairs of two rows; zeros for kNowhere.
template <typename Words>
void load_values(const NeighborhoodArgs& args, const int64_t* first, float* rows, float* words) {
  const int64_t size = args.head_size;
  for (int64_t r = 0; r < kValues<Words>; ++r) {
    float* row = kValues<Words> == 1 ? words : rows + r * size;
    if (first[r] != kNowhere) {
      load_floats(args.v.data, args.v.type, first[r], args.v.lane_stride, size, row);
    } else {
      for (int64_t i = 0; i < size; ++i) row[i] = 0.0f;
    }
  }
  if constexpr (kValues<Words> == 2) {
    for (int64_t i = 0; i < size; i += kLanes)
      Words::store_row(words + i, Words::pair(load(rows + i), load(rows + size + i)));
  }
}

// The words of a key, zeros where there is none. work: of the same kind of words.
template <typename Words>
void pack_key(const NeighborhoodArgs& args, int64_t batch, int64_t frame, int64_t lane, int64_t place, int64_t column,
              const Work<Words>& work, float* words) {
  const int64_t size = args.head_size, places = places_of(args.columns);
  if (place < 0 || place >= places_of(args.rows) || column >= places) {
    for (int64_t i = 0; i < size / kValues<Words>; ++i) words[i] = 0.0f;
    return;
  }
  const auto offset = [&](int64_t column) {
    return cell_offset(args.k, batch, frame, cell_of(args.rows, place), cell_of(args.columns, column), lane);
  };
  prefetch(args.k, offset(smaller(column + kAhead, places - 1)), size);
  if (args.rotated) {
    gather_angles(args, args.k_time, frame, position_of(args.rows, place), position_of(args.columns, column),
                  work.angles);
  }
  load_cell(args.k, offset(column), args.k_norm, args, 1.0f, args.rotated ? work.angles : nullptr, work.rows);
  store_words<Words>(work.rows, size, words);
}

// The words of a value of one row, or of two, from `place` on; zeros where there is none.
template <typename Words>
void pack_value(const NeighborhoodArgs& args, int64_t batch, int64_t frame, int64_t lane, int64_t place, int64_t column,
                const Work<Words>& work, float* words) {
  const int64_t places = places_of(args.columns);
  int64_t from[2] = {kNowhere, kNowhere};
  for (int64_t i = 0; i < kValues<Words>; ++i, ++place) {
    if (place < 0 || place >= places_of(args.rows) || column >= places) continue;
    const auto offset = [&](int64_t column) {
      return cell_offset(args.v, batch, frame, cell_of(args.rows, place), cell_of(args.columns, column), lane);
    };
    from[i] = offset(column);
    prefetch(args.v, offset(smaller(column + kAhead, places - 1)), args.head_size);
  }
  load_values<Words>(args, from, work.rows, words);
}

template <typename Words>
void pack(const NeighborhoodArgs& args, const PackedPlane& plane, int64_t batch, int64_t frame, int64_t first_head,
          int64_t heads, int64_t first, float* planes, int64_t stride, float* memory) {
  const Work<Words> work(memory, args);
  const int64_t size = args.head_size, words = size / kValues<Words>, columns = places_of(args.columns);
  for (int64_t head = 0; head < heads; ++head, planes += stride) {
    const int64_t lane = (first_head + head) * size;
    for (int64_t r = first; r < first + 2; ++r) {
      float* keys = planes + r * columns * words;
      for (int64_t column = 0; column < columns; ++column)
        pack_key<Words>(args, batch, frame, lane, plane.first_row + r, column, work, keys + column * words);
    }
    float* values = planes + plane.rows * columns * words;
    for (int64_t r = first; r < first + 2; r += kValues<Words>) {
      float* to = values + r / kValues<Words> * columns * size;
      for (int64_t column = 0; column < columns; ++column)
        pack_value<Words>(args, batch, frame, lane, plane.first_row + r, column, work, to + column * size);
    }
  }
}

// scores[r * step][lane] = sum over w of keys[r][w] * queries[w][lane] for r < kRows, each sum one chain. kWords: words of
// a head, 0: `words`.
template <typename Words, int kRows, int kWords>
void score_tile(const float* keys, int64_t words, const float* queries, float* scores, int64_t step) {
  if (kWords != 0) words = kWords;
  Vec sums[kRows];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) sums[r] = zero();
  for (int64_t w = 0; w < words; ++w, queries += kLanes) {
    const auto b = Words::load_row(queries);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) sums[r] = Words::add_product(sums[r], Words::broadcast(keys + r * words + w), b);
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) store(scores + r * step, sums[r]);
}

template <typename Words, int kWords, int kRows = kScoreRows>
void score_rows(int64_t rows, const float* keys, int64_t words, const float* queries, float* scores, int64_t step) {
  if (rows == kRows) {
    score_tile<Words, kRows, kWords>(keys, words, queries, scores, step);
  } else if constexpr (kRows > 1) {
    score_rows<Words, kWords, kRows - 1>(rows, keys, words, queries, scores, step);
  }
}

// The keys of a row in tiles of about equal height.
template <typename Words>
void score(const float* keys, int64_t count, int64_t words, const float* queries, float* scores, int64_t step) {
  constexpr int64_t kUsual = kUsualHead / kValues<Words>;
  const int64_t tiles = (count + kScoreRows - 1) / kScoreRows;
  for (int64_t tile = 0, done = 0; tile < tiles; ++tile) {
    const int64_t rows = (count - done + tiles - tile - 1) / (tiles - tile);
    if (words == kUsual) {
      score_rows<Words, kUsual>(rows, keys + done * words, words, queries, scores + done * step, step);
    } else {
      score_rows<Words, 0>(rows, keys + done * words, words, queries, scores + done * step, step);
    }
    done += rows;
  }
}

// exp(x), exactly 0 where x is too low for it, as for -inf.
template <typename Words>
Vec weight_of(Vec x) {
  if constexpr (kValues<Words> == 1) return select(x < splat(-87.0f), zero(), exp(x));
  return coarse_exp(x);
}

// Turns the scores of rows x columns keys into weights exp(score - base), in words, those outside a window into 0.
// Scores lie as [rows / kValues][columns][kValues]. Updates base and sum of weights of a state, and returns by what its
// sums of values have to be multiplied.
template <typename Words>
Vec weigh(float* scores, int64_t rows, int64_t columns, VecI in_frame, const float* row_masks,
          const float* column_masks, const State<Words>& state) {
  constexpr int64_t kStep = kValues<Words>;
  const Vec lowest = splat(kMinusInfinity), old_base = load(state.base);
  Vec most[2] = {old_base, old_base};
  float* at = scores;
  for (int64_t r = 0; r < rows; r += kStep) {
    const VecI first = bits_of(load(row_masks + r * kLanes)) & in_frame;
    const VecI second = bits_of(load(row_masks + (r + kStep - 1) * kLanes)) & in_frame;
    for (int64_t c = 0; c < columns; ++c, at += kStep * kLanes) {
      const VecI column = bits_of(load(column_masks + c * kLanes));
      most[0] = max(select(first & column, load(at), lowest), most[0]);
      if constexpr (kStep == 2) most[1] = max(select(second & column, load(at + kLanes), lowest), most[1]);
    }
  }
  const Vec raised = max(most[0], most[1]);
  // With no key allowed so far, any finite base keeps all weights 0 and avoids inf - inf.
  const Vec base = select(raised == lowest, zero(), raised);
  const Vec rescale = weight_of<Words>(old_base - base);
  store(state.base, raised);
  Vec sum = zero();
  at = scores;
  float* to = scores;
  for (int64_t r = 0; r < rows; r += kStep) {
    const VecI first = bits_of(load(row_masks + r * kLanes)) & in_frame;
    const VecI second = bits_of(load(row_masks + (r + kStep - 1) * kLanes)) & in_frame;
    for (int64_t c = 0; c < columns; ++c, at += kStep * kLanes, to += kLanes) {
      const VecI column = bits_of(load(column_masks + c * kLanes));
      const Vec weight = weight_of<Words>(select(first & column, load(at), lowest) - base);
      if constexpr (kStep == 1) {
        store(to, weight);
        sum += weight;
      } else {
        const Vec other = weight_of<Words>(select(second & column, load(at + kLanes), lowest) - base);
        const auto words = Words::pair(weight, other);
        Words::store_row(to, words);
        sum = Words::add_product(sum, words, Words::ones());  // of what is multiplied, so that equal weights cancel
      }
    }
  }
  store(state.weights, fma(load(state.weights), rescale, sum));
  return rescale;
}

// sums[r][v] = rescale[r] * sums[r][v] + sum over rows and columns of weights[..][r] * values[..][v] for kSumRows queries
// and kVecs vectors of values. Rows of values are `pitch` apart.
template <typename Words, int kVecs>
void sum_tile(const float* weights, int64_t rows, int64_t columns, const float* values, int64_t size, int64_t pitch,
              const float* rescale, float* sums) {
  Vec products[kSumRows][kVecs];
#pragma GCC unroll 4
  for (int r = 0; r < kSumRows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) products[r][v] = zero();
  for (int64_t row = 0; row < rows; ++row, values += pitch) {
    const float* from = values;
    for (int64_t c = 0; c < columns; ++c, weights += kLanes, from += size) {
      typename Words::Operand b[kVecs];
#pragma GCC unroll 4
      for (int v = 0; v < kVecs; ++v) b[v] = Words::load_row(from + v * kLanes);
#pragma GCC unroll 4
      for (int r = 0; r < kSumRows; ++r) {
        const auto a = Words::broadcast(weights + r);
#pragma GCC unroll 4
        for (int v = 0; v < kVecs; ++v) products[r][v] = Words::add_product(products[r][v], a, b[v]);
      }
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < kSumRows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) {
      float* to = sums + r * size + v * kLanes;
      store(to, fma(load(to), splat(rescale[r]), products[r][v]));
    }
}

// rows: of words. `vecs`: vectors of values that are left.
template <typename Words, int kVecs = kSumVecs>
void sum_vecs(int64_t vecs, const float* weights, int64_t rows, int64_t columns, const float* values, int64_t size,
              int64_t pitch, const float* rescale, float* sums) {
  if (vecs >= kVecs) {
    for (int64_t r = 0; r < kLanes; r += kSumRows)
      sum_tile<Words, kVecs>(weights + r, rows, columns, values, size, pitch, rescale + r, sums + r * size);
  } else if constexpr (kVecs > 1) {
    sum_vecs<Words, kVecs - 1>(vecs, weights, rows, columns, values, size, pitch, rescale, sums);
  }
}

template <typename Words>
void add_values(const float* weights, int64_t rows, int64_t columns, const float* values, int64_t size, int64_t pitch,
                const float* rescale, float* sums) {
  for (int64_t v = 0; v < size / kLanes; v += kSumVecs)
    sum_vecs<Words>(size / kLanes - v, weights, rows, columns, values + v * kLanes, size, pitch, rescale,
                    sums + v * kLanes);
}

// One box: where its queries are, and which keys of a frame they see.
struct Box {
  Box(const NeighborhoodArgs& args, const LaneBox& box, const NeighborhoodBlock& block, int64_t first_row,
      int64_t first_column)
      : box(box), block(block), row(first_row), column(first_column) {
    first_place = window_begin(args.rows, row);
    end_place = window_end(args.rows, smaller(row + box.rows, block.end_row) - 1);
    first_key = window_begin(args.columns, column);
    end_key = window_end(args.columns, smaller(column + box.columns, block.end_column) - 1);
  }

  // Of a lane: its frame of the block, row and column. The block may have none of that.
  int64_t frame_of(int lane) const { return lane / (box.rows * box.columns); }
  int64_t row_of(int lane) const { return row + lane / box.columns % box.rows; }
  int64_t column_of(int lane) const { return column + lane % box.columns; }
  bool there(int lane) const {
    return frame_of(lane) < block.frames && row_of(lane) < block.end_row && column_of(lane) < block.end_column;
  }

  LaneBox box;
  const NeighborhoodBlock& block;
  int64_t row, column;
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

// The queries of a box, as words [words of a head][kLanes]; lanes without one hold zeros.
template <typename Words>
void load_queries(const NeighborhoodArgs& args, const Box& box, float scale, const Work<Words>& work, float* queries) {
  const int64_t size = args.head_size, words = size / kValues<Words>, stride = words + 1;
  const NeighborhoodBlock& block = box.block;
  float* row = work.rows + kLanes * stride;
  const auto from = [&](int lane) {
    return cell_offset(args.q, block.batch, block.first_frame + box.frame_of(lane), box.row_of(lane),
                       box.column_of(lane), block.head * size);
  };
  for (int lane = 0; lane < kLanes; ++lane) {
    if (box.there(lane)) prefetch(args.q, from(lane), size);
  }
  for (int lane = 0; lane < kLanes; ++lane) {
    float* to = work.rows + lane * stride;
    if (!box.there(lane)) {
      for (int64_t i = 0; i < words; ++i) to[i] = 0.0f;
      continue;
    }
    if (args.rotated) {
      gather_angles(args, args.q_time, block.first_frame + box.frame_of(lane), box.row_of(lane) + args.rows.window / 2,
                    box.column_of(lane) + args.columns.window / 2, work.angles);
    }
    load_cell(args.q, from(lane), args.q_norm, args, scale, args.rotated ? work.angles : nullptr, row);
    store_words<Words>(row, size, to);
  }
  transpose(work.rows, stride, kLanes, words, queries);
}

// The lanes of a box whose frame sees a frame of keys.
VecI frame_mask(const LaneBox& box, const SeenFrame& seen) {
  VecI mask;
  for (int lane = 0; lane < kLanes; ++lane) mask[lane] = seen.seen_by >> lane / (box.rows * box.columns) & 1 ? -1 : 0;
  return mask;
}

// sums: [kLanes][head_size].
void store_box(const NeighborhoodArgs& args, const Box& box, const float* sums, const float* sum_of_weights) {
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

// The boxes of a block.
template <typename Words>
struct Boxes {
  Boxes(const NeighborhoodArgs& args, const PackedPlane& plane, const LaneBox& lane_box, const NeighborhoodBlock& block,
        const Work<Words>& work)
      : args(args),
        plane(plane),
        lane_box(lane_box),
        block(block),
        work(work),
        down((block.end_row - block.row + lane_box.rows - 1) / lane_box.rows),
        across((block.end_column - block.column + lane_box.columns - 1) / lane_box.columns) {}

  Box box(int64_t i, int64_t j) const {
    return Box(args, lane_box, block, block.row + i * lane_box.rows, block.column + j * lane_box.columns);
  }
  State<Words> state(int64_t i, int64_t j) const {
    return State<Words>(work.states + (i * across + j) * State<Words>::floats(args.head_size), args.head_size);
  }
  // Rows of the plane that the boxes of row i see, from an even one on and with an even one after the last in pairs.
  int64_t first_row(int64_t i) const {
    return (box(i, 0).first_place - plane.first_row) / kValues<Words> * kValues<Words>;
  }
  int64_t end_row(int64_t i) const { return round_up(box(i, 0).end_place - plane.first_row, kValues<Words>); }
  const float* row_masks(int64_t i) const { return work.row_masks + i * Work<Words>::mask_rows(args) * kLanes; }
  const float* column_masks(int64_t j) const {
    return work.column_masks + j * Work<Words>::mask_columns(args) * kLanes;
  }

  // Queries and masks of all; nothing has been seen yet.
  void start(float scale) const {
    for (int64_t j = 0; j < across; ++j) {
      const Box first = box(0, j);
      fill_masks(
          args.columns, block.end_column, first.first_key, Work<Words>::mask_columns(args),
          [&](int lane) { return first.column_of(lane); }, (float*)column_masks(j));
    }
    for (int64_t i = 0; i < down; ++i) {
      const Box first = box(i, 0);
      fill_masks(
          args.rows, block.end_row, plane.first_row + first_row(i), end_row(i) - first_row(i),
          [&](int lane) { return first.row_of(lane); }, (float*)row_masks(i));
      for (int64_t j = 0; j < across; ++j) {
        const State<Words> at = state(i, j);
        load_queries(args, box(i, j), scale, work, at.queries);
        for (int64_t n = 0; n < kLanes * args.head_size; n += kLanes) store(at.sums + n, zero());
        store(at.base, splat(kMinusInfinity));
        store(at.weights, zero());
      }
    }
  }

  const NeighborhoodArgs& args;
  const PackedPlane& plane;
  const LaneBox& lane_box;
  const NeighborhoodBlock& block;
  const Work<Words>& work;
  int64_t down, across;
};

template <typename Words>
void attend(const NeighborhoodArgs& args, const PackedPlane& plane, const LaneBox& lane_box,
            const NeighborhoodBlock& block, const SeenFrame* seen, int64_t seen_count, const float* planes,
            int64_t stride, float* memory) {
  constexpr int64_t kStep = kValues<Words>;
  const Work<Words> work(memory, args);
  const int64_t size = args.head_size, words = size / kStep, pitch = places_of(args.columns);
  const Boxes<Words> boxes(args, plane, lane_box, block, work);
  boxes.start(args.scale);
  for (int64_t f = 0; f < seen_count; ++f) {
    const VecI in_frame = frame_mask(lane_box, seen[f]);
    const float* keys = planes + seen[f].slot * stride;
    const float* values = keys + plane.rows * pitch * words;
    for (int64_t i = 0; i < boxes.down; ++i) {
      const int64_t first = boxes.first_row(i), end = boxes.end_row(i);
      for (int64_t j = 0; j < boxes.across; ++j) {
        const Box box = boxes.box(i, j);
        const State<Words> state = boxes.state(i, j);
        const int64_t columns = box.end_key - box.first_key;
        const int64_t together = larger(kStep, Work<Words>::score_rows(args) / columns / kStep * kStep);
        for (int64_t row = first; row < end; row += together) {
          const int64_t here = smaller(together, end - row);
          for (int64_t r = 0; r < here; ++r) {
            float* to = work.scores[0] + (r / kStep * columns * kStep + r % kStep) * kLanes;
            score<Words>(keys + ((row + r) * pitch + box.first_key) * words, columns, words, state.queries, to,
                         kStep * kLanes);
          }
          float rescale[kLanes];
          store(rescale, weigh<Words>(work.scores[0], here, columns, in_frame,
                                      boxes.row_masks(i) + (row - first) * kLanes, boxes.column_masks(j), state));
          add_values<Words>(work.scores[0], here / kStep, columns,
                            values + (row / kStep * pitch + box.first_key) * size, size, pitch * size, rescale,
                            state.sums);
        }
      }
    }
  }
  for (int64_t i = 0; i < boxes.down; ++i) {
    for (int64_t j = 0; j < boxes.across; ++j) {
      const State<Words> state = boxes.state(i, j);
      store_box(args, boxes.box(i, j), state.sums, state.weights);
    }
  }
}

#ifdef LTX2RT_TILES

// Compiler and tiles see the same memory.
#define LTX2RT_FENCE asm volatile("" ::: "memory")

constexpr int64_t kTileWords = 16, kTileLine = 64;  // words and bytes of a row of a tile
constexpr int64_t kTileFloats = 16 * kTileWords;
static_assert(LTX2RT_LANES == 16 && kUsualHead == 64);

// Boxes side by side, and tiles that hold what a row of one sees.
int64_t boxes_across(const NeighborhoodArgs& args, const PackedPlane& plane) {
  return (args.columns.cells + plane.box_columns - 1) / plane.box_columns;
}
int64_t tiles_across(const NeighborhoodArgs& args, const PackedPlane& plane) {
  return (smaller(places_of(args.columns), args.columns.window + plane.box_columns - 1) + 15) / 16;
}
// Columns of which keys are read: what a box sees may begin anywhere.
int64_t tile_columns(const NeighborhoodArgs& args, const PackedPlane& plane) {
  return places_of(args.columns) + 16 * tiles_across(args, plane);
}

// A plane in tiles holds keys as [rows][2 halves of a head][tile_columns][kTileWords], then values as
// [boxes across][rows / 2][tiles across][head_size][kTileWords]: each box has the values that it sees to itself, because
// tiles are read several times faster from whole cache lines.
int64_t tile_plane_floats(const NeighborhoodArgs& args, const PackedPlane& plane) {
  return plane.rows * (2 * tile_columns(args, plane) * kTileWords +
                       boxes_across(args, plane) * tiles_across(args, plane) * 2 * kTileFloats);
}

// Where the values of a box and a row of the plane begin.
int64_t tile_values(const NeighborhoodArgs& args, const PackedPlane& plane, int64_t box, int64_t row) {
  return plane.rows * 2 * tile_columns(args, plane) * kTileWords +
         (box * plane.rows + row) / 2 * tiles_across(args, plane) * 4 * kTileFloats;
}

// The values of a row before they are transposed lie after the other scratch.
int64_t tile_work_floats(const NeighborhoodArgs& args) {
  return Work<PairWords>::floats(args) + (places_of(args.columns) + 16) * (kUsualHead + 1);
}

void pack_tiles(const NeighborhoodArgs& args, const PackedPlane& plane, int64_t batch, int64_t frame,
                int64_t first_head, int64_t heads, int64_t first, float* planes, int64_t stride, float* memory) {
  const Work<PairWords> work(memory, args);
  const int64_t size = args.head_size, pitch = size + 1;
  float* values = memory + Work<PairWords>::floats(args);
  const int64_t columns = tile_columns(args, plane), places = places_of(args.columns),
                across = tiles_across(args, plane);
  for (int64_t head = 0; head < heads; ++head, planes += stride) {
    const int64_t lane = (first_head + head) * size;
    for (int64_t r = first; r < first + 2; ++r) {
      float* keys = planes + r * 2 * columns * kTileWords;
      for (int64_t column = 0; column < columns; ++column) {
        float words[2 * kTileWords];
        pack_key<PairWords>(args, batch, frame, lane, plane.first_row + r, column, work, words);
        for (int64_t half = 0; half < 2; ++half)
          store(keys + (half * columns + column) * kTileWords, load(words + half * kTileWords));
      }
    }
    for (int64_t column = 0; column < places + 16; ++column)
      pack_value<PairWords>(args, batch, frame, lane, plane.first_row + first, column, work, values + column * pitch);
    for (int64_t box = 0; box < boxes_across(args, plane); ++box) {
      float* to = planes + tile_values(args, plane, box, first);
      const int64_t from = window_begin(args.columns, box * plane.box_columns);
      for (int64_t tile = 0; tile < across; ++tile, to += 4 * kTileFloats)
        transpose(values + smaller(from + 16 * tile, places) * pitch, pitch, 16, size, to, kTileWords);
    }
  }
}

// Fills what scores are added to: the negative base of the queries that see a column of a row, -inf for the others.
void fill_start(VecI in_row, const float* column_masks, int64_t columns, Vec base, float* start) {
  for (int64_t c = 0; c < columns; ++c) {
    const VecI seen = in_row & bits_of(load(column_masks + c * kLanes));
    store(start + c * kLanes, select(seen, -base, splat(kMinusInfinity)));
  }
}

// What a tile box needs for one frame: its rows [first, end) of the plane, from `masks` on, and its scores.
struct TileBox {
  int64_t first, end;
  const float* row_masks;
  const float* column_masks;
  State<PairWords> state;
  float* scores;
  float* start;    // [columns][kLanes]
  VecI start_row;  // the row for which start is filled; none: bits that no mask has
};

// Scores, less the base, of keys of one box or of two that see the same columns. keys: of row 0 and the first column.
template <int kBoxes>
__attribute__((target("amx-tile,amx-bf16"))) void score_tiles(const float* keys, int64_t pitch, int64_t columns,
                                                              VecI in_frame, TileBox* boxes) {
  LTX2RT_FENCE;
  _tile_loadd(0, boxes[0].state.queries, kTileLine);
  _tile_loadd(1, boxes[0].state.queries + kTileFloats, kTileLine);
  if constexpr (kBoxes == 2) {
    _tile_loadd(2, boxes[1].state.queries, kTileLine);
    _tile_loadd(3, boxes[1].state.queries + kTileFloats, kTileLine);
  }
  const int64_t first = kBoxes == 2 ? smaller(boxes[0].first, boxes[1].first) : boxes[0].first;
  const int64_t end = kBoxes == 2 ? larger(boxes[0].end, boxes[1].end) : boxes[0].end;
  for (int64_t r = first; r < end; ++r) {
    bool in[2] = {};
    float* to[2] = {};
    for (int b = 0; b < kBoxes; ++b) {
      TileBox& box = boxes[b];
      in[b] = r >= box.first && r < box.end;
      if (!in[b]) continue;
      const int64_t row = r - box.first;
      to[b] = box.scores + (row / 2 * columns * 2 + row % 2) * kLanes;
      const VecI in_row = bits_of(load(box.row_masks + row * kLanes)) & in_frame;
      if (any(in_row ^ box.start_row)) {
        const Vec base = load(box.state.base);
        fill_start(in_row, box.column_masks, columns, select(base == splat(kMinusInfinity), zero(), base), box.start);
        box.start_row = in_row;
      }
    }
    LTX2RT_FENCE;
    const float* from = keys + r * 2 * pitch * kTileWords;
    for (int64_t c = 0; c < columns; c += 16) {
      _tile_loadd(4, from + c * kTileWords, kTileLine);
      _tile_loadd(5, from + (pitch + c) * kTileWords, kTileLine);
      if (in[0]) {
        _tile_loadd(6, boxes[0].start + c * kLanes, kTileLine);
        _tile_dpbf16ps(6, 4, 0);
        _tile_dpbf16ps(6, 5, 1);
        _tile_stored(6, to[0] + c * 2 * kLanes, 2 * kTileLine);
      }
      if constexpr (kBoxes == 2) {
        if (in[1]) {
          _tile_loadd(7, boxes[1].start + c * kLanes, kTileLine);
          _tile_dpbf16ps(7, 4, 2);
          _tile_dpbf16ps(7, 5, 3);
          _tile_stored(7, to[1] + c * 2 * kLanes, 2 * kTileLine);
        }
      }
    }
  }
  LTX2RT_FENCE;
}

// sums += transposed values times the weights of the same. Half of the values at a time, so that the sums of two boxes
// stay in tiles. values: of the row 0.
template <int kBoxes>
__attribute__((target("amx-tile,amx-bf16"))) void add_value_tiles(const float* values, int64_t columns,
                                                                  const TileBox* boxes) {
  LTX2RT_FENCE;
  const int64_t first = kBoxes == 2 ? smaller(boxes[0].first, boxes[1].first) : boxes[0].first;
  const int64_t end = kBoxes == 2 ? larger(boxes[0].end, boxes[1].end) : boxes[0].end;
  for (int64_t half = 0; half < 2; ++half) {
    float* sums = boxes[0].state.sums + half * 2 * kTileFloats;
    float* more = boxes[kBoxes - 1].state.sums + half * 2 * kTileFloats;
    _tile_loadd(0, sums, kTileLine);
    _tile_loadd(1, sums + kTileFloats, kTileLine);
    if constexpr (kBoxes == 2) {
      _tile_loadd(2, more, kTileLine);
      _tile_loadd(3, more + kTileFloats, kTileLine);
    }
    for (int64_t r = first; r < end; r += 2) {
      const float* from = values + r / 2 * columns / 16 * 4 * kTileFloats + half * 2 * kTileFloats;
      bool in[2] = {};
      const float* by[2] = {};
      for (int b = 0; b < kBoxes; ++b) {
        in[b] = r >= boxes[b].first && r < boxes[b].end;
        if (in[b]) by[b] = boxes[b].scores + (r - boxes[b].first) / 2 * columns * kLanes;
      }
      for (int64_t c = 0; c < columns; c += 16, from += 4 * kTileFloats) {
        _tile_loadd(4, from, kTileLine);
        _tile_loadd(5, from + kTileFloats, kTileLine);
        if (in[0]) {
          _tile_loadd(6, by[0] + c * kLanes, kTileLine);
          _tile_dpbf16ps(0, 4, 6);
          _tile_dpbf16ps(1, 5, 6);
        }
        if constexpr (kBoxes == 2) {
          if (in[1]) {
            _tile_loadd(7, by[1] + c * kLanes, kTileLine);
            _tile_dpbf16ps(2, 4, 7);
            _tile_dpbf16ps(3, 5, 7);
          }
        }
      }
    }
    _tile_stored(0, sums, kTileLine);
    _tile_stored(1, sums + kTileFloats, kTileLine);
    if constexpr (kBoxes == 2) {
      _tile_stored(2, more, kTileLine);
      _tile_stored(3, more + kTileFloats, kTileLine);
    }
  }
  LTX2RT_FENCE;
}

// Weights of pairs of scores in place. kShifted: less `shift`. Returns their sum.
template <bool kShifted>
Vec weigh_pairs(float* scores, int64_t pairs, Vec shift) {
  Vec sum = zero();
  for (int64_t i = 0; i < pairs; ++i) {
    Vec a = load(scores + 2 * i * kLanes), b = load(scores + (2 * i + 1) * kLanes);
    if constexpr (kShifted) {
      a -= shift;
      b -= shift;
    }
    const VecI words = PairWords::pair(coarse_exp(a), coarse_exp(b));
    PairWords::store_row(scores + i * kLanes, words);
    sum = PairWords::add_product(sum, words, PairWords::ones());
  }
  return sum;
}

// Scores may exceed the base by so much before it is raised: the sums of values are then left alone. Weights stay far
// from the largest numbers, and their relative accuracy is the same.
constexpr float kLazy = 8.0f;

// As weigh, of scores from which the base was taken.
void weigh_tiles(const TileBox& box, int64_t columns) {
  const int64_t pairs = (box.end - box.first) / 2 * columns;
  const Vec lowest = splat(kMinusInfinity), old_base = load(box.state.base);
  Vec most[2] = {lowest, lowest};
  for (int64_t i = 0; i < pairs; ++i) {
    most[0] = max(load(box.scores + 2 * i * kLanes), most[0]);
    most[1] = max(load(box.scores + (2 * i + 1) * kLanes), most[1]);
  }
  const Vec highest = max(most[0], most[1]);
  const VecI none = (VecI)(old_base == lowest);
  const VecI raised = ((VecI)(highest > splat(kLazy)) | none) & (VecI)(highest > lowest);
  if (!any(raised)) {
    store(box.state.weights, load(box.state.weights) + weigh_pairs<false>(box.scores, pairs, zero()));
    return;
  }
  const Vec shift = select(raised, highest, zero()), rescale = select(none, zero(), coarse_exp(-shift));
  store(box.state.base, select(raised, select(none, zero(), old_base) + shift, old_base));
  store(box.state.weights, fma(load(box.state.weights), rescale, weigh_pairs<true>(box.scores, pairs, shift)));
  for (int64_t n = 0; n < kUsualHead * kLanes; n += kLanes)
    store(box.state.sums + n, load(box.state.sums + n) * rescale);
}

// One frame of keys for the boxes of a column from (i, j) on, one or two. values: those of their column.
template <int kBoxes>
void attend_tile_boxes(const Boxes<PairWords>& boxes, int64_t i, int64_t j, VecI in_frame, const float* keys,
                       const float* values, int64_t columns, int64_t pitch) {
  const Box box = boxes.box(i, j);
  const int64_t together = larger(2, Work<PairWords>::score_rows(boxes.args) / columns / 2 * 2);
  int64_t starts[kBoxes], ends[kBoxes], most = 0;
  for (int b = 0; b < kBoxes; ++b) {
    starts[b] = boxes.first_row(i + b);
    ends[b] = boxes.end_row(i + b);
    most = larger(most, ends[b] - starts[b]);
  }
  for (int64_t done = 0; done < most; done += together) {
    const auto part = [&](int b) {
      const int64_t first = smaller(starts[b] + done, ends[b]);
      return TileBox{.first = first,
                     .end = smaller(first + together, ends[b]),
                     .row_masks = boxes.row_masks(i + b) + (first - starts[b]) * kLanes,
                     .column_masks = boxes.column_masks(j),
                     .state = boxes.state(i + b, j),
                     .scores = boxes.work.scores[b],
                     .start = boxes.work.starts[b],
                     .start_row = splat_bits(1)};
    };
    TileBox parts[2] = {part(0), part(kBoxes - 1)};
    score_tiles<kBoxes>(keys + box.first_key * kTileWords, pitch, columns, in_frame, parts);
    for (int b = 0; b < kBoxes; ++b) weigh_tiles(parts[b], columns);
    add_value_tiles<kBoxes>(values, columns, parts);
  }
}

// attend with the products in AMX tiles of pairs, for heads of 64. Scores of 16 keys x 16 queries are products of keys
// with the queries, sums of 16 values x 16 queries those of transposed values with the weights. Two boxes, one below the
// other, share the tiles of keys and values.
__attribute__((target("amx-tile,amx-bf16"))) void attend_tiles(const NeighborhoodArgs& args, const PackedPlane& plane,
                                                               const LaneBox& lane_box, const NeighborhoodBlock& block,
                                                               const SeenFrame* seen, int64_t seen_count,
                                                               const float* planes, int64_t stride, float* memory) {
  const Work<PairWords> work(memory, args);
  const int64_t pitch = tile_columns(args, plane), columns = 16 * tiles_across(args, plane);
  TileConfig config{};
  config.palette = 1;
  for (int tile = 0; tile < 8; ++tile) {
    config.bytes_per_row[tile] = kTileLine;
    config.rows[tile] = 16;
  }
  const Boxes<PairWords> boxes(args, plane, lane_box, block, work);
  boxes.start(args.scale);
  LTX2RT_FENCE;
  _tile_loadconfig(&config);
  for (int64_t f = 0; f < seen_count; ++f) {
    const VecI in_frame = frame_mask(lane_box, seen[f]);
    const float* keys = planes + seen[f].slot * stride;
    for (int64_t j = 0; j < boxes.across; ++j) {
      const float* values = keys + tile_values(args, plane, block.column / plane.box_columns + j, 0);
      for (int64_t i = 0; i < boxes.down; i += 2) {
        if (i + 1 < boxes.down) {
          attend_tile_boxes<2>(boxes, i, j, in_frame, keys, values, columns, pitch);
        } else {
          attend_tile_boxes<1>(boxes, i, j, in_frame, keys, values, columns, pitch);
        }
      }
    }
  }
  _tile_release();
  for (int64_t i = 0; i < boxes.down; ++i) {
    for (int64_t j = 0; j < boxes.across; ++j) {
      const State<PairWords> state = boxes.state(i, j);
      float* sums = work.scores[0];
      for (int64_t v = 0; v < kUsualHead; v += 16)
        transpose(state.sums + v * kLanes, kLanes, 16, kLanes, sums + v, kUsualHead);
      store_box(args, boxes.box(i, j), sums, state.weights);
    }
  }
}

#endif  // LTX2RT_TILES

template <typename Words>
constexpr NeighborhoodLoops kLoops{kValues<Words>,      1,           plane_floats<Words>,
                                   Work<Words>::floats, pack<Words>, attend<Words>};

}  // namespace

const NeighborhoodKernel& neighborhood_attention_kernel() {
  static constexpr NeighborhoodKernel kernel{
      .lanes = kLanes,
      .values = kLoops<FloatWords>,
#ifdef LTX2RT_BF16_DOT
      .has_pairs = true,
      .pairs = kLoops<PairWords>,
#else
      .has_pairs = false,
      .pairs = {},
#endif
#ifdef LTX2RT_TILES
      .has_tiles = true,
      .tiles = {2, 16, tile_plane_floats, tile_work_floats, pack_tiles, attend_tiles},
#else
      .has_tiles = false,
      .tiles = {},
#endif
  };
  return kernel;
}

}  // namespace ltx2rt::cpu::LTX2RT_ISA
