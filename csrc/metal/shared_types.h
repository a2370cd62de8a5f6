// What shaders and launch code both need: fixed-size integers and the numbers of element types. Plain C++ and Metal.
#pragma once
#ifndef __METAL__
#include <stdint.h>
#endif

namespace ltx2rt {
namespace metal_shared {

#ifdef __METAL__
typedef int int32;
typedef long int64;
#else
typedef int32_t int32;
typedef int64_t int64;
#endif

// Element types of operands that are read in the dtype they come in; a function constant holds the number. The first
// three of WeightFormat (csrc/op_types.h) have the same numbers.
enum ElementType { kAbsent = -1, kFloat32 = 0, kFloat16 = 1, kBfloat16 = 2 };

enum { kRowThreads = 256 };  // most threads per threadgroup of kernels that take one thread per piece of a long row

}  // namespace metal_shared
}  // namespace ltx2rt
