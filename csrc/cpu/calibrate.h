// What this machine can do at most, measured now, with the threads and the instruction set of the kernels.
#pragma once
#include <cstddef>
#include <optional>

namespace ltx2rt::cpu {

// Floating point operations per second of register-only loops on all threads, over about `seconds`.
double arithmetic_rate(bool bf16, double seconds);

// The same of bfloat16 products in Intel's AMX tiles, which some kernels use; nothing where there are none.
std::optional<double> tile_rate(double seconds);

// Bytes per second of one pass over `bytes` (at least 4096) on all threads. The caller gives a buffer well above the
// caches, written before.
double read_rate(const char* from, size_t bytes);

}  // namespace ltx2rt::cpu
