// Workers that spin briefly for the next loop and then sleep, each until somebody wakes it.
#include "csrc/cpu/thread_pool.h"

#include <pthread.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <charconv>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "csrc/ceil_div.h"
#include "csrc/cpu/available_cores.h"
#include "csrc/cpu/float_environment.h"
#include "csrc/cpu/shared_loop.h"

#ifdef __linux__
#include <sched.h>
#endif

namespace ltx2rt::cpu {
namespace {

constexpr int kMostThreads = 1024;
// Loops that workers can see at one time. More callers than that find room when one of these ends.
constexpr int kLoops = 16;
// Workers that one thread wakes when it opens or joins a loop. They wake others in their turn, so that many are awake
// soon, and a loop that is over by then has woken few.
constexpr int kWakes = 2;

thread_local bool inside_loop = false;

struct InsideLoop {
  InsideLoop() { inside_loop = true; }
  ~InsideLoop() { inside_loop = false; }
};

// The number in an environment variable, or `otherwise` when that is unset.
int from_environment(const char* name, int least, int most, const char* advice, int otherwise) {
  const char* text = std::getenv(name);
  if (text == nullptr || *text == '\0') return otherwise;
  int value = 0;
  const auto [end, error] = std::from_chars(text, text + std::strlen(text), value);
  if (error != std::errc() || *end != '\0' || value < least || value > most) {
    throw std::invalid_argument(std::string(name) + " must be a number from " + std::to_string(least) + " to " +
                                std::to_string(most) + ", got \"" + text + "\"; " + advice);
  }
  return value;
}

// What holds for the whole process, read when the first kernel is built.
struct Machine {
  std::vector<int> cores = allowed_cores();
  int available = available_cores();
  bool pin = from_environment("LTX2RT_PIN_THREADS", 0, 1, "set 1 to keep every worker on a core of its own.", 0) == 1;

  Machine() {
    if (pin && cores.empty()) {
      throw std::invalid_argument("LTX2RT_PIN_THREADS is 1, but this system cannot keep a thread on a core; unset it.");
    }
  }
};

const Machine& machine() {
  static const Machine found;
  return found;
}

std::atomic<int>& thread_count() {
  static std::atomic<int> count{from_environment("LTX2RT_NUM_THREADS", 1, kMostThreads, "unset it to use all cores.",
                                                 std::min(machine().available, kMostThreads))};
  return count;
}

// Keeps the calling worker on one core. The first worker gets the second core, since the first is likely to be that of
// the caller, which is not ours to pin. A core that was taken from the process since it started is refused by the
// system, and the worker then stays free.
void pin_worker([[maybe_unused]] int worker) {
#ifdef __linux__
  const auto& cores = machine().cores;
  const int core = cores[(worker + 1) % cores.size()];
  cpu_set_t mask[kMostCores / CPU_SETSIZE] = {};
  CPU_SET_S(core, sizeof mask, mask);
  sched_setaffinity(0, sizeof mask, mask);
#endif
}

class Pool {
 public:
  void run(int64_t n, int64_t grain, int threads, const LoopBody& body) {
    int64_t done = 0;
    int index;
    while ((index = claim()) < 0) {  // so many callers that this one has to wait its turn; it does a range meanwhile
      const int64_t end = done + guided_range(n - done, threads, grain);
      body(done, end, 0);
      done = end;
      if (done == n) return;
    }
    SharedLoop& loop = loops_[index];
    loop.open(n, done, grain, threads, body, age_.fetch_add(1, std::memory_order_relaxed));
    wanted_.fetch_or(bit(index));  // sequentially consistent, as is the look at sleepers_ that follows; see sleep()
    hire(threads - 1);
    wake(threads);
    loop.work(0);
    withdraw(index);
    loop.close(may_spin());
    claimed_.fetch_and(~bit(index), std::memory_order_release);
  }

 private:
  struct Sleeper {
    alignas(kApart) std::atomic<uint32_t> awake{1};
    Sleeper* next = nullptr;
  };

  static uint32_t bit(int index) { return 1u << index; }

  // A loop for the caller alone to open; -1 when all are in use.
  int claim() {
    uint32_t claimed = claimed_.load(std::memory_order_relaxed);
    for (;;) {
      const int index = std::countr_one(claimed);
      if (index >= kLoops) return -1;
      if (claimed_.compare_exchange_weak(claimed, claimed | bit(index), std::memory_order_acquire)) return index;
    }
  }

  // Nobody else needs to look at this loop: it is full, or no range is left. Of a thread inside it.
  void withdraw(int index) {
    if (wanted_.load(std::memory_order_relaxed) & bit(index)) wanted_.fetch_and(~bit(index), std::memory_order_relaxed);
  }

  // Whether every thread has a core for itself, so that one which spins takes no time from one which works.
  bool may_spin() const {
    const int callers = std::popcount(claimed_.load(std::memory_order_relaxed));
    return num_threads() + std::max(0, callers - 1) <= machine().available;
  }

  // Starts workers until there are `count`. When the system refuses one, the process goes on with those it has.
  void hire(int count) {
    if (workers_.load(std::memory_order_relaxed) >= count) return;
    const std::lock_guard<std::mutex> lock(mutex_);
    int have = workers_.load(std::memory_order_relaxed);
    for (; have < count; ++have) {
      try {
        std::thread([this, have] { serve(have); }).detach();
      } catch (const std::exception& error) {  // no thread left, or no memory
        int asked = thread_count().load(std::memory_order_relaxed);
        while (asked > have + 1 && !thread_count().compare_exchange_weak(asked, have + 1)) continue;
        if (asked > have + 1) {
          std::fprintf(stderr, "ltx2rt: no more than %d of %d threads could be started (%s); going on with these.\n",
                       have + 1, asked, error.what());
        }
        break;
      }
    }
    workers_.store(have, std::memory_order_relaxed);
  }

  // Wakes a few of the workers that a loop of so many threads lacks.
  void wake(int threads) {
    for (int i = 0; i < kWakes; ++i) {
      if (sleepers_.load() == 0) return;
      Sleeper* sleeper;
      {
        const std::lock_guard<std::mutex> lock(mutex_);
        const int asleep = sleepers_.load(std::memory_order_relaxed);
        if (first_ == nullptr || workers_.load(std::memory_order_relaxed) - asleep >= threads - 1) return;
        sleeper = first_;
        first_ = sleeper->next;
        sleepers_.store(asleep - 1, std::memory_order_relaxed);
      }
      sleeper->awake.store(1, std::memory_order_release);
      sleeper->awake.notify_one();
    }
  }

  void sleep(Sleeper& self) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      // Either this thread sees the loop that somebody opens now, or that thread sees a sleeper and waits for the lock.
      sleepers_.fetch_add(1);
      if (wanted_.load() != 0) {
        sleepers_.fetch_sub(1, std::memory_order_relaxed);
        return;
      }
      self.awake.store(0, std::memory_order_relaxed);
      self.next = first_;
      first_ = &self;
    }
    self.awake.wait(0, std::memory_order_acquire);
  }

  // The life of a worker.
  void serve(int worker) {
    inside_loop = true;
    const DefaultFloatEnvironment environment;
    if (machine().pin) pin_worker(worker);
    Sleeper self;
    for (;;) {
      const auto wanted = [this] { return wanted_.load(std::memory_order_relaxed) != 0; };
      if (!help() && !(may_spin() && spin(wanted))) sleep(self);
    }
  }

  // Works in the oldest loop that wants workers; false: there is none.
  bool help() {
    uint32_t wanted = wanted_.load(std::memory_order_acquire);
    if (wanted == 0) return false;
    int oldest = std::countr_zero(wanted);
    while ((wanted &= wanted - 1) != 0) {
      const int index = std::countr_zero(wanted);
      if (loops_[index].age() < loops_[oldest].age()) oldest = index;
    }
    SharedLoop& loop = loops_[oldest];
    if (!loop.enter()) return true;
    const int number = loop.join(), threads = loop.threads();
    if (number >= threads - 1) withdraw(oldest);
    if (number < threads && loop.has_work()) {
      if (number < threads - 1) wake(threads);
      loop.work(number);
      withdraw(oldest);
    }
    loop.leave();
    return true;
  }

  std::array<SharedLoop, kLoops> loops_;
  // Of callers: the loops in use, and how many there ever were.
  alignas(kApart) std::atomic<uint32_t> claimed_{0};
  std::atomic<uint64_t> age_{0};
  // What workers spin on: open loops with work and room.
  alignas(kApart) std::atomic<uint32_t> wanted_{0};
  // Of whoever goes to sleep, wakes or hires.
  alignas(kApart) std::mutex mutex_;
  std::atomic<int> sleepers_{0};
  std::atomic<int> workers_{0};
  Sleeper* first_ = nullptr;
};

// Never destroyed: workers may still be asleep in it while the process exits.
Pool& pool() {
  alignas(Pool) static std::byte memory[sizeof(Pool)];
  static Pool* const made = [] {
    // The child of a fork has none of the workers, and no other thread: it starts afresh.
    pthread_atfork(nullptr, nullptr, [] { new (memory) Pool; });
    return new (memory) Pool;
  }();
  return *made;
}

}  // namespace

int num_threads() { return thread_count().load(std::memory_order_relaxed); }

void set_num_threads(int count) {
  if (count < 1 || count > kMostThreads) {
    throw std::invalid_argument("the number of threads must be from 1 to " + std::to_string(kMostThreads) + ", got " +
                                std::to_string(count) + ".");
  }
  thread_count().store(count, std::memory_order_relaxed);
}

int64_t guided_range(int64_t rest, int threads, int64_t grain) {
  return std::min(rest, std::max(grain, rest / (2 * threads)));
}

void parallel_for(int64_t n, int64_t grain, LoopBody body, int most_threads) noexcept {
  if (n <= 0) return;
  const DefaultFloatEnvironment environment;
  grain = std::max<int64_t>(1, grain);
  const int64_t threads = std::min<int64_t>(most_threads, ceil_div(n, grain));
  if (threads <= 1 || inside_loop) {
    body(0, n, 0);
    return;
  }
  const InsideLoop inside;
  pool().run(n, grain, static_cast<int>(threads), body);
}

}  // namespace ltx2rt::cpu
