// Metal's vec<T, N>, its constructors and the small value types built on it.
#pragma once
#include "traits.h"

namespace metal {

template <class T, int N>
using vec = T __attribute__((ext_vector_type(N)));

template <class T>
struct vector_traits {
  typedef T element;
  static constexpr __constant int size = 1;
};
#define MSIM_VECTOR_TRAITS_OF(T, n)            \
  template <>                                  \
  struct vector_traits<T##n> {                 \
    typedef T element;                         \
    static constexpr __constant int size = n;  \
  };
#define MSIM_VECTOR_TRAITS(T) \
  MSIM_VECTOR_TRAITS_OF(T, 2) MSIM_VECTOR_TRAITS_OF(T, 3) MSIM_VECTOR_TRAITS_OF(T, 4)
MSIM_FOR_VECTOR_ELEMENTS(MSIM_VECTOR_TRAITS)

template <class V>
using element_t = typename vector_traits<V>::element;

// Constructors: clang has no functional casts with several arguments for its vectors, so the translator writes
// `float4(a, b)` as `metal::make<float4>(a, b)`.
template <class V, class A>
inline constexpr void append(V& to, int& filled, A from) {
  if constexpr (vector_traits<A>::size == 1) {
    to[filled++] = element_t<V>(from);
  } else {
    for (int i = 0; i < vector_traits<A>::size; i++) to[filled++] = element_t<V>(from[i]);
  }
}
template <class V>
inline constexpr V make() {
  return V(0);
}
template <class V, class A>
inline constexpr V make(A a) {
  if constexpr (vector_traits<V>::size == 1)
    return V(a);
  else if constexpr (vector_traits<A>::size == 1)
    return V(element_t<V>(a));
  else
    return __builtin_convertvector(a, V);
}
template <class V, class A, class B, class... Rest>
inline constexpr V make(A a, B b, Rest... rest) {
  if constexpr (vector_traits<V>::size == 2 && sizeof...(Rest) == 0) {
    return V{element_t<V>(a), element_t<V>(b)};
  } else {
    V v = V(0);
    int filled = 0;
    append<V>(v, filled, a);
    append<V>(v, filled, b);
    (append<V>(v, filled, rest), ...);
    return v;
  }
}

// The value of an object that converts to a number; clang has no built-in `pointer += object` across address spaces.
template <class T>
inline constexpr auto plain(T v) {
  if constexpr (__is_class(T))
    return long(v);
  else
    return v;
}

template <class T>
using uniform = T;
template <class T>
inline constexpr T make_uniform(T v) {
  return v;
}

template <class T, size_t N>
struct array {
  T items[N];
  constexpr T operator[](size_t i) const { return items[i]; }
  __private T& operator[](size_t i) __private { return items[i]; }
};

template <class T, class U>
inline constexpr T bits_as(U u) {
  static_assert(sizeof(T) == sizeof(U), "as_type needs types of one size");
  return __builtin_bit_cast(T, u);
}

// clang refuses static_cast<bfloat>(half); the translator sends every such cast here.
template <class T>
inline constexpr bfloat to_bfloat(T x) {
  if constexpr (is_same_v<T, bfloat>)
    return x;
  else
    return bfloat(float(x));
}

}  // namespace metal

template <class T, class U>
inline constexpr T as_type(U u) {
  return metal::bits_as<T>(u);
}
