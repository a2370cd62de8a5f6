// The inner loops of quantized_linear, chosen by instruction set.
#pragma once

#include "csrc/cpu/float_type.h"
#include "csrc/cpu/isa.h"
#include "csrc/op_types.h"

namespace ltx2rt::cpu {

// Products are summed over blocks of this many k. Within a block each sum is one chain of fused multiply-adds in the
// order of k; the sums of the blocks are added in order. So a row's bits depend neither on the other rows nor on how
// the work is cut.
constexpr int64_t kDepthBlock = 256;
// Weights are expanded into panels of at most this many columns, which are multiplied by tiles of at most this many
// rows.
constexpr int64_t kMaxPanelColumns = 32;
constexpr int64_t kMaxTileRows = 16;

// W (N, K), rows contiguous. Panels hold float32 values, without what belongs to a whole row or all of W: the epilogue
// multiplies the sums with the scale of e4m3 and int8_rows and the zero of nvfp4 and w4a8. Those of e4m3 are 2^-8 of the
// true ones besides, see kE4m3Factor.
struct WeightMatrix {
  WeightFormat format;
  const void* values;
  int64_t row_bytes;
  int64_t columns;  // N
  // Affine formats: W = scale * code + zero, (N, groups) each. nvfp4, mxfp8 and w4a8: codes of scales (N, groups).
  const void* scale;
  const void* zero;
  FloatType group_type;
  int64_t groups;
  int64_t group_size;
  const int8_t* levels;  // of w4a8, (256, 16): by the code of a scale and that of a weight
};
constexpr float kE4m3Factor = 256.0f;
// Rows of x whose values are all smaller have codes of zero.
constexpr float kLeastRow = 1e-35f;

// What becomes of n sums of one row: residual + gate * activation(factor * scale * sum + bias). Null parts are left out.
struct LinearEpilogue {
  float factor;
  const float* scale;
  Activation activation;
  const float* bias;
  const float* gate;
  const void* residual;  // `type`, like the output
  FloatType type;
};

// Memory that will be needed soon: `rows` pieces of `bytes`, `stride` apart. Asking for it reads nothing, so it may
// lie outside every array.
struct ReadAhead {
  const char* first;
  int64_t stride, rows, bytes;
};

// One way to multiply. Rows of x and panels of weights hold words of four bytes, declared float: float32 values, or
// pairs of bfloat16 values that follow one another along k, the first in the low half and the last filled up with zero, or
// quads of 8-bit codes likewise, whose sums are integers in words of c and exact.
// A panel of w rows of words is w * panel_columns words. Rows of x come in groups of tile_rows, the last group smaller, and
// group i starts at i * tile_rows * block words, where a block is kDepthBlock values; how they lie there is the loops' own
// business.
struct LinearLoops {
  int64_t values_per_word;
  int64_t tile_rows;
  // One group of `rows` rows, n contiguous values each, n <= kDepthBlock.
  void (*prepare)(FloatType type, const char* const* from, int64_t rows, int64_t n, float* to);
  // Expands panel_columns columns from column n0 on (zeros or copies beyond N) and rows [k0, k0 + k), k <= kDepthBlock.
  void (*pack)(const WeightMatrix& w, int64_t n0, int64_t k0, int64_t k, float* panel);
  // c[rows, columns of the panel] = or += a[rows, k] * panel; ldc in floats. Fetches `ahead` in passing.
  void (*multiply)(const float* a, int64_t rows, const float* panel, int64_t k, float* c, int64_t ldc, bool add,
                   const ReadAhead& ahead);
  // pack and multiply in one, for rows <= few_rows: so few that the time goes into reading the weights, which it fetches.
  int64_t few_rows;
  void (*multiply_few)(const WeightMatrix& w, int64_t n0, int64_t k0, int64_t k, const float* a, int64_t rows, float* c,
                       int64_t ldc, bool add);
  // Most k that multiply_few takes; a then holds the depth blocks of the rows one after the other.
  int64_t few_depth = kDepthBlock;
  // Panels that multiply_few takes, whose sums it writes even where they lie beyond N: rows of c hold all of them.
  int64_t few_panels = 1;
};
constexpr int64_t kAnyDepth = int64_t{1} << 48;

struct LinearKernels {
  int64_t panel_columns;
  LinearLoops values;
  // For bfloat16 activations and every format but f32 and f16; int8 and int4 weights are rounded to bfloat16, as plain
  // code in bfloat16 does. has_pairs is false where the instruction set has no dot product of bfloat16.
  bool has_pairs;
  LinearLoops pairs;
  // Panels of pairs times rows of float32 values, with the bits of pairs, for more rows than those take as few: faster
  // where pairs_are_slow (isa.h).
  bool has_split_pairs;
  LinearLoops split_pairs;
  // What pairs are for, multiplied in tiles, where those are in use (isa.h).
  bool has_tiles;
  LinearLoops tiles;
  // Tiles of at most few_rows rows, with the same bits, for weights that has_row_tiles. These loops have multiply_few
  // alone.
  LinearLoops row_tiles;
  // Codes of n contiguous values and their scale (see quantized_linear in csrc/quantized_linear.h).
  float (*quantise)(FloatType type, const void* from, int64_t n, int8_t* to);
  // Integer sums as float32, in place.
  void (*widen_sums)(float* sums, int64_t n);
  // Widens n contiguous values.
  void (*widen)(FloatType type, const void* from, float* to, int64_t n);
  // Rotates groups of n contiguous values (see LinearWeight in csrc/quantized_linear.h); from may be to. work: n floats.
  void (*rotate)(FloatType type, const void* from, int64_t n, int64_t group, float* work, void* to);
  // The levels of w4a8 of a table of 16.
  void (*make_levels)(const float* table, int8_t* levels);
  void (*finish)(const LinearEpilogue& epilogue, const float* sums, void* out, int64_t n);
};

// Whether weights are multiplied in tiles as they lie in memory, or decoded row by row, so that none is transposed.
constexpr bool has_row_tiles(WeightFormat format) {
  switch (format) {
    case WeightFormat::bf16:
    case WeightFormat::e4m3:
    case WeightFormat::int8_rows:
    case WeightFormat::q8_0:
    case WeightFormat::q4_k:
    case WeightFormat::q5_k:
    case WeightFormat::q6_k:
    case WeightFormat::nvfp4:
    case WeightFormat::mxfp8:
      return true;
    default:
      return false;
  }
}

LTX2RT_DISPATCH(const LinearKernels&, linear_kernels)

}  // namespace ltx2rt::cpu
