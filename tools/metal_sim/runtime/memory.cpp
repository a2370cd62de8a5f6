// Every load and store of a checked kernel: counted, and compared with what other threads did to the same bytes.
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime.h"

namespace msim {

Report* report;
Buffer buffers[kMaxBuffers];
int buffer_count;
bool trace;
uint32_t group_number, wave;

void find(Kind kind, const char* format, ...) {
  if (report->found[kind]++ >= kKeptOfAKind || report->kept == kMaxFindings) return;
  Finding& finding = report->findings[report->kept++];
  finding.kind = kind;
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(finding.message, sizeof finding.message, format, arguments);
  va_end(arguments);
}

namespace {

// ---- threadgroup memory ----
// Who last touched a byte, and when: barriers start new epochs, in which older accesses cannot race any more.
struct Touch {
  int16_t thread = -1;
  uint16_t simd_epoch = 0;
  uint32_t epoch = 0;
};
// Two readers of different threads, of different simdgroups where there were such, are enough to show every race of a
// writer with a reader of another simdgroup.
struct Byte {
  Touch writer, reader, other_reader;
  uint32_t written;  // epoch of the threadgroup's start, when written since
};
alignas(4096) char tg_memory[kThreadgroupArena];
Byte tg_bytes[kThreadgroupArena];
size_t tg_top;
struct Allocation {
  int id;
  size_t offset, bytes;
  const char* name;
};
Allocation allocations[256];
int allocation_count;
uint32_t epoch, first_epoch;
uint16_t simd_epochs[kMaxThreads / kLanes];

const char* name_at(size_t offset, size_t& inside) {
  for (int i = 0; i < allocation_count; i++) {
    const auto& a = allocations[i];
    if (offset >= a.offset && offset < a.offset + a.bytes) {
      inside = offset - a.offset;
      return a.name;
    }
  }
  inside = offset;
  return "threadgroup memory";
}

bool unordered(const Touch& touch) {
  if (touch.epoch != epoch || touch.thread < 0 || touch.thread == current->id) return false;
  return touch.thread / kLanes != current->simdgroup || touch.simd_epoch == simd_epochs[current->simdgroup];
}

void threadgroup_race(size_t offset, bool writing, const Touch& earlier, bool earlier_wrote) {
  size_t inside;
  const char* name = name_at(offset, inside);
  find(kRace, "%s byte %zu: thread %d %s what thread %d %s with no barrier between (threadgroup %u)", name, inside,
       current->id, writing ? "overwrites" : "reads", earlier.thread, earlier_wrote ? "wrote" : "read", group_number);
}

void touch_threadgroup(size_t offset, int n, bool writing) {
  auto& counters = report->counters;
  (writing ? counters.stores : counters.loads)++;
  (writing ? counters.threadgroup_store_bytes : counters.threadgroup_load_bytes) += n;
  if (offset + n > tg_top) {
    find(kBounds, "threadgroup memory: thread %d %s bytes %zu to %zu of %zu (threadgroup %u)", current->id,
         writing ? "writes" : "reads", offset, offset + n, tg_top, group_number);
    return;
  }
  Touch now{static_cast<int16_t>(current->id), simd_epochs[current->simdgroup], epoch};
  for (size_t i = offset; i < offset + n; i++) {
    Byte& byte = tg_bytes[i];
    if (unordered(byte.writer)) {
      threadgroup_race(i, writing, byte.writer, true);
      byte.writer.thread = -1;  // one report per conflict, not one per access
    }
    if (writing) {
      if (unordered(byte.reader)) {
        threadgroup_race(i, true, byte.reader, false);
      } else if (unordered(byte.other_reader)) {
        threadgroup_race(i, true, byte.other_reader, false);
      }
      byte.writer = now;
      byte.reader.thread = byte.other_reader.thread = -1;
      byte.written = first_epoch;
      continue;
    }
    if (byte.written != first_epoch) {
      size_t inside;
      const char* name = name_at(i, inside);
      find(kUninitialised, "%s byte %zu: thread %d reads what nobody wrote (threadgroup %u)", name, inside,
           current->id, group_number);
      byte.written = first_epoch;
    }
    if (byte.reader.epoch == epoch && byte.reader.thread >= 0 && byte.reader.thread != now.thread &&
        (byte.reader.thread / kLanes != current->simdgroup || byte.other_reader.epoch != epoch ||
         byte.other_reader.thread < 0)) {
      byte.other_reader = byte.reader;
    }
    byte.reader = now;
  }
}

// ---- device memory ----
// Shadow of a byte of a writable buffer: 1 + group, thread and device-memory epoch of the last access; 0 is never.
uint32_t device_epoch;
uint64_t shadow_now() {
  return (uint64_t{group_number} + 1) << 32 | uint64_t(current->id) << 22 | (device_epoch & 0x3fffff);
}
uint32_t shadow_group(uint64_t s) { return static_cast<uint32_t>(s >> 32) - 1; }
bool shadow_conflicts(uint64_t earlier, uint64_t now) {
  if (earlier == 0) return false;
  if (earlier >> 32 != now >> 32) return true;
  return (earlier >> 22) != (now >> 22) && (earlier & 0x3fffff) == (now & 0x3fffff);
}
void device_race(const Buffer& buffer, size_t offset, const char* now, const char* earlier, uint64_t shadow) {
  find(kRace, "buffer %d byte %zu: thread %d of threadgroup %u %s what thread %d of threadgroup %u %s", buffer.index,
       offset, current->id, group_number, now, int(shadow >> 22 & 0x3ff), shadow_group(shadow), earlier);
}

// A store is looked at when its thread next does anything: the hook runs before the value is in memory.
struct {
  const char* at;
  int bytes;
  const Buffer* buffer;
} pending;

Buffer* last_buffer = buffers;
Buffer* buffer_of(const char* p, int n) {
  if (last_buffer < buffers + buffer_count && p >= last_buffer->base && p + n <= last_buffer->base + last_buffer->bytes)
    return last_buffer;
  for (int i = 0; i < buffer_count; i++) {
    Buffer& b = buffers[i];
    if (p + n > b.base - kBufferGap / 2 && p < b.base + b.bytes + kBufferGap / 2) return last_buffer = &b;
  }
  return nullptr;
}

constexpr size_t kLine = 128;

bool touch_device(const char* p, int n, bool writing) {
  Buffer* buffer = buffer_of(p, n);
  if (!buffer) return false;
  auto& counters = report->counters;
  const auto offset = p - buffer->base;
  if (p < buffer->base || p + n > buffer->base + buffer->bytes) {
    find(kBounds, "buffer %d: thread %d of threadgroup %u %s %d bytes at %td of %zu", buffer->index, current->id,
         group_number, writing ? "writes" : "reads", n, offset, buffer->bytes);
    return true;
  }
  (writing ? counters.stores : counters.loads)++;
  if (buffer->mode == kInline) {
    counters.constant_load_bytes += n;
    return true;
  }
  if (writing) {
    counters.device_store_bytes += n;
    if (!(buffer->mode & kWrite)) {
      find(kBinding, "buffer %d is an input but thread %d of threadgroup %u writes byte %td", buffer->index,
           current->id, group_number, offset);
      return true;
    }
  } else {
    counters.device_load_bytes += n;
    if (buffer->waves) {
      for (size_t line = offset / kLine; line <= static_cast<size_t>(offset + n - 1) / kLine; line++) {
        if (buffer->waves[line] != wave) counters.wave_lines++;
        buffer->waves[line] = wave;
      }
    }
  }
  if (!buffer->writers) return true;
  const uint64_t now = shadow_now();
  for (size_t i = offset; i < static_cast<size_t>(offset) + n; i++) {
    uint64_t &writer = buffer->writers[i], &reader = buffer->readers[i];
    if (shadow_conflicts(writer, now)) {
      device_race(*buffer, i, writing ? "overwrites" : "reads", "wrote", writer);
    } else if (writing && shadow_conflicts(reader, now)) {
      device_race(*buffer, i, "overwrites", "read", reader);
    } else if (!writing && writer == 0 && buffer->mode == kWrite) {
      find(kUninitialised, "buffer %d byte %zu: thread %d of threadgroup %u reads an output before it is written",
           buffer->index, i, current->id, group_number);
    }
    (writing ? writer : reader) = now;
  }
  if (writing && buffer->element != kOther) pending = {p, n, buffer};
  return true;
}

bool is_nan(const Buffer& buffer, const char* p) {
  if (buffer.element == kFloat32) {
    uint32_t bits;
    memcpy(&bits, p, 4);
    return (bits & 0x7fffffff) > 0x7f800000;
  }
  uint16_t bits;
  memcpy(&bits, p, 2);
  return (bits & 0x7fff) > (buffer.element == kFloat16 ? 0x7c00 : 0x7f80);
}

// ---- how many lines and bank cycles the accesses of a simdgroup need ----
struct Access {
  const void* site;
  const char* at;
  uint32_t occurrence;  // how often this lane has been at this site since the last flush
  uint16_t bytes;
  bool device;
};
constexpr int kTraced = 1 << 15;
struct SiteCount {
  const void* site;
  uint32_t count;
};
struct Trace {
  int accesses;
  Access access[kTraced];
  SiteCount sites[kLanes][256];
} traces[kMaxThreads / kLanes];

void record(const char* p, int n, bool is_device, const void* site) {
  Trace& t = traces[current->simdgroup];
  if (t.accesses == kTraced) flush_trace(current->simdgroup);
  auto* sites = t.sites[current->lane];
  size_t slot = (reinterpret_cast<uintptr_t>(site) * 0x9e3779b97f4a7c15u) >> 56;
  for (int tries = 0; sites[slot].site && sites[slot].site != site && tries < 255; tries++) slot = (slot + 1) & 255;
  sites[slot].site = site;
  t.access[t.accesses++] = {site, p, sites[slot].count++, static_cast<uint16_t>(n), is_device};
}

int compare(const void* left, const void* right) {
  const auto *a = static_cast<const Access*>(left), *b = static_cast<const Access*>(right);
  if (a->site != b->site) return a->site < b->site ? -1 : 1;
  if (a->occurrence != b->occurrence) return a->occurrence < b->occurrence ? -1 : 1;
  return a->at < b->at ? -1 : a->at > b->at;
}

void touch(char* p, int n, bool writing, const void* site, bool aligned = false) {
  if (pending.bytes) flush_pending_store();
  if (on_a_stack(p)) return;
  if (aligned && reinterpret_cast<uintptr_t>(p) % n) {
    find(kAlignment, "thread %d of threadgroup %u %s %d bytes at an address that %d does not divide", current->id,
         group_number, writing ? "writes" : "reads", n, n);
  }
  if (p >= tg_memory && p < tg_memory + kThreadgroupArena) {
    touch_threadgroup(p - tg_memory, n, writing);
    if (trace) record(p, n, false, site);
  } else if (touch_device(p, n, writing)) {
    if (trace && last_buffer->mode != kInline) record(p, n, true, site);
  } else if (reinterpret_cast<uintptr_t>(p) < kBufferGap) {
    find(kBinding, "thread %d of threadgroup %u uses a buffer that is not bound", current->id, group_number);
  }
}

}  // namespace

char* threadgroup_memory() { return tg_memory; }

void prepare_waves() {
  for (int i = 0; i < buffer_count; i++) {
    Buffer& b = buffers[i];
    if (b.mode != kInline) b.waves = static_cast<uint32_t*>(calloc(b.bytes / kLine + 1, sizeof(uint32_t)));
  }
}

void begin_threadgroup(size_t dynamic_bytes) {
  memset(tg_memory, 0xff, kThreadgroupArena < kMaxThreadgroupBytes * 2 ? kThreadgroupArena : kMaxThreadgroupBytes * 2);
  first_epoch = ++epoch;
  tg_top = dynamic_bytes;
  if (tg_top > report->counters.threadgroup_bytes) report->counters.threadgroup_bytes = tg_top;
  allocation_count = 0;
}

void after_threadgroup_barrier(int flags) {
  if (flags & 2) epoch++;
  if (flags & 1) device_epoch++;
}

void after_simdgroup_barrier(int simdgroup, int flags) {
  if (flags & 2) simd_epochs[simdgroup]++;
}

void flush_pending_store() {
  const int step = pending.buffer && pending.buffer->element == kFloat32 ? 4 : 2;
  for (int i = 0; i + step <= pending.bytes; i += step) {
    if (is_nan(*pending.buffer, pending.at + i)) {
      find(kNan, "buffer %d byte %td: thread %d of threadgroup %u stores NaN", pending.buffer->index,
           pending.at + i - pending.buffer->base, current->id, group_number);
      break;
    }
  }
  pending.bytes = 0;
}

void flush_trace(int simdgroup) {
  Trace& t = traces[simdgroup];
  if (!t.accesses) return;
  qsort(t.access, t.accesses, sizeof(Access), compare);
  for (int i = 0; i < t.accesses;) {
    int end = i;
    uint64_t last = ~uint64_t{0};
    uint16_t banks[kLanes] = {};
    for (; end < t.accesses && t.access[end].site == t.access[i].site &&
           t.access[end].occurrence == t.access[i].occurrence; end++) {
      const auto first = reinterpret_cast<uint64_t>(t.access[end].at);
      const int unit = t.access[i].device ? 128 : 4;
      for (uint64_t u = first / unit; u <= (first + t.access[end].bytes - 1) / unit; u++) {
        if (last != ~uint64_t{0} && u <= last) continue;  // sorted by address: counted already
        last = u;
        if (t.access[i].device) {
          report->counters.device_lines++;
        } else {
          banks[u % kLanes]++;
        }
      }
    }
    uint16_t most = 0;
    for (uint16_t b : banks) most = b > most ? b : most;
    report->counters.threadgroup_cycles += most;
    i = end;
  }
  t.accesses = 0;
  memset(t.sites, 0, sizeof t.sites);
}

void find_unwritten() {
  for (int i = 0; i < buffer_count; i++) {
    const Buffer& b = buffers[i];
    if (b.mode != kWrite || b.partial) continue;
    size_t missing = 0, first = 0;
    for (size_t j = b.bytes; j-- > 0;) {
      if (!b.writers[j]) {
        missing++;
        first = j;
      }
    }
    if (missing) find(kUnwritten, "buffer %d: %zu of %zu bytes are never written, the first at %zu", b.index, missing,
                      b.bytes, first);
  }
}

}  // namespace msim

using namespace msim;

#define SITE __builtin_return_address(0)

namespace {
void touch_range(char* p, size_t n, bool writing, const void* site) {
  for (; n > 16; p += 16, n -= 16) touch(p, 16, writing, site);
  if (n) touch(p, static_cast<int>(n), writing, site);
}
}  // namespace

// The names that clang's thread sanitizer calls before each access.
extern "C" {
#define LOAD_HOOK(name, n, aligned) \
  void __tsan_##name##n(void* p) { touch(static_cast<char*>(p), n, false, SITE, aligned); }
#define STORE_HOOK(name, n, aligned) \
  void __tsan_##name##n(void* p) { touch(static_cast<char*>(p), n, true, SITE, aligned); }
#define UPDATE_HOOK(name, n, aligned)                     \
  void __tsan_##name##n(void* p) {                        \
    touch(static_cast<char*>(p), n, false, SITE, aligned); \
    touch(static_cast<char*>(p), n, true, SITE, aligned);  \
  }
#define HOOKS(n)                                                                                               \
  LOAD_HOOK(read, n, true) LOAD_HOOK(unaligned_read, n, false) LOAD_HOOK(volatile_read, n, true)               \
  LOAD_HOOK(unaligned_volatile_read, n, false) STORE_HOOK(write, n, true) STORE_HOOK(unaligned_write, n, false) \
  STORE_HOOK(volatile_write, n, true) STORE_HOOK(unaligned_volatile_write, n, false)                           \
  UPDATE_HOOK(read_write, n, true) UPDATE_HOOK(unaligned_read_write, n, false)
HOOKS(1) HOOKS(2) HOOKS(4) HOOKS(8) HOOKS(16)
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void* __tsan_memcpy(void* to, const void* from, size_t n) {
  touch_range(const_cast<char*>(static_cast<const char*>(from)), n, false, SITE);
  touch_range(static_cast<char*>(to), n, true, SITE);
  return memcpy(to, from, n);
}
void* __tsan_memmove(void* to, const void* from, size_t n) {
  touch_range(const_cast<char*>(static_cast<const char*>(from)), n, false, SITE);
  touch_range(static_cast<char*>(to), n, true, SITE);
  return memmove(to, from, n);
}
void* __tsan_memset(void* to, int value, size_t n) {
  touch_range(static_cast<char*>(to), n, true, SITE);
  return memset(to, value, n);
}

// Called in every basic block of a kernel whose arithmetic is counted (build.py).
void msim_integer_operations(int wide, int narrow) {
  report->counters.wide_integer_operations += wide;
  report->counters.narrow_integer_operations += narrow;
}

void msim_most_threads(int most) {
  const Triple& threads = current->arguments.threads_per_threadgroup;
  const uint64_t count = uint64_t(threads.x) * threads.y * threads.z;
  if (current->id == 0 && count > uint64_t(most))
    find(kLimit, "a threadgroup of %llu threads, for which the kernel is compiled with at most %d",
         (unsigned long long)count, most);
}
void* msim_allocate_threadgroup(int id, uint64_t bytes, uint64_t alignment, const char* name) {
  for (int i = 0; i < allocation_count; i++) {
    if (allocations[i].id == id) return tg_memory + allocations[i].offset;
  }
  if (alignment < 16) alignment = 16;
  const size_t offset = (tg_top + alignment - 1) / alignment * alignment;
  if (allocation_count == 256 || offset + bytes > kThreadgroupArena) {
    find(kLimit, "threadgroup memory: %s needs %llu bytes after %zu, Metal allows %zu", name, (unsigned long long)bytes,
         offset, kMaxThreadgroupBytes);
    return tg_memory;
  }
  allocations[allocation_count++] = {id, offset, bytes, name};
  tg_top = offset + bytes;
  if (tg_top > report->counters.threadgroup_bytes) {
    report->counters.threadgroup_bytes = tg_top;
    if (tg_top > kMaxThreadgroupBytes)
      find(kLimit, "threadgroup memory: %zu bytes with %s, Metal allows %zu", tg_top, name, kMaxThreadgroupBytes);
  }
  return tg_memory + offset;
}
}
