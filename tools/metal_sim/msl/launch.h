// What the translator's launch code needs: the arguments of one thread and how each kernel parameter reads them.
#pragma once
#include "vectors.h"

// Shared with runtime/runtime.h, field by field.
struct msim_thread {
  __global void* buffers[31];
  __local void* threadgroup_memory[31];
  uint3 thread_position_in_grid, thread_position_in_threadgroup, threadgroup_position_in_grid;
  uint3 threads_per_grid, threads_per_threadgroup, threadgroups_per_grid;
  uint thread_index_in_threadgroup, thread_index_in_simdgroup, simdgroup_index_in_threadgroup;
  uint simdgroups_per_threadgroup, threads_per_simdgroup;
};

// One parameter as the runtime checks it against what is bound.
struct msim_parameter {
  int kind;        // 0 device, 1 constant, 2 threadgroup
  int index;       // of the buffer or the threadgroup allocation
  int reference;   // T&, so exactly one T must be bound
  int writable;
  long size;       // of the pointee
  long alignment;
};

extern "C" void* msim_allocate_threadgroup(int id, ulong bytes, ulong alignment, const __constant char* name);
// At the beginning of a kernel with [[max_total_threads_per_threadgroup(most)]].
extern "C" void msim_most_threads(int most);

template <int I, class... P>
struct msim_nth;
template <class First, class... Rest>
struct msim_nth<0, First, Rest...> {
  typedef First type;
};
template <int I, class First, class... Rest>
struct msim_nth<I, First, Rest...> : msim_nth<I - 1, Rest...> {};
template <int I, class Kernel>
struct msim_parameter_type;
template <int I, class... P>
struct msim_parameter_type<I, void(P...)> {
  typedef typename msim_nth<I, P...>::type type;
};

template <class P>
struct msim_argument;
#define MSIM_ARGUMENT(space, number, constness, can_write)                                                \
  template <class T>                                                                                      \
  struct msim_argument<constness space T*> {                                                              \
    static constness space T* buffer(const msim_thread* t, int i) {                                       \
      return (constness space T*)(ulong)t->buffers[i];                                                    \
    }                                                                                                     \
    static constexpr msim_parameter describe(int i) {                                                     \
      return {number, i, 0, can_write, long(sizeof(T)), long(alignof(T))};                                \
    }                                                                                                     \
  };                                                                                                      \
  template <class T>                                                                                      \
  struct msim_argument<constness space T&> {                                                              \
    static constness space T& buffer(const msim_thread* t, int i) {                                       \
      return *(constness space T*)(ulong)t->buffers[i];                                                   \
    }                                                                                                     \
    static constexpr msim_parameter describe(int i) {                                                     \
      return {number, i, 1, can_write, long(sizeof(T)), long(alignof(T))};                                \
    }                                                                                                     \
  };
MSIM_ARGUMENT(__global, 0, const, 0)
MSIM_ARGUMENT(__global, 0, , 1)
MSIM_ARGUMENT(__constant, 1, const, 0)
MSIM_ARGUMENT(__constant, 1, , 0)
template <class T>
struct msim_argument<__local T*> {
  static __local T* memory(const msim_thread* t, int i) { return (__local T*)t->threadgroup_memory[i]; }
  static constexpr msim_parameter describe(int i) { return {2, i, 0, 1, long(sizeof(T)), long(alignof(T))}; }
};

// A position or size in the type in which the kernel asks for it.
template <class T>
inline T msim_builtin(uint3 v) {
  if constexpr (metal::vector_traits<T>::size == 1)
    return T(v.x);
  else if constexpr (metal::vector_traits<T>::size == 2)
    return T{metal::element_t<T>(v.x), metal::element_t<T>(v.y)};
  else
    return __builtin_convertvector(v, T);
}
template <class T>
inline T msim_builtin(uint v) {
  return T(v);
}
