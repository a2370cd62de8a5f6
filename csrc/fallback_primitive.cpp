// Transforms of our primitives through their reference graphs, and what is checked before a kernel is built.
#include "csrc/fallback_primitive.h"

#include <string>

#include "csrc/checks.h"
#include "mlx/transforms.h"
#ifdef LTX2RT_METAL
#include "mlx/backend/metal/metal.h"
#endif

namespace ltx2rt {
namespace {

// The reference as a function of the inputs `argnums` alone, on `stream`; the others (indices, codes) stay fixed,
// because MLX would otherwise ask for their derivatives.
std::function<std::vector<mx::array>(const std::vector<mx::array>&)> in_arguments(const Reference& reference,
                                                                                  const std::vector<mx::array>& primals,
                                                                                  const std::vector<int>& argnums,
                                                                                  mx::Stream stream) {
  return [&reference, &primals, &argnums, stream](const std::vector<mx::array>& varied) {
    auto inputs = primals;
    for (size_t i = 0; i < argnums.size(); ++i) inputs[argnums[i]] = varied[i];
    mx::StreamContext on(stream);
    return reference(inputs);
  };
}

std::vector<mx::array> pick(const std::vector<mx::array>& arrays, const std::vector<int>& argnums) {
  std::vector<mx::array> picked;
  for (int i : argnums) picked.push_back(arrays[i]);
  return picked;
}

}  // namespace

std::vector<mx::array> FallbackPrimitive::jvp(const std::vector<mx::array>& primals,
                                              const std::vector<mx::array>& tangents, const std::vector<int>& argnums) {
  return mx::jvp(in_arguments(reference_, primals, argnums, stream()), pick(primals, argnums), tangents).second;
}

std::vector<mx::array> FallbackPrimitive::vjp(const std::vector<mx::array>& primals,
                                              const std::vector<mx::array>& cotangents, const std::vector<int>& argnums,
                                              const std::vector<mx::array>&) {
  return mx::vjp(in_arguments(reference_, primals, argnums, stream()), pick(primals, argnums), cotangents).second;
}

std::pair<std::vector<mx::array>, std::vector<int>> FallbackPrimitive::vmap(const std::vector<mx::array>& inputs,
                                                                            const std::vector<int>& axes) {
  mx::StreamContext on(stream());
  auto outputs = mx::vmap(reference_, axes)(inputs);
  std::vector<int> output_axes(outputs.size(), 0);
  return {std::move(outputs), std::move(output_axes)};
}

void FallbackPrimitive::eval_gpu(const std::vector<mx::array>&, std::vector<mx::array>&) {
  throw std::runtime_error(std::string("[") + name() + "] has no GPU kernel in this build.");
}

bool wants_reference(const OpContext& context, bool has_shader) {
  if (context.use_reference) return true;
#if defined(LTX2RT_METAL_SIM)
  return !has_shader;  // every stream stands for a GPU
#elif defined(LTX2RT_METAL)
  return context.stream.device == mx::Device::gpu && (!has_shader || !mx::metal::is_available());
#else
  (void)has_shader;
  return context.stream.device == mx::Device::gpu;
#endif
}

void require_kernel(mx::Stream stream, bool has_shader, const char* op) {
  require(!wants_reference({stream, {}, false}, has_shader), op, "has no kernel for the new shapes on this device; ",
          "compile the function without shapeless=True.");
}

}  // namespace ltx2rt
