// One parallel loop: what is left of it, who may join, and who is still at work in it.
#pragma once
#include <atomic>
#include <chrono>
#include <cstdint>

#include "csrc/cpu/thread_pool.h"

namespace ltx2rt::cpu {

// What different threads write lies this far apart: a cache line of Apple's cores, two of others, which fetch in pairs.
inline constexpr size_t kApart = 128;

// Spins until done() or for 50 microseconds, long enough to bridge the gap between two ops of one graph, short enough
// not to be felt as load. Returns done().
template <typename Done>
bool spin(const Done& done) {
  const auto until = std::chrono::steady_clock::now() + std::chrono::microseconds(50);
  do {
    for (int i = 0; i < 64; ++i) {
      if (done()) return true;
#if defined(__x86_64__)
      __builtin_ia32_pause();
#elif defined(__aarch64__)
      asm volatile("yield");
#endif
    }
  } while (std::chrono::steady_clock::now() < until);
  return done();
}

// The caller opens the loop, works in it and closes it. In between, other threads may enter, join, work and leave. The
// object itself is never freed and serves one loop after the other: a thread that comes late finds it closed, or open
// for another loop, and is safe in either case.
class SharedLoop {
 public:
  // Of the caller, who has this object to itself. The first `done` items are not part of the loop any more.
  void open(int64_t n, int64_t done, int64_t grain, int threads, const LoopBody& body, uint64_t age) {
    n_ = n;
    grain_ = grain;
    threads_ = threads;
    body_ = &body;
    age_.store(age, std::memory_order_relaxed);
    next_.store(done, std::memory_order_relaxed);
    numbers_.store(1, std::memory_order_relaxed);
    gate_.fetch_or(kOpen, std::memory_order_release);
  }

  // Of the caller: returns when all who entered have left; may_spin: looks for that a while before it sleeps.
  void close(bool may_spin) {
    uint32_t inside = gate_.fetch_and(~kOpen, std::memory_order_acq_rel) & ~kOpen;
    const auto empty = [&] { return (inside = gate_.load(std::memory_order_acquire)) == 0; };
    if (inside == 0 || (may_spin && spin(empty))) return;
    while (!empty()) gate_.wait(inside, std::memory_order_acquire);
  }

  // False: closed; nothing of the loop may be touched then, and there is nothing to leave.
  bool enter() {
    if (gate_.fetch_add(1, std::memory_order_acquire) & kOpen) return true;
    leave();
    return false;
  }
  void leave() {
    if (gate_.fetch_sub(1, std::memory_order_acq_rel) == 1) gate_.notify_one();
  }

  // Of a thread that has entered: its number in the loop, or threads() and more when there is no room.
  int join() { return numbers_.fetch_add(1, std::memory_order_relaxed); }

  // Of the caller, whose number is 0, and of those who joined: runs ranges while there are any.
  void work(int number) noexcept {
    int64_t begin = next_.load(std::memory_order_relaxed);
    while (begin < n_) {
      const int64_t end = begin + guided_range(n_ - begin, threads_, grain_);
      if (!next_.compare_exchange_weak(begin, end, std::memory_order_relaxed)) continue;
      (*body_)(begin, end, number);
      begin = next_.load(std::memory_order_relaxed);
    }
  }

  int threads() const { return threads_; }
  bool has_work() const { return next_.load(std::memory_order_relaxed) < n_; }
  // Rises from loop to loop. A hint: may be read without having entered.
  uint64_t age() const { return age_.load(std::memory_order_relaxed); }

 private:
  static constexpr uint32_t kOpen = 1u << 31;  // the other bits count the threads inside

  // Written before the loop opens.
  alignas(kApart) int64_t n_ = 0;
  int64_t grain_ = 1;
  const LoopBody* body_ = nullptr;
  std::atomic<uint64_t> age_{0};
  int threads_ = 1;
  // Written for every range.
  alignas(kApart) std::atomic<int64_t> next_{0};
  // Written when a thread comes or goes.
  alignas(kApart) std::atomic<uint32_t> gate_{0};
  std::atomic<int> numbers_{0};
};

}  // namespace ltx2rt::cpu
