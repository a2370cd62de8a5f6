// Expansion of weights with NEON beside the plain loops that every format can take, each checked against the other bit by
// bit: benchmarks/neon_expansion.py counts the instructions of both under an emulator.
//   neon_expansion              checks that both give the same panels
//   neon_expansion FORMAT WORDS WAY ROUNDS
// expands one panel ROUNDS times: e4m3, int8, int4 or bf16; as float32 or pairs (of bfloat16); plain or fast.
#include <stdio.h>
#include <stdlib.h>

#include <initializer_list>

#include "csrc/cpu/fma_tile.h"
#include "csrc/cpu/weight_panels.h"

namespace ltx2rt::cpu::LTX2RT_ISA {
namespace {

constexpr int64_t kDepth = kDepthBlock, kColumns = kPanelColumns, kGroup = 64;

uint32_t next_random() {
  static uint32_t state = 1;
  return state = state * 1664525u + 1013904223u;
}

struct Weights {
  WeightFormat format;
  uint32_t codes[kDepth * kColumns];
  float scale[kColumns * kDepth / kGroup], zero[kColumns * kDepth / kGroup];

  // every_code: also those that stand for NaN, which no trained weight holds.
  Weights(WeightFormat of, int64_t stored_bits, bool every_code) : format(of), bits(stored_bits) {
    for (auto& word : codes) word = next_random() & 0xbf7ebf7e;  // no infinity or NaN of bf16 or e4m3
    for (auto& value : scale) value = (float)(next_random() >> 8) * 0x1p-24f;
    for (auto& value : zero) value = (float)(next_random() >> 8) * -0x1p-20f;
    if (every_code && format == WeightFormat::e4m3) {
      for (int i = 0; i < 1024; ++i) ((uint8_t*)codes)[i] = (uint8_t)i;
    }
  }
  // Of so many columns.
  WeightMatrix matrix(int64_t columns) const {
    return {.format = format,
            .values = codes,
            .row_bytes = kDepth * bits / 8,
            .columns = columns,
            .scale = scale,
            .zero = zero,
            .group_type = FloatType::f32,
            .groups = kDepth / kGroup,
            .group_size = kGroup,
            .levels = nullptr};
  }
  int64_t bits;
};

template <typename Vector>
inline __attribute__((always_inline)) void put(float* panel, int64_t row, const Vector* vecs) {
  for (int v = 0; v < kPanelVecs; ++v) memcpy(panel + row * kPanelColumns + v * kLanes, vecs + v, sizeof *vecs);
}

// As expand_slowly alone would do it, the way that every format takes on every processor.
__attribute__((noinline)) void expand_plainly(const WeightMatrix& w, bool pairs, float* panel) {
  if (!pairs) {
    return expand_slowly(w, 0, 0, 0, kDepth, [panel](int64_t k, const Vec* vecs) { put(panel, k, vecs); });
  }
#ifdef LTX2RT_BF16_DOT
  VecI words[kPanelVecs] = {};
  const auto pair_up = [&](int64_t k, const Vec* vecs, auto narrow) __attribute__((always_inline)) {
    for (int v = 0; v < kPanelVecs; ++v) {
      const VecI half = (VecI)narrow(vecs[v]);
      words[v] = k % 2 == 0 ? half : words[v] | half << 16;
    }
    if (k % 2 != 0) put(panel, k / 2, words);
  };
  if (w.format == WeightFormat::bf16 || w.format == WeightFormat::e4m3) {
    expand_slowly(w, 0, 0, 0, kDepth, [&](int64_t k, const Vec* vecs) { pair_up(k, vecs, bf16_words<true>); });
  } else {
    expand_slowly(w, 0, 0, 0, kDepth, [&](int64_t k, const Vec* vecs) { pair_up(k, vecs, bf16_words<false>); });
  }
#endif
}

__attribute__((noinline)) void expand_fast_or_not(const WeightMatrix& w, bool pairs, float* panel) {
  if (!pairs) return expand(w, 0, 0, kDepth, [panel](int64_t k, const Vec* vecs) { put(panel, k, vecs); });
#ifdef LTX2RT_BF16_DOT
  expand_pairs(w, 0, 0, kDepth, [panel](int64_t row, const VecI* words) { put(panel, row, words); });
#endif
}

#ifdef LTX2RT_BF16_DOT
constexpr bool kHasPairs = true;
#else
constexpr bool kHasPairs = false;
#endif

struct Format {
  const char* name;
  WeightFormat format;
  int64_t bits;
};
constexpr Format kFormats[] = {{"e4m3", WeightFormat::e4m3, 8},
                               {"int8", WeightFormat::int8, 8},
                               {"int4", WeightFormat::int4, 4},
                               {"bf16", WeightFormat::bf16, 16}};

int check() {
  for (const auto& format : kFormats) {
    for (const bool pairs : {false, true}) {
      if (pairs && !kHasPairs) continue;
      // Columns beyond the last one hold anything.
      for (const int64_t columns : {kColumns, kColumns - 3}) {
        static float plain[kDepth * kColumns], fast[kDepth * kColumns];
        const Weights weights(format.format, format.bits, true);
        const WeightMatrix w = weights.matrix(columns);
        expand_plainly(w, pairs, plain);
        expand_fast_or_not(w, pairs, fast);
        for (int64_t i = 0; i < kDepth / (pairs ? 2 : 1) * kColumns; ++i) {
          if (i % kColumns >= columns || memcmp(plain + i, fast + i, sizeof *plain) == 0) continue;
          printf("%s as %s, %d columns: word %d differs\n", format.name, pairs ? "pairs" : "float32", (int)columns, (int)i);
          return 1;
        }
      }
    }
  }
  printf("the same bits; %d weights in a panel%s\n", (int)(kDepth * kColumns), kHasPairs ? ", pairs too" : "");
  return 0;
}

}  // namespace
}  // namespace ltx2rt::cpu::LTX2RT_ISA

int main(int count, char** arguments) {
  namespace set = ltx2rt::cpu::LTX2RT_ISA;
  if (count == 1) return set::check();
  if (count != 5) return 2;
  static float panel[set::kDepth * set::kColumns];
  const bool pairs = strcmp(arguments[2], "pairs") == 0, plain = strcmp(arguments[3], "plain") == 0;
  for (const auto& format : set::kFormats) {
    if (strcmp(arguments[1], format.name) != 0) continue;
    const set::Weights weights(format.format, format.bits, false);
    for (int round = 0; round < atoi(arguments[4]); ++round) {
      (plain ? set::expand_plainly : set::expand_fast_or_not)(weights.matrix(set::kColumns), pairs, panel);
    }
    return 0;
  }
  return 2;
}
