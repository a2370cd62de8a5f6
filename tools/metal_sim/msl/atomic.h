// The relaxed 32-bit atomics of Metal.
#pragma once
#include "traits.h"

extern "C" {
// type: 0 int, 1 uint, 2 float. Numbers of operations as in runtime/collectives.cpp; returns the old bits.
uint msim_atomic(int operation, int type, void* at, uint bits);
int msim_atomic_compare_exchange(void* at, uint* expected, uint desired);
}

namespace metal {

enum memory_order { memory_order_relaxed };
template <class T>
struct _atomic {
  T value;
};
template <class T>
using atomic = _atomic<T>;
// OpenCL has global types of these names.
#define atomic_int msim_atomic_int
#define atomic_uint msim_atomic_uint
#define atomic_float msim_atomic_float
typedef _atomic<int> atomic_int;
typedef _atomic<uint> atomic_uint;
typedef _atomic<float> atomic_float;

template <class T>
struct msim_atomic_type;
template <>
struct msim_atomic_type<int> {
  static constexpr __constant int number = 0;
};
template <>
struct msim_atomic_type<uint> {
  static constexpr __constant int number = 1;
};
template <>
struct msim_atomic_type<float> {
  static constexpr __constant int number = 2;
};

#define MSIM_ATOMIC_IN(space, name, operation)                                                              \
  template <class T, class V>                                                                               \
  inline T name(space _atomic<T>* at, V value, memory_order) {                                              \
    return __builtin_bit_cast(                                                                              \
        T, msim_atomic(operation, msim_atomic_type<T>::number, (void*)at, __builtin_bit_cast(uint, T(value)))); \
  }
#define MSIM_ATOMIC(name, operation) \
  MSIM_ATOMIC_IN(__global, name, operation) MSIM_ATOMIC_IN(__local, name, operation)
MSIM_ATOMIC(atomic_fetch_add_explicit, 0)
MSIM_ATOMIC(atomic_fetch_sub_explicit, 1)
MSIM_ATOMIC(atomic_fetch_min_explicit, 2)
MSIM_ATOMIC(atomic_fetch_max_explicit, 3)
MSIM_ATOMIC(atomic_fetch_and_explicit, 4)
MSIM_ATOMIC(atomic_fetch_or_explicit, 5)
MSIM_ATOMIC(atomic_fetch_xor_explicit, 6)
MSIM_ATOMIC(atomic_exchange_explicit, 7)
template <class P, class V>
inline void atomic_store_explicit(P at, V value, memory_order order) {
  atomic_exchange_explicit(at, value, order);
}
#define MSIM_ATOMIC_LOAD(space)                                                                             \
  template <class T>                                                                                        \
  inline T atomic_load_explicit(const space _atomic<T>* at, memory_order) {                                 \
    return __builtin_bit_cast(T, msim_atomic(8, msim_atomic_type<T>::number, (void*)at, 0));                \
  }                                                                                                         \
  template <class T>                                                                                        \
  inline bool atomic_compare_exchange_weak_explicit(space _atomic<T>* at, __private T* expected, T desired, \
                                                    memory_order, memory_order) {                           \
    return msim_atomic_compare_exchange((void*)at, (uint*)expected, __builtin_bit_cast(uint, desired));     \
  }
MSIM_ATOMIC_LOAD(__global)
MSIM_ATOMIC_LOAD(__local)

}  // namespace metal
