// Neighborhood attention inner loops: packing with norm and rotation, scores, running softmax, weighted values.
//
// Queries lie in the lanes of the vectors, so that the mask of a key is that of a vector, and the maximum and the sum
// over keys are plain vector operations. All keys that any query of a box sees are multiplied with all of them; what is
// outside a query's window gets the weight zero.
#include "csrc/cpu/amx.h"
#include "csrc/cpu/float_rows.h"
#include "csrc/cpu/fma_tile.h"
#include "csrc/cpu/neighborhood_attention_kernel.h"

#if defined(__AVX512BF16__) && defined(__linux__)
#define LTX2RT_TILES
#endif

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

// Columns of which the keys are read: one tile may begin anywhere.
template <bool kTiles>
int64_t key_columns(const NeighborhoodArgs& args) {
  const int64_t places = places_of(args.columns);
  return kTiles ? round_up(places + 15, 16) : places;
}

// A packed plane holds keys as [rows][columns][words of a head], then values as [rows / kValues][columns][head_size]
// words, or in tiles as [rows / kValues][head_size][columns].
template <typename Words, bool kTiles>
int64_t plane_floats(const NeighborhoodArgs& args, const PackedPlane& plane) {
  return plane.rows * key_columns<kTiles>(args) * 2 * args.head_size / kValues<Words>;
}

// Most keys of a row that a box sees.
int64_t most_columns(const NeighborhoodArgs& args) {
  return smaller(places_of(args.columns), args.columns.window + kLanes);
}

// Scratch of a thread.
template <typename Words>
struct Work {
  // memory: null to know how much it takes.
  Work(float* memory, const NeighborhoodArgs& args) {
    const int64_t size = args.head_size, columns = round_up(most_columns(args), 16);
    const auto take = [&](int64_t count) {
      float* part = memory == nullptr ? nullptr : memory + taken;
      taken += round_up(count, 16);
      return part;
    };
    queries = take(size / kValues<Words> * kLanes);
    sums = take(kLanes * size);
    scores = take(score_rows(args) * kLanes);
    column_masks = take(columns * kLanes);
    row_masks = take(most_rows(args) * kLanes);
    rows = take((kLanes + 2) * (size + 1));
    angles = take(size);
  }
  static int64_t floats(const NeighborhoodArgs& args) { return Work(nullptr, args).taken; }
  static int64_t most_rows(const NeighborhoodArgs& args) { return args.rows.window + kLanes + 2; }
  static int64_t score_rows(const NeighborhoodArgs& args) {
    return larger(kKeys, kValues<Words> * round_up(most_columns(args), 16));
  }

  float* queries;       // [words of a head][kLanes]
  float* sums;          // [kLanes][head_size], in tiles [head_size][kLanes]
  float* scores;        // [keys][kLanes], then weights
  float* column_masks;  // all bits or none, [columns][kLanes]
  float* row_masks;     // [rows][kLanes]
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
  const float *__restrict cos = angles, *__restrict sin = angles + half;
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

// Words of the values of one column: of one row, or pairs of two rows (negative: zeros).
template <typename Words>
void load_values(const NeighborhoodArgs& args, const int64_t* first, float* rows, float* words) {
  const int64_t size = args.head_size;
  for (int64_t r = 0; r < kValues<Words>; ++r) {
    float* row = kValues<Words> == 1 ? words : rows + r * size;
    if (first[r] >= 0) {
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

template <typename Words, bool kTiles>
void pack(const NeighborhoodArgs& args, const PackedPlane& plane, int64_t batch, int64_t frame, int64_t first_head,
          int64_t heads, int64_t first, float* planes, int64_t stride, float* memory) {
  const Work<Words> work(memory, args);
  const int64_t size = args.head_size, words = size / kValues<Words>, columns = key_columns<kTiles>(args);
  const int64_t places = places_of(args.columns);
  for (int64_t head = 0; head < heads; ++head, planes += stride) {
    const int64_t lane = (first_head + head) * size;
    for (int64_t r = first; r < first + 2; ++r) {
      const int64_t place = plane.first_row + r;
      float* keys = planes + r * columns * words;
      const bool there = place >= 0 && place < places_of(args.rows);
      for (int64_t column = 0; column < columns; ++column, keys += words) {
        if (!there || column >= places) {
          for (int64_t i = 0; i < words; ++i) keys[i] = 0.0f;
          continue;
        }
        const int64_t from =
            cell_offset(args.k, batch, frame, cell_of(args.rows, place), cell_of(args.columns, column), lane);
        if (args.rotated) {
          gather_angles(args, args.k_time, frame, position_of(args.rows, place), position_of(args.columns, column),
                        work.angles);
        }
        load_cell(args.k, from, args.k_norm, args, 1.0f, args.rotated ? work.angles : nullptr, work.rows);
        store_words<Words>(work.rows, size, keys);
      }
    }
    float* values = planes + plane.rows * columns * words;
    for (int64_t r = first; r < first + 2; r += kValues<Words>) {
      float* to = values + r / kValues<Words> * columns * size;
      // In tiles 16 columns are transposed at a time.
      float* buffer = work.scores;
      for (int64_t column = 0; column < columns; ++column) {
        int64_t from[2] = {-1, -1};
        for (int64_t i = 0; i < kValues<Words>; ++i) {
          const int64_t place = plane.first_row + r + i;
          if (place >= 0 && place < places_of(args.rows) && column < places) {
            from[i] = cell_offset(args.v, batch, frame, cell_of(args.rows, place), cell_of(args.columns, column), lane);
          }
        }
        load_values<Words>(args, from, work.rows, kTiles ? buffer + column % 16 * (size + 1) : to + column * size);
        if (kTiles && column % 16 == 15) transpose(buffer, size + 1, 16, size, to + column - 15, columns);
      }
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

// What the queries of a box carry from key to key.
struct Running {
  Vec base;  // what is subtracted from scores: the largest so far, or a little less
  Vec sum;   // of the weights
};

// Scores may exceed the base by so much before it is raised: the sums of values are then left alone. Weights stay far
// from the largest numbers, and their relative accuracy is the same.
constexpr float kLazy = 8.0f;

// Turns the scores of rows x columns keys into weights exp(score - base), in words, those outside a window into 0.
// Scores lie as [rows / kValues][columns][kValues]. Returns by what the sums of values so far have to be multiplied.
template <typename Words, bool kIsLazy>
Vec weigh(float* scores, int64_t rows, int64_t columns, const float* row_masks, const float* column_masks,
          Running& running) {
  constexpr int64_t kStep = kValues<Words>;
  const Vec lowest = splat(kMinusInfinity);
  Vec most[2] = {running.base, running.base};
  float* at = scores;
  for (int64_t r = 0; r < rows; r += kStep) {
    const VecI first = bits_of(load(row_masks + r * kLanes));
    const VecI second = bits_of(load(row_masks + (r + kStep - 1) * kLanes));
    for (int64_t c = 0; c < columns; ++c, at += kStep * kLanes) {
      const VecI column = bits_of(load(column_masks + c * kLanes));
      most[0] = max(select(first & column, load(at), lowest), most[0]);
      if constexpr (kStep == 2) most[1] = max(select(second & column, load(at + kLanes), lowest), most[1]);
    }
  }
  Vec raised = max(most[0], most[1]);
  if constexpr (kIsLazy) raised = select(raised <= running.base + splat(kLazy), running.base, raised);
  // With no key allowed so far, any finite base keeps all weights 0 and avoids inf - inf.
  const Vec base = select(raised == lowest, zero(), raised);
  const Vec rescale = weight_of<Words>(running.base - base);
  running.base = raised;
  Vec sum = zero();
  at = scores;
  float* to = scores;
  for (int64_t r = 0; r < rows; r += kStep) {
    const VecI first = bits_of(load(row_masks + r * kLanes));
    const VecI second = bits_of(load(row_masks + (r + kStep - 1) * kLanes));
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
  running.sum = fma(running.sum, rescale, sum);
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
  Box(const NeighborhoodArgs& args, const LaneBox& box, const QueryBoxes& boxes, int64_t first_column)
      : box(box), boxes(boxes), column(first_column) {
    const int64_t last_row = smaller(boxes.row + box.rows, args.rows.cells) - 1;
    const int64_t last_column = smaller(column + box.columns, args.columns.cells) - 1;
    first_place = window_begin(args.rows, boxes.row);
    end_place = window_end(args.rows, last_row);
    first_key = window_begin(args.columns, column);
    end_key = window_end(args.columns, last_column);
  }

  // Of a lane: its frame, row and column in the box. There may be none of that in the volume.
  int64_t frame_of(int lane) const { return lane / (box.rows * box.columns); }
  int64_t row_of(int lane) const { return boxes.row + lane / box.columns % box.rows; }
  int64_t column_of(int lane) const { return column + lane % box.columns; }
  bool there(const NeighborhoodArgs& args, int lane) const {
    return frame_of(lane) < boxes.frames && row_of(lane) < args.rows.cells && column_of(lane) < args.columns.cells;
  }

  LaneBox box;
  QueryBoxes boxes;
  int64_t column;
  int64_t first_place, end_place, first_key, end_key;
};

// The masks of the lanes whose window holds a place, for `count` places from `first` on.
template <typename CellOf>
void fill_masks(const WindowAxis& axis, int64_t first, int64_t count, const CellOf& cell_of_lane, float* masks) {
  int32_t begin[kLanes], end[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) {
    const int64_t cell = cell_of_lane(lane);
    begin[lane] = int32_t(cell < axis.cells ? window_begin(axis, cell) : 0);
    end[lane] = int32_t(cell < axis.cells ? window_end(axis, cell) : 0);
  }
  VecI begins, ends;
  memcpy(&begins, begin, sizeof begins);
  memcpy(&ends, end, sizeof ends);
  for (int64_t i = 0; i < count; ++i) {
    const VecI place = splat_bits(int32_t(first + i));
    store(masks + i * kLanes, from_bits((VecI)(place >= begins) & (VecI)(place < ends)));
  }
}

// The queries of a box, as words [words of a head][kLanes]; lanes without one hold zeros.
template <typename Words>
void load_queries(const NeighborhoodArgs& args, const Box& box, const Work<Words>& work) {
  const int64_t size = args.head_size, words = size / kValues<Words>, stride = words + 1;
  float* row = work.rows + kLanes * stride;
  for (int lane = 0; lane < kLanes; ++lane) {
    float* to = work.rows + lane * stride;
    if (!box.there(args, lane)) {
      for (int64_t i = 0; i < words; ++i) to[i] = 0.0f;
      continue;
    }
    const int64_t frame = box.boxes.first_frame + box.frame_of(lane), r = box.row_of(lane), c = box.column_of(lane);
    if (args.rotated) {
      gather_angles(args, args.q_time, frame, r + args.rows.window / 2, c + args.columns.window / 2, work.angles);
    }
    load_cell(args.q, cell_offset(args.q, box.boxes.batch, frame, r, c, box.boxes.head * size), args.q_norm, args,
              args.scale, args.rotated ? work.angles : nullptr, row);
    store_words<Words>(row, size, to);
  }
  transpose(work.rows, stride, kLanes, words, work.queries);
}

// The lanes of a box whose frame sees a frame of keys.
VecI frame_mask(const Box& box, const SeenFrame& seen) {
  VecI mask;
  for (int lane = 0; lane < kLanes; ++lane) mask[lane] = seen.seen_by >> box.frame_of(lane) & 1 ? -1 : 0;
  return mask;
}

void store_box(const NeighborhoodArgs& args, const Box& box, const float* sums, const float* sum_of_weights) {
  const int64_t size = args.head_size;
  float row[kMaxHead];
  for (int lane = 0; lane < kLanes; ++lane) {
    if (!box.there(args, lane)) continue;
    const float factor = sum_of_weights[lane] == 0.0f ? 0.0f : 1.0f / sum_of_weights[lane];
    for (int64_t i = 0; i < size; i += kLanes) store(row + i, load(sums + lane * size + i) * factor);
    const int64_t frame = box.boxes.batch * args.frames + box.boxes.first_frame + box.frame_of(lane);
    const int64_t cell = (frame * args.rows.cells + box.row_of(lane)) * args.columns.cells + box.column_of(lane);
    store_floats(row, size, args.out, args.out_type, (cell * args.heads + box.boxes.head) * size);
  }
}

template <typename Words>
void attend(const NeighborhoodArgs& args, const PackedPlane& plane, const LaneBox& lane_box, const QueryBoxes& boxes,
            const SeenFrame* seen, int64_t seen_count, const float* planes, int64_t stride, float* memory) {
  constexpr int64_t kStep = kValues<Words>;
  const Work<Words> work(memory, args);
  const int64_t size = args.head_size, words = size / kStep, pitch = key_columns<false>(args);
  for (int64_t column = boxes.first_column; column < boxes.end_column; column += lane_box.columns) {
    const Box box(args, lane_box, boxes, column);
    const int64_t first = (box.first_place - plane.first_row) / kStep * kStep;
    const int64_t rows = round_up(box.end_place - plane.first_row - first, kStep), columns = box.end_key - box.first_key;
    const int64_t together = larger(kStep, Work<Words>::score_rows(args) / columns / kStep * kStep);
    fill_masks(args.columns, box.first_key, columns, [&](int lane) { return box.column_of(lane); }, work.column_masks);
    load_queries(args, box, work);
    for (int64_t i = 0; i < kLanes * size; i += kLanes) store(work.sums + i, zero());
    Running running{splat(kMinusInfinity), zero()};
    for (int64_t i = 0; i < seen_count; ++i) {
      fill_masks(args.rows, plane.first_row + first, rows, [&](int lane) { return box.row_of(lane); }, work.row_masks);
      const VecI in_frame = frame_mask(box, seen[i]);
      for (int64_t r = 0; r < rows; ++r)
        store(work.row_masks + r * kLanes, from_bits(bits_of(load(work.row_masks + r * kLanes)) & in_frame));
      const float* keys = planes + seen[i].slot * stride;
      const float* values = keys + plane.rows * pitch * words + box.first_key * size;
      keys += box.first_key * words;
      for (int64_t done = 0; done < rows; done += together) {
        const int64_t here = smaller(together, rows - done);
        for (int64_t r = 0; r < here; ++r) {
          float* to = work.scores + (r / kStep * columns * kStep + r % kStep) * kLanes;
          score<Words>(keys + (first + done + r) * pitch * words, columns, words, work.queries, to, kStep * kLanes);
        }
        float rescale[kLanes];
        store(rescale,
              weigh<Words, false>(work.scores, here, columns, work.row_masks + done * kLanes, work.column_masks, running));
        add_values<Words>(work.scores, here / kStep, columns, values + (first + done) / kStep * pitch * size, size,
                          pitch * size, rescale, work.sums);
      }
    }
    float sum[kLanes];
    store(sum, running.sum);
    store_box(args, box, work.sums, sum);
  }
}

#ifdef LTX2RT_TILES

// Compiler and tiles see the same memory.
#define LTX2RT_FENCE asm volatile("" ::: "memory")

// The same with the products in AMX tiles of pairs, for heads of 64. Scores of 16 keys x 16 queries are products of keys
// as they lie in memory with the queries, and sums of 16 values x 16 queries those of transposed values with the weights.
__attribute__((target("amx-tile,amx-bf16"))) void attend_tiles(const NeighborhoodArgs& args, const PackedPlane& plane,
                                                               const LaneBox& lane_box, const QueryBoxes& boxes,
                                                               const SeenFrame* seen, int64_t seen_count,
                                                               const float* planes, int64_t stride, float* memory) {
  constexpr int64_t kWords = kUsualHead / 2, kKeyBytes = kWords * 4, kLine = 64;
  static_assert(kUsualHead == 64 && kLanes == 16);
  const Work<PairWords> work(memory, args);
  const int64_t pitch = key_columns<true>(args);
  TileConfig config{};
  config.palette = 1;
  for (int tile = 0; tile < 8; ++tile) {
    config.bytes_per_row[tile] = kLine;
    config.rows[tile] = 16;
  }
  LTX2RT_FENCE;
  _tile_loadconfig(&config);
  for (int64_t column = boxes.first_column; column < boxes.end_column; column += lane_box.columns) {
    const Box box(args, lane_box, boxes, column);
    const int64_t first = (box.first_place - plane.first_row) / 2 * 2;
    const int64_t rows = round_up(box.end_place - plane.first_row - first, 2);
    const int64_t columns = round_up(box.end_key - box.first_key, 16);
    const int64_t together = larger(2, Work<PairWords>::score_rows(args) / columns / 2 * 2);
    fill_masks(args.columns, box.first_key, columns, [&](int lane) { return box.column_of(lane); }, work.column_masks);
    load_queries(args, box, work);
    LTX2RT_FENCE;
    _tile_loadd(0, work.queries, kLine);
    _tile_loadd(1, work.queries + 256, kLine);
    _tile_zero(2);
    _tile_zero(3);
    _tile_zero(4);
    _tile_zero(5);
    Running running{splat(kMinusInfinity), zero()};
    for (int64_t i = 0; i < seen_count; ++i) {
      fill_masks(args.rows, plane.first_row + first, rows, [&](int lane) { return box.row_of(lane); }, work.row_masks);
      const VecI in_frame = frame_mask(box, seen[i]);
      for (int64_t r = 0; r < rows; ++r)
        store(work.row_masks + r * kLanes, from_bits(bits_of(load(work.row_masks + r * kLanes)) & in_frame));
      const float* keys = planes + seen[i].slot * stride;
      const float* values = keys + plane.rows * pitch * kWords + box.first_key;
      keys += box.first_key * kWords;
      for (int64_t done = 0; done < rows; done += together) {
        const int64_t here = smaller(together, rows - done);
        for (int64_t r = 0; r < here; ++r) {
          const float* from = keys + (first + done + r) * pitch * kWords;
          float* to = work.scores + (r / 2 * columns * 2 + r % 2) * kLanes;
          for (int64_t c = 0; c < columns; c += 16) {
            _tile_zero(6);
            _tile_loadd(7, from + c * kWords, kKeyBytes);
            _tile_dpbf16ps(6, 7, 0);
            _tile_loadd(7, from + c * kWords + 16, kKeyBytes);
            _tile_dpbf16ps(6, 7, 1);
            _tile_stored(6, to + c * 2 * kLanes, 2 * kLine);
          }
        }
        LTX2RT_FENCE;
        const Vec rescale = weigh<PairWords, true>(work.scores, here, columns, work.row_masks + done * kLanes,
                                                   work.column_masks, running);
        LTX2RT_FENCE;
        if (any((VecI)(rescale != splat(1.0f)))) {
          _tile_stored(2, work.sums, kLine);
          _tile_stored(3, work.sums + 256, kLine);
          _tile_stored(4, work.sums + 512, kLine);
          _tile_stored(5, work.sums + 768, kLine);
          for (int64_t v = 0; v < kUsualHead; ++v)
            store(work.sums + v * kLanes, load(work.sums + v * kLanes) * rescale);
          LTX2RT_FENCE;
          _tile_loadd(2, work.sums, kLine);
          _tile_loadd(3, work.sums + 256, kLine);
          _tile_loadd(4, work.sums + 512, kLine);
          _tile_loadd(5, work.sums + 768, kLine);
        }
        for (int64_t r = 0; r < here / 2; ++r) {
          const float* from = values + ((first + done) / 2 + r) * pitch * kUsualHead;
          for (int64_t c = 0; c < columns; c += 16) {
            _tile_loadd(6, work.scores + (r * columns + c) * kLanes, kLine);
            _tile_loadd(7, from + c, pitch * 4);
            _tile_dpbf16ps(2, 7, 6);
            _tile_loadd(7, from + c + 16 * pitch, pitch * 4);
            _tile_dpbf16ps(3, 7, 6);
            _tile_loadd(7, from + c + 32 * pitch, pitch * 4);
            _tile_dpbf16ps(4, 7, 6);
            _tile_loadd(7, from + c + 48 * pitch, pitch * 4);
            _tile_dpbf16ps(5, 7, 6);
          }
        }
      }
    }
    _tile_stored(2, work.scores, kLine);
    _tile_stored(3, work.scores + 256, kLine);
    _tile_stored(4, work.scores + 512, kLine);
    _tile_stored(5, work.scores + 768, kLine);
    LTX2RT_FENCE;
    for (int64_t v = 0; v < kUsualHead; v += 16)
      transpose(work.scores + v * kLanes, kLanes, 16, kLanes, work.sums + v, kUsualHead);
    float sum[kLanes];
    store(sum, running.sum);
    store_box(args, box, work.sums, sum);
  }
  _tile_release();
}

#endif  // LTX2RT_TILES

template <typename Words>
constexpr NeighborhoodLoops kLoops{plane_floats<Words, false>, Work<Words>::floats, pack<Words, false>, attend<Words>};

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
      .tiles = {plane_floats<PairWords, true>, Work<PairWords>::floats, pack<PairWords, true>, attend_tiles},
#else
      .has_tiles = false,
      .tiles = {},
#endif
  };
  return kernel;
}

}  // namespace ltx2rt::cpu::LTX2RT_ISA
