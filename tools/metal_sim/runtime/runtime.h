// State of one simulated dispatch: its threads, its memory and what is counted and found. C library only, so that
// building the runtime needs no C++ standard library.
#pragma once
#include <stddef.h>
#include <stdint.h>

namespace msim {

constexpr int kLanes = 32;
constexpr int kMaxBuffers = 31;         // Metal's buffer argument table
constexpr int kMaxThreads = 1024;       // per threadgroup
constexpr size_t kMaxThreadgroupBytes = 32768;
constexpr size_t kMaxInlineBytes = 4096;  // setBytes
constexpr size_t kThreadgroupArena = 1 << 17;
constexpr size_t kBufferGap = 1 << 20;  // unmapped distance between buffers
constexpr int kMaxFindings = 64;        // kept per process; all are counted
constexpr uint64_t kKeptOfAKind = 8;

struct alignas(16) Triple {
  uint32_t x, y, z, unused;
};

// Shared with msl/launch.h, field by field.
struct ThreadArguments {
  void* buffers[kMaxBuffers];
  void* threadgroup_memory[kMaxBuffers];
  Triple position_in_grid, position_in_threadgroup, threadgroup_position;
  Triple threads_per_grid, threads_per_threadgroup, threadgroups_per_grid;
  uint32_t index_in_threadgroup, lane, simdgroup, simdgroups, simd_width;
};
struct Parameter {
  int kind, index, reference, writable;  // kind: 0 device, 1 constant, 2 threadgroup, -1 end of list
  int64_t size, alignment;
};
using Kernel = void (*)(const ThreadArguments*);

// What one launch did. The order is known to run.py.
struct Counters {
  uint64_t device_load_bytes, device_store_bytes, constant_load_bytes;
  uint64_t threadgroup_load_bytes, threadgroup_store_bytes;
  uint64_t loads, stores;  // requests of device, constant and threadgroup memory, one per thread and access
  uint64_t multiplies;     // 8 x 8 x 8 matrix operations
  uint64_t shuffles, reductions, threadgroup_barriers, simdgroup_barriers, atomics;
  uint64_t threadgroups, threadgroup_bytes;
  uint64_t device_lines;        // distinct 128-byte lines per simdgroup and access, when traced
  uint64_t threadgroup_cycles;  // accesses to the busiest of 32 four-byte banks, when traced
  uint64_t wide_integer_operations, narrow_integer_operations;  // of 64 bits and of fewer, when compiled to be counted
  uint64_t wave_lines;  // distinct 128-byte lines that each wave of threadgroups loads, when there are waves
};

// Kinds of findings; names in run.py.
enum Kind : int32_t {
  kRace,
  kBounds,
  kAlignment,
  kUninitialised,
  kDivergence,
  kLimit,
  kBinding,
  kNan,
  kUnwritten,
  kCrash,
  kKinds
};
struct Finding {
  int32_t kind;
  char message[508];
};
struct Report {
  Counters counters;
  uint64_t found[kKinds];
  int32_t kept;
  Finding findings[kMaxFindings];
};
extern Report* report;  // of this process
void find(Kind kind, const char* format, ...) __attribute__((format(printf, 2, 3)));

// ---- threads ----
enum class State { ready, at_threadgroup_barrier, at_simdgroup_operation, done };
enum class Operation : int { barrier, shuffle, reduce, multiply, ballot };
struct Request {
  Operation operation;
  int kind, argument, size;
  const void *a, *b, *c;
  void* result;
  const void* site;  // where in the kernel; all threads must stand at the same one
};
struct Thread {
  void* stack;
  State state;
  int id, lane, simdgroup;
  Request request;
  ThreadArguments arguments;
};
extern Thread* threads;  // of the running threadgroup
extern int thread_count;
extern Thread* current;
void yield();
void prepare_stacks(int count);
bool on_a_stack(const char* p);
void start_thread(Thread& thread);
void resume(Thread& thread);
void execute_simdgroup(Thread* first, int count);  // all `count` lanes stand at the same operation

extern Kernel kernel;
extern uint32_t group_number;

// ---- memory ----
enum Element : int { kOther, kFloat32, kFloat16, kBfloat16 };
enum Mode : int { kInline = 0, kRead = 1, kWrite = 2, kReadWrite = 3 };
struct Buffer {
  char* base;       // in the arena
  char* bound;      // base + offset
  size_t bytes;     // of the whole buffer
  int index, mode, element;
  bool partial;     // may leave bytes unwritten
  char* host;
  uint64_t *writers, *readers;  // per byte, see memory.cpp; null for buffers that are only read
  uint32_t* waves;              // per line, the last wave that loaded it; null where waves are not counted
};
extern Buffer buffers[kMaxBuffers];
extern int buffer_count;
extern bool trace;
extern uint32_t wave;  // of the running threadgroup, from 1 on; 0 where waves are not counted

void prepare_waves();
void begin_threadgroup(size_t dynamic_bytes);
char* threadgroup_memory();
void after_threadgroup_barrier(int flags);
void after_simdgroup_barrier(int simdgroup, int flags);
void flush_pending_store();
void flush_trace(int simdgroup);
void find_unwritten();

}  // namespace msim
