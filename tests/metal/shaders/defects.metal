// One small correct kernel, and the same kernel with one defect each: what the simulator must report.
#include <metal_stdlib>
using namespace metal;

enum Defect {
  kNone,
  kNoBarrier,
  kDivergentBarrier,
  kTooMuchThreadgroupMemory,
  kSlotNeverWritten,
  kReadsPastTheEnd,
  kPartialSimdgroup,
  kSimdgroupBarrierOnly,
  kBarrierWithoutMemory,
  kGroupsShareOutput,
  kStoresNan,
  kWritesInput,
  kReadsOutput,
  kThreadsShareOutput,
  kLeavesOutput,
  kNeverEnds,
  kWildPointer,
  kLaneOutOfRange,
  kOverwritesBeforeRead,
  kMisalignedVector
};

// y = x with each block of 128 values reversed.
template <typename T, int D>
[[kernel]] void reverse(const device T* x [[buffer(0)]], device T* y [[buffer(1)]], constant int& n [[buffer(2)]],
                        uint group [[threadgroup_position_in_grid]], uint at [[thread_position_in_threadgroup]],
                        uint lane [[thread_index_in_simdgroup]]) {
  threadgroup T block[D == kTooMuchThreadgroupMemory ? 9000 : 128];
  if (D == kDivergentBarrier && at < 64) threadgroup_barrier(mem_flags::mem_threadgroup);
  if (D != kSlotNeverWritten || at != 5) block[at] = x[group * 128 + at + (D == kReadsPastTheEnd ? 1 : 0)];
  if (D == kSimdgroupBarrierOnly) {
    simdgroup_barrier(mem_flags::mem_threadgroup);
  } else if (D == kBarrierWithoutMemory) {
    threadgroup_barrier(mem_flags::mem_none);
  } else if (D != kNoBarrier) {
    threadgroup_barrier(mem_flags::mem_threadgroup);
  }
  T value = block[127 - at];
  if (D == kPartialSimdgroup && lane < 16) value = simd_sum(value);
  if (D == kStoresNan && at == 7) value = (value - value) / (value - value);
  if (D == kWritesInput) const_cast<device T*>(x)[group * 128 + at] = value;
  if (D == kReadsOutput) value += y[group * 128 + at];
  if (D == kNeverEnds) {
    for (volatile int i = 0; n > 0; i = i + 1) {
    }
  }
  if (D == kWildPointer && at == 3) y = (device T*)(ulong(0x1234) << 32);
  if (D == kLaneOutOfRange) value = simd_shuffle(value, 33);
  if (D == kOverwritesBeforeRead) block[at] = value;
  if (D == kMisalignedVector && at == 0) value += ((const device float2*)(x + 1))[0].x;
  if (D == kThreadsShareOutput) {
    y[group * 128 + at / 2 * 2] = value;
    y[group * 128 + at / 2 * 2 + 1] = value;
  } else if (D != kLeavesOutput || at != 9) {
    y[(D == kGroupsShareOutput ? 0 : group * 128) + at] = value;
  }
}
#define DEFECT(name) template [[host_name(#name)]] [[kernel]] decltype(reverse<float, name>) reverse<float, name>;
DEFECT(kNone)
DEFECT(kNoBarrier)
DEFECT(kDivergentBarrier)
DEFECT(kTooMuchThreadgroupMemory)
DEFECT(kSlotNeverWritten)
DEFECT(kReadsPastTheEnd)
DEFECT(kPartialSimdgroup)
DEFECT(kSimdgroupBarrierOnly)
DEFECT(kBarrierWithoutMemory)
DEFECT(kGroupsShareOutput)
DEFECT(kStoresNan)
DEFECT(kWritesInput)
DEFECT(kReadsOutput)
DEFECT(kThreadsShareOutput)
DEFECT(kLeavesOutput)
DEFECT(kNeverEnds)
DEFECT(kWildPointer)
DEFECT(kLaneOutOfRange)
DEFECT(kOverwritesBeforeRead)
DEFECT(kMisalignedVector)

struct Scaling {
  int n;
  float factor;
  long offset;
};

constant bool negate [[function_constant(3)]];
constant int shift [[function_constant(4)]];
constant bool has_shift = is_function_constant_defined(shift);

// y = +-factor * x + shift, with its parameters in a struct.
kernel void scale(const device float* x [[buffer(0)]], device float* y [[buffer(1)]],
                  constant Scaling& s [[buffer(2)]], uint i [[thread_position_in_grid]]) {
  const float value = s.factor * x[i] + (has_shift ? float(shift) : 0.0f);
  y[i] = negate ? -value : value;
}

// Sums of blocks through threadgroup memory of a length given at the launch, and the grand total.
kernel void sums(const device float* x [[buffer(0)]], device float* y [[buffer(1)]], device atomic_int* count [[buffer(2)]],
                 threadgroup float* block [[threadgroup(0)]], uint i [[thread_position_in_grid]],
                 uint at [[thread_index_in_threadgroup]], uint group [[threadgroup_position_in_grid]],
                 uint size [[threads_per_threadgroup]]) {
  block[at] = x[i];
  atomic_fetch_add_explicit(count, 1, memory_order_relaxed);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  if (at == 0) {
    float sum = 0;
    for (uint j = 0; j < size; j++) sum += block[j];
    y[group] = sum;
  }
}

// c = a b + c of 8 x 8 matrices, and the transpose of a.
template <typename A, typename B>
[[kernel]] void product(const device A* a [[buffer(0)]], const device B* b [[buffer(1)]], device float* c [[buffer(2)]],
                        device A* t [[buffer(3)]], uint lane [[thread_index_in_simdgroup]]) {
  simdgroup_matrix<A, 8, 8> x, y;
  simdgroup_matrix<B, 8, 8> z;
  simdgroup_matrix<float, 8, 8> sum(0);
  simdgroup_load(x, a, 8);
  simdgroup_load(y, a, 8, ulong2(0, 0), true);
  simdgroup_load(z, b, 8);
  simdgroup_multiply_accumulate(sum, x, z, sum);
  simdgroup_store(sum, c, 8);
  simdgroup_store(y, t, 8);
}
template [[host_name("product_half")]] [[kernel]] decltype(product<half, half>) product<half, half>;
template [[host_name("product_mixed")]] [[kernel]] decltype(product<float, bfloat>) product<float, bfloat>;

// Sixteen float vectors of lanes: reductions, scans and shuffles as a test can compare them.
kernel void lanes(const device float* x [[buffer(0)]], device float* y [[buffer(1)]],
                  uint lane [[thread_index_in_simdgroup]]) {
  const float v = x[lane];
  const float2 pair = simd_sum(float2(v, 2 * v));
  y[lane] = simd_sum(v);
  y[32 + lane] = simd_max(v);
  y[64 + lane] = simd_min(v);
  y[96 + lane] = simd_prefix_exclusive_sum(v);
  y[128 + lane] = simd_prefix_inclusive_sum(v);
  y[160 + lane] = simd_shuffle_xor(v, ushort(5));
  y[192 + lane] = simd_shuffle_down(v, ushort(3));
  y[224 + lane] = simd_broadcast(v, ushort(9));
  y[256 + lane] = quad_sum(v);
  y[288 + lane] = pair.y;
  y[320 + lane] = simd_any(v > 2.0f) ? 1.0f : 0.0f;
  y[352 + lane] = float(simd_sum(int(lane)));
}

// One thread per row: neighbouring lanes touch lines far apart.
kernel void column(const device float* x [[buffer(0)]], device float* y [[buffer(1)]],
                   uint lane [[thread_index_in_simdgroup]]) {
  threadgroup float block[32 * 32];
  for (int j = 0; j < 32; j++) block[lane * 32 + j] = x[lane * 32];
  y[lane] = block[lane * 32 + 5];
}
