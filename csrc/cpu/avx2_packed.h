// Weights in blocks with scales, decoded 16 values of k at a time with AVX2, for *_simd.cpp files.
#pragma once

#include "csrc/cpu/avx2_panels.h"

namespace ltx2rt::cpu::LTX2RT_ISA {

#if defined(__AVX2__)

// Scales and zeros of a depth block of a panel, of groups of at least 16 values.
struct BlockFactors {
  static constexpr int kGroups = kDepthBlock / 16;

  inline __attribute__((always_inline)) GroupVecs at(int64_t group) const {
    GroupVecs vecs;
#pragma GCC unroll 2
    for (int v = 0; v < kPanelVecs; ++v) {
      vecs.scale[v] = scale[group][v];
      vecs.zero[v] = zero[group][v];
    }
    return vecs;
  }
  // A vector's scales of a group whose codes are `zero_code` for 0.
  void put(int64_t group, int v, Vec scales, float zero_code) {
    scale[group][v] = scales;
    zero[group][v] = scales * splat(-zero_code);
  }

  Vec scale[kGroups][kPanelVecs], zero[kGroups][kPanelVecs];
};

// 8 columns' words of 32 bits: word(i) of those from column n on, by rows of 16 bytes.
template <typename Rows>
inline void load_headers(const Rows& rows, int64_t n, int64_t at, __m256i words[4]) {
  __m256i a[4], b[4];
  for (int i = 0; i < 4; ++i) {
    a[i] = _mm256_set_m128i(_mm_loadu_si128((const __m128i*)(rows[n + i + 4] + at)),
                            _mm_loadu_si128((const __m128i*)(rows[n + i] + at)));
  }
  for (int i = 0; i < 2; ++i) {
    b[2 * i] = _mm256_unpacklo_epi32(a[2 * i], a[2 * i + 1]);
    b[2 * i + 1] = _mm256_unpackhi_epi32(a[2 * i], a[2 * i + 1]);
  }
  words[0] = _mm256_unpacklo_epi64(b[0], b[2]);
  words[1] = _mm256_unpackhi_epi64(b[0], b[2]);
  words[2] = _mm256_unpacklo_epi64(b[1], b[3]);
  words[3] = _mm256_unpackhi_epi64(b[1], b[3]);
}

// Eight floats of a vector of the panel: `part` counts eights of columns.
inline void put_eight(__m256 values, int part, Vec* vecs) { memcpy((float*)vecs + 8 * part, &values, sizeof values); }

struct Q8_0Block {
  static constexpr int kLines = 8;
  static constexpr int64_t kGroup = 32;
  static constexpr Codes kCodes = Codes::eight_bits;
  static int64_t bytes(int64_t values) { return values / 32 * 34; }

  static void unpack(const WeightMatrix&, int64_t, int64_t, int64_t count, const RowPlaces& from, SpreadCodes& codes,
                     BlockFactors& factors) {
    alignas(32) uint16_t scales[kDepthBlock / 32][kPanelColumns];
    const int64_t groups = count / 32;
    for (int64_t n = 0; n < kPanelColumns; ++n) {
      for (int64_t g = 0; g < groups; ++g) {
        const char* block = from[n] + 34 * g;
        memcpy(&scales[g][n], block, 2);
        const __m256i stored = _mm256_loadu_si256((const __m256i*)(block + 2));
        _mm256_store_si256((__m256i*)(codes[n] + 32 * g), _mm256_xor_si256(stored, _mm256_set1_epi8(-128)));
      }
    }
    for (int64_t g = 0; g < groups; ++g) {
      for (int v = 0; v < kPanelVecs; ++v)
        factors.put(g, v, widen_f16(load_words(scales[g] + v * kLanes)), added_to(kCodes) + 128.0f);
    }
  }
};

// Q4_K and Q5_K, whose blocks are depth blocks.
template <bool kFifthBits>
struct K45Block {
  static constexpr int kLines = 4;
  static constexpr int64_t kGroup = 32;
  static constexpr Codes kCodes = Codes::converted;
  static constexpr int64_t kBytes = kFifthBits ? 176 : 144;
  static int64_t bytes(int64_t values) { return values / 256 * kBytes; }

  static void unpack(const WeightMatrix&, int64_t, int64_t, int64_t, const RowPlaces& from, SpreadCodes& codes,
                     BlockFactors& factors) {
    const __m256i fours = _mm256_set1_epi8(15);
    for (int64_t n = 0; n < kPanelColumns; ++n) {
      const char* block = from[n];
      char* to = codes[n];
      __m256i fifths{};
      if constexpr (kFifthBits) fifths = _mm256_loadu_si256((const __m256i*)(block + 16));
#pragma GCC unroll 4
      for (int two = 0; two < 4; ++two) {
        const auto* at = (const __m256i*)(block + (kFifthBits ? 48 : 16) + 32 * two);
        const __m256i pairs = _mm256_loadu_si256(at);
        __m256i low = _mm256_and_si256(pairs, fours), high = _mm256_and_si256(_mm256_srli_epi16(pairs, 4), fours);
        if constexpr (kFifthBits) {
          low = _mm256_or_si256(low, fifth(fifths, 2 * two));
          high = _mm256_or_si256(high, fifth(fifths, 2 * two + 1));
        }
        _mm256_store_si256((__m256i*)(to + 64 * two), low);
        _mm256_store_si256((__m256i*)(to + 64 * two + 32), high);
      }
    }
    const __m256i sixes = _mm256_set1_epi8(63);
    for (int part = 0; part < kPanelColumns / 8; ++part) {
      __m256i words[4];
      load_headers(from, 8 * part, 0, words);
      const __m256i halves =
          _mm256_packus_epi32(_mm256_and_si256(words[0], _mm256_set1_epi32(0xffff)), _mm256_srli_epi32(words[0], 16));
      const __m256i in_order = _mm256_permute4x64_epi64(halves, 0xd8);
      const __m256 d = _mm256_cvtph_ps(_mm256_castsi256_si128(in_order));
      const __m256 least = -_mm256_cvtph_ps(_mm256_extracti128_si256(in_order, 1));
      // Four codes of scales and four of minimums in a word each, then the other four.
      const auto upper = [](__m256i low_bits, __m256i high_bits) {
        return _mm256_or_si256(_mm256_and_si256(low_bits, _mm256_set1_epi8(15)),
                               _mm256_and_si256(_mm256_srli_epi32(high_bits, 2), _mm256_set1_epi8(48)));
      };
      const __m256i scales[2] = {_mm256_and_si256(words[1], sixes), upper(words[3], words[1])};
      const __m256i zeros[2] = {_mm256_and_si256(words[2], sixes), upper(_mm256_srli_epi32(words[3], 4), words[2])};
#pragma GCC unroll 8
      for (int g = 0; g < 8; ++g) {
        const auto code = [g](__m256i four) {
          return _mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srli_epi32(four, 8 * (g % 4)), _mm256_set1_epi32(255)));
        };
        put_eight(d * code(scales[g / 4]), part, factors.scale[g]);
        put_eight(least * code(zeros[g / 4]), part, factors.zero[g]);
      }
    }
  }

 private:
  static __m256i fifth(__m256i bits, int number) {
    const __m256i bit = _mm256_set1_epi8((char)(1 << number));
    return _mm256_and_si256(_mm256_cmpeq_epi8(_mm256_and_si256(bits, bit), bit), _mm256_set1_epi8(16));
  }
};

// Blocks are depth blocks.
struct Q6KBlock {
  static constexpr int kLines = 4;
  static constexpr int64_t kGroup = 16;
  static constexpr Codes kCodes = Codes::seven_bits;
  static constexpr int64_t kBytes = 210;
  static int64_t bytes(int64_t values) { return values / 256 * kBytes; }

  static void unpack(const WeightMatrix&, int64_t, int64_t, int64_t, const RowPlaces& from, SpreadCodes& codes,
                     BlockFactors& factors) {
    alignas(32) uint16_t scales[kPanelColumns];
    const __m256i fours = _mm256_set1_epi8(15), twos = _mm256_set1_epi8(48);
    for (int64_t n = 0; n < kPanelColumns; ++n) {
      const char* block = from[n];
      memcpy(&scales[n], block + 208, 2);
#pragma GCC unroll 2
      for (int half = 0; half < 2; ++half) {
        const __m256i high = _mm256_loadu_si256((const __m256i*)(block + 128 + 32 * half));
        const __m256i low[2] = {_mm256_loadu_si256((const __m256i*)(block + 64 * half)),
                                _mm256_loadu_si256((const __m256i*)(block + 64 * half + 32))};
        const __m256i highs[4] = {_mm256_slli_epi16(high, 4), _mm256_slli_epi16(high, 2), high,
                                  _mm256_srli_epi16(high, 2)};
#pragma GCC unroll 4
        for (int run = 0; run < 4; ++run) {
          const __m256i four = run < 2 ? low[run] : _mm256_srli_epi16(low[run - 2], 4);
          const __m256i code = _mm256_or_si256(_mm256_and_si256(four, fours), _mm256_and_si256(highs[run], twos));
          _mm256_store_si256((__m256i*)(codes[n] + 128 * half + 32 * run), code);
        }
      }
    }
    const StepCodes<Order::quarters> group_scales(from, 192);
    Vec d[kPanelVecs];  // 2^-24 of it, since codes in the highest bytes of words are 2^24 times what they are
    for (int v = 0; v < kPanelVecs; ++v) d[v] = widen_f16(load_words(scales + v * kLanes)) * splat(0x1p-24f);
    const __m256i zeros = _mm256_setzero_si256();
#pragma GCC unroll 16
    for (int g = 0; g < 16; ++g) {
      Vec wide[kPanelVecs];
#pragma GCC unroll 2
      for (int s = 0; s < kSixteens; ++s) {
        const __m256i words = group_scales.high(s, g);
        put(_mm256_cvtepi32_ps(_mm256_unpacklo_epi16(zeros, words)),
            _mm256_cvtepi32_ps(_mm256_unpackhi_epi16(zeros, words)), wide + s * kVecsOfSixteen);
      }
#pragma GCC unroll 2
      for (int v = 0; v < kPanelVecs; ++v) factors.put(g, v, d[v] * wide[v], added_to(kCodes) + 32.0f);
    }
  }
};

// Bytes of scales of the groups of a depth block, at most 16 for each column.
class ScaleRows {
 public:
  ScaleRows(const WeightMatrix& w, int64_t n0, int64_t first, int64_t groups) {
    for (int64_t n = 0; n < kPanelColumns; ++n) {
      const int64_t column = n0 + n < w.columns ? n0 + n : w.columns - 1;
      const char* from = (const char*)w.scale + column * w.groups + first;
      if (groups == 16) {
        memcpy(rows_[n], from, 16);
      } else if (groups == 8) {
        memcpy(rows_[n], from, 8);
      } else {
        memcpy(rows_[n], from, (size_t)groups);
      }
    }
  }
  const char* operator[](int64_t n) const { return rows_[n]; }

 private:
  alignas(64) char rows_[kPanelColumns][16] = {};
};

// Integers that are looked up; those of a group share a table of 16.
struct W4a8Block {
  static constexpr int kLines = 2;
  static constexpr int64_t kGroup = kDepthBlock;
  static constexpr Codes kCodes = Codes::eight_bits;
  static int64_t bytes(int64_t values) { return values / 2; }

  static void unpack(const WeightMatrix& w, int64_t n0, int64_t k0, int64_t count, const RowPlaces& from,
                     SpreadCodes& codes, BlockFactors& factors) {
    const __m128i mask = _mm_set1_epi8(15), bias = _mm_set1_epi8(-128);
    for (int64_t n = 0; n < kPanelColumns; ++n) {
      const int64_t column = n0 + n < w.columns ? n0 + n : w.columns - 1;
      const uint8_t* scales = (const uint8_t*)w.scale + column * w.groups;
      for (int64_t k = 0; k + kStepValues <= count; k += kStepValues) {
        const __m128i pairs = _mm_loadl_epi64((const __m128i*)(from[n] + k / 2));
        const __m128i four =
            _mm_unpacklo_epi8(_mm_and_si128(pairs, mask), _mm_and_si128(_mm_srli_epi16(pairs, 4), mask));
        const auto levels = [&](int64_t i) {
          const int8_t* table = w.levels + 16 * scales[(k0 + k + i) / w.group_size];
          return _mm_shuffle_epi8(_mm_loadu_si128((const __m128i*)table), four);
        };
        __m128i found = levels(0);
        if (w.group_size < 16) {  // groups of 4 or 8: of what a table gives only its own part is kept
          alignas(16) char values[16], all[16];
          for (int64_t i = 0; i < 16; i += w.group_size) {
            _mm_store_si128((__m128i*)all, levels(i));
            memcpy(values + i, all + i, 4);
            memcpy(values + i + w.group_size - 4, all + i + w.group_size - 4, 4);
          }
          found = _mm_load_si128((const __m128i*)values);
        }
        _mm_store_si128((__m128i*)(codes[n] + k), _mm_xor_si128(found, bias));
      }
    }
    for (int v = 0; v < kPanelVecs; ++v) factors.put(0, v, splat(1.0f), added_to(kCodes) + 128.0f);
  }
};

// Blocks whose values are code * scale + zero of groups. count is a whole number of them.
template <typename Block>
class PackedSteps {
 public:
  PackedSteps(const WeightMatrix& w, int64_t n0, int64_t k0, int64_t count)
      : places_(w, n0, Block::bytes(k0), Block::bytes(count)) {
    Block::unpack(w, n0, k0, count, places_, codes_, factors_);
  }
  template <typename Sink>
  inline __attribute__((always_inline)) bool decode(int64_t k, const Sink& sink) {
    places_.template fetch_ahead<Block::kLines>(k);
    decode_codes<Block::kCodes>(StepCodes<Order::quarters>(codes_, k), factors_.at(k / Block::kGroup), sink);
    return true;
  }

 private:
  RowPlaces places_;
  SpreadCodes codes_;
  BlockFactors factors_;
};

class Nvfp4Steps {
 public:
  Nvfp4Steps(const WeightMatrix& w, int64_t n0, int64_t k0, int64_t count) : codes_(w, n0, k0, count) {
    for (int i = 0; i < 16; ++i) doubled_[i] = (int8_t)(kE2m1Doubled[i] + (float)kE2m1Zero);
    const ScaleRows rows(w, n0, k0 / 16, count / 16);
    const StepCodes<Order::halves> scales(rows, 0);
    const bool has_nan = scales.has_e4m3_nan();
#pragma GCC unroll 16
    for (int g = 0; g < 16; ++g) {
      Vec wide[kPanelVecs];
#pragma GCC unroll 2
      for (int s = 0; s < kSixteens; ++s) put_f16(e4m3_words_as_f16(scales.high(s, g)), wide + s * kVecsOfSixteen);
      if (has_nan) [[unlikely]] {
        for (int64_t n = 0; n < kPanelColumns; ++n) {
          const float scale = to_float(e4m3_as_f16((uint8_t)rows[n][g]));
          memcpy((float*)wide + n, &scale, sizeof scale);
        }
      }
#pragma GCC unroll 2
      for (int v = 0; v < kPanelVecs; ++v) {
        factors_.put(g, v, wide[v] * splat(0.5f * kE4m3Factor), added_to(Codes::seven_bits) + (float)kE2m1Zero);
      }
    }
  }
  template <typename Sink>
  inline __attribute__((always_inline)) bool decode(int64_t k, const Sink& sink) {
    const __m256i values = _mm256_broadcastsi128_si256(_mm_load_si128((const __m128i*)doubled_));
    codes_.load<false>(k, [values](__m256i codes) { return _mm256_shuffle_epi8(values, codes); });
    codes_.decode<Codes::seven_bits>(k, factors_.at(k / 16), sink);
    return true;
  }

 private:
  FourBitCodes codes_;
  BlockFactors factors_;
  alignas(16) int8_t doubled_[16];  // twice the value of each code, made positive
};

// Codes of E4M3 and powers of two.
class Mxfp8Steps {
 public:
  Mxfp8Steps(const WeightMatrix& w, int64_t n0, int64_t k0, int64_t count) : codes_(w, n0, k0, count) {
    const ScaleRows rows(w, n0, k0 / 32, count / 32);
    const StepCodes<Order::quarters> scales(rows, 0);
    const __m256i zeros = _mm256_setzero_si256();
    VecI too_large{};
#pragma GCC unroll 8
    for (int g = 0; g < 8; ++g) {
#pragma GCC unroll 2
      for (int s = 0; s < kSixteens; ++s) {  // the code is the exponent
        const __m256i words = _mm256_srli_epi16(scales.high(s, g), 1);
        put((__m256)_mm256_unpacklo_epi16(zeros, words), (__m256)_mm256_unpackhi_epi16(zeros, words),
            scale_[g] + s * kVecsOfSixteen);
      }
#pragma GCC unroll 2
      for (int v = 0; v < kPanelVecs; ++v) {
        scale_[g][v] *= splat(kE4m3Factor);
        too_large |= scale_[g][v] > splat(0x1.fffffep127f);
      }
    }
    fits_ = !any(too_large);
  }
  template <typename Sink>
  inline __attribute__((always_inline)) bool decode(int64_t k, const Sink& sink) {
    const Vec* scale = scale_[k / 32];
    return fits_ && codes_.decode(k, [&sink, scale](int64_t i, const Vec* codes) __attribute__((always_inline)) {
      Vec vecs[kPanelVecs];
#pragma GCC unroll 2
      for (int v = 0; v < kPanelVecs; ++v) vecs[v] = codes[v] * scale[v];
      sink(i, vecs);
    });
  }

 private:
  E4m3Steps codes_;
  Vec scale_[kDepthBlock / 32][kPanelVecs];  // times what the decoded codes lack
  bool fits_;                                // they are finite
};

// Calls action.operator()<Steps>() with those of a format. kPacked: of formats after int4, too.
template <bool kPacked, typename Action>
inline __attribute__((always_inline)) void with_steps(WeightFormat format, const Action& action) {
  switch (format) {
    case WeightFormat::f32:
      return action.template operator()<F32Steps>();
    case WeightFormat::f16:
      return action.template operator()<HalfSteps<false>>();
    case WeightFormat::bf16:
      return action.template operator()<HalfSteps<true>>();
    case WeightFormat::e4m3:
      return action.template operator()<E4m3Steps>();
    case WeightFormat::int8:
      return action.template operator()<Int8Steps>();
    case WeightFormat::int4:
      return action.template operator()<Int4Steps>();
    default:
      break;
  }
  if constexpr (kPacked) {
    switch (format) {
      case WeightFormat::int8_rows:
        return action.template operator()<Int8RowSteps>();
      case WeightFormat::q8_0:
        return action.template operator()<PackedSteps<Q8_0Block>>();
      case WeightFormat::q4_k:
        return action.template operator()<PackedSteps<K45Block<false>>>();
      case WeightFormat::q5_k:
        return action.template operator()<PackedSteps<K45Block<true>>>();
      case WeightFormat::q6_k:
        return action.template operator()<PackedSteps<Q6KBlock>>();
      case WeightFormat::nvfp4:
        return action.template operator()<Nvfp4Steps>();
      case WeightFormat::mxfp8:
        return action.template operator()<Mxfp8Steps>();
      case WeightFormat::w4a8:
        return action.template operator()<PackedSteps<W4a8Block>>();
      default:
        __builtin_unreachable();
    }
  }
}

#endif

}  // namespace ltx2rt::cpu::LTX2RT_ISA
