// Parameters of the shaders of rope_attention, shared with the code that launches them.
#pragma once
#include "csrc/metal/shared_types.h"

namespace ltx2rt {
namespace metal_shared {

// Over what a row of q or k is normalised before it is rotated.
enum AttentionNorm { kNotNormed = 0, kNormWholeRow = 1, kNormPerHead = 2 };

// One operand's rotary table: see RopeTable in csrc/rope_attention.h. The number of axes is a function constant.
struct RopeParams {
  int64 index_batch_stride;  // elements; 0 when all batch items have the same positions
  int32 rows;                // R
  int32 columns;             // M
  int32 pad;                 // pairs before the first rotated one
  int32 unused;
};

// Strides count elements; the lanes of a head are neighbours. All are multiples of 4, and so are the offsets of q, k
// and v in their buffers.
struct AttentionParams {
  int64 q_strides[2];     // batch, token; head h starts at h * K
  int64 k_strides[3];     // batch, kv head, token
  int64 v_strides[3];     // batch, kv head, token
  int64 bias_strides[4];  // batch, head, query, key
  int64 gate_strides[3];  // batch, token, head
  RopeParams rope;        // of q
  int32 heads;
  int32 heads_per_kv_head;
  int32 queries;
  int32 keys;
  float scale;
  float norm_eps;
  int32 first_query_block;  // of this dispatch: its threadgroups are a slice of all
  int32 first_head;
  int32 first_batch;
  int32 unused;
};
static_assert(sizeof(AttentionParams) == 184, "the shader and its host must agree");

struct AttentionKeysParams {
  int64 k_strides[2];  // batch, token; head h starts at h * K
  RopeParams rope;
  int32 tokens;
  int32 heads;
  float norm_eps;
  int32 tokens_per_group;
  int32 first_group;  // of this dispatch: its threadgroups are a part of all
  int32 first_batch;
};
static_assert(sizeof(AttentionKeysParams) == 64, "the shader and its host must agree");

struct AttentionRowScaleParams {
  int64 strides[2];  // batch, token
  int32 tokens;
  int32 width;
  float norm_eps;
  int32 rows;         // batch * tokens
  int32 first_group;  // of this dispatch
  int32 unused;
};
static_assert(sizeof(AttentionRowScaleParams) == 40, "the shader and its host must agree");

// Function constants; an element type or kAbsent for bias and gate.
enum AttentionConstant {
  kAttentionNormKindId = 0,
  kAttentionRopeAxesId = 1,
  kAttentionInterleavedId = 2,
  kAttentionRopeSharedId = 3,
  kAttentionBiasId = 4,
  kAttentionGateId = 5,
  kAttentionCausalId = 6,
  kAttentionFencedId = 7,
};

enum {
  kMostRopeAxes = 4,          // P; the four lanes of a row read one index each
  kKeysValuesPerThread = 16,  // of rope_attention_keys
  kKeysMostThreads = 512,     // of rope_attention_keys, so that rows have at most 8192 values
  kRowScaleSimdgroups = 8,    // rows per threadgroup of rope_attention_row_scale
};

}  // namespace metal_shared
}  // namespace ltx2rt
