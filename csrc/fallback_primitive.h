// Base of our primitives: kernels compute them, a reference graph differentiates and vectorises them.
#pragma once

#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "mlx/primitives.h"
#include "mlx/utils.h"

namespace ltx2rt {
namespace mx = mlx::core;

// The op as a graph of MLX ops, a function of exactly the primitive's inputs. It must not capture arrays.
using Reference = std::function<std::vector<mx::array>(const std::vector<mx::array>&)>;

// How an op is to be built.
struct OpContext {
  mx::Stream stream;
  Reference reference;
  bool use_reference;   // return the reference graph, after the same checks, instead of the kernel
  bool fenced = false;  // on a GPU: the variant of the matrix kernels with scheduling fences; the bits are the same
};

class FallbackPrimitive : public mx::Primitive {
 public:
  FallbackPrimitive(mx::Stream stream, Reference reference) : mx::Primitive(stream), reference_(std::move(reference)) {}

  std::vector<mx::array> jvp(const std::vector<mx::array>& primals, const std::vector<mx::array>& tangents,
                             const std::vector<int>& argnums) override;
  std::vector<mx::array> vjp(const std::vector<mx::array>& primals, const std::vector<mx::array>& cotangents,
                             const std::vector<int>& argnums, const std::vector<mx::array>& outputs) override;
  std::pair<std::vector<mx::array>, std::vector<int>> vmap(const std::vector<mx::array>& inputs,
                                                           const std::vector<int>& axes) override;
  // For builds without Metal; never reached through the front-ends, because lazy_or_reference gives GPU streams of such
  // builds the reference graph.
  void eval_gpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override;

  // Whether eval_gpu launches the matrix kernels with scheduling fences (csrc/metal/fragments.h); before evaluation.
  void set_fenced(bool fenced) { fenced_ = fenced; }

 protected:
  bool fenced() const { return fenced_; }

 private:
  Reference reference_;
  bool fenced_ = false;
};

// True when the op must be the reference graph: asked for, or a GPU stream for which there is no kernel. has_shader: the
// op's Metal shader takes these shapes (launch_plans.h).
bool wants_reference(const OpContext& context, bool has_shader);

// For output_shapes, which MLX calls when a function traced once runs with other shapes: throws unless a kernel on this
// stream still takes them, because it is too late for the reference graph.
void require_kernel(mx::Stream stream, bool has_shader, const char* op);

// Throws now what a kernel could otherwise only report from a worker (a bad LTX2RT_NUM_THREADS or LTX2RT_ISA).
void check_cpu_settings();

// The lazy array of primitive P(stream, reference, arguments...), or the reference graph of the same inputs.
template <typename P, typename... Arguments>
mx::array lazy_or_reference(const OpContext& context, bool has_shader, mx::Shape shape, mx::Dtype dtype,
                            std::vector<mx::array> inputs, Arguments&&... arguments) {
  if (wants_reference(context, has_shader)) {
    mx::StreamContext on(context.stream);
    return context.reference(inputs).at(0);
  }
  check_cpu_settings();
  auto primitive = std::make_shared<P>(context.stream, context.reference, std::forward<Arguments>(arguments)...);
  primitive->set_fenced(context.fenced);
  return mx::array(std::move(shape), dtype, std::move(primitive), std::move(inputs));
}

}  // namespace ltx2rt
