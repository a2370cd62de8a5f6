// Checks of antialiased_snake and its lazy array.
#include "csrc/antialiased_snake.h"

#include <utility>

#include "csrc/checks.h"

namespace ltx2rt {
namespace {

constexpr auto kOp = "antialiased_snake";
constexpr const char* kNames[] = {"x", "alpha", "beta", "rise", "fall"};

// The shape of the result, from those of the inputs in the order of kNames.
mx::Shape checked_shape(const mx::Shape (&inputs)[5]) {
  const auto& x = inputs[0];
  require(x.size() == 3, kOp, "x must have shape (B,S,C) but has ", x, ".");
  for (int i = 1; i < 5; ++i) require_shape(inputs[i], {i < 3 ? x[2] : 12}, kOp, kNames[i]);
  return x;
}

}  // namespace

mx::array antialiased_snake(const mx::array& x, const mx::array& alpha, const mx::array& beta, const mx::array& rise,
                            const mx::array& fall, const OpContext& context) {
  const mx::array* const arguments[] = {&x, &alpha, &beta, &rise, &fall};
  for (int i = 0; i < 5; ++i) require_float(*arguments[i], kOp, kNames[i]);
  auto shape = checked_shape({x.shape(), alpha.shape(), beta.shape(), rise.shape(), fall.shape()});
  if (x.size() == 0) return mx::zeros(shape, x.dtype(), context.stream);
  std::vector<mx::array> inputs;
  for (const auto* argument : arguments) inputs.push_back(mx::contiguous(*argument, false, context.stream));
  return lazy_or_reference<AntialiasedSnake>(context, true, std::move(shape), x.dtype(), std::move(inputs));
}

std::vector<mx::Shape> AntialiasedSnake::output_shapes(const std::vector<mx::array>& inputs) {
  return {
      checked_shape({inputs[0].shape(), inputs[1].shape(), inputs[2].shape(), inputs[3].shape(), inputs[4].shape()})};
}

}  // namespace ltx2rt
