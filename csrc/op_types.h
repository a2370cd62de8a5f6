// The options of the ops, as the front ends, the CPU kernels, the Metal launch code and the shaders number them. Plain
// C++ and Metal. Function constants are ints: shaders compare PadMode(constant) with PadMode::edge.
#pragma once

namespace ltx2rt {

// How weights of quantized_linear are stored. The first three are metal_shared::ElementType too.
enum class WeightFormat : unsigned char { f32, f16, bf16, e4m3, int8, int4 };

// What quantized_linear does to its sums.
enum class Activation : unsigned char { none, gelu_tanh, silu };

// Of the rows of modulated_norm.
enum class NormKind : unsigned char { rms, layer, none };

// What a convolution reads outside its input.
enum class PadMode : unsigned char { zeros, edge, reflect };

// What a convolution does to its input.
enum class ConvActivation : unsigned char { none, silu, leaky_relu };

}  // namespace ltx2rt
