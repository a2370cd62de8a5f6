// Compiled kernels: sources or, with LTX2RT_METALLIB, files beside the module, through MLX's caches.
#include "csrc/metal/kernel_library.h"

#ifdef LTX2RT_METALLIB
#include <dlfcn.h>

#include <filesystem>
#include <stdexcept>
#else
#include "csrc/metal/shader_sources.h"
#endif

namespace ltx2rt::metal {
namespace {

MTL::Library* kernel_library(mlx::core::metal::Device& device, std::string_view shader, const std::string& kernel) {
#ifdef LTX2RT_METALLIB
  (void)kernel;  // the shader's library holds all its kernels
  Dl_info module{};
  if (dladdr(reinterpret_cast<const void*>(&kernel_library), &module) == 0 || module.dli_fname == nullptr) {
    throw std::runtime_error("cannot find the folder of ltx2rt's compiled module, which holds its Metal libraries.");
  }
  const auto folder = std::filesystem::path(module.dli_fname).parent_path();
  const auto file = folder / "metal" / (std::string(shader) + ".metallib");
  return device.get_library("ltx2rt_" + std::string(shader), file.string());
#else
  mlx::core::CompileOptions options;
  options.math_mode = mlx::core::MathMode::Safe;  // NaN and infinities of the operands mean what they mean on a CPU
  return device.get_library("ltx2rt_" + kernel, options, [&] { return shader_source(shader, kernel); });
#endif
}

}  // namespace

std::string kernel_key(const std::string& kernel, const std::vector<FunctionConstant>& constants) {
  std::string key = kernel;
  for (const auto& [index, value] : constants) {
    const bool* flag = std::get_if<bool>(&value);
    key += "_" + std::to_string(index) + (flag ? "b" : "i") + std::to_string(flag ? *flag : std::get<int32_t>(value));
  }
  return key;
}

MTL::ComputePipelineState* shader_kernel(mlx::core::metal::Device& device, std::string_view shader,
                                         const std::string& kernel, const std::vector<FunctionConstant>& constants) {
  mlx::core::metal::MTLFCList values;
  for (const auto& [index, value] : constants) {
    if (const bool* flag = std::get_if<bool>(&value)) {
      values.emplace_back(flag, MTL::DataType::DataTypeBool, index);
    } else {
      values.emplace_back(&std::get<int32_t>(value), MTL::DataType::DataTypeInt, index);
    }
  }
  return device.get_kernel(kernel, kernel_library(device, shader, kernel), kernel_key(kernel, constants), values);
}

}  // namespace ltx2rt::metal
