// The one pool of worker threads that all CPU kernels share.
#pragma once
#include <concepts>
#include <cstdint>

namespace ltx2rt::cpu {

// Number of threads that take part in parallel_for, the caller included: LTX2RT_NUM_THREADS, else the cores this
// process may run on. Throws std::invalid_argument when LTX2RT_NUM_THREADS is not a number from 1 to 1024.
int num_threads();

// Replaces the number above for the rest of the process; for tests and benchmarks. count >= 1.
void set_num_threads(int count);

// The body of a loop by reference: it lives in the caller's frame, so that starting a loop never allocates. Made from
// anything that can be called with (begin, end) or with (begin, end, worker).
class LoopBody {
 public:
  template <std::invocable<int64_t, int64_t> Body>
  LoopBody(const Body& body)
      : body_(&body), call_([](const void* called, int64_t begin, int64_t end, int) {
          (*static_cast<const Body*>(called))(begin, end);
        }) {}

  template <std::invocable<int64_t, int64_t, int> Body>
  LoopBody(const Body& body)
      : body_(&body), call_([](const void* called, int64_t begin, int64_t end, int worker) {
          (*static_cast<const Body*>(called))(begin, end, worker);
        }) {}

  void operator()(int64_t begin, int64_t end, int worker) const { call_(body_, begin, end, worker); }

 private:
  const void* body_;
  void (*call_)(const void*, int64_t, int64_t, int);
};

// Calls body(begin, end) over disjoint ranges that cover [0, n), on the pool and on the calling thread, and returns
// when all are done. Ranges hold at least `grain` items (the last may hold fewer). What a body writes must not depend
// on how [0, n) was cut: results have the same bits for every thread count. The first exception thrown by a body is
// rethrown here. Nested calls run on the calling thread alone, and so does a call made while another thread has the
// pool. After fork() the child starts workers of its own.
//
// A body that takes (begin, end, worker) gets a number with 0 <= worker < threads, which no other body of the same loop
// has at the same time: the index of its slot in scratch that the caller took for `threads` threads.
void parallel_for(int64_t n, int64_t grain, LoopBody body, int threads = num_threads());

}  // namespace ltx2rt::cpu
