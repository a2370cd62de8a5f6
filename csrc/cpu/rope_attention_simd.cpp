// Attention inner loops: packing with norm and rotation, scores, running softmax, weighted values.
#include "csrc/cpu/float_rows.h"
#include "csrc/cpu/fma_tile.h"
#include "csrc/cpu/rope_attention_kernel.h"

namespace ltx2rt::cpu::LTX2RT_ISA {
namespace {

constexpr int64_t kColumns = kTileColumns;
static_assert(kKeyBlock % kColumns == 0 && kQueryBlock % 16 == 0);

constexpr float kMinusInfinity = -__builtin_inff();

// A packed block holds keys as [kKeyBlock / kColumns][head_size][kColumns], then values as
// [value_width / kColumns][kKeyBlock][kColumns].
int64_t value_width(int64_t head_size) { return (head_size + kColumns - 1) / kColumns * kColumns; }
int64_t key_floats(int64_t head_size) { return kKeyBlock * head_size; }
int64_t block_floats(int64_t head_size) { return key_floats(head_size) + kKeyBlock * value_width(head_size); }

// What a query block carries from key to key: its queries [kQueryBlock][head_size], the weighted sums of values
// [kQueryBlock][value_width], and per query the largest score so far and the sum of the weights.
struct State {
  State(float* memory, int64_t head_size)
      : queries(memory),
        sums(queries + kQueryBlock * head_size),
        largest(sums + kQueryBlock * value_width(head_size)),
        total(largest + kQueryBlock) {}

  float* queries;
  float* sums;
  float* largest;
  float* total;
};

int64_t state_floats(int64_t head_size) { return kQueryBlock * (head_size + value_width(head_size) + 2); }

// Scratch of a thread: scores [kQueryBlock][kKeyBlock], a row of the bias, a packed block.
struct Work {
  explicit Work(float* memory)
      : scores(memory), bias(scores + kQueryBlock * kKeyBlock), block(bias + kKeyBlock) {}

  float* scores;
  float* bias;
  float* block;
};

int64_t work_floats(int64_t head_size) { return (kQueryBlock + 1) * kKeyBlock + block_floats(head_size); }

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

// cos and sin of the `half` rotated pairs of one head of one token.
void gather_angles(const RopeRows& rope, int64_t batch, int64_t token, int64_t head, int64_t half, float* cos,
                   float* sin) {
  const int32_t* index = rope.index + batch * rope.index_batch_stride + token * rope.axes;
  int64_t i = 0;
  int64_t lane = (rope.shared ? 0 : head * half) - rope.pad;
  for (; i < half && lane < 0; ++i, ++lane) {
    cos[i] = 1.0f;
    sin[i] = 0.0f;
  }
  if (i == half) return;
  const int64_t column = int64_t(uint32_t(lane) / uint32_t(rope.axes)), phase = lane - column * rope.axes;
  for (int64_t axis = 0; axis < rope.axes; ++axis) {
    const int64_t row = index[axis] < 0 ? index[axis] + rope.rows : index[axis];
    const bool next = axis < phase;  // this axis' first lane is in the next column
    const int64_t first = row * rope.columns + column + next;
    const float* from_cos = rope.cos + first;
    const float* from_sin = rope.sin + first;
    for (int64_t l = i + axis - phase + (next ? rope.axes : 0); l < half; l += rope.axes) {
      cos[l] = *from_cos++;
      sin[l] = *from_sin++;
    }
  }
}

void rotate(float* x, int64_t half, bool interleaved, const float* cos, const float* sin) {
  if (interleaved) {
    for (int64_t i = 0; i < half; ++i) {
      const float a = x[2 * i], b = x[2 * i + 1];
      x[2 * i] = a * cos[i] - b * sin[i];
      x[2 * i + 1] = b * cos[i] + a * sin[i];
    }
    return;
  }
  int64_t i = 0;
  for (; i + kLanes <= half; i += kLanes) {
    const Vec a = load(x + i), b = load(x + half + i), c = load(cos + i), s = load(sin + i);
    store(x + i, a * c - b * s);
    store(x + half + i, b * c + a * s);
  }
  for (; i < half; ++i) {
    const float a = x[i], b = x[half + i];
    x[i] = a * cos[i] - b * sin[i];
    x[half + i] = b * cos[i] + a * sin[i];
  }
}

// One head of one token, normalised, rotated and scaled. angles: scratch of head_size floats.
void transform(const AttentionArgs& args, const Projection& x, int64_t batch, int64_t token, int64_t head, float scale,
               float* out, float* angles) {
  const int64_t size = args.head_size;
  load_floats(x.rows.data, x.rows.type,
              batch * x.rows.batch_stride + token * x.rows.token_stride + head * size * x.rows.lane_stride,
              x.rows.lane_stride, size, out);
  if (x.norm != nullptr) {
    const float* weight = x.norm_per_head ? x.norm : x.norm + head * size;
    const float factor = x.norm_per_head
                             ? 1.0f / __builtin_sqrtf(sum_of_squares(out, size) / float(size) + args.norm_eps)
                             : x.inverse_rms[batch * x.tokens + token];
    for (int64_t i = 0; i < size; ++i) out[i] = out[i] * factor * weight[i];
  }
  if (x.rope.cos != nullptr) {
    const int64_t half = size / 2;
    gather_angles(x.rope, batch, token, head, half, angles, angles + half);
    rotate(out, half, args.interleaved, angles, angles + half);
  }
  for (int64_t i = 0; i < size; ++i) out[i] *= scale;
}

// Asks for one head of one token, whose neighbours in memory are other heads: no hardware prefetcher follows that.
void prefetch(const TokenRows& rows, int64_t batch, int64_t token, int64_t first_lane, int64_t lanes) {
  const char* from = (const char*)rows.data;
  const int64_t item = size_of(rows.type);
  from += (batch * rows.batch_stride + token * rows.token_stride + first_lane * rows.lane_stride) * item;
  const int64_t bytes = rows.lane_stride == 1 ? lanes * item : 1;
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(from + i);
}

// Rows ahead of the one being read that are prefetched.
constexpr int64_t kAhead = 8;

void pack(const AttentionArgs& args, int64_t batch, int64_t kv_head, int64_t first, int count, float* block) {
  const int64_t size = args.head_size;
  float* values = block + key_floats(size);
  float* rows = values;  // kColumns keys at a time; the values overwrite them at the end
  float* angles = rows + kColumns * size;
  for (int64_t done = 0; done < count; done += kColumns) {
    const int64_t here = smaller(kColumns, count - done);
    for (int64_t c = 0; c < here; ++c) {
      if (done + c + kAhead < count) prefetch(args.k.rows, batch, first + done + c + kAhead, kv_head * size, size);
      transform(args, args.k, batch, first + done + c, kv_head, 1.0f, rows + c * size, angles);
    }
    for (int64_t i = here * size; i < kColumns * size; ++i) rows[i] = 0.0f;
    transpose(rows, size, kColumns, size, block + done * size);
  }
  const TokenRows& v = args.v;
  for (int64_t key = 0; key < count; ++key) {
    const int64_t start = batch * v.batch_stride + (first + key) * v.token_stride + kv_head * size * v.lane_stride;
    if (key + kAhead < count) prefetch(v, batch, first + key + kAhead, kv_head * size, size);
    for (int64_t lane = 0; lane < size; lane += kColumns) {
      float* to = values + lane * kKeyBlock + key * kColumns;
      const int64_t n = smaller(kColumns, size - lane);
      load_floats(v.data, v.type, start + lane * v.lane_stride, v.lane_stride, n, to);
      for (int64_t i = n; i < kColumns; ++i) to[i] = 0.0f;
    }
  }
}

void start(const AttentionArgs& args, const QueryBlock& queries, float* state_memory, float* work_memory) {
  const int64_t size = args.head_size;
  const State state(state_memory, size);
  for (int64_t i = 0; i < queries.count; ++i) {
    if (i + kAhead < queries.count)
      prefetch(args.q.rows, queries.batch, queries.first + i + kAhead, queries.head * size, size);
    transform(args, args.q, queries.batch, queries.first + i, queries.head, args.scale, state.queries + i * size,
              Work(work_memory).block);
  }
  for (int64_t i = 0; i < kQueryBlock; ++i) {
    state.largest[i] = kMinusInfinity;
    state.total[i] = 0.0f;
  }
  const int64_t sums = queries.count * value_width(size);
  for (int64_t i = 0; i < sums; ++i) state.sums[i] = 0.0f;
}

// c [rows, columns] (+)= a [rows, depth] * panels, where panels are [columns / kColumns][panel_depth][kColumns].
void multiply(const float* a, int64_t lda, int64_t row_count, int64_t depth, const float* panels, int64_t panel_depth,
              int64_t columns, float* c, int64_t ldc, bool accumulate) {
  const Run run{0, depth};
  for (int64_t column = 0; column < columns; column += kColumns, panels += panel_depth * kColumns) {
    for (int64_t row = 0; row < row_count; row += kTileRows) {
      const float* rows[kTileRows];
      for (int64_t i = 0; i < kTileRows; ++i) rows[i] = a + (row + i) * lda;
      fma_tile(int(smaller(kTileRows, row_count - row)), int(smaller(kColumns, columns - column)), rows, &run, 1,
               panels, c + row * ldc + column, ldc, accumulate);
    }
  }
}

// scores[j] += bias[.., j] for j < count, of query `query` and the keys from `first` on. row: scratch that still holds
// the bias row of the previous query when all queries share it.
void add_bias(const AttentionArgs& args, const QueryBlock& queries, int64_t query, int64_t first, int64_t count,
              float* scores, float* row) {
  const int64_t* strides = args.bias_strides;
  if (query == 0 || strides[2] != 0) {
    load_floats(args.bias, args.bias_type,
                queries.batch * strides[0] + queries.head * strides[1] + (queries.first + query) * strides[2] +
                    first * strides[3],
                strides[3], count, row);
  }
  for (int64_t j = 0; j < count; ++j) scores[j] += row[j];
}

// exp(x) that is exactly 0 where x is too low for it, as for -inf.
Vec weight_of(Vec x) { return select(x < splat(-87.0f), zero(), exp(x)); }

// Turns scores [rows][kKeyBlock] into weights exp(score - largest), updates largest and total of the state, and brings
// the sums so far to the new largest. Of each row, the scores beyond count are overwritten up to a whole vector. The
// steps run over all rows in turn, so that the processor can overlap the reductions of neighbours.
void weigh(float* scores, int64_t rows, int64_t count, const State& state, int64_t width) {
  float top[kQueryBlock], base[kQueryBlock], factor[kQueryBlock];
  for (int64_t i = rows; i % kLanes != 0; ++i) top[i] = kMinusInfinity;
  for (int64_t i = 0; i < rows; ++i) {
    float* row = scores + i * kKeyBlock;
    for (int64_t j = count; j % kLanes != 0; ++j) row[j] = kMinusInfinity;
    Vec most = load(row);
    for (int64_t j = kLanes; j < count; j += kLanes) most = max(most, load(row + j));
    top[i] = reduce_max(most);
  }
  for (int64_t i = 0; i < rows; i += kLanes) {
    const Vec before = load(state.largest + i), largest = max(load(top + i), before);
    // With no key allowed so far, any finite base keeps all weights 0 and avoids inf - inf.
    const Vec from = select(largest == splat(kMinusInfinity), zero(), largest);
    const Vec shrink = weight_of(before - from);
    store(state.largest + i, largest);
    store(state.total + i, load(state.total + i) * shrink);
    store(base + i, from);
    store(factor + i, shrink);
  }
  for (int64_t i = 0; i < rows; ++i) {
    float* row = scores + i * kKeyBlock;
    Vec weights = zero();
    for (int64_t j = 0; j < count; j += kLanes) {
      const Vec weight = weight_of(load(row + j) - base[i]);
      store(row + j, weight);
      weights += weight;
    }
    state.total[i] += reduce_add(weights);
  }
  for (int64_t i = 0; i < rows; ++i) {
    if (factor[i] == 1.0f) continue;
    float* sums = state.sums + i * width;
    for (int64_t j = 0; j < width; j += kLanes) store(sums + j, load(sums + j) * factor[i]);
  }
}

void advance(const AttentionArgs& args, const QueryBlock& queries, int64_t first_key, int64_t end_key,
             const float* blocks, float* state_memory, float* work_memory) {
  const int64_t size = args.head_size, width = value_width(size);
  const State state(state_memory, size);
  const Work work(work_memory);
  const int64_t lead = args.k.tokens - args.q.tokens;  // causal: query i sees keys up to i + lead
  if (args.causal) end_key = smaller(end_key, queries.first + queries.count + lead);
  for (int64_t first = first_key; first < end_key; first += kKeyBlock) {
    const int64_t count = smaller(kKeyBlock, end_key - first);
    const float* block = blocks;
    if (blocks != nullptr) {
      blocks += block_floats(size);
    } else {
      pack(args, queries.batch, queries.head / (args.q.heads / args.k.heads), first, int(count), work.block);
      block = work.block;
    }
    multiply(state.queries, size, queries.count, size, block, size, count, work.scores, kKeyBlock, false);
    for (int64_t i = 0; i < queries.count; ++i) {
      float* scores = work.scores + i * kKeyBlock;
      if (args.bias != nullptr) add_bias(args, queries, i, first, count, scores, work.bias);
      if (args.causal) {
        const int64_t allowed = queries.first + i + lead + 1 - first;
        for (int64_t j = allowed < 0 ? 0 : allowed; j < count; ++j) scores[j] = kMinusInfinity;
      }
    }
    weigh(work.scores, queries.count, count, state, width);
    multiply(work.scores, kKeyBlock, queries.count, count, block + key_floats(size), kKeyBlock, size, state.sums, width,
             true);
  }
}

void finish(const AttentionArgs& args, const QueryBlock& queries, float* state_memory) {
  const int64_t size = args.head_size, width = value_width(size);
  const State state(state_memory, size);
  for (int64_t i = 0; i < queries.count; ++i) {
    const int64_t token = queries.first + i;
    float factor = state.total[i] == 0.0f ? 0.0f : 1.0f / state.total[i];
    if (args.gate_logits != nullptr) {
      const int64_t* strides = args.gate_strides;
      const float logit = load_one(args.gate_logits, args.gate_type,
                                   queries.batch * strides[0] + token * strides[1] + queries.head * strides[2]);
      factor *= 2.0f * sigmoid(splat(logit))[0];
    }
    float* sums = state.sums + i * width;
    for (int64_t j = 0; j < width; j += kLanes) store(sums + j, load(sums + j) * factor);
    store_floats(sums, size, args.out, args.out_type,
                 ((queries.batch * args.q.tokens + token) * args.q.heads + queries.head) * size);
  }
}

}  // namespace

const AttentionKernel& rope_attention_kernel() {
  static constexpr AttentionKernel kernel{block_floats, state_floats, work_floats, inverse_rms,
                                          pack,         start,        advance,     finish};
  return kernel;
}

}  // namespace ltx2rt::cpu::LTX2RT_ISA
