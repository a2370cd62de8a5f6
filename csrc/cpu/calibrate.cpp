// Runs the measuring loops on the thread pool.
#include "csrc/cpu/calibrate.h"

#include <algorithm>
#include <atomic>
#include <chrono>

#include "csrc/cpu/amx.h"
#include "csrc/cpu/calibrate_amx.h"
#include "csrc/cpu/calibrate_kernels.h"
#include "csrc/cpu/thread_pool.h"

namespace ltx2rt::cpu {
namespace {

// About 30 microseconds: long beside the cost of handing it out, short beside a measurement.
constexpr int64_t kIterations = 8192;
constexpr int64_t kTileIterations = 1024;  // of 64 cycles
constexpr int64_t kItemsPerThread = 16;
constexpr int64_t kReadBlock = 1 << 18;

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// Operations per second of a measuring loop, `iterations` passes at a time, on all threads.
double rate(int64_t (*multiply)(int64_t iterations, float* sink), int64_t iterations, double seconds) {
  std::atomic<int64_t> operations{0};
  std::atomic<float> sink{0.0f};
  const auto loop = [&] {
    parallel_for(num_threads() * kItemsPerThread, 1, [&](int64_t begin, int64_t end) {
      int64_t done = 0;
      float result = 1.0f;
      for (int64_t i = begin; i < end; ++i) done += multiply(iterations, &result);
      operations += done;
      sink.store(result, std::memory_order_relaxed);
    });
  };
  loop();  // wakes the pool and the vector units
  operations = 0;
  const double start = now();
  double elapsed = 0.0;
  do {
    loop();
    elapsed = now() - start;
  } while (elapsed < seconds);
  return static_cast<double>(operations.load()) / elapsed;
}

}  // namespace

double arithmetic_rate(bool bf16, double seconds) {
  const auto& kernels = calibration_kernels();
  return rate(bf16 ? kernels.multiply_bf16 : kernels.multiply_f32, kIterations, seconds);
}

std::optional<double> tile_rate(double seconds) {
  if (!amx_usable()) return std::nullopt;
  return rate(multiply_amx, kTileIterations, seconds);
}

double read_rate(const char* from, size_t bytes) {
  const auto& kernels = calibration_kernels();
  const int64_t blocks = std::max<int64_t>(1, static_cast<int64_t>(bytes) / kReadBlock);
  const int64_t block = static_cast<int64_t>(bytes) / blocks / 512 * 512;
  std::atomic<uint64_t> sink{0};
  const double start = now();
  parallel_for(blocks, 1,
               [&](int64_t begin, int64_t end) { sink += kernels.read(from + begin * block, (end - begin) * block); });
  return static_cast<double>(blocks * block) / (now() - start);
}

}  // namespace ltx2rt::cpu
