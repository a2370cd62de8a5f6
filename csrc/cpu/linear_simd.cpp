// Matrix product loops of quantized_linear for one instruction set.
#include "csrc/cpu/fma_tile.h"
#include "csrc/cpu/linear_kernels.h"
#include "csrc/cpu/simd.h"
#include "csrc/cpu/weight_panels.h"

namespace ltx2rt::cpu::LTX2RT_ISA {
namespace {

static_assert(kTileColumns == kPanelColumns);

void widen(FloatType type, const void* from, float* to, int64_t n) {
  with_type(type, from, [&](auto* source) {
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) store(to + i, load(source + i));
    for (; i < n; ++i) to[i] = to_float(source[i]);
  });
}

void pack(const WeightMatrix& w, int64_t n0, int64_t k0, int64_t k, float* panel) {
  expand(w, n0, k0, k, [panel](int64_t row, const Vec* vecs) {
    for (int v = 0; v < kPanelVecs; ++v) store(panel + row * kPanelColumns + v * kLanes, vecs[v]);
  });
}

void multiply(const float* a, int64_t lda, int64_t rows, const float* panel, int64_t k, float* c, int64_t ldc,
              bool add) {
  const Run run{0, k};
  float sums[kTileRows * kTileColumns];
  for (int64_t m = 0; m < rows; m += kTileRows) {
    const int count = (int)(rows - m < kTileRows ? rows - m : kTileRows);
    const float* pointers[kTileRows];
    for (int i = 0; i < count; ++i) pointers[i] = a + (m + i) * lda;
    float* target = c + m * ldc;
    if (!add) {
      fma_tile(count, kTileColumns, pointers, &run, 1, panel, target, ldc, false);
      continue;
    }
    fma_tile(count, kTileColumns, pointers, &run, 1, panel, sums, kTileColumns, false);
    for (int i = 0; i < count; ++i) {
      for (int v = 0; v < kTileColumns; v += kLanes) {
        store(target + i * ldc + v, load(target + i * ldc + v) + load(sums + i * kTileColumns + v));
      }
    }
  }
}

template <int kRows>
void multiply_rows(const WeightMatrix& w, int64_t n0, int64_t k0, int64_t k, const float* a, int64_t lda, float* c,
                   int64_t ldc, bool add) {
  Vec sums[kRows][kPanelVecs] = {};
  expand(w, n0, k0, k, [&sums, a, lda](int64_t row, const Vec* vecs) __attribute__((always_inline)) {
    for (int i = 0; i < kRows; ++i) {
      const Vec x = splat(a[i * lda + row]);
      for (int v = 0; v < kPanelVecs; ++v) sums[i][v] = fma(x, vecs[v], sums[i][v]);
    }
  });
  for (int i = 0; i < kRows; ++i) {
    for (int v = 0; v < kPanelVecs; ++v) {
      float* target = c + i * ldc + v * kLanes;
      store(target, add ? load(target) + sums[i][v] : sums[i][v]);
    }
  }
}

void multiply_few(const WeightMatrix& w, int64_t n0, int64_t k0, int64_t k, const float* a, int64_t lda, int64_t rows,
                  float* c, int64_t ldc, bool add) {
  switch (rows) {
    case 1:
      return multiply_rows<1>(w, n0, k0, k, a, lda, c, ldc, add);
    case 2:
      return multiply_rows<2>(w, n0, k0, k, a, lda, c, ldc, add);
    case 3:
      return multiply_rows<3>(w, n0, k0, k, a, lda, c, ldc, add);
    default:
      return multiply_rows<4>(w, n0, k0, k, a, lda, c, ldc, add);
  }
}

template <typename T>
void finish_as(const LinearEpilogue& e, const float* sums, T* out, int64_t n) {
  const T* residual = (const T*)e.residual;
  const auto value = [&e, residual](Vec v, int64_t i, auto read) {
    v *= splat(e.factor);
    if (e.bias != nullptr) v += read(e.bias + i);
    if (e.activation == Activation::gelu_tanh) v = gelu_tanh(v);
    if (e.activation == Activation::silu) v = silu(v);
    if (e.gate != nullptr) v *= read(e.gate + i);
    if (residual != nullptr) v = read(residual + i) + v;
    return v;
  };
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(out + i, value(load(sums + i), i, [](auto* p) { return load(p); }));
  if (i < n) {
    const int64_t rest = n - i;
    store_part(out + i, value(load_part(sums + i, rest), i, [rest](auto* p) { return load_part(p, rest); }), rest);
  }
}

void finish(const LinearEpilogue& epilogue, const float* sums, void* out, int64_t n) {
  switch (epilogue.type) {
    case FloatType::f32:
      return finish_as(epilogue, sums, (float*)out, n);
    case FloatType::f16:
      return finish_as(epilogue, sums, (F16*)out, n);
    case FloatType::bf16:
      return finish_as(epilogue, sums, (BF16*)out, n);
  }
}

}  // namespace

const LinearKernels& linear_kernels() {
  static constexpr LinearKernels kernels{kPanelColumns, widen, pack, multiply, multiply_few, finish};
  return kernels;
}

}  // namespace ltx2rt::cpu::LTX2RT_ISA
