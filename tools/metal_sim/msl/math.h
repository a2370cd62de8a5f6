// Metal's <metal_math>, <metal_integer>, <metal_common> and <metal_relational>, computed by the host's libm in float.
#pragma once
#include "vectors.h"

extern "C" {
float expf(float);
float exp2f(float);
float exp10f(float);
float expm1f(float);
float logf(float);
float log2f(float);
float log10f(float);
float log1pf(float);
float sinf(float);
float cosf(float);
float tanf(float);
float asinf(float);
float acosf(float);
float atanf(float);
float atan2f(float, float);
float sinhf(float);
float coshf(float);
float tanhf(float);
float asinhf(float);
float acoshf(float);
float atanhf(float);
float erff(float);
float powf(float, float);
float fmodf(float, float);
float ldexpf(float, int);
}

namespace metal {

inline float msim_rsqrt(float x) { return 1.0f / __builtin_sqrtf(x); }
inline float msim_sinpi(float x) { return sinf(x * M_PI_F); }
inline float msim_cospi(float x) { return cosf(x * M_PI_F); }
inline float msim_fract(float x) { return x - __builtin_floorf(x); }
inline float msim_sign(float x) { return x > 0 ? 1.0f : x < 0 ? -1.0f : 0.0f; }
inline float msim_saturate(float x) { return x < 0 ? 0.0f : x > 1 ? 1.0f : x; }
inline float msim_fmax(float x, float y) { return x != x ? y : y != y ? x : x < y ? y : x; }
inline float msim_fmin(float x, float y) { return x != x ? y : y != y ? x : y < x ? y : x; }

#define MSIM_UNARY(name, f)                                                            \
  inline float name(float x) { return f(x); }                                          \
  inline half name(half x) { return half(f(float(x))); }                               \
  inline bfloat name(bfloat x) { return bfloat(f(float(x))); }                         \
  template <class V, enable_if_t<(vector_traits<V>::size > 1), int> = 0>               \
  inline V name(V x) {                                                                 \
    V y;                                                                               \
    for (int i = 0; i < vector_traits<V>::size; i++) y[i] = name(x[i]);                \
    return y;                                                                          \
  }
#define MSIM_BINARY(name, f)                                                           \
  inline float name(float x, float y) { return f(x, y); }                              \
  inline half name(half x, half y) { return half(f(float(x), float(y))); }             \
  inline bfloat name(bfloat x, bfloat y) { return bfloat(f(float(x), float(y))); }     \
  template <class V, enable_if_t<(vector_traits<V>::size > 1), int> = 0>               \
  inline V name(V x, V y) {                                                            \
    V z;                                                                               \
    for (int i = 0; i < vector_traits<V>::size; i++) z[i] = name(x[i], y[i]);          \
    return z;                                                                          \
  }
// The functions that also exist in metal::fast and metal::precise.
#define MSIM_VARIABLE_PRECISION                                                                  \
  MSIM_UNARY(exp, expf) MSIM_UNARY(exp2, exp2f) MSIM_UNARY(exp10, exp10f) MSIM_UNARY(log, logf)  \
  MSIM_UNARY(log2, log2f) MSIM_UNARY(log10, log10f) MSIM_UNARY(sin, sinf) MSIM_UNARY(cos, cosf)  \
  MSIM_UNARY(tan, tanf) MSIM_UNARY(asin, asinf) MSIM_UNARY(acos, acosf) MSIM_UNARY(atan, atanf)  \
  MSIM_UNARY(sinh, sinhf) MSIM_UNARY(cosh, coshf) MSIM_UNARY(tanh, tanhf)                        \
  MSIM_UNARY(asinh, asinhf) MSIM_UNARY(acosh, acoshf) MSIM_UNARY(atanh, atanhf)                  \
  MSIM_UNARY(sqrt, __builtin_sqrtf) MSIM_UNARY(rsqrt, msim_rsqrt)                                \
  MSIM_UNARY(sinpi, msim_sinpi) MSIM_UNARY(cospi, msim_cospi)                                    \
  MSIM_BINARY(pow, powf) MSIM_BINARY(powr, powf) MSIM_BINARY(atan2, atan2f) MSIM_BINARY(fmod, fmodf)
MSIM_VARIABLE_PRECISION
namespace fast {
MSIM_VARIABLE_PRECISION
}
namespace precise {
MSIM_VARIABLE_PRECISION
}
MSIM_UNARY(floor, __builtin_floorf)
MSIM_UNARY(ceil, __builtin_ceilf)
MSIM_UNARY(rint, __builtin_rintf)
MSIM_UNARY(round, __builtin_roundf)
MSIM_UNARY(trunc, __builtin_truncf)
MSIM_UNARY(fabs, __builtin_fabsf)
MSIM_UNARY(fract, msim_fract)
MSIM_UNARY(sign, msim_sign)
MSIM_UNARY(saturate, msim_saturate)
MSIM_BINARY(fmax, msim_fmax)
MSIM_BINARY(fmin, msim_fmin)
MSIM_BINARY(copysign, __builtin_copysignf)
inline float ldexp(float x, int e) { return ldexpf(x, e); }

#define MSIM_EXTREMUM(name, f)                                                    \
  template <class T>                                                              \
  inline constexpr T name(T a, T b) {                                             \
    if constexpr (vector_traits<T>::size > 1) {                                   \
      T c = a;                                                                    \
      for (int i = 0; i < vector_traits<T>::size; i++) c[i] = name(a[i], b[i]);   \
      return c;                                                                   \
    } else if constexpr (is_floating_point_v<T>) {                                \
      return T(f(float(a), float(b)));                                            \
    } else {                                                                      \
      return MSIM_PICK_##name(a, b);                                              \
    }                                                                             \
  }
#define MSIM_PICK_max(a, b) ((a) < (b) ? (b) : (a))
#define MSIM_PICK_min(a, b) ((b) < (a) ? (b) : (a))
MSIM_EXTREMUM(max, msim_fmax)
MSIM_EXTREMUM(min, msim_fmin)
template <class T>
inline constexpr T clamp(T x, T low, T high) {
  return min(max(x, low), high);
}
template <class T>
inline constexpr T abs(T x) {
  if constexpr (vector_traits<T>::size > 1) {
    T y = x;
    for (int i = 0; i < vector_traits<T>::size; i++) y[i] = abs(x[i]);
    return y;
  } else if constexpr (is_floating_point_v<T>) {
    return T(__builtin_fabsf(float(x)));
  } else {
    return x < T(0) ? T(-x) : x;
  }
}
template <class T>
inline T fma(T a, T b, T c) {
  if constexpr (vector_traits<T>::size > 1) {
    T d;
    for (int i = 0; i < vector_traits<T>::size; i++) d[i] = fma(a[i], b[i], c[i]);
    return d;
  } else {
    return T(__builtin_fmaf(float(a), float(b), float(c)));
  }
}
inline float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
template <class T>
inline constexpr T mix(T a, T b, T t) {
  return a + (b - a) * t;
}
template <class T>
inline constexpr T select(T a, T b, bool c) {
  return c ? b : a;
}
template <class V>
inline element_t<V> dot(V a, V b) {
  element_t<V> sum = 0;
  for (int i = 0; i < vector_traits<V>::size; i++) sum += a[i] * b[i];
  return sum;
}

template <class T>
inline constexpr bool isnan(T x) {
  return x != x;
}
template <class T>
inline bool isinf(T x) {
  return __builtin_fabsf(float(x)) == __builtin_inff();
}
template <class T>
inline bool isfinite(T x) {
  return __builtin_fabsf(float(x)) < __builtin_inff();
}
template <class T>
inline bool signbit(T x) {
  return __builtin_signbit(float(x));
}

template <class T>
inline constexpr T clz(T x) {
  return x == 0 ? T(sizeof(T) * 8) : T(__builtin_clzl(ulong(x)) - int(64 - sizeof(T) * 8));
}
template <class T>
inline constexpr T ctz(T x) {
  return x == 0 ? T(sizeof(T) * 8) : T(__builtin_ctzl(ulong(x)));
}
template <class T>
inline constexpr T popcount(T x) {
  return T(__builtin_popcountl(ulong(x)));
}
inline constexpr uint mulhi(uint a, uint b) { return uint((ulong(a) * b) >> 32); }
inline ulong mulhi(ulong a, ulong b) { return ulong((unsigned __int128)(a) * b >> 64); }

}  // namespace metal
