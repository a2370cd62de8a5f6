// Attention inner loops: packing with norm and rotation, scores, running softmax, weighted values.
//
// Queries lie in the lanes of the vectors: a score tile multiplies rows of keys with a panel of queries, so the maximum
// and the sum over keys are plain vector operations, and the weights come out in the order in which the product with the
// values reads them. Words selects what is multiplied: float32 values, or pairs of bfloat16 values, also in tiles (there
// the weighted sums of values have queries in the lanes as well).
#include "csrc/cpu/attention_tiles.h"
#include "csrc/cpu/float_rows.h"
#include "csrc/cpu/fma_tile.h"
#include "csrc/cpu/rope_attention_kernel.h"

namespace ltx2rt::cpu::LTX2RT_ISA {
namespace {

#ifdef LTX2RT_TILES
template <typename Words>
constexpr bool kTiled = __is_same(Words, TilePairWords);
template <typename Words>
struct TileScope {};
template <>
struct TileScope<TilePairWords> {
  const WholeTiles tiles;
};
#else
template <typename Words>
constexpr bool kTiled = false;
template <typename Words>
struct TileScope {};
#endif
// Queries whose scores with one key block stay in the first-level cache; in tiles, two of them.
template <typename Words>
constexpr int64_t kStrip = kTiled<Words> ? 32 : 48;
// Tokens whose angles are gathered together.
constexpr int64_t kTokens = 16;
// Tile of scores: keys by vectors of queries.
#if LTX2RT_LANES == 16
constexpr int kScoreRows = 8, kScoreVecs = 3;
#elif LTX2RT_LANES == 8
constexpr int kScoreRows = 6, kScoreVecs = 2;
#elif defined(__aarch64__)
constexpr int kScoreRows = 8, kScoreVecs = 3;
#else
constexpr int kScoreRows = 4, kScoreVecs = 2;
#endif
static_assert(kTokens % kLanes == 0 && (kTokens + 1) * 2 <= kKeyBlock);
static_assert(kStrip<FloatWords> % (kScoreVecs * kLanes) == 0 && kKeyBlock % 32 == 0);

constexpr float kMinusInfinity = -__builtin_inff();

// Values in one word of 32 bits.
template <typename Words>
constexpr int64_t kValues = __is_same(Words, FloatWords) ? 1 : 2;

template <typename Words>
constexpr int64_t words_of(int64_t values) {
  return (values + kValues<Words> - 1) / kValues<Words>;
}

int64_t value_width(int64_t head_size) { return (head_size + kTileColumns - 1) / kTileColumns * kTileColumns; }

// Queries of a state: whole strips.
template <typename Words>
constexpr int64_t kQueries = (kQueryBlock + kStrip<Words> - 1) / kStrip<Words> * kStrip<Words>;

// A packed block holds keys as [kKeyBlock][words of head_size], then values as
// [value_width / kTileColumns][words of kKeyBlock][kTileColumns], or in tiles as [value_width / 16][words of kKeyBlock /
// 16] tiles of 16 columns by 16 words.
template <typename Words>
int64_t key_words(int64_t head_size) {
  return kKeyBlock * words_of<Words>(head_size);
}

template <typename Words>
int64_t block_words(int64_t head_size) {
  return key_words<Words>(head_size) + words_of<Words>(kKeyBlock) * value_width(head_size);
}

// What a query block carries from key to key: its queries [strips][words of head_size][kStrip], the weighted sums of
// values [kQueryBlock][value_width], or in tiles [strips][value_width][kStrip], and per query row_max and row_sum: the
// largest score so far and the sum of the weights.
template <typename Words>
struct State {
  State(float* memory, int64_t head_size)
      : queries(memory),
        sums(queries + kQueries<Words> * words_of<Words>(head_size)),
        row_max(sums + kQueries<Words> * value_width(head_size)),
        row_sum(row_max + kQueries<Words>) {}

  static int64_t floats(int64_t head_size) {
    return kQueries<Words> * (words_of<Words>(head_size) + value_width(head_size) + 2);
  }

  float* queries;
  float* sums;
  float* row_max;
  float* row_sum;
};

// Scratch of a thread: scores and then weights [kKeyBlock][kStrip], rows of the bias and the same transposed, rows of
// queries, and what transform needs.
template <typename Words>
struct Work {
  Work(float* memory, int64_t head_size)
      : scores(memory),
        bias(scores + kKeyBlock * kStrip<Words>),
        bias_columns(bias + kKeyBlock * kLanes),
        rows(bias_columns + kKeyBlock * kLanes),
        scratch(rows + kTokens * (words_of<Words>(head_size) + 1)),
        outputs(bias) {}

  static int64_t floats(int64_t head_size) {
    return kKeyBlock * kStrip<Words> +
           larger(kKeyBlock * 2 * kLanes + kTokens * (words_of<Words>(head_size) + 1) + (kTokens + 1) * head_size,
                  kTiled<Words> ? kLanes * value_width(head_size) : 0);
  }

  float* scores;
  float* bias;
  float* bias_columns;
  float* rows;
  float* scratch;
  float* outputs;  // in tiles, in place of all but the scores: weighted sums of 16 queries
};

void inverse_rms(const Projection& x, int64_t head_size, float eps, int64_t begin, int64_t end, float* out) {
  constexpr int64_t kChunk = 512;
  const int64_t width = x.heads * head_size;
  float chunk[kChunk];
  for (int64_t i = begin; i < end; ++i) {
    const int64_t first = i / x.tokens * x.rows.batch_stride + i % x.tokens * x.rows.token_stride;
    float total = 0;
    for (int64_t lane = 0; lane < width; lane += kChunk) {
      const int64_t n = smaller(kChunk, width - lane);
      load_floats(x.rows.data, x.rows.type, first + lane * x.rows.lane_stride, x.rows.lane_stride, n, chunk);
      total += sum_of_squares(chunk, n);
    }
    out[i] = 1.0f / __builtin_sqrtf(total / float(width) + eps);
  }
}

#if defined(__AVX512F__)
// Which of 16 lanes one of kAxes axes owns, and how many they are, by the first of them.
template <int kAxes>
struct AxisLanes {
  constexpr AxisLanes() {
    for (int first = 0; first < kAxes; ++first) {
      int count = 0;
      for (int lane = 0; lane < 16; ++lane) order[first][lane] = lane % kAxes == first ? 16 + count++ : lane;
      values[first] = uint16_t((1 << count) - 1);
    }
  }

  alignas(64) int32_t order[kAxes][16] = {};  // for permutex2var: old lanes, then consecutive values
  uint16_t values[kAxes] = {};
};

// gather_angles for one whole vector of lanes, the first of axis `phase` in `column`. rows[axis][token]: in the tables.
template <int kAxes>
void gather_vector(const RopeRows& rope, const int64_t (*rows)[kTokens], int64_t column, int64_t phase, int64_t count,
                   int64_t half, float* angles) {
  static constexpr AxisLanes<kAxes> lanes;
  __m512i order[kAxes];
  __mmask16 mask[kAxes];
  const float *cos[kAxes], *sin[kAxes];
  for (int axis = 0; axis < kAxes; ++axis) {
    const bool next = axis < phase;  // this axis' first lane is in the next column
    const int64_t first = axis - phase + (next ? kAxes : 0);
    order[axis] = _mm512_load_si512(lanes.order[first]);
    mask[axis] = lanes.values[first];
    cos[axis] = rope.cos + column + next;
    sin[axis] = rope.sin + column + next;
  }
  // Reading 8 values where 6 or 8 are wanted crosses fewer cache lines than reading 16.
  const auto read = [&](int axis, const float* values) __attribute__((always_inline)) {
    if constexpr (kAxes == 1) return _mm512_maskz_loadu_ps(mask[axis], values);
    return _mm512_castps256_ps512(_mm256_maskz_loadu_ps(__mmask8(mask[axis]), values));
  };
  for (int64_t token = 0; token < count; ++token, angles += 2 * half) {
    __m512 c = _mm512_setzero_ps(), s = c;
#pragma GCC unroll 4
    for (int axis = 0; axis < kAxes; ++axis) {
      const int64_t row = rows[axis][token];
      c = _mm512_permutex2var_ps(c, order[axis], read(axis, cos[axis] + row));
      s = _mm512_permutex2var_ps(s, order[axis], read(axis, sin[axis] + row));
    }
    store(angles, c);
    store(angles + half, s);
  }
}
#endif

// angles[t] = cos and then sin of the `half` rotated pairs of one head of token first + t, t < count <= kTokens.
void gather_angles(const RopeRows& rope, int64_t batch, int64_t first, int64_t count, int64_t head, int64_t half,
                   float* angles) {
  const int32_t* index = rope.index + batch * rope.index_batch_stride + first * rope.axes;
  int64_t i = 0;
  int64_t lane = (rope.shared ? 0 : head * half) - rope.pad;
  for (; i < half && lane < 0; ++i, ++lane) {
    for (int64_t token = 0; token < count; ++token) {
      angles[token * 2 * half + i] = 1.0f;
      angles[token * 2 * half + half + i] = 0.0f;
    }
  }
  if (i == half) return;
  int64_t column = int64_t(uint32_t(lane) / uint32_t(rope.axes)), phase = lane - column * rope.axes;
  const auto row_of = [&](int64_t axis, int64_t token) {
    const int64_t i = index[token * rope.axes + axis], row = i < 0 ? i + rope.rows : i;
    // Checked before (csrc/checked_index.h). Should the memory have been changed since: the nearest row, as in shaders.
    return (row < 0 ? 0 : smaller(row, rope.rows - 1)) * rope.columns;
  };
#if defined(__AVX512F__)
  if (rope.axes <= 3) {
    int64_t rows[3][kTokens];
    for (int64_t token = 0; token < count; ++token)
      for (int64_t axis = 0; axis < rope.axes; ++axis) rows[axis][token] = row_of(axis, token);
    const auto gather = rope.axes == 1 ? gather_vector<1> : rope.axes == 2 ? gather_vector<2> : gather_vector<3>;
    for (; i + kLanes <= half; i += kLanes) {
      gather(rope, rows, column, phase, count, half, angles + i);
      column += (phase + kLanes) / rope.axes;
      phase = (phase + kLanes) % rope.axes;
    }
  }
#endif
  for (int64_t token = 0; token < count; ++token) {
    float* cos = angles + token * 2 * half;
    float* sin = cos + half;
    for (int64_t axis = 0; axis < rope.axes; ++axis) {
      const bool next = axis < phase;
      const int64_t at = row_of(axis, token) + column + next;
      const float* from_cos = rope.cos + at;
      const float* from_sin = rope.sin + at;
      for (int64_t l = i + axis - phase + (next ? rope.axes : 0); l < half; l += rope.axes) {
        cos[l] = *from_cos++;
        sin[l] = *from_sin++;
      }
    }
  }
}

void rotate(float* x, int64_t half, bool interleaved, const float* cos, const float* sin) {
  for (int64_t i = 0; i < half; ++i) {
    float& first = x[interleaved ? 2 * i : i];
    float& second = x[interleaved ? 2 * i + 1 : half + i];
    const float a = first, b = second;
    first = a * cos[i] - b * sin[i];
    second = b * cos[i] + a * sin[i];
  }
}

// Asks for one head of `count` tokens, whose neighbours in memory are other heads: no hardware prefetcher follows that.
// Into the second-level cache: rows of 2048 values of bfloat16 all start in the same set of the first, which holds few.
void prefetch(const TokenRows& rows, int64_t batch, int64_t token, int64_t count, int64_t first_lane, int64_t lanes) {
  const char* from = (const char*)rows.data;
  const int64_t item = size_of(rows.type);
  from += (batch * rows.batch_stride + token * rows.token_stride + first_lane * rows.lane_stride) * item;
  const int64_t bytes = rows.lane_stride == 1 ? lanes * item : 1;
  for (int64_t t = 0; t < count; ++t, from += rows.token_stride * item)
    for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(from + i, 0, 2);
}

// Rows ahead of the ones being read that are prefetched.
constexpr int64_t kAhead = 32;

// Vectors of both halves of a head, scaled, times the norm's weight and rotated (either may be null), as words: a word
// holds a value, or a value of the first half and its partner in the second.
template <typename Words, typename T>
void transform_halves(const T* from, int64_t half, float scale, const float* weight, const float* cos, const float* sin,
                      float* words) {
  for (int64_t i = 0; i < half; i += kLanes) {
    Vec a = load(from + i) * scale, b = load(from + half + i) * scale;
    if (weight != nullptr) {
      a *= load(weight + i);
      b *= load(weight + half + i);
    }
    if (cos != nullptr) {
      const Vec c = load(cos + i), s = load(sin + i), first = a;
      a = a * c - b * s;
      b = b * c + first * s;
    }
    if constexpr (kValues<Words> == 1) {
      store(words + i, a);
      store(words + half + i, b);
    } else {
      Words::store_row(words + i, Words::pair(a, b));
    }
  }
}

// One head of the tokens [first, first + count), normalised, rotated and scaled, as rows of words in an order of values
// that depends on the head size alone. scratch: (kTokens + 1) * head_size floats.
template <typename Words>
void transform(const AttentionArgs& args, const Projection& x, int64_t batch, int64_t first, int64_t count,
               int64_t head, float scale, float* words, int64_t word_stride, float* scratch) {
  const int64_t size = args.head_size, half = size / 2;
  float *row = scratch, *angles = scratch + size;
  const bool rotated = x.rope.cos != nullptr, own_norm = x.norm != nullptr && x.norm_per_head;
  const float* weight = x.norm == nullptr || own_norm ? x.norm : x.norm + head * size;
  const bool halves = size % (2 * kLanes) == 0, in_place = halves && !own_norm && x.rows.lane_stride == 1;
  const int64_t start = batch * x.rows.batch_stride + head * size * x.rows.lane_stride;
  for (int64_t done = 0; done < count; done += kTokens) {
    const int64_t here = smaller(kTokens, count - done);
    if (rotated) gather_angles(x.rope, batch, first + done, here, head, half, angles);
    with_type(x.rows.type, x.rows.data, [&](auto* data) {
      for (int64_t i = 0; i < here; ++i, words += word_stride) {
        const int64_t token = first + done + i, from = start + token * x.rows.token_stride;
        const float *cos = rotated ? angles + i * size : nullptr, *sin = rotated ? cos + half : nullptr;
        float factor = scale;
        if (x.norm != nullptr && !own_norm) factor *= x.inverse_rms[batch * x.tokens + token];
        if (in_place && !(rotated && args.interleaved)) {
          transform_halves<Words>(data + from, half, factor, weight, cos, sin, words);
          continue;
        }
        load_floats(x.rows.data, x.rows.type, from, x.rows.lane_stride, size, row);
        if (own_norm) factor /= __builtin_sqrtf(sum_of_squares(row, size) / float(size) + args.norm_eps);
        if (halves && !(rotated && args.interleaved)) {
          transform_halves<Words>(row, half, factor, weight, cos, sin, words);
          continue;
        }
        for (int64_t l = 0; l < size; ++l) row[l] *= weight != nullptr ? factor * weight[l] : factor;
        if (rotated) rotate(row, half, args.interleaved, cos, sin);
        if (halves) {
          transform_halves<Words>(row, half, 1.0f, nullptr, nullptr, nullptr, words);
        } else if constexpr (kValues<Words> == 1) {
          memcpy(words, row, (size_t)size * sizeof(float));
        } else {
          for (int64_t l = 0; l < size; l += 2) {
            BF16 pair[2] = {};
            from_float(row[l], pair[0]);
            if (l + 1 < size) from_float(row[l + 1], pair[1]);
            memcpy(words + l / 2, pair, sizeof pair);
          }
        }
      }
    });
  }
}

// One row of n values as a row of words, or two rows as a row of pairs (the second may be missing); zeros beyond n.
// first: where the first row starts.
template <typename Words>
void pack_values(const TokenRows& v, int64_t first, bool has_second, int64_t n, float* words) {
  if constexpr (kValues<Words> == 2) {
    if (has_second && n == kTileColumns && v.lane_stride == 1) {
      const BF16* row = (const BF16*)v.data + first;
      for (int64_t i = 0; i < kTileColumns; i += kLanes)
        Words::store_row(words + i, Words::pair(row + i, row + v.token_stride + i));
      return;
    }
  }
  load_floats(v.data, v.type, first, v.lane_stride, n, words);
  for (int64_t i = n; i < kTileColumns; ++i) words[i] = 0.0f;
  if constexpr (kValues<Words> == 2) {
    float second[kTileColumns] = {};
    if (has_second) load_floats(v.data, v.type, first + v.token_stride, v.lane_stride, n, second);
    for (int64_t i = 0; i < kTileColumns; i += kLanes)
      Words::store_row(words + i, Words::pair(load(words + i), load(second + i)));
  }
}

#ifdef LTX2RT_TILES
// 32 keys, of which there are `count`, by 32 columns: two tiles, those of neighbouring columns kKeyBlock / 32 tiles apart.
// pack_row(key, to): a row of pairs.
template <typename PackRow>
void pack_value_tiles(int64_t count, const PackRow& pack_row, float* tiles) {
  alignas(64) float rows[kTileWords][kTileColumns];
  for (int64_t word = 0; word < kTileWords; ++word) {
    if (2 * word < count) {
      pack_row(2 * word, rows[word]);
    } else {
      memset(rows[word], 0, sizeof rows[word]);
    }
  }
  for (int64_t half = 0; half < 2; ++half) {
    transpose(rows[0] + 16 * half, kTileColumns, kTileWords, 16, tiles + half * (kKeyBlock / 32) * kTileFloats,
              kTileWords);
  }
}
#endif

template <typename Words>
void pack(const AttentionArgs& args, int64_t batch, int64_t first_head, int64_t heads, int64_t first, int count,
          float* blocks, int64_t stride) {
  const int64_t size = args.head_size;
  const TokenRows& v = args.v;
  constexpr int64_t kStep = kValues<Words>;
  float* scratch = blocks + (heads - 1) * stride + key_words<Words>(size);  // overwritten by values at the end
  for (int64_t key = -kAhead; key < count; key += kTokens) {
    const int64_t ahead = key + kAhead;
    prefetch(args.k.rows, batch, first + ahead, smaller(kTokens, count - ahead), first_head * size, heads * size);
    if (key < 0) continue;
    for (int64_t head = 0; head < heads; ++head) {
      transform<Words>(args, args.k, batch, first + key, smaller(kTokens, count - key), first_head + head, 1.0f,
                       blocks + head * stride + key * words_of<Words>(size), words_of<Words>(size), scratch);
    }
  }
  constexpr int64_t kGroup = kTiled<Words> ? 32 : kTokens;
  for (int64_t group = -kAhead; group < count; group += kGroup) {
    const int64_t ahead = group + kAhead;
    prefetch(v, batch, first + ahead, smaller(kGroup, count - ahead), first_head * size, heads * size);
    if (group < 0) continue;
    for (int64_t head = 0; head < heads; ++head) {
      float* values = blocks + head * stride + key_words<Words>(size);
      const auto pack_row = [&](int64_t key, int64_t lane, float* to) {
        const int64_t start =
            batch * v.batch_stride + (first + key) * v.token_stride + (first_head + head) * size * v.lane_stride;
        pack_values<Words>(v, start + lane * v.lane_stride, key + 1 < count, smaller(kTileColumns, size - lane), to);
      };
#ifdef LTX2RT_TILES
      if constexpr (kTiled<Words>) {
        for (int64_t lane = 0; lane < size; lane += kTileColumns) {
          pack_value_tiles(
              smaller(kGroup, count - group), [&](int64_t key, float* to) { pack_row(group + key, lane, to); },
              values + lane * words_of<Words>(kKeyBlock) + group / 32 * kTileFloats);
        }
        continue;
      }
#endif
      for (int64_t key = group; key < smaller(count, group + kGroup); key += kStep) {
        for (int64_t lane = 0; lane < size; lane += kTileColumns) {
          pack_row(key, lane, values + lane * words_of<Words>(kKeyBlock) + key / kStep * kTileColumns);
        }
      }
    }
  }
}

template <typename Words>
void start(const AttentionArgs& args, const QueryBlock& queries, float* state_memory, float* work_memory) {
  const int64_t size = args.head_size, words = words_of<Words>(size);
  const State<Words> state(state_memory, size);
  const Work<Words> work(work_memory, size);
  for (int64_t i = -kAhead; i < queries.count; i += kTokens) {
    const int64_t here = smaller(kTokens, queries.count - i), stride = words + 1, ahead = i + kAhead;
    prefetch(args.q.rows, queries.batch, queries.first + ahead, smaller(kTokens, queries.count - ahead),
             queries.head * size, size);
    if (i < 0) continue;
    transform<Words>(args, args.q, queries.batch, queries.first + i, here, queries.head, args.scale, work.rows, stride,
                     work.scratch);
    for (int64_t w = here * stride; w < kTokens * stride; ++w) work.rows[w] = 0.0f;
    transpose(work.rows, stride, kTokens, words,
              state.queries + i / kStrip<Words> * words * kStrip<Words> + i % kStrip<Words>, kStrip<Words>);
  }
  for (int64_t i = 0; i < kQueries<Words>; ++i) {
    state.row_max[i] = kMinusInfinity;
    state.row_sum[i] = 0.0f;
  }
  const int64_t strips = (queries.count + kStrip<Words> - 1) / kStrip<Words>;
  const int64_t sums = (kTiled<Words> ? strips * kStrip<Words> : queries.count) * value_width(size);
  for (int64_t i = 0; i < sums; ++i) state.sums[i] = 0.0f;
}

// scores[r][c] = sum over w of keys[r][w] * queries[w][c] for r < kRows and c < kVecs * kLanes, each sum one chain.
template <typename Words, int kRows, int kVecs>
void score_tile(const float* keys, int64_t words, const float* queries, float* scores) {
  Vec sums[kRows][kVecs];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) sums[r][v] = zero();
  for (int64_t w = 0; w < words; ++w, queries += kStrip<Words>) {
    typename Words::Operand b[kVecs];
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) b[v] = Words::load_row(queries + v * kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const auto a = Words::broadcast(keys + r * words + w);
#pragma GCC unroll 4
      for (int v = 0; v < kVecs; ++v) sums[r][v] = Words::add_product(sums[r][v], a, b[v]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) store(scores + r * kStrip<Words> + v * kLanes, sums[r][v]);
}

template <typename Words, int kVecs, int kRows = kScoreRows>
void score_rows(int64_t rows, const float* keys, int64_t words, const float* queries, float* scores) {
  if (rows == kRows) {
    score_tile<Words, kRows, kVecs>(keys, words, queries, scores);
  } else if constexpr (kRows > 1) {
    score_rows<Words, kVecs, kRows - 1>(rows, keys, words, queries, scores);
  }
}

// scores[key][query] of `count` keys and `vecs` vectors of queries.
template <typename Words>
void score(const float* keys, int64_t count, int64_t words, const float* queries, int64_t vecs, float* scores) {
#ifdef LTX2RT_TILES
  if constexpr (kTiled<Words>) {  // also of the keys that fill up the last tile: nobody reads those scores
    return multiply_tile_groups((count + 15) / 16, keys, {words, 16 * words, kTileWords}, vecs > 1, queries,
                                kStrip<Words>, words / kTileWords, scores, kStrip<Words>, false);
  }
#endif
  for (int64_t v = 0; v < vecs; v += kScoreVecs, queries += kScoreVecs * kLanes, scores += kScoreVecs * kLanes) {
    for (int64_t key = 0; key < count; key += kScoreRows) {
      const int64_t rows = smaller(kScoreRows, count - key);
      const float* from = keys + key * words;
      float* to = scores + key * kStrip<Words>;
      if (vecs - v == 1) {
        score_rows<Words, 1>(rows, from, words, queries, to);
      } else if (kScoreVecs == 2 || vecs - v == 2) {
        score_rows<Words, 2>(rows, from, words, queries, to);
      } else {
        score_rows<Words, kScoreVecs>(rows, from, words, queries, to);
      }
    }
  }
}

// scores[key][query] += bias[.., query, key] of `count` keys from `first_key` on and the queries of a strip. When all
// queries share one row, work.bias keeps it from strip to strip: `new_keys` is how many keys of it there are to load, 0
// if they are there. A causal strip may see fewer of them than the strips after it.
template <typename Words>
void add_bias(const AttentionArgs& args, const QueryBlock& strip, int64_t first_key, int64_t count, int64_t new_keys,
              const Work<Words>& work) {
  const int64_t* strides = args.bias_strides;
  const int64_t start = strip.batch * strides[0] + strip.head * strides[1] + first_key * strides[3];
  const auto load_row = [&](int64_t query, int64_t keys, float* row) {
    load_floats(args.bias, args.bias_type, start + query * strides[2], strides[3], keys, row);
  };
  if (strides[2] == 0) {
    if (new_keys != 0) load_row(0, new_keys, work.bias);
    for (int64_t key = 0; key < count; ++key) {
      float* row = work.scores + key * kStrip<Words>;
      for (int64_t i = 0; i < strip.count; i += kLanes) store(row + i, load(row + i) + work.bias[key]);
    }
    return;
  }
  for (int64_t i = 0; i < strip.count; i += kLanes) {
    for (int64_t r = 0; r < kLanes; ++r)  // the lanes beyond the last query may hold anything: here its own bias
      load_row(smaller(strip.first + i + r, strip.first + strip.count - 1), count, work.bias + r * kKeyBlock);
    transpose(work.bias, kKeyBlock, kLanes, count, work.bias_columns, kLanes);
    for (int64_t key = 0; key < count; ++key) {
      float* row = work.scores + key * kStrip<Words> + i;
      store(row, load(row) + load(work.bias_columns + key * kLanes));
    }
  }
}

// exp(x) for x <= 0, exactly 0 where x is too low for it, as for -inf.
template <typename Words>
Vec weight_of(Vec x) {
  if constexpr (kValues<Words> == 1) return select(x < splat(-87.0f), zero(), exp(x));
  return coarse_exp(x);
}

// Turns `count` rows of scores into weights exp(score - row_max), in words, and updates row_max and row_sum of the state.
// Returns in `rescale` by what the sums of values so far have to be multiplied.
template <typename Words>
void weigh(float* scores, int64_t count, int64_t vecs, float* row_max, float* row_sum, float* rescale) {
  for (int64_t i = 0; i < vecs * kLanes; i += kLanes) {
    float* column = scores + i;
    const Vec old_max = load(row_max + i);
    Vec most[2] = {old_max, old_max};
    for (int64_t key = 0; key + 1 < count; key += 2) {
      most[0] = max(load(column + key * kStrip<Words>), most[0]);
      most[1] = max(load(column + (key + 1) * kStrip<Words>), most[1]);
    }
    if (count % 2 != 0) most[0] = max(load(column + (count - 1) * kStrip<Words>), most[0]);
    const Vec new_max = max(most[0], most[1]);
    // With no key allowed so far, any finite base keeps all weights 0 and avoids inf - inf.
    const Vec base = select(new_max == splat(kMinusInfinity), zero(), new_max);
    const Vec scale = weight_of<Words>(old_max - base);
    store(row_max + i, new_max);
    store(rescale + i, scale);
    Vec sum = zero();
    if constexpr (kValues<Words> == 1) {
      for (int64_t key = 0; key < count; ++key) {
        const Vec weight = weight_of<Words>(load(column + key * kStrip<Words>) - base);
        store(column + key * kStrip<Words>, weight);
        sum += weight;
      }
    } else {
      const auto pair = [&](int64_t key, Vec second) {
        const auto words = Words::pair(weight_of<Words>(load(column + key * kStrip<Words>) - base), second);
        Words::store_row(column + key / 2 * kStrip<Words>, words);
        sum = Words::add_product(sum, words, Words::ones());  // of what is multiplied, so that equal weights cancel
      };
      int64_t key = 0;
      for (; key + 1 < count; key += 2) pair(key, weight_of<Words>(load(column + (key + 1) * kStrip<Words>) - base));
      if (key < count) pair(key, zero());
    }
    store(row_sum + i, fma(load(row_sum + i), scale, sum));
  }
}

// sums[r][c] = rescale[r] * sums[r][c] + sum over w of weights[w][r] * values[w][c] for r < kRows and a tile of columns.
template <typename Words, int kRows, int kVecs>
void value_tile(const float* weights, int64_t words, const float* values, const float* rescale, float* sums,
                int64_t stride) {
  Vec products[kRows][kVecs];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < kVecs; ++v) products[r][v] = zero();
  for (int64_t w = 0; w < words; ++w, weights += kStrip<Words>, values += kTileColumns) {
    typename Words::Operand b[kVecs];
#pragma GCC unroll 2
    for (int v = 0; v < kVecs; ++v) b[v] = Words::load_row(values + v * kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const auto a = Words::broadcast(weights + r);
#pragma GCC unroll 2
      for (int v = 0; v < kVecs; ++v) products[r][v] = Words::add_product(products[r][v], a, b[v]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < kVecs; ++v) {
      float* to = sums + r * stride + v * kLanes;
      store(to, fma(load(to), splat(rescale[r]), products[r][v]));
    }
}

template <typename Words, int kVecs, int kRows = kTileRows>
void value_rows(int64_t rows, const float* weights, int64_t words, const float* values, const float* rescale,
                float* sums, int64_t stride) {
  if (rows == kRows) {
    value_tile<Words, kRows, kVecs>(weights, words, values, rescale, sums, stride);
  } else if constexpr (kRows > 1) {
    value_rows<Words, kVecs, kRows - 1>(rows, weights, words, values, rescale, sums, stride);
  }
}

// Adds the values of one key block, weighted, to the sums of `rows` queries.
template <typename Words>
void add_values(const float* weights, int64_t rows, int64_t count, const float* values, int64_t size,
                const float* rescale, float* sums) {
  const int64_t words = words_of<Words>(count), width = value_width(size);
  for (int64_t column = 0; column < size; column += kTileColumns, values += words_of<Words>(kKeyBlock) * kTileColumns) {
    for (int64_t row = 0; row < rows; row += kTileRows) {
      const int64_t here = smaller(kTileRows, rows - row);
      float* to = sums + row * width + column;
      if (size - column <= kLanes) {
        value_rows<Words, 1>(here, weights + row, words, values, rescale + row, to, width);
      } else {
        value_rows<Words, 2>(here, weights + row, words, values, rescale + row, to, width);
      }
    }
  }
}

#ifdef LTX2RT_TILES
// The same in tiles, sums [size][kStrip]; the values beyond the last key are zero, and its weights become that.
void add_value_tiles(float* weights, int64_t vecs, int64_t count, const float* values, int64_t size,
                     const float* rescale, float* sums) {
  constexpr int64_t kWidth = kStrip<TilePairWords>;
  const int64_t words = words_of<TilePairWords>(count), tiles = (words + kTileWords - 1) / kTileWords;
  for (int64_t w = words; w < tiles * kTileWords; ++w) memset(weights + w * kWidth, 0, kWidth * sizeof(float));
  for (int64_t i = 0; i < vecs * kLanes; i += kLanes) {
    const Vec factor = load(rescale + i);
    for (int64_t column = 0; column < size; ++column) {
      float* sum = sums + column * kWidth + i;
      store(sum, load(sum) * factor);
    }
  }
  constexpr int64_t kColumns = kKeyBlock / 32 * kTileFloats;  // of one group of columns
  multiply_tile_groups(size / 16, values, {kTileWords, kColumns, kTileFloats}, vecs > 1, weights, kWidth, tiles, sums,
                       kWidth, true);
}
#endif

template <typename Words>
void advance(const AttentionArgs& args, const QueryBlock& queries, int64_t first_key, int64_t end_key,
             const float* blocks, float* state_memory, float* work_memory) {
  const int64_t size = args.head_size, width = value_width(size), words = words_of<Words>(size);
  const State<Words> state(state_memory, size);
  const Work<Words> work(work_memory, size);
  [[maybe_unused]] const TileScope<Words> tiles;
  const int64_t lead = args.k.tokens - args.q.tokens;  // causal: query i sees keys up to i + lead
  if (args.causal) end_key = smaller(end_key, queries.first + queries.count + lead);
  for (int64_t first = first_key; first < end_key; first += kKeyBlock) {
    const int64_t in_block = smaller(kKeyBlock, end_key - first);
    const float* block = blocks + (first - first_key) / kKeyBlock * block_words<Words>(size);
    int64_t new_keys = in_block;
    for (int64_t done = 0; done < queries.count; done += kStrip<Words>) {
      const QueryBlock strip{queries.batch, queries.head, queries.first + done,
                             int(smaller(kStrip<Words>, queries.count - done))};
      const int64_t vecs = (strip.count + kLanes - 1) / kLanes;
      const int64_t last_seen = strip.first + lead - first;  // by the strip's first query, counted in the block
      int64_t count = in_block;
      if (args.causal) count = smaller(count, last_seen + strip.count);
      if (count <= 0) continue;
      score<Words>(block, count, words, state.queries + done * words, vecs, work.scores);
      if (args.bias != nullptr) add_bias(args, strip, first, count, new_keys, work);
      new_keys = 0;
      if (args.causal) {
        for (int64_t key = last_seen < 0 ? 0 : last_seen + 1; key < count; ++key)
          for (int64_t i = 0; i < smaller(strip.count, key - last_seen); ++i)
            work.scores[key * kStrip<Words> + i] = kMinusInfinity;
      }
      float rescale[kStrip<Words>];
      weigh<Words>(work.scores, count, vecs, state.row_max + done, state.row_sum + done, rescale);
      const float* values = block + key_words<Words>(size);
#ifdef LTX2RT_TILES
      if constexpr (kTiled<Words>) {
        add_value_tiles(work.scores, vecs, count, values, size, rescale, state.sums + done * width);
        continue;
      }
#endif
      add_values<Words>(work.scores, strip.count, count, values, size, rescale, state.sums + done * width);
    }
  }
}

template <typename Words>
void finish(const AttentionArgs& args, const QueryBlock& queries, float* state_memory, float* work_memory) {
  const int64_t size = args.head_size, width = value_width(size);
  const State<Words> state(state_memory, size);
  const Work<Words> work(work_memory, size);
  for (int64_t i = 0; i < queries.count; ++i) {
    const int64_t token = queries.first + i;
    float factor = state.row_sum[i] == 0.0f ? 0.0f : 1.0f / state.row_sum[i];
    if (args.gate_logits != nullptr) {
      const int64_t* strides = args.gate_strides;
      const float logit = load_one(args.gate_logits, args.gate_type,
                                   queries.batch * strides[0] + token * strides[1] + queries.head * strides[2]);
      factor *= 2.0f * sigmoid(splat(logit))[0];
    }
    float* sums = state.sums + i * width;
    if constexpr (kTiled<Words>) {
      if (i % kLanes == 0) {  // 16 queries at once
        const float* strip = state.sums + i / kStrip<Words> * kStrip<Words> * width + i % kStrip<Words>;
        transpose(strip, kStrip<Words>, width, kLanes, work.outputs, width);
      }
      sums = work.outputs + i % kLanes * width;
    }
    for (int64_t j = 0; j < width; j += kLanes) store(sums + j, load(sums + j) * factor);
    store_floats(sums, size, args.out, args.out_type,
                 ((queries.batch * args.q.tokens + token) * args.q.heads + queries.head) * size);
  }
}

template <typename Words>
constexpr AttentionLoops kLoops{block_words<Words>, State<Words>::floats, Work<Words>::floats, pack<Words>,
                                start<Words>,       advance<Words>,       finish<Words>};

}  // namespace

const AttentionKernel& rope_attention_kernel() {
  static constexpr AttentionKernel kernel{
      .inverse_rms = inverse_rms,
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
      .tiles = kLoops<TilePairWords>,
#else
      .has_tiles = false,
      .tiles = {},
#endif
  };
  return kernel;
}

}  // namespace ltx2rt::cpu::LTX2RT_ISA
