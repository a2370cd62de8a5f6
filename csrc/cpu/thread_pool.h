// The one pool of worker threads that all CPU kernels share.
#pragma once
#include <cstdint>
#include <functional>

namespace ltx2rt::cpu {

// Number of threads that take part in parallel_for, the caller included: LTX2RT_NUM_THREADS, else the cores this
// process may run on. Throws std::invalid_argument when LTX2RT_NUM_THREADS is not a number from 1 to 1024.
int num_threads();

// Replaces the number above for the rest of the process; for tests and benchmarks. count >= 1.
void set_num_threads(int count);

// Calls body(begin, end) over disjoint ranges that cover [0, n), on the pool and on the calling thread, and returns
// when all are done. Ranges hold at least `grain` items (the last may hold fewer). What a body writes must not depend
// on how [0, n) was cut: results have the same bits for every thread count. The first exception thrown by a body is
// rethrown here. Nested calls run on the calling thread alone, and so does a call made while another thread has the
// pool. After fork() the child starts workers of its own.
void parallel_for(int64_t n, int64_t grain, const std::function<void(int64_t begin, int64_t end)>& body);

}  // namespace ltx2rt::cpu
