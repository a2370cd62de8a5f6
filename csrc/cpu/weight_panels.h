// Expansion of weight rows of every stored format into float32 vectors across columns, for *_simd.cpp files.
#pragma once

#include "csrc/cpu/linear_kernels.h"
#include "csrc/cpu/simd.h"

namespace ltx2rt::cpu::LTX2RT_ISA {

constexpr int kPanelVecs = 2;
constexpr int64_t kPanelColumns = kPanelVecs * kLanes;
static_assert(kPanelColumns <= kMaxPanelColumns);

// float16 bits of 2^-8 times the E4M3 value: the exponent field moves by one bit less than the bias asks for.
inline F16 e4m3_as_f16(uint8_t code) {
  const uint32_t magnitude = code & 0x7f;
  return {(uint16_t)((magnitude == 0x7f ? 0x7e00 : magnitude << 7) | (uint32_t)(code & 0x80) << 8)};
}

// Scale and zero of the panel's columns in one group.
struct GroupVecs {
  Vec scale[kPanelVecs];
  Vec zero[kPanelVecs];
};

inline GroupVecs load_group(const WeightMatrix& w, int64_t n0, int64_t group) {
  float scale[kPanelColumns] = {}, zero[kPanelColumns] = {};
  const int64_t valid = w.columns - n0 < kPanelColumns ? w.columns - n0 : kPanelColumns;
  const auto gather = [&](const void* from, float* to) {
    with_type(w.group_type, from, [&](auto* values) {
      for (int64_t n = 0; n < valid; ++n) to[n] = to_float(values[(n0 + n) * w.groups + group]);
    });
  };
  gather(w.scale, scale);
  gather(w.zero, zero);
  GroupVecs vecs;
  for (int v = 0; v < kPanelVecs; ++v) {
    vecs.scale[v] = load(scale + v * kLanes);
    vecs.zero[v] = load(zero + v * kLanes);
  }
  return vecs;
}

// Weights (n, k0 + i) for i < count, as the vectors below have them.
inline void decode_row(const WeightMatrix& w, int64_t n, int64_t k0, int64_t count, float* out) {
  const char* row = (const char*)w.values + n * w.row_bytes;
  const auto widen = [&](auto* values) {
    for (int64_t i = 0; i < count; ++i) out[i] = to_float(values[k0 + i]);
  };
  switch (w.format) {
    case WeightFormat::f32:
      return widen((const float*)row);
    case WeightFormat::f16:
      return widen((const F16*)row);
    case WeightFormat::bf16:
      return widen((const BF16*)row);
    case WeightFormat::e4m3:
      for (int64_t i = 0; i < count; ++i) out[i] = to_float(e4m3_as_f16((uint8_t)row[k0 + i]));
      return;
    case WeightFormat::int8:
    case WeightFormat::int4:
      break;
  }
  const uint8_t* codes = (const uint8_t*)row;
  with_type(w.group_type, w.scale, [&](auto* scales) {
    const auto* zeros = (decltype(scales))w.zero;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t k = k0 + i;
      const int64_t at = n * w.groups + k / w.group_size;
      const int code = w.format == WeightFormat::int8 ? codes[k] : codes[k / 2] >> 4 * (k % 2) & 15;
      out[i] = (float)code * to_float(scales[at]) + to_float(zeros[at]);
    }
  });
}

// Calls sink(k, vecs) for rows [first, last) of the panel (k relative to k0), without wide instructions.
template <typename Sink>
inline void expand_slowly(const WeightMatrix& w, int64_t n0, int64_t k0, int64_t first, int64_t last,
                          const Sink& sink) {
  constexpr int64_t kPiece = 32;
  float rows[kPanelColumns][kPiece] = {};
  const int64_t valid = w.columns - n0 < kPanelColumns ? w.columns - n0 : kPanelColumns;
  for (int64_t k = first; k < last; k += kPiece) {
    const int64_t count = last - k < kPiece ? last - k : kPiece;
    for (int64_t n = 0; n < valid; ++n) decode_row(w, n0 + n, k0 + k, count, rows[n]);
    for (int64_t i = 0; i < count; ++i) {
      float across[kPanelColumns];
      for (int64_t n = 0; n < kPanelColumns; ++n) across[n] = rows[n][i];
      Vec vecs[kPanelVecs];
      for (int v = 0; v < kPanelVecs; ++v) vecs[v] = load(across + v * kLanes);
      sink(k + i, vecs);
    }
  }
}

#if defined(__AVX2__)

// The instructions below work on 16 columns: this many times for a panel.
constexpr int kSixteens = kPanelColumns / 16;
constexpr int kVecsOfSixteen = 16 / kLanes;

// 16 floats of two registers as vectors.
inline void put(__m256 low, __m256 high, Vec* vecs) {
#if LTX2RT_LANES == 16
  vecs[0] = join(low, high);
#else
  vecs[0] = low;
  vecs[1] = high;
#endif
}

// One depth block of the rows of a panel, copied side by side: in W they are often a power of two apart and would push
// each other out of the cache. Columns beyond N repeat the last one, whose sums nobody reads.
class PanelRows {
 public:
  // Rows from byte `first` on, `bytes` of each (at most kDepthBlock float32).
  PanelRows(const WeightMatrix& w, int64_t n0, int64_t first, int64_t bytes) {
    for (int64_t n = 0; n < kPanelColumns; ++n) {
      const int64_t at = n0 + n < w.columns ? n0 + n : w.columns - 1;
      const char* from = (const char*)w.values + at * w.row_bytes + first;
      next_[n] = from + bytes;
      char* to = copy_[n];
      int64_t i = 0;
      for (; i + 32 <= bytes; i += 32) {
        _mm256_store_si256((__m256i*)(to + i), _mm256_loadu_si256((const __m256i*)(from + i)));
      }
      memcpy(to + i, from + i, (size_t)(bytes - i));
    }
  }
  const char* operator[](int64_t n) const { return copy_[n]; }
  char* operator[](int64_t n) { return copy_[n]; }

  // Fetches what the next depth block will copy, a little with every eight k so that memory is never idle: kLines cache
  // lines for every 16 columns, which is two for every byte of a weight.
  template <int kLines>
  void fetch_ahead(int64_t k) const {
    static_assert(16 % kLines == 0);
    const uint64_t done = (uint64_t)k / 8 * kLines;
    const uint64_t offset = done / 16 * 64;
#pragma GCC unroll 2
    for (int s = 0; s < kSixteens; ++s) {
      const char* const* next = next_ + 16 * s + done % 16;
#pragma GCC unroll 8
      for (int i = 0; i < kLines; ++i) _mm_prefetch(next[i] + offset, _MM_HINT_T0);
    }
  }

 private:
  alignas(64) char copy_[kPanelColumns][4 * kDepthBlock + 64];
  const char* next_[kPanelColumns];
};

// 8 x 8 words transposed in each half: from two columns with eight k each to eight columns a half with one k each.
inline void transpose_words(__m256i r[8]) {
  __m256i a[8], b[8];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    a[2 * i] = _mm256_unpacklo_epi16(r[2 * i], r[2 * i + 1]);
    a[2 * i + 1] = _mm256_unpackhi_epi16(r[2 * i], r[2 * i + 1]);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    b[4 * i] = _mm256_unpacklo_epi32(a[4 * i], a[4 * i + 2]);
    b[4 * i + 1] = _mm256_unpackhi_epi32(a[4 * i], a[4 * i + 2]);
    b[4 * i + 2] = _mm256_unpacklo_epi32(a[4 * i + 1], a[4 * i + 3]);
    b[4 * i + 3] = _mm256_unpackhi_epi32(a[4 * i + 1], a[4 * i + 3]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    r[2 * i] = _mm256_unpacklo_epi64(b[i], b[i + 4]);
    r[2 * i + 1] = _mm256_unpackhi_epi64(b[i], b[i + 4]);
  }
}

// Which columns the two halves of the vectors above hold. `halves`: 0-7 and 8-15, for conversions that take one half.
// `quarters`: 0-3, 8-11 and 4-7, 12-15, so that unpacking low and high words of each half gives columns 0-7 and 8-15.
enum class Order { halves, quarters };
template <Order kOrder>
constexpr int low_column(int i) {
  return kOrder == Order::quarters && i >= 4 ? i + 4 : i;
}
template <Order kOrder>
constexpr int high_column(int i) {
  return kOrder == Order::quarters && i < 4 ? i + 4 : i + 8;
}

// Sixteen codes of the columns [n, n + 16), transposed: r[i] holds k = 2i and, eight bytes further, 2i + 1 of eight
// columns a half.
template <Order kOrder>
inline void load_codes(const PanelRows& rows, int64_t n, int64_t at, __m256i r[8]) {
  __m256i a[8], b[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    const __m128i low = _mm_load_si128((const __m128i*)(rows[n + low_column<kOrder>(i)] + at));
    const __m128i high = _mm_load_si128((const __m128i*)(rows[n + high_column<kOrder>(i)] + at));
    r[i] = _mm256_set_m128i(high, low);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    a[2 * i] = _mm256_unpacklo_epi8(r[2 * i], r[2 * i + 1]);
    a[2 * i + 1] = _mm256_unpackhi_epi8(r[2 * i], r[2 * i + 1]);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    b[4 * i] = _mm256_unpacklo_epi16(a[4 * i], a[4 * i + 2]);
    b[4 * i + 1] = _mm256_unpackhi_epi16(a[4 * i], a[4 * i + 2]);
    b[4 * i + 2] = _mm256_unpacklo_epi16(a[4 * i + 1], a[4 * i + 3]);
    b[4 * i + 3] = _mm256_unpackhi_epi16(a[4 * i + 1], a[4 * i + 3]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    r[2 * i] = _mm256_unpacklo_epi32(b[i], b[i + 4]);
    r[2 * i + 1] = _mm256_unpackhi_epi32(b[i], b[i + 4]);
  }
}

template <Order kOrder>
inline void load_words(const PanelRows& rows, int64_t n, int64_t at, __m256i r[8]) {
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    const __m128i low = _mm_loadu_si128((const __m128i*)(rows[n + low_column<kOrder>(i)] + at));
    const __m128i high = _mm_loadu_si128((const __m128i*)(rows[n + high_column<kOrder>(i)] + at));
    r[i] = _mm256_set_m128i(high, low);
  }
}

// The float16 bits of 16 columns of one k, in order.
inline void put_f16(__m256i words, Vec* vecs) {
#if LTX2RT_LANES == 16
  vecs[0] = widen_f16((VecH)words);
#else
  vecs[0] = widen_f16((VecH)_mm256_castsi256_si128(words));
  vecs[1] = widen_f16((VecH)_mm256_extracti128_si256(words, 1));
#endif
}

template <typename Sink>
inline int64_t expand_f16(const WeightMatrix& w, int64_t n0, int64_t k0, int64_t count, const Sink& sink) {
  const PanelRows rows(w, n0, 2 * k0, 2 * count);
  int64_t k = 0;
  for (; k + 8 <= count; k += 8) {
    rows.fetch_ahead<4>(k);
    __m256i r[kSixteens][8];
#pragma GCC unroll 2
    for (int s = 0; s < kSixteens; ++s) {
      load_words<Order::halves>(rows, 16 * s, 2 * k, r[s]);
      transpose_words(r[s]);
    }
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      Vec vecs[kPanelVecs];
#pragma GCC unroll 2
      for (int s = 0; s < kSixteens; ++s) put_f16(r[s][i], vecs + s * kVecsOfSixteen);
      sink(k + i, vecs);
    }
  }
  return k;
}

template <typename Sink>
inline int64_t expand_bf16(const WeightMatrix& w, int64_t n0, int64_t k0, int64_t count, const Sink& sink) {
  const PanelRows rows(w, n0, 2 * k0, 2 * count);
  const __m256i zeros = _mm256_setzero_si256();
  int64_t k = 0;
  for (; k + 8 <= count; k += 8) {
    rows.fetch_ahead<4>(k);
    __m256i r[kSixteens][8];
#pragma GCC unroll 2
    for (int s = 0; s < kSixteens; ++s) {
      load_words<Order::quarters>(rows, 16 * s, 2 * k, r[s]);
      transpose_words(r[s]);
    }
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      Vec vecs[kPanelVecs];
#pragma GCC unroll 2
      for (int s = 0; s < kSixteens; ++s) {
        put((__m256)_mm256_unpacklo_epi16(zeros, r[s][i]), (__m256)_mm256_unpackhi_epi16(zeros, r[s][i]),
            vecs + s * kVecsOfSixteen);
      }
      sink(k + i, vecs);
    }
  }
  return k;
}

// float16 bits (see e4m3_as_f16) of codes in the high bytes of words, which are not NaN.
inline __m256i e4m3_words_as_f16(__m256i w) {
  const __m256i magnitude = _mm256_and_si256(_mm256_srli_epi16(w, 1), _mm256_set1_epi16(0x3f80));
  return _mm256_or_si256(magnitude, _mm256_and_si256(w, _mm256_set1_epi16((short)0x8000)));
}

template <typename Sink>
inline int64_t expand_e4m3(const WeightMatrix& w, int64_t n0, int64_t k0, int64_t count, const Sink& sink) {
  const PanelRows rows(w, n0, k0, count);
  const __m256i zeros = _mm256_setzero_si256();
  int64_t k = 0;
  for (; k + 16 <= count; k += 16) {
    rows.fetch_ahead<2>(k);
    rows.fetch_ahead<2>(k + 8);
    __m256i r[kSixteens][8];
    __m256i largest = zeros;
#pragma GCC unroll 2
    for (int s = 0; s < kSixteens; ++s) {
      load_codes<Order::halves>(rows, 16 * s, k, r[s]);
#pragma GCC unroll 8
      for (int i = 0; i < 8; ++i) largest = _mm256_max_epu8(largest, _mm256_or_si256(r[s][i], _mm256_set1_epi8(-128)));
    }
    if (_mm256_movemask_epi8(_mm256_cmpeq_epi8(largest, _mm256_set1_epi8(-1))) != 0) {  // a NaN, 0x7f or 0xff
      expand_slowly(w, n0, k0, k, k + 16, sink);
      continue;
    }
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      Vec even[kPanelVecs], odd[kPanelVecs];
#pragma GCC unroll 2
      for (int s = 0; s < kSixteens; ++s) {
        put_f16(e4m3_words_as_f16(_mm256_unpacklo_epi8(zeros, r[s][i])), even + s * kVecsOfSixteen);
        put_f16(e4m3_words_as_f16(_mm256_unpackhi_epi8(zeros, r[s][i])), odd + s * kVecsOfSixteen);
      }
      sink(k + 2 * i, even);
      sink(k + 2 * i + 1, odd);
    }
  }
  return k;
}

// [columns 0-7 or 8-15][k] of 16 columns from n on and eight k.
inline void load_floats_across(const PanelRows& rows, int64_t n, int64_t k, __m256 halves[2][8]) {
#pragma GCC unroll 4
  for (int part = 0; part < 4; ++part) {  // 8 columns by 4 values of k
    const int half = part / 2, first = 4 * (part % 2);
    __m256 a[4], b[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const float* low = (const float*)rows[n + 8 * half + i] + k + first;
      const float* high = (const float*)rows[n + 8 * half + i + 4] + k + first;
      a[i] = _mm256_set_m128(_mm_loadu_ps(high), _mm_loadu_ps(low));
    }
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      b[2 * i] = _mm256_unpacklo_ps(a[2 * i], a[2 * i + 1]);
      b[2 * i + 1] = _mm256_unpackhi_ps(a[2 * i], a[2 * i + 1]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      halves[half][first + 2 * i] = _mm256_shuffle_ps(b[i], b[i + 2], 0x44);
      halves[half][first + 2 * i + 1] = _mm256_shuffle_ps(b[i], b[i + 2], 0xee);
    }
  }
}

// Also for other words of four bytes: no bit changes.
template <typename Sink>
inline int64_t expand_f32(const WeightMatrix& w, int64_t n0, int64_t k0, int64_t count, const Sink& sink) {
  const PanelRows rows(w, n0, 4 * k0, 4 * count);
  int64_t k = 0;
  for (; k + 8 <= count; k += 8) {
    rows.fetch_ahead<8>(k);
    __m256 halves[kSixteens][2][8];
#pragma GCC unroll 2
    for (int s = 0; s < kSixteens; ++s) load_floats_across(rows, 16 * s, k, halves[s]);
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      Vec vecs[kPanelVecs];
#pragma GCC unroll 2
      for (int s = 0; s < kSixteens; ++s) put(halves[s][0][i], halves[s][1][i], vecs + s * kVecsOfSixteen);
      sink(k + i, vecs);
    }
  }
  return k;
}

// Codes of 0..255 of one k in words of 16 columns in `quarters`, as floats.
inline void put_codes(__m256i words, Vec* vecs) {
  const __m256i zeros = _mm256_setzero_si256();
  put(_mm256_cvtepi32_ps(_mm256_unpacklo_epi16(words, zeros)), _mm256_cvtepi32_ps(_mm256_unpackhi_epi16(words, zeros)),
      vecs);
}

// Rows of codes, a byte each. Group sizes are multiples of 32, so count is one.
template <typename Sink>
inline int64_t expand_affine(const WeightMatrix& w, const PanelRows& rows, int64_t n0, int64_t k0, int64_t count,
                             const Sink& sink) {
  const __m256i zeros = _mm256_setzero_si256();
  for (int64_t first = 0; first < count; first += w.group_size) {
    const GroupVecs group = load_group(w, n0, (k0 + first) / w.group_size);
    const int64_t last = first + w.group_size < count ? first + w.group_size : count;
    for (int64_t k = first; k < last; k += 16) {
      rows.fetch_ahead<2>(k);
      rows.fetch_ahead<2>(k + 8);
      __m256i r[kSixteens][8];
#pragma GCC unroll 2
      for (int s = 0; s < kSixteens; ++s) load_codes<Order::quarters>(rows, 16 * s, k, r[s]);
#pragma GCC unroll 8
      for (int i = 0; i < 8; ++i) {
        Vec even[kPanelVecs], odd[kPanelVecs];
#pragma GCC unroll 2
        for (int s = 0; s < kSixteens; ++s) {
          put_codes(_mm256_unpacklo_epi8(r[s][i], zeros), even + s * kVecsOfSixteen);
          put_codes(_mm256_unpackhi_epi8(r[s][i], zeros), odd + s * kVecsOfSixteen);
        }
#pragma GCC unroll 2
        for (int v = 0; v < kPanelVecs; ++v) {
          even[v] = fma(even[v], group.scale[v], group.zero[v]);
          odd[v] = fma(odd[v], group.scale[v], group.zero[v]);
        }
        sink(k + 2 * i, even);
        sink(k + 2 * i + 1, odd);
      }
    }
  }
  return count;
}

template <typename Sink>
inline int64_t expand_int4(const WeightMatrix& w, int64_t n0, int64_t k0, int64_t count, const Sink& sink) {
  PanelRows rows(w, n0, k0 / 2, count / 2);
  // One byte per code, last ones first because they are spread in place; group sizes make count a multiple of 32.
  const __m128i mask = _mm_set1_epi8(15);
  for (int n = 0; n < kPanelColumns; ++n) {
    char* row = rows[n];
    for (int64_t k = count - 16; k >= 0; k -= 16) {
      const __m128i pairs = _mm_loadl_epi64((const __m128i*)(row + k / 2));
      const __m128i even = _mm_and_si128(pairs, mask);
      const __m128i odd = _mm_and_si128(_mm_srli_epi16(pairs, 4), mask);
      _mm_store_si128((__m128i*)(row + k), _mm_unpacklo_epi8(even, odd));
    }
  }
  return expand_affine(w, rows, n0, k0, count, sink);
}

template <typename Sink>
inline int64_t expand_fast(const WeightMatrix& w, int64_t n0, int64_t k0, int64_t count, const Sink& sink) {
  switch (w.format) {
    case WeightFormat::f32:
      return expand_f32(w, n0, k0, count, sink);
    case WeightFormat::f16:
      return expand_f16(w, n0, k0, count, sink);
    case WeightFormat::bf16:
      return expand_bf16(w, n0, k0, count, sink);
    case WeightFormat::e4m3:
      return expand_e4m3(w, n0, k0, count, sink);
    case WeightFormat::int8:
      return expand_affine(w, PanelRows(w, n0, k0, count), n0, k0, count, sink);
    case WeightFormat::int4:
      return expand_int4(w, n0, k0, count, sink);
  }
  return 0;
}

#else

template <typename Sink>
inline int64_t expand_fast(const WeightMatrix&, int64_t, int64_t, int64_t, const Sink&) {
  return 0;
}

#endif

// Calls sink(k, vecs) for k in [0, count): vecs are the weights (n0 + lane, k0 + k) of one panel.
template <typename Sink>
inline void expand(const WeightMatrix& w, int64_t n0, int64_t k0, int64_t count, const Sink& sink) {
  expand_slowly(w, n0, k0, expand_fast(w, n0, k0, count, sink), count, sink);
}

#ifdef LTX2RT_BF16_DOT

// The bfloat16 of each lane in the low half of a word.
template <bool kExact>
inline VecU bf16_words(Vec values) {
  if constexpr (kExact) return (VecU)values >> 16;
  return __builtin_convertvector(narrow_bf16(values), VecU);
}

// Calls sink(k / 2, words) for even k in [0, count), whose words hold the bfloat16 bits of (n0 + lane, k0 + k) in their
// low half and those of k + 1 in their high half, zero for k + 1 == count. Values of affine formats are rounded, those
// of bf16 and e4m3 need not be.
template <bool kExact, typename Sink>
inline void expand_pairs_of(const WeightMatrix& w, int64_t n0, int64_t k0, int64_t count, const Sink& sink) {
  VecI pairs[kPanelVecs] = {};
  const auto pair_up = [&](int64_t k, const Vec* vecs) __attribute__((always_inline)) {
    if (k % 2 == 0) {
      for (int v = 0; v < kPanelVecs; ++v) pairs[v] = (VecI)bf16_words<kExact>(vecs[v]);
    } else {
      for (int v = 0; v < kPanelVecs; ++v) pairs[v] |= (VecI)(bf16_words<kExact>(vecs[v]) << 16);
      sink(k / 2, pairs);
    }
  };
  int64_t done = 0;
#if defined(__AVX2__)
  if (w.format == WeightFormat::bf16 && k0 % 2 == 0) {  // the pairs lie in the rows as they are
    done = 2 * expand_f32(w, n0, k0 / 2, count / 2, [&sink](int64_t row, const Vec* vecs) {
      VecI words[kPanelVecs];
      for (int v = 0; v < kPanelVecs; ++v) words[v] = bits_of(vecs[v]);
      sink(row, words);
    });
  } else if (w.format != WeightFormat::bf16) {
    done = expand_fast(w, n0, k0, count, pair_up);
  }
#endif
  expand_slowly(w, n0, k0, done, count, pair_up);
  if (count % 2 != 0) sink(count / 2, pairs);
}

template <typename Sink>
inline void expand_pairs(const WeightMatrix& w, int64_t n0, int64_t k0, int64_t count, const Sink& sink) {
  if (w.format == WeightFormat::bf16 || w.format == WeightFormat::e4m3) {
    expand_pairs_of<true>(w, n0, k0, count, sink);
  } else {
    expand_pairs_of<false>(w, n0, k0, count, sink);
  }
}

#endif

#if defined(__AVX512BF16__) && defined(__AVX512VBMI__)
#define LTX2RT_WIDE_PAIRS

// The masks of all ones spare GCC 12 a warning about its own header.
constexpr __mmask64 kAll = ~(__mmask64)0;
// How far ahead of the loads rows are fetched: memory takes about 100 ns, in which a core reads about 2 KiB.
constexpr int64_t kAheadBytes = 512;

// 16 x 16 words of four bytes transposed.
inline __attribute__((always_inline)) void transpose_words(__m512i r[16]) {
  __m512i a[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    a[i] = _mm512_maskz_unpacklo_epi32(0xffff, r[i], r[i + 1]);
    a[i + 1] = _mm512_maskz_unpackhi_epi32(0xffff, r[i], r[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_maskz_unpacklo_epi64(0xff, a[i], a[i + 2]);
    r[i + 1] = _mm512_maskz_unpackhi_epi64(0xff, a[i], a[i + 2]);
    r[i + 2] = _mm512_maskz_unpacklo_epi64(0xff, a[i + 1], a[i + 3]);
    r[i + 3] = _mm512_maskz_unpackhi_epi64(0xff, a[i + 1], a[i + 3]);
  }
  // r[4 q + j] holds in its lane l (of 128 bits) the words 4 l + j of the rows 4 q to 4 q + 3.
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    a[j] = _mm512_maskz_shuffle_i32x4(0xffff, r[j], r[4 + j], 0x44);
    a[4 + j] = _mm512_maskz_shuffle_i32x4(0xffff, r[j], r[4 + j], 0xee);
    a[8 + j] = _mm512_maskz_shuffle_i32x4(0xffff, r[8 + j], r[12 + j], 0x44);
    a[12 + j] = _mm512_maskz_shuffle_i32x4(0xffff, r[8 + j], r[12 + j], 0xee);
  }
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    r[j] = _mm512_maskz_shuffle_i32x4(0xffff, a[j], a[8 + j], 0x88);
    r[4 + j] = _mm512_maskz_shuffle_i32x4(0xffff, a[j], a[8 + j], 0xdd);
    r[8 + j] = _mm512_maskz_shuffle_i32x4(0xffff, a[4 + j], a[12 + j], 0x88);
    r[12 + j] = _mm512_maskz_shuffle_i32x4(0xffff, a[4 + j], a[12 + j], 0xdd);
  }
}

// E4M3 codes as bfloat16 by table: its low and its high bytes for the codes 0 to 127, looked up with the sign left out.
struct E4m3Table {
  __m512i low[2], high[2];

  E4m3Table() {
    alignas(64) uint8_t bytes[2][128];
    for (int code = 0; code < 128; ++code) {
      BF16 value;
      from_float(to_float(e4m3_as_f16((uint8_t)code)), value);
      bytes[0][code] = (uint8_t)value.bits;
      bytes[1][code] = (uint8_t)(value.bits >> 8);
    }
    for (int i = 0; i < 2; ++i) {
      low[i] = _mm512_load_si512(bytes[0] + 64 * i);
      high[i] = _mm512_load_si512(bytes[1] + 64 * i);
    }
  }

  // Four codes of each of 16 columns as two words of pairs.
  inline __attribute__((always_inline)) void expand(__m512i codes, __m512i* first, __m512i* second) const {
    // In each lane the codes 0 and 1 of its four columns, then 2 and 3: unpacking then keeps the columns in order.
    const __m512i order = _mm512_set4_epi32(0x0f0e0b0a, 0x07060302, 0x0d0c0908, 0x05040100);
    codes = _mm512_maskz_shuffle_epi8(kAll, codes, order);
    const __m512i lows = _mm512_permutex2var_epi8(low[0], codes, low[1]);
    __m512i highs = _mm512_permutex2var_epi8(high[0], codes, high[1]);
    highs = _mm512_ternarylogic_epi32(highs, codes, _mm512_set1_epi8(-128), 0xf8);  // highs | (codes & 0x80)
    *first = _mm512_maskz_unpacklo_epi8(kAll, lows, highs);
    *second = _mm512_maskz_unpackhi_epi8(kAll, lows, highs);
  }
};

// Calls put(v, word, row, left) for the words of four bytes of a panel, 16 columns in vector v of it. A word holds
// kValues values from pair `row` on; `left` says how many of them and their followers are wanted. Every cache line of a
// row of W is loaded once and whole, since rows a power of two apart would push each other out of the first-level cache.
// Fetches the lines that follow if asked to.
template <int kValues, bool kFetch, typename Put>
inline __attribute__((always_inline)) void transpose_lines(const WeightMatrix& w, int64_t n0, int64_t k0, int64_t count,
                                                           const Put& put) {
  const int64_t first = k0 * 4 / kValues;
  const char* rows[kPanelColumns];
  for (int i = 0; i < kPanelColumns; ++i) {
    rows[i] = (const char*)w.values + (n0 + i < w.columns ? n0 + i : w.columns - 1) * w.row_bytes + first;
  }
  // Lines of the next columns follow the last ones of these.
  const int64_t in_row = w.row_bytes - first, next_columns = (kPanelColumns - 1) * w.row_bytes;
  constexpr int kPairs = kValues / 2;
  int64_t row = 0, at = 0, left = count;
  // Four lines of a row are copied at once: a row that does not start on a cache line would otherwise need every line
  // twice, which the other rows have driven out in between.
  constexpr int kLines = 4;
  const auto load_lines = [&](int v, __m512i (*lines)[16]) __attribute__((always_inline)) {
    for (int i = 0; i < 16; ++i) {
      const char* from = rows[16 * v + i];
#pragma GCC unroll 4
      for (int line = 0; line < kLines; ++line) lines[line][i] = _mm512_loadu_si512(from + at + 64 * line);
    }
  };
  const auto transpose = [](const __m512i* line, __m512i words[16]) __attribute__((always_inline)) {
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) words[i] = line[i];
    transpose_words(words);
  };
  const auto whole_lines = [&](int v) __attribute__((always_inline)) {
    __m512i lines[kLines][16];
    load_lines(v, lines);
    for (int line = 0; line < kLines; ++line) {
      __m512i words[16];
      transpose(lines[line], words);
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) put(v, words[i], row + line * 16 * kPairs + i * kPairs, kValues);
    }
  };
  // Both vectors word by word: what is summed up at once is then two chains, not one whose latency everything waits for.
  const auto whole_lines_of_both = [&]() __attribute__((always_inline)) {
    const int64_t ahead = at + kAheadBytes < in_row ? at + kAheadBytes : at + kAheadBytes + next_columns;
    __m512i lines[2][kLines][16];
    load_lines(0, lines[0]);
    load_lines(1, lines[1]);
    for (int line = 0; line < kLines; ++line) {
      __m512i words[16];
      transpose(lines[0][line], words);
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) lines[0][line][i] = words[i];
      transpose(lines[1][line], words);
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) {
        // One by one: a processor drops what is asked for all at once.
        _mm_prefetch(rows[i] + ahead + 64 * line, _MM_HINT_T1);
        _mm_prefetch(rows[16 + i] + ahead + 64 * line, _MM_HINT_T1);
        const int64_t pair = row + line * 16 * kPairs + i * kPairs;
        put(0, lines[0][line][i], pair, kValues);
        put(1, words[i], pair, kValues);
      }
    }
  };
  // Zeros fill up the last line; apart, so that the array above stays in registers.
  const auto last_line = [&](int v) __attribute__((always_inline)) {
    const __mmask64 rest = left >= 16 * kValues ? kAll : ((__mmask64)1 << (left * 4 / kValues)) - 1;
    __m512i words[16];
    for (int i = 0; i < 16; ++i) words[i] = _mm512_maskz_loadu_epi8(rest, rows[16 * v + i] + at);
    transpose_words(words);
    for (int64_t i = 0; i < 16 && i * kValues < left; ++i) put(v, words[i], row + i * kPairs, left - i * kValues);
  };
  // Written out, not as loops: a vector of sums indexed by v then stays in its register.
  static_assert(kPanelVecs == 2);
  for (; left >= kLines * 16 * kValues; left -= kLines * 16 * kValues, row += kLines * 16 * kPairs, at += kLines * 64) {
    if constexpr (kFetch) {
      whole_lines_of_both();
    } else {
      whole_lines(0);
      whole_lines(1);
    }
  }
  for (; left > 0; left -= 16 * kValues, row += 16 * kPairs, at += 64) {
    last_line(0);
    last_line(1);
  }
}

// Scale and zero of 16 columns in one group.
struct WideGroup {
  __m512 scale, zero;
};
__attribute__((noinline)) inline WideGroup load_wide_group(const WeightMatrix& w, int64_t n0, int64_t group) {
  float scale[16] = {}, zero[16] = {};
  const int64_t valid = w.columns - n0 < 16 ? w.columns - n0 : 16;
  with_type(w.group_type, w.scale, [&](auto* scales) {
    const auto* zeros = (decltype(scales))w.zero;
    for (int64_t n = 0; n < valid; ++n) {
      scale[n] = to_float(scales[(n0 + n) * w.groups + group]);
      zero[n] = to_float(zeros[(n0 + n) * w.groups + group]);
    }
  });
  return {load(scale), load(zero)};
}

// Rows of codes of kBits each. Group sizes are multiples of 32, so k0 and count are.
template <int kBits, bool kFetch, typename Sink>
inline __attribute__((always_inline)) void expand_wide_codes(const WeightMatrix& w, int64_t n0, int64_t k0,
                                                             int64_t count, const Sink& sink) {
  typedef int16_t Order __attribute__((vector_size(64)));
  constexpr Order kInterleaved = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                  8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  constexpr int kValues = 32 / kBits, kMask = (1 << kBits) - 1;
  WideGroup groups[kPanelVecs] = {};
  int64_t next_group[kPanelVecs] = {};  // in pairs
  transpose_lines<kValues, kFetch>(w, n0, k0, count, [&](int v, __m512i word, int64_t row, int64_t)
                                                 __attribute__((always_inline)) {
    if (row == next_group[v]) {
      groups[v] = load_wide_group(w, n0 + 16 * v, (k0 + 2 * row) / w.group_size);
      next_group[v] += (w.group_size - (k0 + 2 * row) % w.group_size) / 2;
    }
#pragma GCC unroll 4
    for (int i = 0; i < kValues / 2; ++i) {
      Vec pair[2];
#pragma GCC unroll 2
      for (int j = 0; j < 2; ++j) {
        const VecI codes = (VecI)((VecU)word >> kBits * (2 * i + j)) & kMask;
        pair[j] = fma(__builtin_convertvector(codes, Vec), groups[v].scale, groups[v].zero);
      }
      // The first 16 values, then the second, each lane's two brought together.
      const __m512i halves = (__m512i)_mm512_cvtne2ps_pbh(pair[1], pair[0]);
      sink(row + i, v, (VecI)_mm512_maskz_permutexvar_epi16(~(__mmask32)0, (__m512i)kInterleaved, halves));
    }
  });
}

// expand_pairs with sink(k / 2, vector of the panel, words).
template <bool kFetch, typename Sink>
inline __attribute__((always_inline)) void expand_wide_pairs(const WeightMatrix& w, int64_t n0, int64_t k0,
                                                             int64_t count, const Sink& sink) {
  switch (w.format) {
    case WeightFormat::bf16:
      return transpose_lines<2, kFetch>(w, n0, k0, count, [&](int v, __m512i word, int64_t row, int64_t)
                                                      __attribute__((always_inline)) { sink(row, v, (VecI)word); });
    case WeightFormat::e4m3: {
      static const E4m3Table shared_table;
      const E4m3Table table = shared_table;
      return transpose_lines<4, kFetch>(w, n0, k0, count, [&](int v, __m512i word, int64_t row, int64_t left)
                                                      __attribute__((always_inline)) {
        __m512i first, second;
        table.expand(word, &first, &second);
        sink(row, v, (VecI)first);
        if (left > 2) sink(row + 1, v, (VecI)second);
      });
    }
    case WeightFormat::int8:
      return expand_wide_codes<8, kFetch>(w, n0, k0, count, sink);
    case WeightFormat::int4:
      return expand_wide_codes<4, kFetch>(w, n0, k0, count, sink);
    case WeightFormat::f32:
    case WeightFormat::f16:
      break;
  }
}

#endif

}  // namespace ltx2rt::cpu::LTX2RT_ISA
