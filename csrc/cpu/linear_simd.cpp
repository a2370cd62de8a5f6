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

// expand for either kind of words: sink(row of words, operands of one panel).
template <typename Words, typename Sink>
inline void expand_words(const WeightMatrix& w, int64_t n0, int64_t k0, int64_t k, const Sink& sink) {
#ifdef LTX2RT_BF16_DOT
  if constexpr (__is_same(Words, PairWords)) {
    expand_pairs(w, n0, k0, k, sink);
    return;
  }
#endif
  if constexpr (__is_same(Words, FloatWords)) expand(w, n0, k0, k, sink);
}

template <typename Words>
constexpr int64_t kValuesPerWord = __is_same(Words, FloatWords) ? 1 : 2;

template <typename Words>
int64_t words_of(int64_t values) {
  return (values + kValuesPerWord<Words> - 1) / kValuesPerWord<Words>;
}

template <typename Words>
void pack(const WeightMatrix& w, int64_t n0, int64_t k0, int64_t k, float* panel) {
  expand_words<Words>(w, n0, k0, k, [panel](int64_t row, const typename Words::Operand* vecs) {
    memcpy(panel + row * kPanelColumns, vecs, kPanelColumns * sizeof(float));
  });
}

template <typename Words>
void multiply(const float* a, int64_t lda, int64_t rows, const float* panel, int64_t k, float* c, int64_t ldc,
              bool add) {
  const Run run{0, words_of<Words>(k)};
  float sums[kTileRows * kTileColumns];
  for (int64_t m = 0; m < rows; m += kTileRows) {
    const int count = (int)(rows - m < kTileRows ? rows - m : kTileRows);
    const float* pointers[kTileRows];
    for (int i = 0; i < count; ++i) pointers[i] = a + (m + i) * lda;
    float* target = c + m * ldc;
    if (!add) {
      fma_tile<Words>(count, kTileColumns, pointers, &run, 1, panel, target, ldc, false);
      continue;
    }
    fma_tile<Words>(count, kTileColumns, pointers, &run, 1, panel, sums, kTileColumns, false);
    for (int i = 0; i < count; ++i) {
      for (int v = 0; v < kTileColumns; v += kLanes) {
        store(target + i * ldc + v, load(target + i * ldc + v) + load(sums + i * kTileColumns + v));
      }
    }
  }
}

template <typename Words, int kRows>
void multiply_rows(const WeightMatrix& w, int64_t n0, int64_t k0, int64_t k, const float* a, int64_t lda, float* c,
                   int64_t ldc, bool add) {
  Vec sums[kRows][kPanelVecs] = {};
  const auto accumulate = [&sums, a, lda](int64_t row, const typename Words::Operand* vecs)
                              __attribute__((always_inline)) {
    for (int i = 0; i < kRows; ++i) {
      const auto x = Words::broadcast(a + i * lda + row);
      for (int v = 0; v < kPanelVecs; ++v) sums[i][v] = Words::add_product(sums[i][v], x, vecs[v]);
    }
  };
  expand_words<Words>(w, n0, k0, k, accumulate);
  for (int i = 0; i < kRows; ++i) {
    for (int v = 0; v < kPanelVecs; ++v) {
      float* target = c + i * ldc + v * kLanes;
      store(target, add ? load(target) + sums[i][v] : sums[i][v]);
    }
  }
}

template <typename Words>
void multiply_few(const WeightMatrix& w, int64_t n0, int64_t k0, int64_t k, const float* a, int64_t lda, int64_t rows,
                  float* c, int64_t ldc, bool add) {
  switch (rows) {
    case 1:
      return multiply_rows<Words, 1>(w, n0, k0, k, a, lda, c, ldc, add);
    case 2:
      return multiply_rows<Words, 2>(w, n0, k0, k, a, lda, c, ldc, add);
    case 3:
      return multiply_rows<Words, 3>(w, n0, k0, k, a, lda, c, ldc, add);
    default:
      return multiply_rows<Words, 4>(w, n0, k0, k, a, lda, c, ldc, add);
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

#ifdef LTX2RT_BF16_DOT
// The values are bfloat16 already.
void prepare_pairs(FloatType, const void* from, float* to, int64_t n) {
  memcpy(to, from, (size_t)n * 2);
  if (n % 2 != 0) memset((char*)to + n * 2, 0, 2);
}
#endif

}  // namespace

const LinearKernels& linear_kernels() {
  static constexpr LinearKernels kernels{
      .panel_columns = kPanelColumns,
      .values = {1, widen, pack<FloatWords>, multiply<FloatWords>, multiply_few<FloatWords>},
#ifdef LTX2RT_BF16_DOT
      .has_pairs = true,
      .pairs = {2, prepare_pairs, pack<PairWords>, multiply<PairWords>, multiply_few<PairWords>},
#else
      .has_pairs = false,
      .pairs = {},
#endif
      .widen = widen,
      .finish = finish};
  return kernels;
}

}  // namespace ltx2rt::cpu::LTX2RT_ISA
