// Neighborhood attention inner loops: packing, scores, running softmax, weighted values.
#include "csrc/cpu/neighborhood_boxes.h"
#include "csrc/cpu/neighborhood_tiles.h"

namespace ltx2rt::cpu::LTX2RT_ISA {
namespace {

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
// Frames of queries of a block.
constexpr int64_t kVectorFrames = 2;

// A packed plane holds keys as [rows][columns][words of a head], then values as [rows / kValues][columns][head_size]
// words.
template <typename Words>
int64_t plane_floats(const NeighborhoodArgs& args, const PackedPlane& plane) {
  return plane.rows * places_of(args.columns) * 2 * args.head_size / kValues<Words>;
}

template <typename Words>
int64_t work_floats(const NeighborhoodArgs& args, int64_t) {
  return Work<Words>(nullptr, args, kVectorFrames).taken;
}

template <typename Words>
void pack(const NeighborhoodArgs& args, const PackedPlane& plane, const PackedFrame& part, int64_t first, float* planes,
          int64_t stride, float* memory) {
  const Work<Words> work(memory, args, kVectorFrames);
  Angles angles(args, args.k_time, work.angles);
  const int64_t size = args.head_size, words = size / kValues<Words>, columns = places_of(args.columns);
  float* scratch = work.rows + size;
  for (int64_t r = first; r < first + 2; ++r) {
    pack_keys<Words>(args, part, plane.first_row + r, columns, angles, work.rows, scratch,
                     [&](int64_t head, int64_t column, const float*, const float* from) {
                       memcpy(planes + head * stride + (r * columns + column) * words, from,
                              (size_t)words * sizeof(float));
                     });
  }
  for (int64_t head = 0; head < part.heads; ++head) {
    float* values = planes + head * stride + plane.rows * columns * words;
    for (int64_t r = first; r < first + 2; r += kValues<Words>) {
      float* to = values + r / kValues<Words> * columns * size;
      for (int64_t column = 0; column < columns; ++column)
        pack_value<Words>(args, part, head, plane.first_row + r, column, work.rows, to + column * size);
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

// One frame of keys for one box.
template <typename Words>
void attend_box(const Boxes<Words>& boxes, int64_t d, int64_t i, int64_t j, VecI in_frame, const float* keys) {
  constexpr int64_t kStep = kValues<Words>;
  const NeighborhoodArgs& args = boxes.args;
  const Work<Words>& work = boxes.work;
  const int64_t size = args.head_size, words = size / kStep, pitch = places_of(args.columns);
  const float* values = keys + boxes.plane.rows * pitch * words;
  const int64_t first = boxes.first_row(i), end = boxes.end_row(i);
  const Box box = boxes.box(d, i, j);
  const State<Words> state = boxes.state(d, i, j);
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
    store(rescale, weigh<Words>(work.scores[0], here, columns, in_frame, boxes.row_masks(i) + (row - first) * kLanes,
                                boxes.column_masks(j), state));
    add_values<Words>(work.scores[0], here / kStep, columns, values + (row / kStep * pitch + box.first_key) * size,
                      size, pitch * size, rescale, state.sums);
  }
}

template <typename Words>
void attend(const NeighborhoodArgs& args, const PackedPlane& plane, const LaneBox& lane_box,
            const NeighborhoodBlock& block, const SeenFrame* seen, int64_t seen_count, const float* planes,
            int64_t stride, float* memory) {
  const Work<Words> work(memory, args, kVectorFrames);
  const Boxes<Words> boxes(args, plane, lane_box, block, work);
  boxes.start(QueryCells<Words>(args, args.scale, work));
  for (int64_t f = 0; f < seen_count; ++f) {
    const float* keys = planes + seen[f].slot * stride;
    for (int64_t d = 0; d < boxes.deep; ++d) {
      const uint32_t seen_by = boxes.seen_by(d, seen[f]);
      if (seen_by == 0) continue;
      const VecI in_frame = frame_mask(lane_box, seen_by);
      for (int64_t i = 0; i < boxes.down; ++i)
        for (int64_t j = 0; j < boxes.across; ++j) attend_box(boxes, d, i, j, in_frame, keys);
    }
  }
  for (int64_t d = 0; d < boxes.deep; ++d) {
    for (int64_t i = 0; i < boxes.down; ++i) {
      for (int64_t j = 0; j < boxes.across; ++j) {
        const State<Words> state = boxes.state(d, i, j);
        store_box(args, boxes.box(d, i, j), state.sums, state.weights);
      }
    }
  }
}

template <typename Words>
constexpr NeighborhoodLoops kLoops{kValues<Words>,     1,           kVectorFrames, plane_floats<Words>,
                                   work_floats<Words>, pack<Words>, attend<Words>};

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
      .tiles = {2, 16, kTileFrames, tile_plane_floats, tile_work_floats, pack_tiles, attend_tiles},
#else
      .has_tiles = false,
      .tiles = {},
#endif
  };
  return kernel;
}

}  // namespace ltx2rt::cpu::LTX2RT_ISA
