// Attention with RMSNorm and rotary embedding of q applied as it is loaded, bias, and a gate per head. Keys are normed
// and rotated once, by rope_attention_keys; whole-row statistics of q come from rope_attention_row_scale.
#include <metal_stdlib>

#include "csrc/metal/elements.h"
#include "csrc/metal/fragments.h"
#include "csrc/metal/rope.h"
#include "csrc/metal/rope_attention_params.h"
#include "csrc/metal/softmax.h"

using namespace metal;
using namespace ltx2rt;
using namespace ltx2rt::metal_shared;

constant int bias_type [[function_constant(4)]];
constant int gate_type [[function_constant(5)]];
constant bool causal [[function_constant(6)]];
constant bool fenced [[function_constant(7)]];

// Keys that a query sees have scores of at least this, whatever their bias: masks use the lowest float, kHidden, too.
constant constexpr float kLowestSeen = -3.40282326e38f;
constant constexpr uint kMinusInfinityBits = 0xff800000;

// A score with its bias; a bias of minus infinity hides the key.
METAL_FUNC float biased(float score, float bias) {
  const float sum = score + bias;
  if (as_type<uint>(sum) == kMinusInfinityBits) return kHidden;
  return sum < kLowestSeen ? kLowestSeen : sum;
}

// Lanes of a simdgroup by the place of their elements in a fragment (lane_position): bits 0 and 3 give the column, the
// others the row.
METAL_FUNC ushort lane_in_column(uint lane, int row) { return ushort((lane & 9) | (row & 3) << 1 | (row >> 2) << 4); }
METAL_FUNC ushort lane_in_row(uint lane, int column_of_four) {
  return ushort((lane & ~9u) | (column_of_four & 1) | (column_of_four >> 1) << 3);
}

// What rope_attention applies to q; which of it is there is in the function constants.
struct QueryOperands {
  const device float* row_scale;
  const device float* cosines;
  const device float* sines;
  const device int* index;
};

// The weights of q's norm for the lane's part of a row (load_query). The eight lanes of a column need the same ones:
// each reads an eighth and gets the rest from the others. All lanes of the simdgroup call it together.
template <int K>
METAL_FUNC Values<float, K / 4> load_norm(const device float* norm, LanePosition at, uint lane) {
  constexpr int kOwn = K / 32;
  float own[kOwn];
  LTX2RT_UNROLL
  for (int i = 0; i < kOwn; i++) {
    const int value = at.row * kOwn + i;
    own[i] = norm[32 * (value / 8) + 4 * at.column + value % 8];
  }
  Values<float, K / 4> weight;
  LTX2RT_UNROLL
  for (int i = 0; i < K / 4; i++) weight.v[i] = simd_shuffle(own[i % kOwn], lane_in_column(lane, i / kOwn));
  return weight;
}

// The lane's part of one row of q: values 32 m + 4 column + (0 to 7) for each m, normed, rotated and scaled. All lanes
// of the simdgroup call it together, for rows that exist.
template <typename T, int K>
METAL_FUNC Values<float, K / 4> load_query(const device T* q, int batch, int head, int row, LanePosition at, uint lane,
                                           const thread QueryOperands& operands,
                                           const thread Values<float, K / 4>& weight,
                                           constant AttentionParams& params) {
  constexpr int kBlocks = K / 32;
  Values<float, K / 4> values;
  const device T* from = q + batch * params.q_strides[0] + row * params.q_strides[1] + head * K + 4 * at.column;
  float square = 0.0f;
  LTX2RT_UNROLL
  for (int m = 0; m < kBlocks; m++) {
    LTX2RT_UNROLL
    for (int half_ = 0; half_ < 2; half_++) {
      const float4 v = widen<T>(((const device vec<T, 4>*)(from + 32 * m + 4 * half_))[0]);
      LTX2RT_UNROLL
      for (int j = 0; j < 4; j++) values.v[8 * m + 4 * half_ + j] = v[j];
      square += dot(v, v);
    }
  }
  float scale = params.scale;
  if (norm_kind == kNormPerHead) scale *= precise::rsqrt(sum_of_row(square) / float(K) + params.norm_eps);
  if (norm_kind == kNormWholeRow) scale *= operands.row_scale[int64(batch) * params.queries + row];
  if (norm_kind != kNotNormed) {
    LTX2RT_UNROLL
    for (int i = 0; i < K / 4; i++) values.v[i] *= weight.v[i];
  }
  LTX2RT_UNROLL
  for (int i = 0; i < K / 4; i++) values.v[i] *= scale;
  if (rope_axes == 0) return values;

  // Each of the four lanes of a row reads the row's index along one axis.
  const int own_axis = at.column / 2;
  int own = 0;
  if (own_axis < rope_axes) {
    const int64 entry = batch * params.rope.index_batch_stride + int64(row) * rope_axes + own_axis;
    own = table_row(operands.index[entry], params.rope.rows);
  }
  Position position;
  LTX2RT_UNROLL
  for (int a = 0; a < kMostRopeAxes; a++) position.row[a] = simd_shuffle(own, lane_in_row(lane, a));
  const int first_pair = rope_shared ? 0 : head * (K / 2);
  if (K == 32 && !interleaved) {
    // The halves of a head are in lanes that are four columns apart.
    const bool upper = at.column >= 4;
    LTX2RT_UNROLL
    for (int i = 0; i < K / 4; i++) {
      const int pair = first_pair + 4 * at.column + i - (upper ? 16 : 0);
      const float2 turn = turn_of(pair, position, operands.cosines, operands.sines, params.rope);
      const float partner = simd_shuffle_xor(values.v[i], ushort(8));
      values.v[i] = values.v[i] * turn.x + (upper ? partner : -partner) * turn.y;
    }
    return values;
  }
  LTX2RT_UNROLL
  for (int i = 0; i < K / 8; i++) {
    // Pair i of this lane: the halves of a head are K / 64 blocks apart, interleaved pairs are neighbours.
    const int a = interleaved ? 2 * i : i, b = interleaved ? a + 1 : i + K / 8;
    const int place = 32 * (a / 8) + 4 * at.column + a % 8;
    const float2 turn = turn_of(first_pair + (interleaved ? place / 2 : place), position, operands.cosines,
                                operands.sines, params.rope);
    const float2 pair = turned(float2(values.v[a], values.v[b]), turn);
    values.v[a] = pair.x;
    values.v[b] = pair.y;
  }
  return values;
}

// Copies `rows` of Rows rows of K values into a tile with rows of Pitch values; the others become zeros.
template <typename T, int Rows, int K, int Pitch, int Threads>
METAL_FUNC void stage_tokens(threadgroup T* tile, const device T* from, int token_stride, int rows, uint thread_index) {
  constexpr uint kFours = K / 4;
  for (uint unit = thread_index; unit < Rows * kFours; unit += Threads) {
    const int row = int(unit / kFours), at = int(unit % kFours * 4);
    vec<T, 4> values = vec<T, 4>(T(0), T(0), T(0), T(0));
    if (row < rows) values = *(const device vec<T, 4>*)(from + (row * token_stride + at));
    ((threadgroup vec<T, 4>*)(tile + row * Pitch + at))[0] = values;
  }
}

// kSimdgroups simdgroups of 8 * kRowBlocks queries of one head share each block of kKeys keys and values.
// q: T; k, v: T, k as rope_attention_keys wrote it or in place; out (batch, queries, heads * K): T, contiguous.
// Grid: (ceil(queries / (8 * kRowBlocks * kSimdgroups)), heads, batch), or a part of it.
template <typename T, int K, int kRowBlocks, int kSimdgroups, int kKeys>
[[kernel, max_total_threads_per_threadgroup(32 * kSimdgroups)]] void rope_attention(
    const device T* q [[buffer(0)]], const device T* k [[buffer(1)]], const device T* v [[buffer(2)]],
    device T* out [[buffer(3)]], constant AttentionParams& params [[buffer(4)]], const device float* norm [[buffer(5)]],
    const device float* row_scale [[buffer(6)]], const device float* cosines [[buffer(7)]],
    const device float* sines [[buffer(8)]], const device int* index [[buffer(9)]],
    const device uchar* bias [[buffer(10)]], const device uchar* gate [[buffer(11)]],
    uint3 group [[threadgroup_position_in_grid]], uint thread_index [[thread_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]], uint simdgroup [[simdgroup_index_in_threadgroup]]) {
  constexpr int kPitch = K + (sizeof(T) == 2 ? 16 : 4), kBlocks = K / 32, kKeyBlocks = kKeys / 8;
  constexpr int kQueries = 8 * kRowBlocks * kSimdgroups, kThreads = 32 * kSimdgroups;
  threadgroup float4 k_storage[kKeys * kPitch * sizeof(T) / 16];
  threadgroup float4 v_storage[kKeys * kPitch * sizeof(T) / 16];
  threadgroup T* k_tile = (threadgroup T*)k_storage;
  threadgroup T* v_tile = (threadgroup T*)v_storage;

  const int batch = params.first_batch + group.z, head = params.first_head + group.y;
  const int kv_head = head / params.heads_per_kv_head;
  const LanePosition at = lane_position(lane);
  const int first_row = (params.first_query_block + group.x) * kQueries;
  const int lane_row = first_row + 8 * kRowBlocks * int(simdgroup) + at.row;
  k += batch * params.k_strides[0] + kv_head * params.k_strides[1];
  v += batch * params.v_strides[0] + kv_head * params.v_strides[1];
  const int k_stride = int(params.k_strides[2]), v_stride = int(params.v_strides[2]);
  const int bias_stride = int(params.bias_strides[2]), key_stride = int(params.bias_strides[3]);
  if (bias_type != kAbsent) {
    const int64 first =
        batch * params.bias_strides[0] + head * params.bias_strides[1] + first_row * params.bias_strides[2];
    bias = from_element(bias, bias_type, first);
  }

  const QueryOperands operands = {row_scale, cosines, sines, index};
  Values<float, K / 4> weight;
  if (norm_kind != kNotNormed) weight = load_norm<K>(norm + (norm_kind == kNormWholeRow ? head * K : 0), at, lane);
  Values<float, K / 4> query[kRowBlocks];
  simdgroup_float8x8 sums[kRowBlocks][kBlocks][4];
  float row_max[kRowBlocks], row_sum[kRowBlocks];
  LTX2RT_UNROLL
  for (int r = 0; r < kRowBlocks; r++) {
    const int row = min(lane_row + 8 * r, params.queries - 1);
    query[r] = load_query<T, K>(q, batch, head, row, at, lane, operands, weight, params);
    row_max[r] = kHidden;
    row_sum[r] = 0.0f;
    LTX2RT_UNROLL
    for (int m = 0; m < kBlocks; m++) {
      LTX2RT_UNROLL
      for (int i = 0; i < 4; i++) sums[r][m][i] = fragment_of(0.0f, 0.0f);
    }
  }

  // Causal: query i sees keys up to i + keys - queries.
  const int reach = params.keys - params.queries;
  const int last_row = min(first_row + kQueries, params.queries) - 1;
  const int keys = causal ? min(params.keys, last_row + reach + 1) : params.keys;
  for (int first_key = 0; first_key < keys; first_key += kKeys) {
    const int rows = min(kKeys, params.keys - first_key);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    stage_tokens<T, kKeys, K, kPitch, kThreads>(k_tile, k, k_stride, rows, thread_index);
    stage_tokens<T, kKeys, K, kPitch, kThreads>(v_tile, v, v_stride, rows, thread_index);
    k += kKeys * k_stride;
    v += kKeys * v_stride;
    threadgroup_barrier(mem_flags::mem_threadgroup);

    simdgroup_float8x8 scores[kRowBlocks][kKeyBlocks];
    LTX2RT_UNROLL
    for (int j = 0; j < kKeyBlocks; j++) {
      LTX2RT_UNROLL
      for (int r = 0; r < kRowBlocks; r++) scores[r][j] = fragment_of(0.0f, 0.0f);
      const threadgroup T* column = k_tile + (8 * j + at.column) * kPitch;
      LTX2RT_UNROLL
      for (int m = 0; m < kBlocks; m++) {
        fence(fenced);
        const RightFragments<T, 4> keys_of_block = load_right<T, 4>(column + 32 * m, column + kPitch + 32 * m, at);
        fence(fenced);
        LTX2RT_UNROLL
        for (int f = 0; f < 4; f++) {
          simdgroup_float8x8 right = keys_of_block.fragment(f);
          LTX2RT_UNROLL
          for (int r = 0; r < kRowBlocks; r++) {
            simdgroup_float8x8 left = fragment_of(query[r].v[8 * m + f], query[r].v[8 * m + 4 + f]);
            simdgroup_multiply_accumulate(scores[r][j], left, right, scores[r][j]);
          }
        }
      }
    }

    LTX2RT_UNROLL
    for (int r = 0; r < kRowBlocks; r++) {
      const int row = lane_row + 8 * r;
      float2 s[kKeyBlocks];
      float most = row_max[r];
      LTX2RT_UNROLL
      for (int j = 0; j < kKeyBlocks; j++) {
        s[j] = elements_of(scores[r][j]);
        LTX2RT_UNROLL
        for (int e = 0; e < 2; e++) {
          const int key = first_key + 8 * j + at.column + e;
          if (key >= params.keys || (causal && key > row + reach)) {
            s[j][e] = kHidden;
          } else if (bias_type != kAbsent && row < params.queries) {
            const int entry = (row - first_row) * bias_stride + key * key_stride;
            s[j][e] = biased(s[j][e], read_element(bias, bias_type, entry));
          }
          most = max(most, s[j][e]);
        }
      }
      most = max_of_row(most);
      // A row of which no key is seen yet keeps weights of 0.
      const float base = most == kHidden ? 0.0f : most;
      const float rescale = exp_below(row_max[r] - base);
      row_max[r] = most;
      row_sum[r] *= rescale;
      LTX2RT_UNROLL
      for (int j = 0; j < kKeyBlocks; j++) {
        s[j] = float2(exp_below(s[j].x - base), exp_below(s[j].y - base));
        row_sum[r] += s[j].x + s[j].y;
        scores[r][j] = fragment_of(s[j].x, s[j].y);
      }
      LTX2RT_UNROLL
      for (int m = 0; m < kBlocks; m++) {
        LTX2RT_UNROLL
        for (int i = 0; i < 4; i++) {
          const float2 sum = elements_of(sums[r][m][i]);
          sums[r][m][i] = fragment_of(sum.x * rescale, sum.y * rescale);
        }
      }
    }

    LTX2RT_UNROLL
    for (int j = 0; j < kKeyBlocks; j++) {
      const threadgroup T* row_of_v = v_tile + (8 * j + at.row) * kPitch + 4 * at.column;
      LTX2RT_UNROLL
      for (int m = 0; m < kBlocks; m++) {
        fence(fenced);
        const Values<T, 8> values = load_values<T, 8>(row_of_v + 32 * m);
        fence(fenced);
        LTX2RT_UNROLL
        for (int i = 0; i < 4; i++) {
          simdgroup_float8x8 right = fragment_of(values.v[2 * i], values.v[2 * i + 1]);
          LTX2RT_UNROLL
          for (int r = 0; r < kRowBlocks; r++) {
            simdgroup_multiply_accumulate(sums[r][m][i], scores[r][j], right, sums[r][m][i]);
          }
        }
      }
    }
  }

  LTX2RT_UNROLL
  for (int r = 0; r < kRowBlocks; r++) {
    const int row = lane_row + 8 * r;
    const float sum = sum_of_row(row_sum[r]);
    if (row >= params.queries) continue;
    float factor = sum > 0.0f ? 1.0f / sum : 0.0f;
    if (gate_type != kAbsent) {
      const int64 entry = batch * params.gate_strides[0] + row * params.gate_strides[1] + head * params.gate_strides[2];
      const float logit = read_element(from_element(gate, gate_type, entry), gate_type, 0);
      factor *= 2.0f / (1.0f + precise::exp(-logit));
    }
    device T* to = out + ((int64(batch) * params.queries + row) * params.heads + head) * K + 4 * at.column;
    LTX2RT_UNROLL
    for (int m = 0; m < kBlocks; m++) {
      LTX2RT_UNROLL
      for (int half_ = 0; half_ < 2; half_++) {
        const float2 a = elements_of(sums[r][m][2 * half_]), b = elements_of(sums[r][m][2 * half_ + 1]);
        ((device vec<T, 4>*)(to + 32 * m + 4 * half_))[0] = narrow<T>(float4(a.x, a.y, b.x, b.y) * factor);
      }
    }
  }
}

LTX2RT_KERNEL(rope_attention_float32_32, rope_attention<float, 32, 2, 4, 32>)
LTX2RT_KERNEL(rope_attention_float32_64, rope_attention<float, 64, 2, 4, 32>)
LTX2RT_KERNEL(rope_attention_float32_128, rope_attention<float, 128, 1, 8, 16>)
LTX2RT_KERNEL(rope_attention_float16_32, rope_attention<half, 32, 2, 4, 32>)
LTX2RT_KERNEL(rope_attention_float16_64, rope_attention<half, 64, 2, 4, 32>)
LTX2RT_KERNEL(rope_attention_float16_128, rope_attention<half, 128, 1, 8, 32>)
LTX2RT_KERNEL(rope_attention_bfloat16_32, rope_attention<bfloat, 32, 2, 4, 32>)
LTX2RT_KERNEL(rope_attention_bfloat16_64, rope_attention<bfloat, 64, 2, 4, 32>)
LTX2RT_KERNEL(rope_attention_bfloat16_128, rope_attention<bfloat, 128, 1, 8, 32>)
