// Row loops of modulated_norm for one instruction set.
#include "csrc/cpu/modulated_norm_kernels.h"
#include "csrc/cpu/simd.h"

namespace ltx2rt::cpu::LTX2RT_ISA {
namespace {

void widen(FloatType type, const void* from, float* to, int64_t n) {
  with_type(type, from, [&](auto* source) {
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) store(to + i, load(source + i));
    for (; i < n; ++i) to[i] = to_float(source[i]);
  });
}

// Sum of f(x) over a row, in four interleaved chains of vectors.
template <typename F>
float sum(const float* x, int64_t n, const F& f) {
  Vec chains[4] = {};
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    for (int c = 0; c < 4; ++c) chains[c] += f(load(x + i + c * kLanes));
  }
  for (; i + kLanes <= n; i += kLanes) chains[0] += f(load(x + i));
  float total = reduce_add((chains[0] + chains[1]) + (chains[2] + chains[3]));
  for (; i < n; ++i) total += f(splat(x[i]))[0];
  return total;
}

template <typename T>
void finish(const float* x, float factor, const float* scale, const float* shift, T* out, int64_t n) {
  const auto value = [&](Vec v, int64_t i, auto read) {
    v *= splat(factor);
    if (scale != nullptr) v *= splat(1.0f) + read(scale + i);
    if (shift != nullptr) v += read(shift + i);
    return v;
  };
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(out + i, value(load(x + i), i, [](const float* p) { return load(p); }));
  if (i < n) {
    const int64_t rest = n - i;
    store_part(out + i, value(load_part(x + i, rest), i, [rest](const float* p) { return load_part(p, rest); }), rest);
  }
}

void row(NormKind kind, float eps, float* x, const float* scale, const float* shift, FloatType type, void* out,
         int64_t n) {
  if (kind == NormKind::layer) {
    const Vec mean = splat(sum(x, n, [](Vec v) { return v; }) / (float)n);
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) store(x + i, load(x + i) - mean);
    for (; i < n; ++i) x[i] -= mean[0];
  }
  float factor = 1.0f;
  if (kind != NormKind::none) {
    const float mean_square = sum(x, n, [](Vec v) { return v * v; }) / (float)n;
    factor = 1.0f / __builtin_sqrtf(mean_square + eps);
  }
  switch (type) {
    case FloatType::f32:
      return finish(x, factor, scale, shift, (float*)out, n);
    case FloatType::f16:
      return finish(x, factor, scale, shift, (F16*)out, n);
    case FloatType::bf16:
      return finish(x, factor, scale, shift, (BF16*)out, n);
  }
}

}  // namespace

const NormKernels& norm_kernels() {
  static constexpr NormKernels kernels{widen, row};
  return kernels;
}

}  // namespace ltx2rt::cpu::LTX2RT_ISA
