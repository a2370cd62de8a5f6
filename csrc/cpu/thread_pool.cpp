// Persistent workers that spin briefly for the next loop and then sleep.
#include "csrc/cpu/thread_pool.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#ifdef __linux__
#include <sched.h>
#endif

namespace ltx2rt::cpu {
namespace {

// Long enough to bridge the gap between two ops of one graph, short enough not to be felt as load.
constexpr auto kSpin = std::chrono::microseconds(50);
// More ranges than threads, so that a thread that loses its core does not hold up the others.
constexpr int kRangesPerThread = 4;

thread_local bool inside_loop = false;

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Spins until done() or kSpin has passed; returns done().
template <typename Done>
bool spin(const Done& done) {
  const auto until = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 64; ++i) {
      if (done()) return true;
      relax();
    }
  } while (std::chrono::steady_clock::now() < until);
  return done();
}

int available_cores() {
#ifdef __linux__
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
#endif
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

int threads_from_environment() {
  const char* text = std::getenv("LTX2RT_NUM_THREADS");
  if (text == nullptr || *text == '\0') return available_cores();
  int count = 0;
  const auto [end, error] = std::from_chars(text, text + std::strlen(text), count);
  if (error != std::errc() || *end != '\0' || count < 1 || count > 1024) {
    throw std::invalid_argument(std::string("LTX2RT_NUM_THREADS must be a number from 1 to 1024, got \"") + text +
                                "\"; unset it to use all cores.");
  }
  return count;
}

std::atomic<int>& thread_count() {
  static std::atomic<int> count{threads_from_environment()};
  return count;
}

struct Loop {
  int64_t n;
  int64_t range;
  LoopBody body;
  std::atomic<int64_t> next{0};
  std::atomic<bool> failed{false};
  std::exception_ptr error;  // written by the thread that set `failed`

  void run(int worker) {
    inside_loop = true;
    for (;;) {
      const int64_t begin = next.fetch_add(range, std::memory_order_relaxed);
      if (begin >= n || failed.load(std::memory_order_relaxed)) break;
      try {
        body(begin, std::min(n, begin + range), worker);
      } catch (...) {
        if (!failed.exchange(true)) error = std::current_exception();
      }
    }
    inside_loop = false;
  }
};

class Pool {
 public:
  // False when another thread is using the pool; nothing was run then.
  bool try_run(Loop& loop, int threads) {
    const std::unique_lock<std::mutex> turn(turn_, std::try_to_lock);
    if (!turn.owns_lock()) return false;
    while (static_cast<int>(workers_) < threads - 1) {
      std::thread([this, id = workers_] { work(id); }).detach();
      ++workers_;
    }
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      loop_ = &loop;
      helpers_ = threads - 1;
      epoch_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    loop.run(0);
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      loop_ = nullptr;  // whoever has not entered by now stays out
    }
    if (!spin([this] { return inside_.load(std::memory_order_acquire) == 0; })) {
      std::unique_lock<std::mutex> lock(mutex_);
      finished_.wait(lock, [this] { return inside_.load(std::memory_order_acquire) == 0; });
    }
    return true;
  }

 private:
  void work(int id) {
    uint64_t seen = 0;
    for (;;) {
      const auto called = [this, &seen] { return epoch_.load(std::memory_order_acquire) != seen; };
      spin(called);
      Loop* loop = nullptr;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, called);
        seen = epoch_.load(std::memory_order_relaxed);
        if (loop_ == nullptr || id >= helpers_) continue;
        loop = loop_;
        inside_.fetch_add(1, std::memory_order_relaxed);
      }
      loop->run(id + 1);
      const std::lock_guard<std::mutex> lock(mutex_);
      if (inside_.fetch_sub(1, std::memory_order_release) == 1) finished_.notify_one();
    }
  }

  std::mutex turn_;  // held by the thread whose loop the pool runs
  int workers_ = 0;

  std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable finished_;
  Loop* loop_ = nullptr;
  int helpers_ = 0;  // workers with a smaller id may join the loop
  std::atomic<uint64_t> epoch_{0};
  std::atomic<int> inside_{0};
};

// Never destroyed: workers may still be asleep in it while the process exits.
std::atomic<Pool*>& current_pool() {
  static std::atomic<Pool*> pool = [] {
    // The child of a fork has none of the workers; it leaves the old pool alone and starts afresh.
    pthread_atfork(nullptr, nullptr, [] { current_pool().store(new Pool); });
    return new Pool;
  }();
  return pool;
}

}  // namespace

int num_threads() { return thread_count().load(std::memory_order_relaxed); }

void set_num_threads(int count) {
  if (count < 1 || count > 1024) {
    throw std::invalid_argument("the number of threads must be from 1 to 1024, got " + std::to_string(count) + ".");
  }
  thread_count().store(count, std::memory_order_relaxed);
}

void parallel_for(int64_t n, int64_t grain, LoopBody body, int most_threads) {
  if (n <= 0) return;
  grain = std::max<int64_t>(1, grain);
  const int64_t threads = std::min<int64_t>(most_threads, (n + grain - 1) / grain);
  if (threads <= 1 || inside_loop) {
    body(0, n, 0);
    return;
  }
  const int64_t ranges = threads * kRangesPerThread;
  Loop loop{.n = n, .range = std::max(grain, (n + ranges - 1) / ranges), .body = body, .error = nullptr};
  if (!current_pool().load()->try_run(loop, static_cast<int>(threads))) {
    body(0, n, 0);
    return;
  }
  if (loop.error) std::rethrow_exception(loop.error);
}

}  // namespace ltx2rt::cpu
