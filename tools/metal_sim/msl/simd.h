// Barriers, simdgroup and quadgroup functions: each parks its thread until the runtime has all threads it needs.
#pragma once
#include "math.h"

extern "C" {
void msim_threadgroup_barrier(int flags);
void msim_simdgroup_barrier(int flags);
void msim_shuffle(int kind, const void* value, const void* fill, void* result, int size, int argument);
void msim_reduce(int operation, int type, const void* value, void* result, int count);
ulong msim_ballot(int predicate);
}

namespace metal {

enum class mem_flags {
  mem_none = 0,
  mem_device = 1,
  mem_threadgroup = 2,
  mem_texture = 4,
  mem_threadgroup_imageblock = 8,
  mem_object_data = 16
};
inline constexpr mem_flags operator|(mem_flags a, mem_flags b) { return mem_flags(int(a) | int(b)); }
METAL_FUNC void threadgroup_barrier(mem_flags flags) { msim_threadgroup_barrier(int(flags)); }
METAL_FUNC void simdgroup_barrier(mem_flags flags) { msim_simdgroup_barrier(int(flags)); }

// Numbers shared with runtime/collectives.cpp.
enum msim_shuffle_kind {
  msim_from_lane,
  msim_xor,
  msim_down,
  msim_up,
  msim_quad_lane,
  msim_rotate_down,
  msim_rotate_up,
  msim_fill_up,
  msim_fill_down
};
enum msim_reduction {
  msim_sum,
  msim_max,
  msim_min,
  msim_product,
  msim_exclusive_sum,
  msim_inclusive_sum,
  msim_or,
  msim_and,
  msim_xor_bits,
  msim_quad_sum,
  msim_quad_max
};
template <class T>
struct msim_type;
#define MSIM_TYPE_NUMBER(T, n)                 \
  template <>                                  \
  struct msim_type<T> {                        \
    static constexpr __constant int number = n; \
  };
MSIM_TYPE_NUMBER(float, 0)
MSIM_TYPE_NUMBER(half, 1)
MSIM_TYPE_NUMBER(bfloat, 2)
MSIM_TYPE_NUMBER(int, 3)
MSIM_TYPE_NUMBER(uint, 4)
MSIM_TYPE_NUMBER(short, 5)
MSIM_TYPE_NUMBER(ushort, 6)
MSIM_TYPE_NUMBER(char, 7)
MSIM_TYPE_NUMBER(uchar, 8)
MSIM_TYPE_NUMBER(long, 9)
MSIM_TYPE_NUMBER(ulong, 10)

#define MSIM_SHUFFLE(name, kind)                          \
  template <class T>                                      \
  METAL_FUNC T name(T value, ushort argument) {           \
    T result;                                             \
    msim_shuffle(kind, &value, 0, &result, sizeof(T), argument); \
    return result;                                        \
  }
MSIM_SHUFFLE(simd_shuffle, msim_from_lane)
MSIM_SHUFFLE(simd_broadcast, msim_from_lane)
MSIM_SHUFFLE(simd_shuffle_xor, msim_xor)
MSIM_SHUFFLE(simd_shuffle_down, msim_down)
MSIM_SHUFFLE(simd_shuffle_up, msim_up)
MSIM_SHUFFLE(simd_shuffle_rotate_down, msim_rotate_down)
MSIM_SHUFFLE(simd_shuffle_rotate_up, msim_rotate_up)
MSIM_SHUFFLE(quad_shuffle, msim_quad_lane)
MSIM_SHUFFLE(quad_broadcast, msim_quad_lane)
MSIM_SHUFFLE(quad_shuffle_xor, msim_xor)
template <class T>
METAL_FUNC T simd_broadcast_first(T value) {
  return simd_broadcast(value, 0);
}
#define MSIM_FILLING_SHUFFLE(name, kind)                  \
  template <class T>                                      \
  METAL_FUNC T name(T value, T fill, ushort argument) {   \
    T result;                                             \
    msim_shuffle(kind, &value, &fill, &result, sizeof(T), argument); \
    return result;                                        \
  }
MSIM_FILLING_SHUFFLE(simd_shuffle_and_fill_up, msim_fill_up)
MSIM_FILLING_SHUFFLE(simd_shuffle_and_fill_down, msim_fill_down)

#define MSIM_REDUCE(name, operation)                                               \
  template <class T>                                                               \
  METAL_FUNC T name(T value) {                                                     \
    T result;                                                                      \
    msim_reduce(operation, msim_type<element_t<T>>::number, &value, &result, vector_traits<T>::size); \
    return result;                                                                 \
  }
MSIM_REDUCE(simd_sum, msim_sum)
MSIM_REDUCE(simd_max, msim_max)
MSIM_REDUCE(simd_min, msim_min)
MSIM_REDUCE(simd_product, msim_product)
MSIM_REDUCE(simd_prefix_exclusive_sum, msim_exclusive_sum)
MSIM_REDUCE(simd_prefix_inclusive_sum, msim_inclusive_sum)
MSIM_REDUCE(simd_or, msim_or)
MSIM_REDUCE(simd_and, msim_and)
MSIM_REDUCE(simd_xor, msim_xor_bits)
MSIM_REDUCE(quad_sum, msim_quad_sum)
MSIM_REDUCE(quad_max, msim_quad_max)

METAL_FUNC bool simd_all(bool p) { return msim_ballot(!p) == 0; }
METAL_FUNC bool simd_any(bool p) { return msim_ballot(p) != 0; }

}  // namespace metal
