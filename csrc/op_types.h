// The options of the ops, as the front ends, the CPU kernels, the Metal launch code and the shaders number them. Plain
// C++ and Metal. Function constants are ints: shaders compare PadMode(constant) with PadMode::edge.
#pragma once

namespace ltx2rt {

// How weights of quantized_linear are stored (csrc/quantized_linear.h). The first three are metal_shared::ElementType
// too; int8 and int4 are affine.
enum class WeightFormat : unsigned char {
  f32,
  f16,
  bf16,
  e4m3,
  int8,
  int4,
  int8_rows,
  q8_0,
  q4_k,
  q5_k,
  q6_k,
  nvfp4,
  mxfp8,
  w4a8
};

// A row of `values` of a weight is a sequence of blocks: `count` weights in `bytes` bytes.
struct WeightBlock {
  int count;
  int bytes;
};
constexpr WeightBlock weight_block(WeightFormat format) {
  switch (format) {
    case WeightFormat::f32:
      return {1, 4};
    case WeightFormat::f16:
    case WeightFormat::bf16:
      return {1, 2};
    case WeightFormat::e4m3:
    case WeightFormat::int8:
    case WeightFormat::int8_rows:
    case WeightFormat::mxfp8:
      return {1, 1};
    case WeightFormat::int4:
    case WeightFormat::nvfp4:
    case WeightFormat::w4a8:
      return {2, 1};
    case WeightFormat::q8_0:
      return {32, 34};
    case WeightFormat::q4_k:
      return {256, 144};
    case WeightFormat::q5_k:
      return {256, 176};
    case WeightFormat::q6_k:
      return {256, 210};
  }
  return {1, 1};
}

// Whether a format is MLX's affine quantisation.
constexpr bool is_affine(WeightFormat format) { return format == WeightFormat::int8 || format == WeightFormat::int4; }

// How many neighbouring weights of a row share a value of `scale`. 0: a scale belongs to all of W or to a row, or there
// is none.
constexpr int scale_group(WeightFormat format, int group_size) {
  switch (format) {
    case WeightFormat::int8:
    case WeightFormat::int4:
    case WeightFormat::w4a8:
      return group_size;
    case WeightFormat::nvfp4:
      return 16;
    case WeightFormat::mxfp8:
      return 32;
    default:
      return 0;
  }
}

// What quantized_linear does to its sums.
enum class Activation : unsigned char { none, gelu_tanh, silu };

// Of the rows of modulated_norm.
enum class NormKind : unsigned char { rms, layer, none };

// What a convolution reads outside its input.
enum class PadMode : unsigned char { zeros, edge, reflect };

// Where the window of a query near the edge of an axis lies (csrc/neighborhood_attention.h).
enum class Border : unsigned char { shift, mask, replicate };

// What a convolution does to its input.
enum class ConvActivation : unsigned char { none, silu, leaky_relu };

}  // namespace ltx2rt
