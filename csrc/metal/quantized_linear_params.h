// Parameters of the shaders of quantized_linear, shared with the code that launches them.
#pragma once
#include "csrc/metal/shared_types.h"
#include "csrc/metal/tile_order.h"
#include "csrc/op_types.h"

namespace ltx2rt {
namespace metal_shared {

static_assert(int(WeightFormat::f32) == kFloat32 && int(WeightFormat::f16) == kFloat16 &&
                  int(WeightFormat::bf16) == kBfloat16,
              "shaders read dense weights by their ElementType");

struct LinearParams {
  int64 residual_row_stride;  // elements; out is contiguous
  int32 x_row_stride;         // elements
  int32 rows;                 // M
  int32 columns;              // N
  int32 depth;                // K
  int32 group_size;           // weights that share a scale
  int32 group_shift;          // its log2; negative where it is no power of two
  int32 row_blocks;           // whose tiles are numbered by tile_position
  int32 column_blocks;
  int32 first_column_block;  // of these
  int32 first_tile;          // of this dispatch: its threadgroups are a part of all
  int32 gate_rows;
  int32 first_weight_row;  // row of W with which the weights of linear_tile begin
  int32 part_depth;        // a multiple of kLinearDepthBlock: k that each threadgroup of a sum in parts sums over
  int32 first_part;        // of this dispatch
};
static_assert(sizeof(LinearParams) == 64, "the shader and its host must agree");

// Places count values of the slab.
struct DequantiseParams {
  int32 end;    // of this dispatch
  int32 first;  // a multiple of kDequantisePerThread
  int32 first_weight_row;
  int32 depth;
  int32 group_size;
  int32 group_shift;
};
static_assert(sizeof(DequantiseParams) == 24, "the shader and its host must agree");

// Adds up sums that were made in parts.
struct JoinParams {
  LinearParams linear;
  int32 parts;
  int32 first;  // of this dispatch: fours of columns, counted through the rows
  int32 end;
  int32 unused;
};
static_assert(sizeof(JoinParams) == 80, "the shader and its host must agree");

// Float32 factors of W that the epilogue multiplies the sums with: none, one, or one for each row of W.
enum LinearFactor { kNoFactor, kFactorOfAll, kFactorOfRow };

// Function constants; an element type or kAbsent for bias and gate.
enum LinearConstant {
  kLinearBiasId = 0,
  kLinearActivationId = 1,
  kLinearHasResidualId = 2,
  kLinearGateId = 3,
  kLinearHasGateIndexId = 4,
  kLinearFactorId = 5,
  kLinearAlignedXId = 6,
  kLinearAlignedWId = 7,
  kLinearAlignedOutId = 8,
  kLinearFormatId = 9,
  kLinearGroupTypeId = 10,
  kLinearFewRowsId = 11,
  kLinearFencedId = 12,
  kLinearInPartsId = 13,
};

enum {
  kLinearDepthBlock = 32,    // k per step of linear_tile
  kFewRowsColumns = 4,       // output columns per simdgroup of linear_few
  kFewRowsMost = 4,          // rows per threadgroup of linear_few
  kFewRowsSimdgroups = 4,    // per threadgroup of linear_few
  kDequantisePerThread = 8,  // values per thread of dequantise
  kHalfShrink = 65536,       // what values of x beyond the range of float16 are divided by, with those beside them
};

}  // namespace metal_shared
}  // namespace ltx2rt
