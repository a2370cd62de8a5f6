// The parts of Metal's <metal_type_traits> and <metal_limits> that shaders use.
#pragma once
#include "types.h"

namespace metal {

template <class T, T v>
struct integral_constant {
  static constexpr __constant T value = v;
  typedef T value_type;
  typedef integral_constant type;
  constexpr operator T() const { return v; }
  constexpr operator T() const __constant { return v; }
  constexpr T operator()() const { return v; }
};
template <bool B>
using bool_constant = integral_constant<bool, B>;
typedef bool_constant<true> true_type;
typedef bool_constant<false> false_type;

template <bool B, class T = void>
struct enable_if {};
template <class T>
struct enable_if<true, T> {
  typedef T type;
};
template <bool B, class T = void>
using enable_if_t = typename enable_if<B, T>::type;

template <bool B, class T, class F>
struct conditional {
  typedef T type;
};
template <class T, class F>
struct conditional<false, T, F> {
  typedef F type;
};
template <bool B, class T, class F>
using conditional_t = typename conditional<B, T, F>::type;

#define MSIM_REMOVER(name, pattern) \
  template <class T>                \
  struct name {                     \
    typedef T type;                 \
  };                                \
  template <class T>                \
  struct name<pattern> {            \
    typedef T type;                 \
  };
MSIM_REMOVER(remove_const, const T)
MSIM_REMOVER(remove_volatile, volatile T)
MSIM_REMOVER(remove_reference, T&)
template <class T>
struct remove_addrspace {
  typedef T type;
};
template <class T>
struct remove_addrspace<__global T> {
  typedef T type;
};
template <class T>
struct remove_addrspace<__local T> {
  typedef T type;
};
template <class T>
struct remove_addrspace<__constant T> {
  typedef T type;
};
template <class T>
struct remove_addrspace<__private T> {
  typedef T type;
};
template <class T>
struct remove_cv {
  typedef typename remove_volatile<typename remove_const<T>::type>::type type;
};
template <class T>
using remove_const_t = typename remove_const<T>::type;
template <class T>
using remove_reference_t = typename remove_reference<T>::type;
template <class T>
using remove_cv_t = typename remove_cv<typename remove_addrspace<T>::type>::type;
template <class T>
using remove_addrspace_t = remove_cv_t<T>;

template <class T, class U>
struct is_same : false_type {};
template <class T>
struct is_same<T, T> : true_type {};
template <class T>
struct is_integral : bool_constant<__is_integral(T)> {};
template <class T>
struct is_floating_point : bool_constant<__is_floating_point(T)> {};
template <>
struct is_floating_point<half> : true_type {};
template <>
struct is_floating_point<bfloat> : true_type {};

template <class T, class U>
constexpr __constant bool is_same_v = is_same<T, U>::value;
template <class T>
constexpr __constant bool is_integral_v = is_integral<T>::value;
template <class T>
constexpr __constant bool is_floating_point_v = is_floating_point<T>::value;
template <class T>
constexpr __constant bool is_signed_v = T(-1) < T(0);
template <class T>
constexpr __constant bool is_unsigned_v = !is_signed_v<T>;
template <class T>
constexpr __constant bool is_arithmetic_v = is_integral_v<T> || is_floating_point_v<T>;
template <class From, class To>
constexpr __constant bool is_convertible_v = __is_convertible(From, To);

// An internal name of Metal's library that MLX's reductions use.
template <class... B>
struct _disjunction : false_type {};
template <class A, class... B>
struct _disjunction<A, B...> : bool_constant<bool(A::value) || bool(_disjunction<B...>::value)> {};

template <class T>
struct numeric_limits;
#define MSIM_INTEGER_LIMITS(T, low, high)                              \
  template <>                                                          \
  struct numeric_limits<T> {                                           \
    static constexpr T max() { return high; }                          \
    static constexpr T min() { return low; }                           \
    static constexpr T lowest() { return low; }                        \
    static constexpr __constant int digits = sizeof(T) * 8 - (low < 0); \
  };
MSIM_INTEGER_LIMITS(char, -128, 127)
MSIM_INTEGER_LIMITS(int8_t, -128, 127)
MSIM_INTEGER_LIMITS(uchar, 0, 255)
MSIM_INTEGER_LIMITS(short, -32768, 32767)
MSIM_INTEGER_LIMITS(ushort, 0, 65535)
MSIM_INTEGER_LIMITS(int, (-__INT_MAX__ - 1), __INT_MAX__)
MSIM_INTEGER_LIMITS(uint, 0u, 0xffffffffu)
MSIM_INTEGER_LIMITS(long, (-__LONG_MAX__ - 1), __LONG_MAX__)
MSIM_INTEGER_LIMITS(ulong, 0ul, ~0ul)
template <>
struct numeric_limits<bool> {
  static constexpr bool max() { return true; }
  static constexpr bool min() { return false; }
  static constexpr bool lowest() { return false; }
};
#define MSIM_FLOAT_LIMITS(T, low, high, step)                            \
  template <>                                                            \
  struct numeric_limits<T> {                                             \
    static constexpr T max() { return T(high); }                         \
    static constexpr T min() { return T(low); }                          \
    static constexpr T lowest() { return T(-high); }                     \
    static constexpr T infinity() { return T(__builtin_inff()); }        \
    static constexpr T quiet_NaN() { return T(__builtin_nanf("")); }     \
    static constexpr T epsilon() { return T(step); }                     \
  };
MSIM_FLOAT_LIMITS(float, 1.17549435e-38f, 3.40282347e+38f, 1.1920929e-7f)
MSIM_FLOAT_LIMITS(half, 6.103515625e-05f, 65504.0f, 9.765625e-04f)
MSIM_FLOAT_LIMITS(bfloat, 1.17549435e-38f, 3.38953139e38f, 7.8125e-03f)

}  // namespace metal
