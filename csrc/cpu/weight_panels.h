// Expansion of weight rows of every stored format into float32 vectors across columns, for *_simd.cpp files.
#pragma once

#include "csrc/cpu/linear_kernels.h"
#include "csrc/cpu/neon_codes.h"
#include "csrc/cpu/packed_rows.h"
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
    default:
      return decode_packed(w, n, k0, count, out);
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

// One depth block of the rows of a panel as float32.
class DecodedRows {
 public:
  DecodedRows(const WeightMatrix& w, int64_t n0, int64_t k0, int64_t count) {
    for (int64_t n = 0; n < kPanelColumns; ++n) {
      decode_packed(w, n0 + n < w.columns ? n0 + n : w.columns - 1, k0, count, rows_[n]);
    }
  }
  const float* operator[](int64_t n) const { return rows_[n]; }

 private:
  // Rows are no power of two apart, which would push each other out of the cache.
  alignas(64) float rows_[kPanelColumns][kDepthBlock + 16];
};

// [columns 0-7 or 8-15][k] of 16 columns from n on and eight k.
template <typename Rows>
inline void load_floats_across(const Rows& rows, int64_t n, int64_t k, __m256 halves[2][8]) {
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

// Formats that decode_packed reads.
template <typename Sink>
inline int64_t expand_packed(const WeightMatrix& w, int64_t n0, int64_t k0, int64_t count, const Sink& sink) {
  const DecodedRows rows(w, n0, k0, count);
  int64_t k = 0;
  for (; k + 8 <= count; k += 8) {
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
    default:
      return expand_packed(w, n0, k0, count, sink);
  }
}

#elif defined(LTX2RT_NEON)

static_assert(kPanelColumns == 8);

// Where one depth block of the rows of a panel lies. Columns beyond N repeat the last one, whose sums nobody reads.
struct PanelRows {
  // Rows from byte `first` on.
  PanelRows(const WeightMatrix& w, int64_t n0, int64_t first) {
    for (int64_t n = 0; n < kPanelColumns; ++n) {
      at[n] = (const uint8_t*)w.values + (n0 + n < w.columns ? n0 + n : w.columns - 1) * w.row_bytes + first;
    }
  }
  inline __attribute__((always_inline)) void load_codes(int64_t from, uint8x16_t r[8]) const {
#pragma GCC unroll 8
    for (int n = 0; n < 8; ++n) r[n] = vld1q_u8(at[n] + from);
    transpose_codes(r);
  }

  const uint8_t* at[kPanelColumns];
};

// Words of four bytes: sink(word, vecs) for those of [0, count) that come in fours.
template <typename Sink>
inline int64_t expand_f32(const WeightMatrix& w, int64_t n0, int64_t k0, int64_t count, const Sink& sink) {
  const PanelRows rows(w, n0, 4 * k0);
  int64_t k = 0;
  for (; k + 4 <= count; k += 4) {
    uint32x4_t words[8], across[8];
#pragma GCC unroll 8
    for (int n = 0; n < 8; ++n) words[n] = (uint32x4_t)vld1q_u8(rows.at[n] + 4 * k);
    transpose_words(words, across);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const Vec vecs[kPanelVecs] = {(Vec)across[2 * i], (Vec)across[2 * i + 1]};
      sink(k + i, vecs);
    }
  }
  return k;
}

template <typename Sink>
inline int64_t expand_e4m3(const WeightMatrix& w, int64_t n0, int64_t k0, int64_t count, const Sink& sink) {
  const PanelRows rows(w, n0, k0);
  const uint8x16_t zeros = vdupq_n_u8(0);
  int64_t k = 0;
  for (; k + 16 <= count; k += 16) {
    uint8x16_t r[8];
    rows.load_codes(k, r);
    if (has_e4m3_nan(r)) {
      expand_slowly(w, n0, k0, k, k + 16, sink);
      continue;
    }
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      Vec even[kPanelVecs], odd[kPanelVecs];
      e4m3_floats(vzip1q_u8(zeros, r[i]), even);
      e4m3_floats(vzip2q_u8(zeros, r[i]), odd);
      sink(k + 2 * i, even);
      sink(k + 2 * i + 1, odd);
    }
  }
  return k;
}

// Group sizes are multiples of 32, so count is one. put(k, vecs, next vecs): the columns for k and k + 1.
template <int kBits, typename Put>
inline int64_t expand_affine(const WeightMatrix& w, int64_t n0, int64_t k0, int64_t count, const Put& put) {
  const PanelRows rows(w, n0, k0 * kBits / 8);
  for (int64_t first = 0; first < count; first += w.group_size) {
    const GroupVecs group = load_group(w, n0, (k0 + first) / w.group_size);
    const int64_t last = first + w.group_size < count ? first + w.group_size : count;
    const auto put_two = [&](int64_t k, const Vec* even, const Vec* odd) __attribute__((always_inline)) {
      Vec vecs[2][kPanelVecs];
#pragma GCC unroll 2
      for (int v = 0; v < kPanelVecs; ++v) {
        vecs[0][v] = fma(even[v], group.scale[v], group.zero[v]);
        vecs[1][v] = fma(odd[v], group.scale[v], group.zero[v]);
      }
      put(k, vecs[0], vecs[1]);
    };
    constexpr int kStep = 128 / kBits;
    for (int64_t k = first; k < last; k += kStep) {
      uint8x16_t r[8];
      rows.load_codes(k * kBits / 8, r);
#pragma GCC unroll 8
      for (int i = 0; i < 8; ++i) {
        Vec even[kPanelVecs], odd[kPanelVecs];
        if constexpr (kBits == 8) {
          code_floats<0>(r[i], even);
          code_floats<1>(r[i], odd);
          put_two(k + 2 * i, even, odd);
        } else {  // a byte holds two codes
          const uint8x16_t evens = vandq_u8(r[i], vdupq_n_u8(15)), odds = vshrq_n_u8(r[i], 4);
          code_floats<0>(evens, even);
          code_floats<0>(odds, odd);
          put_two(k + 4 * i, even, odd);
          code_floats<1>(evens, even);
          code_floats<1>(odds, odd);
          put_two(k + 4 * i + 2, even, odd);
        }
      }
    }
  }
  return count;
}

template <typename Sink>
inline int64_t expand_fast(const WeightMatrix& w, int64_t n0, int64_t k0, int64_t count, const Sink& sink) {
  const auto both = [&sink](int64_t k, const Vec* even, const Vec* odd) __attribute__((always_inline)) {
    sink(k, even);
    sink(k + 1, odd);
  };
  switch (w.format) {
    case WeightFormat::f32:
      return expand_f32(w, n0, k0, count, sink);
    case WeightFormat::e4m3:
      return expand_e4m3(w, n0, k0, count, sink);
    case WeightFormat::int8:
      return expand_affine<8>(w, n0, k0, count, both);
    case WeightFormat::int4:
      return expand_affine<4>(w, n0, k0, count, both);
    default:
      return 0;
  }
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
#if defined(__AVX2__) || defined(LTX2RT_NEON)
  if (w.format == WeightFormat::bf16 && k0 % 2 == 0) {  // the pairs lie in the rows as they are
    done = 2 * expand_f32(w, n0, k0 / 2, count / 2, [&sink](int64_t row, const Vec* vecs) {
             VecI words[kPanelVecs];
             for (int v = 0; v < kPanelVecs; ++v) words[v] = bits_of(vecs[v]);
             sink(row, words);
           });
  }
#endif
#if defined(__AVX2__)
  if (w.format != WeightFormat::bf16) done = expand_fast(w, n0, k0, count, pair_up);
#elif defined(LTX2RT_NEON)
  // Two rows of eight words at a time.
  const auto zip = [&sink](int64_t k, uint16x8_t words, uint16x8_t next) __attribute__((always_inline)) {
    const VecI zipped[kPanelVecs] = {(VecI)vzip1q_u16(words, next), (VecI)vzip2q_u16(words, next)};
    sink(k / 2, zipped);
  };
  const auto round = [&zip](int64_t k, const Vec* even, const Vec* odd)
                         __attribute__((always_inline)) { zip(k, rounded_words(even), rounded_words(odd)); };
  if (w.format == WeightFormat::e4m3) {
    const PanelRows rows(w, n0, k0);
    for (; done + 16 <= count; done += 16) {
      uint8x16_t r[8];
      rows.load_codes(done, r);
#pragma GCC unroll 8
      for (int i = 0; i < 8; ++i) {
        const Bf16Bytes bytes = e4m3_bytes(r[i]);
        zip(done + 2 * i, (uint16x8_t)vzip1q_u8(bytes.low, bytes.high), (uint16x8_t)vzip2q_u8(bytes.low, bytes.high));
      }
    }
  } else if (w.format == WeightFormat::int8) {
    done = expand_affine<8>(w, n0, k0, count, round);
  } else if (w.format == WeightFormat::int4) {
    done = expand_affine<4>(w, n0, k0, count, round);
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

}  // namespace ltx2rt::cpu::LTX2RT_ISA
