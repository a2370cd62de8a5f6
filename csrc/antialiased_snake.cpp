// Checks of antialiased_snake and its lazy array.
#include "csrc/antialiased_snake.h"

#include <tuple>

#include "csrc/checks.h"

namespace ltx2rt {

mx::array antialiased_snake(const mx::array& x, const mx::array& alpha, const mx::array& beta, const mx::array& rise,
                            const mx::array& fall, const OpContext& context) {
  constexpr auto kOp = "antialiased_snake";
  require_float(x, kOp, "x");
  require(x.ndim() == 3, kOp, "x must have shape (B,S,C) but has ", x.shape(), ".");
  const int channels = x.shape(2);
  for (const auto& [name, values, size] : {std::tuple{"alpha", &alpha, channels}, std::tuple{"beta", &beta, channels},
                                           std::tuple{"rise", &rise, 12}, std::tuple{"fall", &fall, 12}}) {
    require_float(*values, kOp, name);
    require_shape(*values, {size}, kOp, name);
  }
  if (x.size() == 0) return mx::zeros(x.shape(), x.dtype(), context.stream);
  std::vector<mx::array> inputs;
  for (const auto* input : {&x, &alpha, &beta, &rise, &fall}) {
    inputs.push_back(mx::contiguous(*input, false, context.stream));
  }
  return lazy_or_reference<AntialiasedSnake>(context, true, x.shape(), x.dtype(), std::move(inputs));
}

}  // namespace ltx2rt
