// Weight rows of every stored format, decoded 16 values of k at a time into float32 vectors across columns with AVX2, for
// *_simd.cpp files.
#pragma once

#include "csrc/cpu/linear_kernels.h"
#include "csrc/cpu/simd.h"
#include "csrc/cpu/weight_rows.h"

namespace ltx2rt::cpu::LTX2RT_ISA {

#if defined(__AVX2__)

// The instructions below work on 16 columns: this many times for a panel.
constexpr int kSixteens = kPanelColumns / 16;
constexpr int kVecsOfSixteen = 16 / kLanes;
static_assert(kStepValues == 16);

// 16 floats of two registers as vectors.
inline void put(__m256 low, __m256 high, Vec* vecs) {
#if LTX2RT_LANES == 16
  vecs[0] = join(low, high);
#else
  vecs[0] = low;
  vecs[1] = high;
#endif
}

// Where one depth block of the rows of a panel lies. Columns beyond N repeat the last one, whose sums nobody reads.
class RowPlaces {
 public:
  // Rows from byte `first` on, `bytes` of each.
  RowPlaces(const WeightMatrix& w, int64_t n0, int64_t first, int64_t bytes) : bytes_(bytes) {
    const char* row = (const char*)w.values + first;
    for (int64_t n = 0; n < kPanelColumns; ++n)
      at_[n] = row + (n0 + n < w.columns ? n0 + n : w.columns - 1) * w.row_bytes;
    const bool is_last = first + bytes >= w.row_bytes;
    to_next_ = is_last ? kFewPanels * kPanelColumns * w.row_bytes - first : bytes;
  }
  const char* operator[](int64_t n) const { return at_[n]; }
  int64_t bytes() const { return bytes_; }

  // Fetches what the next depth block, or the first one of the next panels, will read, which may lie outside every array; a
  // little with each of the steps of 16 k, so that memory is never idle. kLines: lines of the cache that a depth block of a
  // row takes.
  template <int kLines>
  inline __attribute__((always_inline)) void fetch_ahead(int64_t k) const {
    static_assert(16 % kLines == 0);
    const uint64_t first = (uint64_t)k / kStepValues * kLines, offset = (uint64_t)to_next_ + first / 16 * 64;
#pragma GCC unroll 2
    for (int s = 0; s < kSixteens; ++s) {
      const char* const* rows = at_ + 16 * s + first % 16;
#pragma GCC unroll 16
      for (int i = 0; i < kLines; ++i) _mm_prefetch(rows[i] + offset, _MM_HINT_T0);
    }
  }

 private:
  const char* at_[kPanelColumns];
  int64_t bytes_, to_next_;
};

// Values of kBits each of a depth block of a panel, copied side by side: in W rows are often a power of two apart and would
// push each other out of the cache.
template <int kBits>
class CopiedRows {
 public:
  CopiedRows(const WeightMatrix& w, int64_t n0, int64_t k0, int64_t count)
      : places_(w, n0, k0 * kBits / 8, count * kBits / 8) {
    const int64_t bytes = places_.bytes();
    for (int64_t n = 0; n < kPanelColumns; ++n) {
      const char* from = places_[n];
      int64_t i = 0;
      for (; i + 128 <= bytes; i += 128) {
#pragma GCC unroll 4
        for (int64_t j = i; j < i + 128; j += 32) {
          _mm256_store_si256((__m256i*)(rows_[n] + j), _mm256_loadu_si256((const __m256i*)(from + j)));
        }
      }
      if (i < bytes) memcpy(rows_[n] + i, from + i, (size_t)(bytes - i));
    }
  }
  const char* operator[](int64_t n) const { return rows_[n]; }
  // Where in a row those from k on lie, 16 of which are about to be read.
  inline __attribute__((always_inline)) int64_t find(int64_t k) const {
    places_.fetch_ahead<kBits / 2>(k);
    return k * kBits / 8;
  }

 private:
  RowPlaces places_;
  alignas(64) char rows_[kPanelColumns][kBits * kDepthBlock / 8 + 64];
};

// Codes of a depth block of a panel, a byte each.
class SpreadCodes {
 public:
  const char* operator[](int64_t n) const { return rows_[n]; }
  char* operator[](int64_t n) { return rows_[n]; }

 private:
  alignas(64) char rows_[kPanelColumns][kDepthBlock + 64];
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

template <Order kOrder, typename Rows>
inline __attribute__((always_inline)) void load_words(const Rows& rows, int64_t n, int64_t at, __m256i r[8]) {
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    const __m128i low = _mm_loadu_si128((const __m128i*)(rows[n + low_column<kOrder>(i)] + at));
    const __m128i high = _mm_loadu_si128((const __m128i*)(rows[n + high_column<kOrder>(i)] + at));
    r[i] = _mm256_set_m128i(high, low);
  }
}

// Sixteen bytes of the columns [n, n + 16), transposed: r[i] holds byte 2i and, eight bytes further, 2i + 1 of eight
// columns a half.
template <Order kOrder, typename Rows>
inline __attribute__((always_inline)) void load_codes(const Rows& rows, int64_t n, int64_t at, __m256i r[8]) {
  __m256i a[8], b[8];
  load_words<kOrder>(rows, n, at, r);
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

// The float16 bits of 16 columns of one k, in order.
inline void put_f16(__m256i words, Vec* vecs) {
#if LTX2RT_LANES == 16
  vecs[0] = widen_f16((VecH)words);
#else
  vecs[0] = widen_f16((VecH)_mm256_castsi256_si128(words));
  vecs[1] = widen_f16((VecH)_mm256_extracti128_si256(words, 1));
#endif
}

// The bfloat16 bits of 16 columns of one k in `quarters`.
inline void put_bf16(__m256i words, Vec* vecs) {
  const __m256i zeros = _mm256_setzero_si256();
  put((__m256)_mm256_unpacklo_epi16(zeros, words), (__m256)_mm256_unpackhi_epi16(zeros, words), vecs);
}

// How codes become floats: by a conversion, or, which takes an instruction less, as low bits of a float that is the code
// and a constant more. So a group's zero must be that many scales less, and exact; with an infinite scale values are NaN.
enum class Codes { converted, seven_bits, eight_bits };
constexpr float added_to(Codes codes) {
  return codes == Codes::converted ? 0.0f : codes == Codes::seven_bits ? 128.0f : 32768.0f;
}

// [columns 0-7 or 8-15][k] of 16 columns from n on and eight k.
template <typename Rows>
inline __attribute__((always_inline)) void load_floats_across(const Rows& rows, int64_t n, int64_t k,
                                                              __m256 halves[2][8]) {
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

// What follows is one depth block of a panel in one format each: made for rows [k0, k0 + count), decode(k, sink) calls
// sink(i, vecs) with the weights (n0 + lane, k0 + k + i) for i < 16, or returns false where it cannot decode them. It is
// called for 0, 16, 32 and so on, as long as 16 values are left.

// Also for other words of four bytes: no bit changes.
class F32Steps {
 public:
  F32Steps(const WeightMatrix& w, int64_t n0, int64_t k0, int64_t count) : rows_(w, n0, k0, count) {}
  template <typename Sink>
  inline __attribute__((always_inline)) bool decode(int64_t k, const Sink& sink) {
    rows_.find(k);
#pragma GCC unroll 2
    for (int part = 0; part < 2; ++part) {
      __m256 halves[kSixteens][2][8];
#pragma GCC unroll 2
      for (int s = 0; s < kSixteens; ++s) load_floats_across(rows_, 16 * s, k + 8 * part, halves[s]);
#pragma GCC unroll 8
      for (int i = 0; i < 8; ++i) {
        Vec vecs[kPanelVecs];
#pragma GCC unroll 2
        for (int s = 0; s < kSixteens; ++s) put(halves[s][0][i], halves[s][1][i], vecs + s * kVecsOfSixteen);
        sink(8 * part + i, vecs);
      }
    }
    return true;
  }

 private:
  CopiedRows<32> rows_;
};

// float16 and bfloat16.
template <bool kBf16>
class HalfSteps {
 public:
  HalfSteps(const WeightMatrix& w, int64_t n0, int64_t k0, int64_t count) : rows_(w, n0, k0, count) {}
  template <typename Sink>
  inline __attribute__((always_inline)) bool decode(int64_t k, const Sink& sink) {
    const int64_t at = rows_.find(k);
#pragma GCC unroll 2
    for (int part = 0; part < 2; ++part) {
      __m256i r[kSixteens][8];
#pragma GCC unroll 2
      for (int s = 0; s < kSixteens; ++s) {
        load_words<kBf16 ? Order::quarters : Order::halves>(rows_, 16 * s, at + 16 * part, r[s]);
        transpose_words(r[s]);
      }
#pragma GCC unroll 8
      for (int i = 0; i < 8; ++i) {
        Vec vecs[kPanelVecs];
#pragma GCC unroll 2
        for (int s = 0; s < kSixteens; ++s) {
          Vec* to = vecs + s * kVecsOfSixteen;
          kBf16 ? put_bf16(r[s][i], to) : put_f16(r[s][i], to);
        }
        sink(8 * part + i, vecs);
      }
    }
    return true;
  }

 private:
  CopiedRows<16> rows_;
};

// 16 bytes of each column of a panel, transposed; byte i of all columns as words, with zeros in their high or low bytes.
template <Order kOrder>
struct StepCodes {
  StepCodes() = default;
  template <typename Rows>
  inline __attribute__((always_inline)) StepCodes(const Rows& rows, int64_t at) {
#pragma GCC unroll 2
    for (int s = 0; s < kSixteens; ++s) load_codes<kOrder>(rows, 16 * s, at, r[s]);
  }
  inline __attribute__((always_inline)) __m256i high(int s, int i, int64_t first = 0) const {
    const __m256i zeros = _mm256_setzero_si256(), codes = r[s][first + i / 2];
    return i % 2 == 0 ? _mm256_unpacklo_epi8(zeros, codes) : _mm256_unpackhi_epi8(zeros, codes);
  }
  // Codes in `quarters` as floats, and what `kCodes` adds to them: of byte i, counted from number 2 * first.
  template <Codes kCodes>
  inline __attribute__((always_inline)) void put_floats(int i, Vec* vecs, int64_t first = 0) const {
    const __m256i zeros = _mm256_setzero_si256();
#pragma GCC unroll 2
    for (int s = 0; s < kSixteens; ++s) {
      Vec* to = vecs + s * kVecsOfSixteen;
      if constexpr (kCodes == Codes::eight_bits) {
        const __m256i words = high(s, i, first), exponent = _mm256_set1_epi16(0x4700);
        put((__m256)_mm256_unpacklo_epi16(words, exponent), (__m256)_mm256_unpackhi_epi16(words, exponent), to);
      } else {
        const __m256i above = kCodes == Codes::seven_bits ? _mm256_set1_epi8(0x43) : zeros;
        const __m256i codes = r[s][first + i / 2];
        const __m256i words = i % 2 == 0 ? _mm256_unpacklo_epi8(codes, above) : _mm256_unpackhi_epi8(codes, above);
        if constexpr (kCodes == Codes::seven_bits) {
          put_bf16(words, to);
        } else {
          put(_mm256_cvtepi32_ps(_mm256_unpacklo_epi16(words, zeros)),
              _mm256_cvtepi32_ps(_mm256_unpackhi_epi16(words, zeros)), to);
        }
      }
    }
  }
  // Makes bytes with a sign codes of 0..255: 128 more.
  inline __attribute__((always_inline)) void bias() {
#pragma GCC unroll 2
    for (int s = 0; s < kSixteens; ++s) {
#pragma GCC unroll 8
      for (int i = 0; i < 8; ++i) r[s][i] = _mm256_xor_si256(r[s][i], _mm256_set1_epi8(-128));
    }
  }
  // Whether a code of E4M3 is NaN, 0x7f or 0xff.
  inline __attribute__((always_inline)) bool has_e4m3_nan() const {
    const __m256i sign = _mm256_set1_epi8(-128);
    __m256i largest = sign;
#pragma GCC unroll 2
    for (int s = 0; s < kSixteens; ++s) {
#pragma GCC unroll 8
      for (int i = 0; i < 8; ++i) largest = _mm256_max_epu8(largest, _mm256_or_si256(r[s][i], sign));
    }
    return _mm256_movemask_epi8(_mm256_cmpeq_epi8(largest, _mm256_set1_epi8(-1))) != 0;
  }

  __m256i r[kSixteens][8];
};

// float16 bits (see e4m3_as_f16) of codes in the high bytes of words, which are not NaN.
inline __m256i e4m3_words_as_f16(__m256i w) {
  const __m256i magnitude = _mm256_and_si256(_mm256_srli_epi16(w, 1), _mm256_set1_epi16(0x3f80));
  return _mm256_or_si256(magnitude, _mm256_and_si256(w, _mm256_set1_epi16((short)0x8000)));
}

// Their values times 2^-8.
class E4m3Steps {
 public:
  E4m3Steps(const WeightMatrix& w, int64_t n0, int64_t k0, int64_t count) : rows_(w, n0, k0, count) {}
  template <typename Sink>
  inline __attribute__((always_inline)) bool decode(int64_t k, const Sink& sink) {
    const StepCodes<Order::halves> codes(rows_, rows_.find(k));
    if (codes.has_e4m3_nan()) [[unlikely]]
      return false;
#pragma GCC unroll 16
    for (int i = 0; i < kStepValues; ++i) {
      Vec vecs[kPanelVecs];
#pragma GCC unroll 2
      for (int s = 0; s < kSixteens; ++s) put_f16(e4m3_words_as_f16(codes.high(s, i)), vecs + s * kVecsOfSixteen);
      sink(i, vecs);
    }
    return true;
  }

 private:
  CopiedRows<8> rows_;
};

// scale * code + zero of 16 k.
template <Codes kCodes, typename Sink>
inline __attribute__((always_inline)) void decode_codes(const StepCodes<Order::quarters>& codes, const GroupVecs& group,
                                                        const Sink& sink) {
#pragma GCC unroll 16
  for (int i = 0; i < kStepValues; ++i) {
    Vec vecs[kPanelVecs];
    codes.put_floats<kCodes>(i, vecs);
#pragma GCC unroll 2
    for (int v = 0; v < kPanelVecs; ++v) vecs[v] = fma(vecs[v], group.scale[v], group.zero[v]);
    sink(i, vecs);
  }
}

// Codes of four bits, two in a byte. 32 k at a time are transposed, those of even k and those of odd ones apart.
class FourBitCodes {
 public:
  FourBitCodes(const WeightMatrix& w, int64_t n0, int64_t k0, int64_t count) : rows_(w, n0, k0, count) {}

  // Before decode, in turn for all k. kLowFirst: the low bits of a byte belong to the even k. found(codes) is what stands for
  // 32 of them.
  template <bool kLowFirst, typename Found>
  inline __attribute__((always_inline)) void load(int64_t k, const Found& found) {
    const int64_t at = rows_.find(k);
    if (k % 32 != 0) return;
    const __m256i mask = _mm256_set1_epi8(15);
    const StepCodes<Order::quarters> pairs(rows_, at);
#pragma GCC unroll 2
    for (int s = 0; s < kSixteens; ++s) {
#pragma GCC unroll 8
      for (int i = 0; i < 8; ++i) {
        const __m256i low = _mm256_and_si256(pairs.r[s][i], mask);
        const __m256i high = _mm256_and_si256(_mm256_srli_epi16(pairs.r[s][i], 4), mask);
        even_.r[s][i] = found(kLowFirst ? low : high);
        odd_.r[s][i] = found(kLowFirst ? high : low);
      }
    }
  }
  template <Codes kCodes, typename Sink>
  inline __attribute__((always_inline)) void decode(int64_t k, const GroupVecs& group, const Sink& sink) const {
    const int64_t first = k % 32 / 4;
#pragma GCC unroll 16
    for (int i = 0; i < kStepValues; ++i) {
      Vec vecs[kPanelVecs];
      (i % 2 == 0 ? even_ : odd_).template put_floats<kCodes>(i / 2, vecs, first);
#pragma GCC unroll 2
      for (int v = 0; v < kPanelVecs; ++v) vecs[v] = fma(vecs[v], group.scale[v], group.zero[v]);
      sink(i, vecs);
    }
  }

 private:
  CopiedRows<4> rows_;
  StepCodes<Order::quarters> even_, odd_;
};

// Affine integers. Group sizes are multiples of 32.
class AffineGroups {
 public:
  AffineGroups(const WeightMatrix& w, int64_t n0, int64_t k0) : w_(w), n0_(n0), k0_(k0) {}

  inline __attribute__((always_inline)) const GroupVecs& at(int64_t k) {
    if (k >= end_) {
      const int64_t number = (k0_ + k) / w_.group_size;
      group_ = load_group(w_, n0_, number);
      end_ = (number + 1) * w_.group_size - k0_;
    }
    return group_;
  }

 private:
  const WeightMatrix& w_;
  int64_t n0_, k0_, end_ = 0;
  GroupVecs group_;
};

class Int8Steps {
 public:
  Int8Steps(const WeightMatrix& w, int64_t n0, int64_t k0, int64_t count)
      : rows_(w, n0, k0, count), groups_(w, n0, k0) {}
  template <typename Sink>
  inline __attribute__((always_inline)) bool decode(int64_t k, const Sink& sink) {
    const StepCodes<Order::quarters> codes(rows_, rows_.find(k));
    decode_codes<Codes::converted>(codes, groups_.at(k), sink);
    return true;
  }

 private:
  CopiedRows<8> rows_;
  AffineGroups groups_;
};

class Int4Steps {
 public:
  Int4Steps(const WeightMatrix& w, int64_t n0, int64_t k0, int64_t count)
      : codes_(w, n0, k0, count), groups_(w, n0, k0) {}
  template <typename Sink>
  inline __attribute__((always_inline)) bool decode(int64_t k, const Sink& sink) {
    codes_.load<true>(k, [](__m256i codes) { return codes; });
    codes_.decode<Codes::converted>(k, groups_.at(k), sink);
    return true;
  }

 private:
  FourBitCodes codes_;
  AffineGroups groups_;
};

// 8-bit integers whose scale belongs to the sums.
class Int8RowSteps {
 public:
  Int8RowSteps(const WeightMatrix& w, int64_t n0, int64_t k0, int64_t count) : rows_(w, n0, k0, count) {}
  template <typename Sink>
  inline __attribute__((always_inline)) bool decode(int64_t k, const Sink& sink) {
    StepCodes<Order::quarters> codes(rows_, rows_.find(k));
    codes.bias();
#pragma GCC unroll 16
    for (int i = 0; i < kStepValues; ++i) {
      Vec vecs[kPanelVecs];
      codes.put_floats<Codes::eight_bits>(i, vecs);
#pragma GCC unroll 2
      for (int v = 0; v < kPanelVecs; ++v) vecs[v] -= splat(added_to(Codes::eight_bits) + 128.0f);
      sink(i, vecs);
    }
    return true;
  }

 private:
  CopiedRows<8> rows_;
};

// Calls sink(i, vecs) for the values of k from k0 + k on, i < count <= 16.
template <typename Steps, typename Sink>
inline __attribute__((always_inline)) void expand_step(const WeightMatrix& w, int64_t n0, int64_t k0, int64_t k,
                                                       int64_t count, Steps& steps, const Sink& sink) {
  if (count == kStepValues && steps.decode(k, sink)) return;
  Vec vecs[kStepValues][kPanelVecs];
  decode_slowly(w, n0, k0 + k, count, vecs);
  for (int64_t i = 0; i < count; ++i) sink(i, vecs[i]);
}

// Calls sink(k, vecs) for k in [0, count).
template <typename Steps, typename Sink>
inline __attribute__((always_inline)) void expand_steps(const WeightMatrix& w, int64_t n0, int64_t k0, int64_t count,
                                                        const Sink& sink) {
  Steps steps(w, n0, k0, count);
  for (int64_t k = 0; k < count; k += kStepValues) {
    expand_step(w, n0, k0, k, count - k < kStepValues ? count - k : kStepValues, steps,
                [&sink, k](int64_t i, const Vec* vecs) __attribute__((always_inline)) { sink(k + i, vecs); });
  }
}

// The same for words of four bytes that are whole steps; returns how many.
template <typename Sink>
inline int64_t expand_f32(const WeightMatrix& w, int64_t n0, int64_t k0, int64_t count, const Sink& sink) {
  const int64_t whole = count / kStepValues * kStepValues;
  expand_steps<F32Steps>(w, n0, k0, whole, sink);
  return whole;
}

#endif

}  // namespace ltx2rt::cpu::LTX2RT_ISA
