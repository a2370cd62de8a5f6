// The one pool of worker threads that all CPU kernels share.
#pragma once
#include <concepts>
#include <cstdint>

namespace ltx2rt::cpu {

// Number of threads that take part in parallel_for, the caller included: LTX2RT_NUM_THREADS, else the cores' worth of
// time that this process is granted (available_cores.h). Lower than that once the system has refused to start a thread.
// Throws std::invalid_argument when LTX2RT_NUM_THREADS is not a number from 1 to 1024, or LTX2RT_PIN_THREADS not 0 or 1
// (1: every worker stays on one core; the default 0 leaves that to the scheduler).
int num_threads();

// Replaces the number above for the rest of the process; for tests and benchmarks. 1 <= count <= 1024.
void set_num_threads(int count);

// Items of the next range of a loop, of which `rest` are left: half of a thread's share, but at least `grain`. Ranges
// shrink towards the end, so that threads which came late, or whose core is slow or was taken away, hold nobody up.
int64_t guided_range(int64_t rest, int threads, int64_t grain);

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
// on how [0, n) was cut: results have the same bits for every thread count. A body must not throw: an
// exception ends the process, so whatever can fail comes before the loop. On every thread bodies run in the default
// floating-point mode (float_environment.h), whatever mode the caller or whoever started a worker was in.
//
// Several threads may call at the same time: workers help the oldest loop, range by range, and every caller works in
// its own. Nested calls run on the calling thread alone. After fork() the child starts workers of its own.
//
// A body that takes (begin, end, worker) gets a number with 0 <= worker < threads, which no other body of the same loop
// has at the same time: the index of its slot in scratch that the caller took for `threads` threads.
void parallel_for(int64_t n, int64_t grain, LoopBody body, int threads = num_threads()) noexcept;

}  // namespace ltx2rt::cpu
