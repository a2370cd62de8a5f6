// Tiles of antialiased_snake for one instruction set.
#include "csrc/cpu/antialiased_snake_kernels.h"
#include "csrc/cpu/simd.h"

namespace ltx2rt::cpu::LTX2RT_ISA {
namespace {

constexpr int kTaps = 12;
// Samples beyond each side that a tile reads: three doubled pairs for the second filter, three samples for the first.
constexpr int64_t kHalo = 6;
constexpr int64_t kTileSamples = 128;  // with its doubled values half a first-level cache
constexpr int kGroupVectors = 2;       // a cache line with 8 lanes
constexpr int64_t kWorkFloats = (kTileSamples + 2 * kHalo + 2 * (kTileSamples + kHalo)) * kGroupVectors * kLanes;

constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to the nearest integer
// Up to this many half turns the reduction below is exact to float32 without fused multiply-add.
constexpr int32_t kMaxHalfTurns = 2048;

// What the sine of many values needs once.
struct Snake {
  Vec frequency;
  Vec gain;
};

// sin(r)^2 for z = n pi + r, |r| <= pi/2. The sign that n gives the sine goes with the square. The absolute error is
// below 3e-7. `large` collects, beside lower bits, high bits that are set where |n| is too large for the reduction.
inline Vec sine_squared(Vec z, VecI& large) {
  const Vec shifted = fma(z, splat(0.318309886f), splat(kRound));
  large |= bits_of(shifted) - (bits_of(splat(kRound)) - kMaxHalfTurns);
  const Vec n = shifted - splat(kRound);
  // pi in three parts, the first two short enough for exact products.
  Vec r = fma(n, splat(-3.140625f), z);
  r = fma(n, splat(-9.67502593994140625e-4f), r);
  r = fma(n, splat(-1.509957990978376432e-7f), r);
  const Vec square = r * r;
  Vec p = splat(2.59975150e-6f);
  p = fma(p, square, splat(-1.98064794e-4f));
  p = fma(p, square, splat(8.33301526e-3f));
  p = fma(p, square, splat(-0.166666567f));
  const Vec sine = fma(r * square, p, r);
  return sine * sine;
}

inline bool any_large(VecI bits) { return any(bits & ~(2 * kMaxHalfTurns - 1)); }

// The same by the C library, for lanes beyond the reduction; infinities and NaN end here too.
__attribute__((noinline)) Vec sine_squared_far(Vec z) {
  Vec result = zero();
  for (int i = 0; i < kLanes; ++i) {
    VecI large = {};
    const Vec near = sine_squared(splat(z[i]), large);
    const float sine = __builtin_sinf(z[i]);
    result[i] = any_large(large) ? sine * sine : near[0];
  }
  return result;
}

// x + gain sin(frequency x)^2 in place over N vectors, of which vector i belongs to snakes[i].
template <int N>
inline void snake(const Snake* snakes, float* x) {
  Vec values[N], squares[N];
  VecI large = {};
  for (int i = 0; i < N; ++i) {
    values[i] = load(x + i * kLanes);
    squares[i] = sine_squared(values[i] * snakes[i].frequency, large);
  }
  if (any_large(large)) [[unlikely]] {
    for (int i = 0; i < N; ++i) squares[i] = sine_squared_far(values[i] * snakes[i].frequency);
  }
  for (int i = 0; i < N; ++i) store(x + i * kLanes, fma(squares[i], snakes[i].gain, values[i]));
}

struct Part {
  int64_t first, count;    // samples
  int64_t channel, width;  // channels
};

template <int V, typename T>
void tile_of(const SnakeArgs& args, const T* x, T* out, const Part& part, float* work) {
  constexpr int64_t kRow = V * kLanes;
  float* const samples = work;
  float* const doubled = work + (kTileSamples + 2 * kHalo) * kRow;

  // The samples as float32, those at the ends repeated outwards. Row i is sample first - 6 + i.
  for (int64_t i = 0; i < part.count + 2 * kHalo; ++i) {
    int64_t s = part.first - kHalo + i;
    s = s < 0 ? 0 : s >= args.samples ? args.samples - 1 : s;
    const T* from = x + s * args.channels + part.channel;
    for (int v = 0; v < V; ++v) {
      const int64_t n = part.width - v * kLanes;
      store(samples + i * kRow + v * kLanes, n >= kLanes ? load(from + v * kLanes) : load_part(from + v * kLanes, n));
    }
  }

  // Twice the rate: position 2p meets samples p-3 to p+2, position 2p+1 samples p-2 to p+3. Pair i is
  // p = first - 3 + i, whose sample p-3 is row i.
  const int64_t pairs = part.count + kHalo;
  Vec taps[kTaps];
  for (int t = 0; t < kTaps; ++t) taps[t] = splat(args.rise[t]);
  for (int64_t i = 0; i < pairs; ++i) {
    for (int v = 0; v < V; ++v) {
      const float* from = samples + i * kRow + v * kLanes;
      Vec even = load(from) * taps[11], odd = zero();
      for (int j = 1; j < 6; ++j) {
        const Vec value = load(from + j * kRow);
        even = fma(value, taps[11 - 2 * j], even);
        odd = fma(value, taps[12 - 2 * j], odd);
      }
      odd = fma(load(from + 6 * kRow), taps[0], odd);
      store(doubled + 2 * i * kRow + v * kLanes, even);
      store(doubled + (2 * i + 1) * kRow + v * kLanes, odd);
    }
  }

  Snake snakes[4];  // of the vectors of 4 / V rows, between which large angles are looked for
  for (int i = 0; i < 4; ++i) {
    const int64_t channel = part.channel + i % V * kLanes;
    snakes[i] = {load(args.frequency + channel), load(args.gain + channel)};
  }
  int64_t i = 0;
  for (; i + 4 <= 2 * pairs * V; i += 4) snake<4>(snakes, doubled + i * kLanes);
  for (; i < 2 * pairs * V; ++i) snake<1>(snakes + i % V, doubled + i * kLanes);

  // Row i of doubled is position 2 (first - 3) + i; positions outside the sound repeat its ends.
  const int64_t start = 2 * (part.first - kHalo / 2), last = 2 * args.samples - 1;
  for (int64_t i = 0; i < 2 * pairs; ++i) {
    const int64_t at = start + i;
    if (at >= 0 && at <= last) continue;
    const float* from = doubled + ((at < 0 ? 0 : last) - start) * kRow;
    for (int v = 0; v < V; ++v) store(doubled + i * kRow + v * kLanes, load(from + v * kLanes));
  }

  // Back to the rate: sample p meets positions 2p-5 to 2p+6.
  for (int t = 0; t < kTaps; ++t) taps[t] = splat(args.fall[t]);
  for (int64_t i = 0; i < part.count; ++i) {
    T* to = out + (part.first + i) * args.channels + part.channel;
    for (int v = 0; v < V; ++v) {
      const int64_t n = part.width - v * kLanes;
      const float* from = doubled + (2 * i + 1) * kRow + v * kLanes;
      Vec even = load(from) * taps[0], odd = load(from + kRow) * taps[1];
      for (int t = 2; t < kTaps; t += 2) {
        even = fma(load(from + t * kRow), taps[t], even);
        odd = fma(load(from + (t + 1) * kRow), taps[t + 1], odd);
      }
      if (n >= kLanes) {
        store(to + v * kLanes, even + odd);
      } else {
        store_part(to + v * kLanes, even + odd, n);
      }
    }
  }
}

void tile(const SnakeArgs& args, int64_t batch, int64_t number, int64_t group, float* work) {
  const int64_t first = number * kTileSamples, channel = group * kGroupVectors * kLanes;
  const int64_t samples = args.samples - first, channels = args.channels - channel;
  const Part part{first, samples < kTileSamples ? samples : kTileSamples, channel,
                  channels < kGroupVectors * kLanes ? channels : kGroupVectors * kLanes};
  with_type(args.type, args.x, [&]<typename T>(const T* x) {
    const int64_t item = batch * args.samples * args.channels;
    if (part.width > kLanes) {
      tile_of<2>(args, x + item, (T*)args.out + item, part, work);
    } else {
      tile_of<1>(args, x + item, (T*)args.out + item, part, work);
    }
  });
}

}  // namespace

const SnakeKernels& snake_kernels() {
  static constexpr SnakeKernels kernels{kTileSamples, kGroupVectors * kLanes, kWorkFloats, tile};
  return kernels;
}

}  // namespace ltx2rt::cpu::LTX2RT_ISA
