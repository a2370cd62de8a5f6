// Runs a dispatch: checks what is bound, schedules every threadgroup, and reports. The threadgroups run in processes of
// their own, so that a wild access ends a child and not the caller.
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "runtime.h"

using namespace msim;

namespace msim {
Kernel kernel;
}

namespace {

constexpr size_t kArena = size_t{64} << 30;
char* arena;
size_t arena_top;
size_t dynamic_bytes[kMaxBuffers];
Report first_report;  // findings made before the threadgroups run
Thread thread_storage[kMaxThreads];

void* shared_pages(size_t bytes) {
  return mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
}

struct Dispatch {
  Kernel kernel;
  const Parameter* parameters;
  uint32_t grid[3], group[3];
  int32_t grid_is_threads, processes, seed, timeout_s, trace, checked, wave;
};

uint64_t random_state;
uint32_t random_below(uint32_t n) {
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  random_state ^= random_state << 17;
  return n < 2 ? 0 : static_cast<uint32_t>(random_state >> 33) % n;
}

// The order in which n things are visited: as numbered, or shuffled afresh on each call when there is a seed.
void visiting_order(uint16_t* order, int n, bool shuffled) {
  for (int i = 0; i < n; i++) order[i] = static_cast<uint16_t>(i);
  for (int i = n - 1; shuffled && i > 0; i--) {
    const int j = random_below(i + 1);
    const uint16_t t = order[i];
    order[i] = order[j];
    order[j] = t;
  }
}

// Runs one simdgroup until all its threads wait at a threadgroup barrier or are done. False: the threadgroup is stuck.
bool run_simdgroup(int simdgroup, bool shuffled, bool& progress) {
  Thread* lanes = threads + simdgroup * kLanes;
  const int rest = thread_count - simdgroup * kLanes;
  const int count = rest < kLanes ? rest : kLanes;
  while (true) {
    uint16_t order[kLanes];
    visiting_order(order, count, shuffled);
    for (int i = 0; i < count; i++) {
      if (lanes[order[i]].state != State::ready) continue;
      resume(lanes[order[i]]);
      progress = true;
    }
    int waiting = 0, done = 0;
    for (int i = 0; i < count; i++) {
      waiting += lanes[i].state == State::at_simdgroup_operation;
      done += lanes[i].state == State::done;
    }
    if (trace) flush_trace(simdgroup);
    if (waiting == 0) return true;
    if (waiting < count) {
      find(kDivergence, "simdgroup %d of threadgroup %u: %d of %d threads are at a simdgroup operation, %d returned, "
           "the others wait at a threadgroup barrier", simdgroup, group_number, waiting, count, done);
      return false;
    }
    const Request& first = lanes[0].request;
    for (int i = 1; i < count; i++) {
      const Request& other = lanes[i].request;
      if (other.site != first.site || other.operation != first.operation) {
        find(kDivergence, "simdgroup %d of threadgroup %u: lanes 0 and %d are at different simdgroup operations",
             simdgroup, group_number, i);
        return false;
      }
    }
    execute_simdgroup(lanes, count);
    for (int i = 0; i < count; i++) lanes[i].state = State::ready;
  }
}

bool run_threadgroup(bool shuffled) {
  const int simdgroups = (thread_count + kLanes - 1) / kLanes;
  while (true) {
    uint16_t order[kMaxThreads / kLanes];
    visiting_order(order, simdgroups, shuffled);
    bool progress = false;
    for (int i = 0; i < simdgroups; i++) {
      if (!run_simdgroup(order[i], shuffled, progress)) return false;
    }
    int waiting = 0, done = 0;
    for (int i = 0; i < thread_count; i++) {
      waiting += threads[i].state == State::at_threadgroup_barrier;
      done += threads[i].state == State::done;
    }
    if (done == thread_count) return true;
    if (waiting < thread_count) {
      find(kDivergence, "threadgroup %u: %d of %d threads wait at a threadgroup barrier, %d returned", group_number,
           waiting, thread_count, done);
      return false;
    }
    for (int i = 0; i < thread_count; i++) {
      if (threads[i].request.site != threads[0].request.site) {
        find(kDivergence, "threadgroup %u: threads 0 and %d wait at different threadgroup barriers", group_number, i);
        return false;
      }
      threads[i].state = State::ready;
    }
    report->counters.threadgroup_barriers++;
    after_threadgroup_barrier(threads[0].request.argument);
  }
}

void set_up_threads(const Dispatch& dispatch, Triple groups, Triple total, Triple at) {
  const auto extent = [&](uint32_t position, uint32_t size, uint32_t limit) {
    const uint64_t end = uint64_t{position} * size + size;
    return dispatch.grid_is_threads && end > limit ? limit - position * size : size;
  };
  const Triple size{extent(at.x, dispatch.group[0], total.x), extent(at.y, dispatch.group[1], total.y),
                    extent(at.z, dispatch.group[2], total.z), 0};
  thread_count = 0;
  for (uint32_t z = 0; z < size.z; z++) {
    for (uint32_t y = 0; y < size.y; y++) {
      for (uint32_t x = 0; x < size.x; x++) {
        Thread& thread = threads[thread_count];
        thread.id = thread_count;
        thread.lane = thread_count % kLanes;
        thread.simdgroup = thread_count / kLanes;
        ThreadArguments& a = thread.arguments;
        memset(&a, 0, sizeof a);
        for (int i = 0; i < buffer_count; i++) a.buffers[buffers[i].index] = buffers[i].bound;
        size_t offset = 0;
        for (int i = 0; i < kMaxBuffers; i++) {
          if (!dynamic_bytes[i]) continue;
          a.threadgroup_memory[i] = threadgroup_memory() + offset;
          offset += dynamic_bytes[i];
        }
        a.position_in_grid = {at.x * dispatch.group[0] + x, at.y * dispatch.group[1] + y, at.z * dispatch.group[2] + z, 0};
        a.position_in_threadgroup = {x, y, z, 0};
        a.threadgroup_position = at;
        a.threads_per_grid = total;
        a.threads_per_threadgroup = size;
        a.threadgroups_per_grid = groups;
        a.index_in_threadgroup = thread_count;
        a.lane = thread.lane;
        a.simdgroup = thread.simdgroup;
        a.simdgroups = (size.x * size.y * size.z + kLanes - 1) / kLanes;
        a.simd_width = kLanes;
        thread_count++;
        start_thread(thread);
      }
    }
  }
}

// The threadgroups number `first`, `first + step`, ... of a dispatch.
void run_threadgroups(const Dispatch& dispatch, Triple groups, Triple total, uint32_t first, uint32_t step) {
  const uint32_t count = groups.x * groups.y * groups.z;
  size_t dynamic = 0;
  for (size_t bytes : dynamic_bytes) dynamic += bytes;
  random_state = 0x9e3779b97f4a7c15u * (dispatch.seed + 1) + first;
  // With a seed the groups are visited with a stride that has no common divisor with their number.
  uint64_t stride = 1;
  if (dispatch.seed) {
    const auto divides = [](uint64_t a, uint64_t b) {
      while (b) {
        const uint64_t r = a % b;
        a = b;
        b = r;
      }
      return a != 1;
    };
    stride = 1 + random_below(count);
    while (divides(stride, count)) stride++;
  }
  for (uint32_t i = first; i < count; i += step) {
    group_number = static_cast<uint32_t>(i * stride % count);
    const Triple at{group_number % groups.x, group_number / groups.x % groups.y, group_number / (groups.x * groups.y), 0};
    report->counters.threadgroups++;
    if (dispatch.wave > 0) wave = 1 + i / dispatch.wave;
    begin_threadgroup(dynamic);
    set_up_threads(dispatch, groups, total, at);
    if (!run_threadgroup(dispatch.seed != 0)) return;
  }
}

void on_fault(int signal, siginfo_t* info, void*) {
  find(kCrash, "%s at address %p in thread %d of threadgroup %u", signal == SIGSEGV ? "wild access" : "fault",
       info->si_addr, current ? current->id : -1, group_number);
  _exit(3);
}

void run_child(const Dispatch& dispatch, Triple groups, Triple total, int number) {
  static char fault_stack[65536];
  stack_t stack{};
  stack.ss_sp = fault_stack;
  stack.ss_size = sizeof fault_stack;
  sigaltstack(&stack, nullptr);
  struct sigaction action {};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};
  for (int fault : faults) sigaction(fault, &action, nullptr);
  signal(SIGALRM, SIG_DFL);
  alarm(dispatch.timeout_s);
  if (dispatch.wave > 0) prepare_waves();
  run_threadgroups(dispatch, groups, total, number, dispatch.processes);
  _exit(0);
}

const Buffer* bound_at(int index) {
  for (int i = 0; i < buffer_count; i++) {
    if (buffers[i].index == index) return &buffers[i];
  }
  return nullptr;
}

void check_parameter(const Parameter& p) {
  if (p.kind == 2) {
    if (!dynamic_bytes[p.index]) find(kBinding, "threadgroup memory %d has no length", p.index);
    return;
  }
  const Buffer* b = bound_at(p.index);
  if (!b) return;  // found when it is used: a parameter that only a switched-off variant needs may be left out
  const size_t bytes = b->bytes - (b->bound - b->base);
  if (b->mode == kInline && p.kind == 0) find(kBinding, "buffer %d is bound to bytes but is a device pointer", p.index);
  if (p.reference && b->mode == kInline && bytes != static_cast<size_t>(p.size)) {
    find(kBinding, "buffer %d: the kernel's struct has %lld bytes but %zu are bound", p.index, (long long)p.size, bytes);
  } else if (p.reference && bytes < static_cast<size_t>(p.size)) {
    find(kBinding, "buffer %d: the kernel reads %lld bytes but %zu are bound", p.index, (long long)p.size, bytes);
  }
  if (reinterpret_cast<uintptr_t>(b->bound) % p.alignment) {
    find(kBinding, "buffer %d: offset %td is not a multiple of %lld, the alignment of its elements", p.index,
         b->bound - b->base, (long long)p.alignment);
  }
  if ((b->mode & kWrite) && !p.writable) find(kBinding, "buffer %d is bound as an output but is const", p.index);
}

bool check(const Dispatch& dispatch) {
  bool used[kMaxBuffers] = {};
  for (const Parameter* p = dispatch.parameters; p->kind >= 0; p++) {
    check_parameter(*p);
    if (p->kind != 2) used[p->index] = true;
  }
  for (int i = 0; i < buffer_count; i++) {
    if (!used[buffers[i].index]) find(kBinding, "buffer %d is bound but the kernel has no such argument", buffers[i].index);
  }
  size_t dynamic = 0;
  for (int i = 0; i < kMaxBuffers; i++) {
    dynamic += dynamic_bytes[i];
    if (dynamic_bytes[i] % 16) {
      find(kLimit, "threadgroup memory %d: length %zu is not a multiple of 16", i, dynamic_bytes[i]);
    }
  }
  if (dynamic > kMaxThreadgroupBytes) {
    find(kLimit, "threadgroup memory: %zu bytes, Metal allows %zu", dynamic, kMaxThreadgroupBytes);
  }
  const uint64_t threads_per_group = uint64_t{dispatch.group[0]} * dispatch.group[1] * dispatch.group[2];
  if (threads_per_group > kMaxThreads || threads_per_group == 0) {
    find(kLimit, "a threadgroup of %u x %u x %u threads, Metal allows 1 to %d", dispatch.group[0], dispatch.group[1],
         dispatch.group[2], kMaxThreads);
    return false;
  }
  if (dispatch.grid[0] == 0 || dispatch.grid[1] == 0 || dispatch.grid[2] == 0) {
    find(kLimit, "the grid is empty: %u x %u x %u", dispatch.grid[0], dispatch.grid[1], dispatch.grid[2]);
    return false;
  }
  return dynamic <= kMaxThreadgroupBytes;
}

void add(Report& to, const Report& from) {
  const auto* source = reinterpret_cast<const uint64_t*>(&from.counters);
  auto* sum = reinterpret_cast<uint64_t*>(&to.counters);
  const uint64_t most = to.counters.threadgroup_bytes > from.counters.threadgroup_bytes
                            ? to.counters.threadgroup_bytes : from.counters.threadgroup_bytes;
  for (size_t i = 0; i < sizeof(Counters) / sizeof(uint64_t); i++) sum[i] += source[i];
  to.counters.threadgroup_bytes = most;
  for (int i = 0; i < kKinds; i++) to.found[i] += from.found[i];
  for (int i = 0; i < from.kept && to.kept < kMaxFindings; i++) to.findings[to.kept++] = from.findings[i];
}

}  // namespace

extern "C" {

// Forgets everything bound and found.
void msim_reset() {
  for (int i = 0; i < buffer_count; i++) {
    if (buffers[i].writers) munmap(buffers[i].writers, 2 * buffers[i].bytes * sizeof(uint64_t));
  }
  if (arena) munmap(arena, kArena);
  arena = static_cast<char*>(shared_pages(kArena));
  arena_top = 0;
  buffer_count = 0;
  memset(dynamic_bytes, 0, sizeof dynamic_bytes);
  memset(&first_report, 0, sizeof first_report);
  report = &first_report;
}

// Binds `bytes` bytes at `host`, of which the kernel sees those from `offset` on.
void msim_bind(int index, char* host, uint64_t bytes, uint64_t offset, int mode, int element, int partial) {
  if (index < 0 || index >= kMaxBuffers || bound_at(index)) {
    find(kLimit, "buffer %d cannot be bound: indices are 0 to %d, each used once", index, kMaxBuffers - 1);
    return;
  }
  if (mode == kInline && bytes > kMaxInlineBytes) {
    find(kLimit, "buffer %d: %llu bytes set inline, Metal allows %zu", index, (unsigned long long)bytes,
         kMaxInlineBytes);
  }
  arena_top += kBufferGap;
  Buffer& b = buffers[buffer_count++];
  b = {arena + arena_top, arena + arena_top + offset, bytes, index, mode, element, partial != 0, host, nullptr, nullptr, nullptr};
  if (mode == kWrite) {
    memset(b.base, 0xff, bytes);
  } else {
    memcpy(b.base, host, bytes);
  }
  if ((mode & kWrite) && bytes) {
    b.writers = static_cast<uint64_t*>(shared_pages(2 * bytes * sizeof(uint64_t)));
    b.readers = b.writers + bytes;
  }
  arena_top = (arena_top + bytes + 16383) / 16384 * 16384 + kBufferGap;
}

void msim_set_threadgroup_memory(int index, uint64_t bytes) {
  if (index < 0 || index >= kMaxBuffers) {
    find(kLimit, "threadgroup memory %d: indices are 0 to %d", index, kMaxBuffers - 1);
  } else {
    dynamic_bytes[index] = bytes;
  }
}

// Runs the dispatch and copies outputs back to their hosts.
void msim_launch(const Dispatch* dispatch) {
  if (!check(*dispatch)) return;
  kernel = dispatch->kernel;
  trace = dispatch->trace;
  threads = thread_storage;
  const uint32_t *grid = dispatch->grid, *group = dispatch->group;
  Triple groups{grid[0], grid[1], grid[2], 0};
  Triple total{grid[0] * group[0], grid[1] * group[1], grid[2] * group[2], 0};
  if (dispatch->grid_is_threads) {
    total = {grid[0], grid[1], grid[2], 0};
    groups = {(grid[0] + group[0] - 1) / group[0], (grid[1] + group[1] - 1) / group[1],
              (grid[2] + group[2] - 1) / group[2], 0};
  }
  prepare_stacks(kMaxThreads);
  const size_t bytes = sizeof(Report) * dispatch->processes;
  auto* reports = static_cast<Report*>(shared_pages(bytes));
  pid_t* children = static_cast<pid_t*>(calloc(dispatch->processes, sizeof(pid_t)));
  for (int i = 0; i < dispatch->processes; i++) {
    children[i] = fork();
    if (children[i] == 0) {
      report = reports + i;
      run_child(*dispatch, groups, total, i);
    }
  }
  for (int i = 0; i < dispatch->processes; i++) {
    int status = 0;
    const bool started = children[i] > 0 && waitpid(children[i], &status, 0) == children[i];
    report = reports + i;
    if (!started) {
      find(kCrash, "the simulator could not start a process");
    } else if (WIFSIGNALED(status)) {
      if (WTERMSIG(status) == SIGALRM) {
        find(kCrash, "still running after %d s", dispatch->timeout_s);
      } else {
        find(kCrash, "ended by signal %d", WTERMSIG(status));
      }
    }
  }
  report = &first_report;
  for (int i = 0; i < dispatch->processes; i++) add(first_report, reports[i]);
  free(children);
  munmap(reports, bytes);
  uint64_t found = 0;
  for (uint64_t n : first_report.found) found += n;
  if (dispatch->checked && found == 0) find_unwritten();
  for (int i = 0; i < buffer_count; i++) {
    if (buffers[i].mode & kWrite) memcpy(buffers[i].host, buffers[i].base, buffers[i].bytes);
  }
}

const Report* msim_report() { return &first_report; }
}
