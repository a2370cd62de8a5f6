// Compiled kernels of our shaders: each kernel is compiled when it is first asked for, each set of function constants
// once.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "mlx/backend/metal/device.h"

namespace ltx2rt::metal {

// A function constant: its index and a value of the type that the shader declares (bool or int).
struct FunctionConstant {
  int index;
  std::variant<bool, int32_t> value;
};

// "modulated_norm_float32" with constants 0 = 1 and 4 = true: "modulated_norm_float32_0i1_4b1". Unlike any other set's.
std::string kernel_key(const std::string& kernel, const std::vector<FunctionConstant>& constants);

// The pipeline of kernel `kernel` of shader `shader` ("rope_attention"), with every function constant that it uses.
// Compiled on first use, with precise arithmetic (MathMode::Safe), as a library of its own: what the compiler makes of
// one kernel neither delays nor spoils the others. MLX keeps library and pipeline. Thread-safe.
// Throws what MLX throws when Metal's compiler refuses the source, with its message, or the kernel does not exist.
MTL::ComputePipelineState* shader_kernel(mlx::core::metal::Device& device, std::string_view shader,
                                         const std::string& kernel, const std::vector<FunctionConstant>& constants);

}  // namespace ltx2rt::metal
