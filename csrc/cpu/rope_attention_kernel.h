// What the attention kernel of one instruction set offers to the code that schedules it.
#pragma once
#include <stdint.h>

#include "csrc/cpu/float_type.h"
#include "csrc/cpu/isa.h"

namespace ltx2rt::cpu {

constexpr int kQueryBlock = 144;  // most queries that share one pass over the keys
constexpr int kQueryUnit = 16;    // a multiple of every vector's lanes
constexpr int kKeyBlock = 128;    // keys per packed block

// An array read in place; strides in elements.
struct TokenRows {
  const void* data;
  FloatType type;
  int64_t batch_stride, token_stride, lane_stride;
};

struct RopeRows {
  const float* cos;  // (rows, columns); null: no rotation
  const float* sin;
  const int32_t* index;  // (batch or 1, tokens, axes)
  int64_t index_batch_stride;
  int64_t rows, columns, axes;
  int64_t pad;  // lanes before the first rotated one
  bool shared;  // by all heads
};

// q or k, and what is done to it before the scores.
struct Projection {
  TokenRows rows;
  int64_t tokens, heads;
  const float* norm;         // weight, or null
  bool norm_per_head;        // norm has head_size values, else heads * head_size
  const float* inverse_rms;  // (batch, tokens), when norm is not per head
  RopeRows rope;
};

struct AttentionArgs {
  int64_t batch, head_size;
  Projection q, k;
  TokenRows v;
  float norm_eps, scale;
  bool interleaved, causal;
  const void* bias;  // null: none
  FloatType bias_type;
  int64_t bias_strides[4];  // batch, head, query, key
  const void* gate_logits;  // null: none
  FloatType gate_type;
  int64_t gate_strides[3];
  void* out;  // (batch, q.tokens, q.heads * head_size), contiguous
  FloatType out_type;
};

// One block of queries of one head.
struct QueryBlock {
  int64_t batch, head, first;
  int count;
};

// The loops for one kind of words, each a float32 value or a pair of bfloat16 values.
struct AttentionLoops {
  // Floats of one packed key block, of the state of one query block, and of the scratch of one thread.
  int64_t (*block_floats)(int64_t head_size);
  int64_t (*state_floats)(int64_t head_size);
  int64_t (*work_floats)(int64_t head_size);
  // Normalises, rotates and packs keys and values [first, first + count) of some heads, count <= kKeyBlock; the blocks
  // of the heads are `stride` floats apart.
  void (*pack)(const AttentionArgs& args, int64_t batch, int64_t first_head, int64_t heads, int64_t first, int count,
               float* blocks, int64_t stride);
  // One query block: start, then advance over ranges of keys in order (first_key a multiple of kKeyBlock), then finish.
  // blocks: the packed blocks of [first_key, end_key).
  void (*start)(const AttentionArgs& args, const QueryBlock& queries, float* state, float* work);
  void (*advance)(const AttentionArgs& args, const QueryBlock& queries, int64_t first_key, int64_t end_key,
                  const float* blocks, float* state, float* work);
  void (*finish)(const AttentionArgs& args, const QueryBlock& queries, float* state, float* work);
};

struct AttentionKernel {
  // inverse_rms[t] of the tokens [begin, end) of batch * tokens.
  void (*inverse_rms)(const Projection& x, int64_t head_size, float eps, int64_t begin, int64_t end, float* out);
  AttentionLoops values;
  bool has_pairs;  // the processor has a dot product of bfloat16 pairs
  AttentionLoops pairs;
  // Pairs multiplied in tiles, where those are in use (isa.h), for heads whose size is a multiple of 32.
  bool has_tiles;
  AttentionLoops tiles;

  // Pairs round normalised and rotated q and k and the softmax weights to bfloat16; v must hold bfloat16 values already.
  const AttentionLoops& vector_loops(FloatType type) const {
    return has_pairs && type == FloatType::bf16 ? pairs : values;
  }
  const AttentionLoops& loops(FloatType type, int64_t head_size) const {
    if (has_tiles && type == FloatType::bf16 && head_size % 32 == 0 && tiles_in_use()) return tiles;
    return pairs_are_slow() ? values : vector_loops(type);
  }
};

LTX2RT_DISPATCH(const AttentionKernel&, rope_attention_kernel)

}  // namespace ltx2rt::cpu
