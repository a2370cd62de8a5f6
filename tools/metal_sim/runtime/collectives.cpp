// What a simdgroup does together: shuffles, reductions, ballots, matrix products; and atomics.
#include <math.h>
#include <string.h>

#include "runtime.h"

using namespace msim;

namespace {

enum Type { kF32, kF16, kBf16, kInt, kUint, kShort, kUshort, kChar, kUchar, kLong, kUlong };

float widen_bfloat(uint16_t bits) {
  const uint32_t wide = uint32_t{bits} << 16;
  float value;
  memcpy(&value, &wide, 4);
  return value;
}
uint16_t round_to_bfloat(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  if ((bits & 0x7fffffff) > 0x7f800000) return static_cast<uint16_t>(bits >> 16 | 64);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
float load_float(int type, const void* p, int i) {
  if (type == kF32) return static_cast<const float*>(p)[i];
  if (type == kF16) return static_cast<float>(static_cast<const _Float16*>(p)[i]);
  return widen_bfloat(static_cast<const uint16_t*>(p)[i]);
}
void store_float(int type, void* p, int i, float value) {
  if (type == kF32) {
    static_cast<float*>(p)[i] = value;
  } else if (type == kF16) {
    static_cast<_Float16*>(p)[i] = static_cast<_Float16>(value);
  } else {
    static_cast<uint16_t*>(p)[i] = round_to_bfloat(value);
  }
}
int64_t load_integer(int type, const void* p, int i) {
  switch (type) {
    case kInt: return static_cast<const int32_t*>(p)[i];
    case kUint: return static_cast<const uint32_t*>(p)[i];
    case kShort: return static_cast<const int16_t*>(p)[i];
    case kUshort: return static_cast<const uint16_t*>(p)[i];
    case kChar: return static_cast<const int8_t*>(p)[i];
    case kUchar: return static_cast<const uint8_t*>(p)[i];
    default: return static_cast<const int64_t*>(p)[i];
  }
}
void store_integer(int type, void* p, int i, int64_t value) {
  switch (type) {
    case kInt: case kUint: static_cast<int32_t*>(p)[i] = static_cast<int32_t>(value); break;
    case kShort: case kUshort: static_cast<int16_t*>(p)[i] = static_cast<int16_t>(value); break;
    case kChar: case kUchar: static_cast<int8_t*>(p)[i] = static_cast<int8_t>(value); break;
    default: static_cast<int64_t*>(p)[i] = value;
  }
}

enum Reduction { kSum, kMax, kMin, kProduct, kExclusive, kInclusive, kOr, kAnd, kXor, kQuadSum, kQuadMax };

template <class T>
T combine(int operation, T a, T b) {
  switch (operation) {
    case kMax: case kQuadMax: return a < b ? b : a;
    case kMin: return b < a ? b : a;
    case kProduct: return a * b;
    default: return a + b;
  }
}
template <>
int64_t combine(int operation, int64_t a, int64_t b) {
  switch (operation) {
    case kMax: case kQuadMax: return a < b ? b : a;
    case kMin: return b < a ? b : a;
    case kProduct: return a * b;
    case kOr: return a | b;
    case kAnd: return a & b;
    case kXor: return a ^ b;
    default: return a + b;
  }
}

template <class T, class Load, class Store>
void reduce_lanes(int operation, Thread* lanes, int count, Load load, Store store) {
  T values[kLanes];
  for (int i = 0; i < count; i++) values[i] = load(lanes[i]);
  if (operation == kExclusive || operation == kInclusive) {
    T sum = 0;
    for (int i = 0; i < count; i++) {
      if (operation == kExclusive) store(lanes[i], sum);
      sum = sum + values[i];
      if (operation == kInclusive) store(lanes[i], sum);
    }
    return;
  }
  const int width = operation == kQuadSum || operation == kQuadMax ? 4 : count;
  for (int first = 0; first < count; first += width) {
    const int last = first + width < count ? first + width : count;
    for (int n = last - first; n > 1;) {  // pairs at half distance, as the hardware's butterfly
      const int half = (n + 1) / 2;
      for (int i = 0; i + half < n; i++) {
        values[first + i] = combine(operation, values[first + i], values[first + i + half]);
      }
      n = half;
    }
    for (int i = first; i < last; i++) store(lanes[i], values[first]);
  }
}

void reduce(Thread* lanes, int count) {
  report->counters.reductions++;
  const int type = lanes->request.argument, operation = lanes->request.kind;
  for (int e = 0; e < lanes->request.size; e++) {
    if (type <= kBf16) {
      reduce_lanes<float>(
          operation, lanes, count, [&](Thread& t) { return load_float(type, t.request.a, e); },
          [&](Thread& t, float v) { store_float(type, t.request.result, e, v); });
    } else {
      reduce_lanes<int64_t>(
          operation, lanes, count, [&](Thread& t) { return load_integer(type, t.request.a, e); },
          [&](Thread& t, int64_t v) { store_integer(type, t.request.result, e, v); });
    }
  }
}

// Numbers shared with msl/simd.h.
enum Shuffle { kFromLane, kXorLane, kDown, kUp, kQuadLane, kRotateDown, kRotateUp, kFillUp, kFillDown };

void shuffle(Thread* lanes, int count) {
  report->counters.shuffles++;
  static char values[kLanes][64], fills[kLanes][64];
  const int size = lanes->request.size;
  for (int i = 0; i < count; i++) {
    memcpy(values[i], lanes[i].request.a, size);
    if (lanes[i].request.b) memcpy(fills[i], lanes[i].request.b, size);
  }
  for (int i = 0; i < count; i++) {
    const Request& request = lanes[i].request;
    const int argument = request.argument;
    int from = i;
    bool fill = false;
    switch (request.kind) {
      case kFromLane: from = argument; break;
      case kXorLane: from = i ^ argument; break;
      case kDown: from = i + argument < count ? i + argument : i; break;
      case kUp: from = i >= argument ? i - argument : i; break;
      case kQuadLane: from = (i & ~3) + argument; break;
      case kRotateDown: from = (i + argument) % count; break;
      case kRotateUp: from = (i - argument % count + count) % count; break;
      case kFillUp: from = i - argument; fill = from < 0; from += fill ? count : 0; break;
      case kFillDown: from = i + argument; fill = from >= count; from -= fill ? count : 0; break;
    }
    if (from < 0 || from >= count) {
      find(kDivergence, "thread %d shuffles from lane %d of a simdgroup of %d (threadgroup %u)", lanes[i].id, from,
           count, group_number);
      from = i;
    }
    memcpy(request.result, fill ? fills[from] : values[from], size);
  }
}

// Lane mapping of an 8 x 8 matrix: element j of a lane is (row, column + j).
int row_of(int lane) { return (lane / 4 & 4) + lane / 2 % 4; }
int column_of(int lane) { return (lane / 4 & 2) * 2 + lane % 2 * 2; }

void multiply(Thread* lanes, int count) {
  report->counters.multiplies++;
  if (count != kLanes) {
    find(kDivergence, "a simdgroup of %d threads multiplies matrices (threadgroup %u)", count, group_number);
    return;
  }
  const int types = lanes->request.kind;
  const int d = types & 255, a = types >> 8 & 255, b = types >> 16 & 255, c = types >> 24 & 255;
  float left[8][8], right[8][8], sum[8][8];
  for (int i = 0; i < kLanes; i++) {
    const Request& request = lanes[i].request;
    for (int j = 0; j < 2; j++) {
      left[row_of(i)][column_of(i) + j] = load_float(a, request.a, j);
      right[row_of(i)][column_of(i) + j] = load_float(b, request.b, j);
      sum[row_of(i)][column_of(i) + j] = load_float(c, request.c, j);
    }
  }
  for (int i = 0; i < 8; i++) {
    for (int k = 0; k < 8; k++) {
      for (int j = 0; j < 8; j++) sum[i][j] = __builtin_fmaf(left[i][k], right[k][j], sum[i][j]);
    }
  }
  for (int i = 0; i < kLanes; i++) {
    for (int j = 0; j < 2; j++) store_float(d, lanes[i].request.result, j, sum[row_of(i)][column_of(i) + j]);
  }
}

void ballot(Thread* lanes, int count) {
  uint64_t votes = 0;
  for (int i = 0; i < count; i++) votes |= uint64_t{lanes[i].request.argument != 0} << i;
  for (int i = 0; i < count; i++) *static_cast<uint64_t*>(lanes[i].request.result) = votes;
}

void wait_for_simdgroup(const Request& request) {
  flush_pending_store();
  current->request = request;
  current->state = State::at_simdgroup_operation;
  yield();
}

}  // namespace

namespace msim {

void execute_simdgroup(Thread* lanes, int count) {
  switch (lanes->request.operation) {
    case Operation::barrier:
      report->counters.simdgroup_barriers++;
      after_simdgroup_barrier(lanes->simdgroup, lanes->request.argument);
      break;
    case Operation::shuffle: shuffle(lanes, count); break;
    case Operation::reduce: reduce(lanes, count); break;
    case Operation::multiply: multiply(lanes, count); break;
    case Operation::ballot: ballot(lanes, count); break;
  }
}

}  // namespace msim

#define SITE __builtin_return_address(0)

extern "C" {

void msim_threadgroup_barrier(int flags) {
  flush_pending_store();
  current->request = {Operation::barrier, 0, flags, 0, nullptr, nullptr, nullptr, nullptr, SITE};
  current->state = State::at_threadgroup_barrier;
  yield();
}
void msim_simdgroup_barrier(int flags) {
  wait_for_simdgroup({Operation::barrier, 0, flags, 0, nullptr, nullptr, nullptr, nullptr, SITE});
}
void msim_shuffle(int kind, const void* value, const void* fill, void* result, int size, int argument) {
  wait_for_simdgroup({Operation::shuffle, kind, argument, size, value, fill, nullptr, result, SITE});
}
void msim_reduce(int operation, int type, const void* value, void* result, int count) {
  wait_for_simdgroup({Operation::reduce, operation, type, count, value, nullptr, nullptr, result, SITE});
}
void msim_multiply_accumulate(int types, void* d, const void* a, const void* b, const void* c) {
  wait_for_simdgroup({Operation::multiply, types, 0, 0, a, b, c, d, SITE});
}
uint64_t msim_ballot(int predicate) {
  uint64_t votes = 0;
  wait_for_simdgroup({Operation::ballot, 0, predicate, 0, nullptr, nullptr, nullptr, &votes, SITE});
  return votes;
}
int msim_lane() { return current->lane; }
// simdgroup_load and simdgroup_store need the whole simdgroup: an execution barrier without memory ordering or count.
void msim_matrix_access() {
  uint64_t votes = 0;
  wait_for_simdgroup({Operation::ballot, 0, 1, 0, nullptr, nullptr, nullptr, &votes, SITE});
}

// Operations: add, sub, min, max, and, or, xor, exchange, load. Types: int, uint, float.
uint32_t msim_atomic(int operation, int type, void* at, uint32_t bits) {
  report->counters.atomics++;
  uint32_t old;
  memcpy(&old, at, 4);
  uint32_t next = bits;
  if (type == 2 && operation < 4) {
    float a, b;
    memcpy(&a, &old, 4);
    memcpy(&b, &bits, 4);
    const float c = operation == 0 ? a + b : operation == 1 ? a - b : operation == 2 ? fminf(a, b) : fmaxf(a, b);
    memcpy(&next, &c, 4);
  } else {
    const bool less = type == 0 ? static_cast<int32_t>(bits) < static_cast<int32_t>(old) : bits < old;
    switch (operation) {
      case 0: next = old + bits; break;
      case 1: next = old - bits; break;
      case 2: next = less ? bits : old; break;
      case 3: next = less ? old : bits; break;
      case 4: next = old & bits; break;
      case 5: next = old | bits; break;
      case 6: next = old ^ bits; break;
      case 8: next = old; break;
      default: break;
    }
  }
  memcpy(at, &next, 4);
  return old;
}
int msim_atomic_compare_exchange(void* at, uint32_t* expected, uint32_t desired) {
  report->counters.atomics++;
  uint32_t old;
  memcpy(&old, at, 4);
  if (old != *expected) {
    *expected = old;
    return 0;
  }
  memcpy(at, &desired, 4);
  return 1;
}

// Conversions that clang calls on hosts without bfloat instructions.
__bf16 __truncsfbf2(float value) { return __builtin_bit_cast(__bf16, round_to_bfloat(value)); }
__bf16 __truncdfbf2(double value) { return __builtin_bit_cast(__bf16, round_to_bfloat(static_cast<float>(value))); }
}
