// Matrix product loops of quantized_linear for one instruction set.
#include "csrc/cpu/float_rows.h"
#include "csrc/cpu/linear_kernels.h"
#include "csrc/cpu/linear_tiles.h"
#include "csrc/cpu/panel_products.h"
#include "csrc/cpu/row_tiles.h"
#include "csrc/cpu/simd.h"
#include "csrc/cpu/weight_panels.h"
#include "csrc/cpu/wide_pairs.h"

namespace ltx2rt::cpu::LTX2RT_ISA {
namespace {

static_assert(kTileColumns == kPanelColumns);
#ifdef __AVX512BF16__
#define LTX2RT_SPLIT_PAIRS
#endif

void widen(FloatType type, const void* from, float* to, int64_t n) {
  with_type(type, from, [&](auto* source) {
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) store(to + i, load(source + i));
    for (; i < n; ++i) to[i] = to_float(source[i]);
  });
}

// expand for either kind of words: sink(row of words, vector of the panel, its operand). kFetch: nobody has fetched the
// weights before. kPacked: of any format, not only those up to int4.
template <typename Words, bool kFetch, bool kPacked, typename Sink>
inline __attribute__((always_inline)) void expand_words(const WeightMatrix& w, int64_t n0, int64_t k0, int64_t k,
                                                        const Sink& sink) {
  const auto both = [&sink](int64_t row, const typename Words::Operand* operands) __attribute__((always_inline)) {
#pragma GCC unroll 2
    for (int v = 0; v < kPanelVecs; ++v) sink(row, v, operands[v]);
  };
#ifdef LTX2RT_BF16_DOT
  if constexpr (__is_same(Words, PairWords)) {
#ifdef LTX2RT_WIDE_PAIRS
    expand_wide_pairs<kFetch, kPacked>(w, n0, k0, k, sink);
#else
    expand_pairs(w, n0, k0, k, both);
#endif
    return;
  }
#endif
#ifdef LTX2RT_WIDE_PAIRS
  if constexpr (__is_same(Words, FloatWords)) {
    if (w.format == WeightFormat::bf16) {  // pairs again, and both values of each in turn
      return transpose_lines<2, kFetch>(
          w, n0, k0, k, [&sink](int v, __m512i word, int64_t pair, int64_t left) __attribute__((always_inline)) {
            sink(2 * pair, v, from_bits((VecI)word << 16));
            if (left > 1) sink(2 * pair + 1, v, from_bits((VecI)word & (int32_t)0xffff0000));
          });
    }
  }
#endif
  if constexpr (__is_same(Words, FloatWords)) expand<kPacked>(w, n0, k0, k, both);
}

template <typename Words, bool kFetch = false>
void pack(const WeightMatrix& w, int64_t n0, int64_t k0, int64_t k, float* panel) {
  expand_words<Words, kFetch, true>(
      w, n0, k0, k, [panel](int64_t row, int v, typename Words::Operand operand) __attribute__((always_inline)) {
        memcpy(panel + row * kPanelColumns + v * kLanes, &operand, sizeof operand);
      });
}

#ifdef LTX2RT_SPLIT_PAIRS
// Subnormal numbers are zero while this lives, as they are to dot_pairs.
class FlushedSubnormals {
 public:
  FlushedSubnormals() : before_(_mm_getcsr()) {
    _mm_setcsr(before_ | 0x8040);
    asm volatile("" ::: "memory");  // what is computed from memory stays behind
  }
  ~FlushedSubnormals() { _mm_setcsr(before_); }
  FlushedSubnormals(const FlushedSubnormals&) = delete;
  FlushedSubnormals& operator=(const FlushedSubnormals&) = delete;

 private:
  uint32_t before_;
};

// A panel of pairs times rows of float32 values: sums with the bits of dot_pairs, which adds the product of the second
// values to a sum first, then that of the first ones, subnormal numbers being zero.
template <int kRows>
void multiply_split_tile(const float* a, int64_t k, const float* panel, float* c, int64_t ldc, bool add,
                         Fetcher& fetcher) {
  Vec sums[kRows][kPanelVecs];
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < kPanelVecs; ++v) sums[i][v] = zero();
  const auto add_products = [&sums](const float* x, const Vec* values) __attribute__((always_inline)) {
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 2
      for (int v = 0; v < kPanelVecs; ++v) sums[i][v] = fma(splat(x[i]), values[v], sums[i][v]);
  };
  {
    const FlushedSubnormals flushed;
    for (int64_t done = 0; done < k;) {
      fetcher.fetch_share();
      for (const int64_t end = smaller(done + 2 * kFetchWords, k); done < end;
           done += 2, a += 2 * kRows, panel += kPanelColumns) {
        Vec first[kPanelVecs], second[kPanelVecs];
#pragma GCC unroll 2
        for (int v = 0; v < kPanelVecs; ++v) {
          const VecI pairs = PairWords::load_row(panel + v * kLanes);
          first[v] = from_bits(pairs << 16);
          second[v] = from_bits(pairs & (int32_t)0xffff0000);
        }
        if (done + 1 < k) add_products(a + kRows, second);
        add_products(a, first);
      }
    }
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 2
      for (int v = 0; v < kPanelVecs; ++v) asm volatile("" : "+v"(sums[i][v]));  // are complete before that ends
  }
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < kPanelVecs; ++v) FloatWords::store_sum(c + i * ldc + v * kLanes, sums[i][v], add);
}

void multiply_split(const float* a, int64_t rows, const float* panel, int64_t k, float* c, int64_t ldc, bool add,
                    const ReadAhead& ahead) {
  constexpr int64_t kTurn = 2 * kFetchWords;
  each_tile(rows, (k + kTurn - 1) / kTurn, ahead, [=]<int kRows>(int64_t m, Fetcher& fetcher) {
    multiply_split_tile<kRows>(a + m * kDepthBlock, k, panel, c + m * ldc, ldc, add, fetcher);
  });
}
#endif

#if LTX2RT_LANES == 8
// Of the first-level cache, for copies of rows; the rest is for the rows themselves.
constexpr size_t kCacheBytes = 16 << 10;

// What the panels from n0 on with these numbers add to their sums, in turn.
template <int kRows, typename Steps, int... kNumbers>
inline __attribute__((always_inline)) void multiply_panels(const WeightMatrix& w, int64_t n0, int64_t k0, int64_t k,
                                                           const float* a, float* c, int64_t ldc, bool add) {
  constexpr int kPanels = sizeof...(kNumbers);
  Steps steps[] = {Steps(w, n0 + kNumbers * kPanelColumns, k0, k)...};
  Vec sums[kPanels][kRows][kPanelVecs];
  for (auto& panel : sums)
    for (auto& row : panel)
      for (Vec& sum : row) sum = zero();
  for (int64_t done = 0; done < k; done += kStepValues) {
    const float* x = a + done * kRows;
    for (int panel = 0; panel < kPanels; ++panel) {
      Vec own[kRows][kPanelVecs];  // in registers
      memcpy(own, sums[panel], sizeof own);
      const auto add_products = [&own, x](int64_t at, const Vec* vecs) __attribute__((always_inline)) {
#pragma GCC unroll 4
        for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 2
          for (int v = 0; v < kPanelVecs; ++v) own[i][v] = fma(splat(x[at * kRows + i]), vecs[v], own[i][v]);
      };
      expand_step(w, n0 + panel * kPanelColumns, k0, done, smaller(kStepValues, k - done), steps[panel], add_products);
      memcpy(sums[panel], own, sizeof own);
    }
  }
  for (int panel = 0; panel < kPanels; ++panel)
    for (int i = 0; i < kRows; ++i)
      for (int v = 0; v < kPanelVecs; ++v) {
        FloatWords::store_sum(c + i * ldc + panel * kPanelColumns + v * kLanes, sums[panel][i][v], add);
      }
}

// multiply_few of FloatWords. kRows == 1 takes every format, more rows those up to int4.
template <typename Words, int kRows>
void multiply_rows(const WeightMatrix& w, int64_t n0, int64_t k0, int64_t k, const float* a, float* c, int64_t ldc,
                   bool add) {
  static_assert(__is_same(Words, FloatWords) && kFewPanels == 2);
  with_steps<kRows == 1>(w.format, [&]<typename Steps>() __attribute__((always_inline)) {
    if constexpr (2 * sizeof(Steps) <= kCacheBytes) {
      multiply_panels<kRows, Steps, 0, 1>(w, n0, k0, k, a, c, ldc, add);
    } else {
      multiply_panels<kRows, Steps, 0>(w, n0, k0, k, a, c, ldc, add);
      multiply_panels<kRows, Steps, 0>(w, n0 + kPanelColumns, k0, k, a, c + kPanelColumns, ldc, add);
    }
  });
}
#else
template <typename Words, int kRows>
void multiply_rows(const WeightMatrix& w, int64_t n0, int64_t k0, int64_t k, const float* a, float* c, int64_t ldc,
                   bool add) {
  Vec sums[kRows][kPanelVecs] = {};
  expand_words<Words, true, kRows == 1>(
      w, n0, k0, k, [&sums, a](int64_t row, int v, typename Words::Operand operand) __attribute__((always_inline)) {
#pragma GCC unroll 4
        for (int i = 0; i < kRows; ++i) {
          sums[i][v] = Words::add_product(sums[i][v], Words::broadcast(a + row * kRows + i), operand);
        }
      });
  for (int i = 0; i < kRows; ++i) {
    for (int v = 0; v < kPanelVecs; ++v) {
      float* target = c + i * ldc + v * kLanes;
      store(target, add ? load(target) + sums[i][v] : sums[i][v]);
    }
  }
}
#endif

template <typename Words>
void multiply_few(const WeightMatrix& w, int64_t n0, int64_t k0, int64_t k, const float* a, int64_t rows, float* c,
                  int64_t ldc, bool add) {
  if (rows > 1 && w.format > WeightFormat::int4) {  // code for each number of rows is not worth its size
    alignas(64) float panel[kDepthBlock * kPanelColumns];
    for (int64_t first = 0; first < kFewPanels * kPanelColumns; first += kPanelColumns) {
      pack<Words>(w, n0 + first, k0, k, panel);
      multiply<Words>(a, rows, panel, k, c + first, ldc, add, ReadAhead{});
    }
    return;
  }
  switch (rows) {
    case 1:
      return multiply_rows<Words, 1>(w, n0, k0, k, a, c, ldc, add);
    case 2:
      return multiply_rows<Words, 2>(w, n0, k0, k, a, c, ldc, add);
    case 3:
      return multiply_rows<Words, 3>(w, n0, k0, k, a, c, ldc, add);
    default:
      return multiply_rows<Words, 4>(w, n0, k0, k, a, c, ldc, add);
  }
}

#ifdef LTX2RT_SPLIT_PAIRS
// LinearLoops::multiply_few of split pairs: rows whose products are too short to ask for the next panel.
void multiply_few_split(const WeightMatrix& w, int64_t n0, int64_t k0, int64_t k, const float* a, int64_t rows,
                        float* c, int64_t ldc, bool add) {
  alignas(64) float panel[kDepthBlock / 2 * kPanelColumns];
  pack<PairWords, true>(w, n0, k0, k, panel);
  multiply_split(a, rows, panel, k, c, ldc, add, ReadAhead{});
}
#endif

template <typename T>
void finish_as(const LinearEpilogue& e, const float* sums, T* out, int64_t n) {
  const T* residual = (const T*)e.residual;
  const auto value = [&e, residual](Vec v, int64_t i, auto read) {
    v *= splat(e.factor);
    if (e.scale != nullptr) v *= read(e.scale + i);
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

// One pass: each x_i of four values `stride` apart becomes half their sum minus x_(3 - i).
inline void rotate_fours(float* x, int64_t n, int64_t stride) {
  for (int64_t first = 0; first < n; first += 4 * stride) {
    float* a = x + first;
    for (int64_t i = 0; i < stride; ++i) {
      const float x0 = a[i], x1 = a[i + stride], x2 = a[i + 2 * stride], x3 = a[i + 3 * stride];
      const float half = 0.5f * ((x0 + x1) + (x2 + x3));
      a[i] = half - x3;
      a[i + stride] = half - x2;
      a[i + 2 * stride] = half - x1;
      a[i + 3 * stride] = half - x0;
    }
  }
}

void rotate(FloatType type, const void* from, int64_t n, int64_t group, float* work, void* to) {
  widen(type, from, work, n);
  // Everything is done to one group before the next, which stays in the first-level cache.
  for (int64_t first = 0; first < n; first += group) {
    for (int64_t stride = 1; stride < group; stride *= 4) rotate_fours(work + first, group, stride);
  }
  store_floats(work, n, to, type, 0);
}

void make_levels(const float* table, int8_t* levels) {
  for (int code = 0; code < 256; ++code) {
    const float scale = e4m3_value((uint8_t)code);
    for (int i = 0; i < 16; ++i) {
      const float level = table[i] * scale;
      const float bounded = level > 127.0f ? 127.0f : level > -127.0f ? level : -127.0f;
      // Adding 1.5 * 2^23 rounds to the nearest integer, to the even one of two.
      levels[16 * code + i] = (int8_t)(bounded + 12582912.0f - 12582912.0f);
    }
  }
}

// Values and codes as csrc/quantized_linear.h says.
template <typename T>
float quantise_as(const T* from, int64_t n, int8_t* to) {
  Vec largest = zero(), odd = zero();  // odd: NaN where a value is no number
  const auto look = [&largest, &odd](Vec v) {
    const Vec magnitude = from_bits(bits_of(v) & 0x7fffffff);
    largest = max(magnitude, largest);
    odd += v - v;
  };
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) look(load(from + i));
  if (i < n) look(load_part(from + i, n - i));
  float most = 0.0f, faults = 0.0f;
  for (int lane = 0; lane < kLanes; ++lane) {
    most = largest[lane] > most ? largest[lane] : most;
    faults += odd[lane];
  }
  const bool is_zero = !(most >= kLeastRow);
  const float inverse = is_zero || faults != 0.0f ? 0.0f : 127.0f / most;
  for (i = 0; i < n; i += kLanes) {
    const int64_t count = n - i < kLanes ? n - i : kLanes;
    const Vec v = count == kLanes ? load(from + i) : load_part(from + i, count);
    // Adding 1.5 * 2^23 rounds to the nearest integer, to the even one of two, which then is in the low bits.
    const VecI codes = bits_of(v * splat(inverse) + splat(12582912.0f));
    for (int64_t lane = 0; lane < count; ++lane) to[i + lane] = (int8_t)codes[lane];
  }
  return faults != 0.0f ? faults : is_zero ? 0.0f : most / 127.0f;
}

float quantise(FloatType type, const void* from, int64_t n, int8_t* to) {
  float scale = 0.0f;
  with_type(type, from, [&](auto* values) { scale = quantise_as(values, n, to); });
  return scale;
}

void widen_sums(float* sums, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes) {
    const int64_t count = n - i < kLanes ? n - i : kLanes;
    VecI integers{};
    memcpy(&integers, sums + i, (size_t)count * sizeof(float));
    store_part(sums + i, __builtin_convertvector(integers, Vec), count);
  }
}

// One group of rows interleaved word by word.
void prepare_values(FloatType type, const char* const* from, int64_t rows, int64_t n, float* to) {
  float values[kDepthBlock];
  for (int64_t r = 0; r < rows; ++r) {
    widen(type, from[r], values, n);
    for (int64_t k = 0; k < n; ++k) to[k * rows + r] = values[k];
  }
}

#ifdef LTX2RT_BF16_DOT
// The values are bfloat16 already.
void prepare_pairs(FloatType, const char* const* from, int64_t rows, int64_t n, float* to) {
  int64_t k = 0;
#ifdef LTX2RT_WIDE_PAIRS
  static_assert(kTileRows < 16);
  for (; rows == kTileRows && k + 2 * kLanes <= n; k += 2 * kLanes, to += kLanes * kTileRows) {
    __m512i words[16];
#pragma GCC unroll 16
    for (int r = 0; r < 16; ++r) words[r] = _mm512_loadu_si512(from[r < kTileRows ? r : 0] + 2 * k);
    transpose_words(words);
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) _mm512_mask_storeu_epi32(to + i * kTileRows, (1 << kTileRows) - 1, words[i]);
  }
#endif
  for (; k < n; k += 2, to += rows) {
    for (int64_t r = 0; r < rows; ++r) {
      uint16_t pair[2] = {};
      memcpy(pair, from[r] + 2 * k, k + 1 < n ? 4 : 2);
      memcpy(to + r, pair, sizeof pair);
    }
  }
}
#endif

#ifdef LTX2RT_TILES
// A panel whose last tile is filled up with zeros.
template <bool kFetch = false>
void pack_tiles(const WeightMatrix& w, int64_t n0, int64_t k0, int64_t k, float* panel) {
  pack<PairWords, kFetch>(w, n0, k0, k, panel);
  const int64_t words = words_of<PairWords>(k), whole = (words + kTileWords - 1) / kTileWords * kTileWords;
  memset(panel + words * kPanelColumns, 0, (size_t)(whole - words) * kPanelColumns * sizeof(float));
}

// Words of a panel are multiplied as soon as they fill a tile, while the next ones are read and expanded: a panel that is
// multiplied as a whole waits for its last words, and memory waits for the products.
template <bool kTwo>
__attribute__((target("amx-tile,amx-bf16,amx-int8"))) void multiply_tiles_in_passing(const WeightMatrix& w, int64_t n0,
                                                                                     int64_t k0, int64_t k,
                                                                                     const float* a, int64_t rows,
                                                                                     float* c, int64_t ldc, bool add) {
  alignas(64) float panel[kDepthBlock / 2 * kPanelColumns];
  constexpr int64_t kFloats = kTileWords * kPanelColumns;
  const int64_t first_rows = kTwo ? kTileHeight : rows, second_rows = rows - first_rows;
  asm volatile("" ::: "memory");  // tiles see what was stored before
  set_tiles(first_rows, second_rows);
  TileSums<TilePairs, kTwo> sums(a, first_rows, a + first_rows * (kDepthBlock / 2), second_rows, c, ldc, add);
  const float *done = panel, *end = panel + (words_of<PairWords>(k) + kTileWords - 1) / kTileWords * kFloats;
  expand_words<PairWords, true, false>(
      w, n0, k0, k, [&](int64_t row, int v, PairWords::Operand operand) __attribute__((always_inline)) {
        memcpy(panel + row * kPanelColumns + v * kLanes, &operand, sizeof operand);
        // The tile before this one, whose words have reached the cache.
        if (v == kPanelVecs - 1 && row % kTileWords == kTileWords - 1 && row > kTileWords) {
          asm volatile("" ::: "memory");
          sums.add_product(done);
          done += kFloats;
        }
      });
  float* rest = panel + words_of<PairWords>(k) * kPanelColumns;
  memset(rest, 0, (size_t)(end - rest) * sizeof(float));
  asm volatile("" ::: "memory");
  for (; done < end; done += kFloats) sums.add_product(done);
  sums.store();
  _tile_release();
  asm volatile("" ::: "memory");
}

void multiply_few_tiles(const WeightMatrix& w, int64_t n0, int64_t k0, int64_t k, const float* a, int64_t rows,
                        float* c, int64_t ldc, bool add) {
  if (w.format <= WeightFormat::int4 && rows <= kTileHeight) {
    return multiply_tiles_in_passing<false>(w, n0, k0, k, a, rows, c, ldc, add);
  }
  if (w.format <= WeightFormat::int4 && rows <= 2 * kTileHeight) {
    return multiply_tiles_in_passing<true>(w, n0, k0, k, a, rows, c, ldc, add);
  }
  alignas(64) float panel[kDepthBlock / 2 * kPanelColumns];
  pack_tiles<true>(w, n0, k0, k, panel);
  multiply_tiles<TilePairs>(a, rows, panel, k, c, ldc, add, ReadAhead{});
}

// LinearLoops::multiply_few of tiles that take rows of weights.
void multiply_weight_rows(const WeightMatrix& w, int64_t n0, int64_t k0, int64_t k, const float* a, int64_t rows,
                          float* c, int64_t ldc, bool add) {
  const auto multiply = [&]<typename Tiles>(int64_t count) {
    if (count > 0) multiply_row_tiles<TilePairs, Tiles>(w, n0, k0, count, a, rows, c, ldc, add);
  };
  // Groups of 16 and 32 that fill no depth block are decoded one by one.
  const auto multiply_blocks = [&]<typename Rows>() {
    const int64_t whole = k / kDepthBlock * kDepthBlock;
    multiply.operator()<ExpandedTiles<Rows>>(whole);
    k0 += whole;
    a += whole / TilePairs::kValues * rows;
    add = add || whole > 0;
    multiply.operator()<ExpandedTiles<RowsOfAny<1>>>(k - whole);
  };
  switch (w.format) {
    case WeightFormat::bf16:
      return multiply.operator()<StoredTiles<TilePairs>>(k);
    case WeightFormat::e4m3:
      return multiply.operator()<ExpandedTiles<CodeRows<E4m3Table>>>(k);
    case WeightFormat::int8_rows:
      return multiply.operator()<ExpandedTiles<CodeRows<Int8Table>>>(k);
    case WeightFormat::q4_k:
      return multiply.operator()<ExpandedTiles<RowsOfQ4>>(k);
    case WeightFormat::q5_k:
      return multiply.operator()<ExpandedTiles<RowsOfQ5>>(k);
    case WeightFormat::q6_k:
      return multiply.operator()<ExpandedTiles<RowsOfQ6, 2>>(k);
    case WeightFormat::q8_0:
      return multiply_blocks.operator()<RowsOfQ80>();
    case WeightFormat::nvfp4:
      return multiply_blocks.operator()<RowsOfNvfp4>();
    case WeightFormat::mxfp8:
      return multiply_blocks.operator()<RowsOfMxfp8>();
    default:  // has_row_tiles
      return;
  }
}
#endif

}  // namespace

const LinearKernels& linear_kernels() {
  static constexpr LinearKernels kernels{
      .panel_columns = kPanelColumns,
      .values = {1, kTileRows, prepare_values, pack<FloatWords>, multiply<FloatWords>, 4, multiply_few<FloatWords>,
                 kDepthBlock, kFewPanels},
#ifdef LTX2RT_BF16_DOT
      .has_pairs = true,
      .pairs = {2, kTileRows, prepare_pairs, pack<PairWords>, multiply<PairWords>, 4, multiply_few<PairWords>},
#else
      .has_pairs = false,
      .pairs = {},
#endif
#ifdef LTX2RT_SPLIT_PAIRS
      .has_split_pairs = true,
      .split_pairs = {1, kTileRows, prepare_values, pack<PairWords>, multiply_split, 12, multiply_few_split},
#else
      .has_split_pairs = false,
      .split_pairs = {},
#endif
#ifdef LTX2RT_TILES
      .has_tiles = true,
      .tiles = {2, kTileHeight, prepare_tiles<TilePairs>, pack_tiles<>, multiply_tiles<TilePairs>, 64,
                multiply_few_tiles},
      .row_tiles = {2, kTileHeight, prepare_tile_columns<TilePairs>, nullptr, nullptr, kTileHeight,
                    multiply_weight_rows, kAnyDepth},
#else
      .has_tiles = false,
      .tiles = {},
      .row_tiles = {},
#endif
      .quantise = quantise,
      .widen_sums = widen_sums,
      .widen = widen,
      .rotate = rotate,
      .make_levels = make_levels,
      .finish = finish};
  return kernels;
}

}  // namespace ltx2rt::cpu::LTX2RT_ISA
