// simdgroup_matrix<T, 8, 8>: each lane holds two neighbours of one row, in the layout that MLX's kernels rely on.
#pragma once
#include "simd.h"

extern "C" {
int msim_lane();
// types: number of d | a << 8 | b << 16 | c << 24
void msim_multiply_accumulate(int types, void* d, const void* a, const void* b, const void* c);
void msim_matrix_access();
}

namespace metal {

template <class T, int Rows, int Columns>
struct simdgroup_matrix {
  static_assert(Rows == 8 && Columns == 8, "Metal has 8 x 8 simdgroup matrices only");
  typedef vec<T, 2> storage_type;
  storage_type elements;
  simdgroup_matrix() {}
  explicit simdgroup_matrix(T value) : elements(value) {}
#ifdef MSIM_STRICT
  __private storage_type& thread_elements() __private { return elements; }
#else
  storage_type& thread_elements() { return elements; }
#endif
  const storage_type& thread_elements() const { return elements; }
};
typedef simdgroup_matrix<float, 8, 8> simdgroup_float8x8;
typedef simdgroup_matrix<half, 8, 8> simdgroup_half8x8;
typedef simdgroup_matrix<bfloat, 8, 8> simdgroup_bfloat8x8;

template <class T, int R, int C>
METAL_FUNC simdgroup_matrix<T, R, C> make_filled_simdgroup_matrix(T value) {
  return simdgroup_matrix<T, R, C>(value);
}

// All operands are `thread simdgroup_matrix&` in Metal's specification: neither temporaries nor constants.
template <class D, class A, class B, class C>
METAL_FUNC void simdgroup_multiply_accumulate(thread simdgroup_matrix<D, 8, 8>& d, thread simdgroup_matrix<A, 8, 8>& a,
                                              thread simdgroup_matrix<B, 8, 8>& b,
                                              thread simdgroup_matrix<C, 8, 8>& c) {
  msim_multiply_accumulate(msim_type<D>::number | msim_type<A>::number << 8 | msim_type<B>::number << 16 |
                               msim_type<C>::number << 24,
                           &d.elements, &a.elements, &b.elements, &c.elements);
}
template <class D, class A, class B>
METAL_FUNC void simdgroup_multiply(thread simdgroup_matrix<D, 8, 8>& d, thread simdgroup_matrix<A, 8, 8>& a,
                                   thread simdgroup_matrix<B, 8, 8>& b) {
  simdgroup_matrix<D, 8, 8> zero(D(0));
  simdgroup_multiply_accumulate(d, a, b, zero);
}

// (column, row) of the first of the calling lane's two elements.
inline ulong2 msim_position() {
  const ulong lane = msim_lane();
  const ulong quad = lane / 4;
  return ulong2{(quad & 2) * 2 + (lane % 2) * 2, (quad & 4) + (lane / 2) % 4};
}
template <class T, class P>
METAL_FUNC void simdgroup_load(simdgroup_matrix<T, 8, 8>& d, P source, ulong elements_per_row = 8,
                               ulong2 origin = ulong2{0, 0}, bool transpose = false) {
  const ulong2 at = msim_position();
  for (int j = 0; j < 2; j++) {
    const ulong row = transpose ? at.x + j : at.y, column = transpose ? at.y : at.x + j;
    d.elements[j] = source[(origin.y + row) * elements_per_row + origin.x + column];
  }
  msim_matrix_access();
}
template <class T, class P>
METAL_FUNC void simdgroup_store(simdgroup_matrix<T, 8, 8> s, P destination, ulong elements_per_row = 8,
                                ulong2 origin = ulong2{0, 0}, bool transpose = false) {
  const ulong2 at = msim_position();
  for (int j = 0; j < 2; j++) {
    const ulong row = transpose ? at.x + j : at.y, column = transpose ? at.y : at.x + j;
    destination[(origin.y + row) * elements_per_row + origin.x + column] = s.elements[j];
  }
  msim_matrix_access();
}

}  // namespace metal
