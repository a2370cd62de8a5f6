// Convolution inner loops: packing of weights and of the inputs under a tile, the products, the epilogue.
#include "csrc/cpu/causal_conv3d_kernel.h"
#include "csrc/cpu/float_rows.h"
#include "csrc/cpu/fma_tile.h"

namespace ltx2rt::cpu::LTX2RT_ISA {
namespace {

constexpr int64_t kColumns = kTileColumns;

void pack_weight(const ConvArgs& args, const ConvPlan& plan, int64_t panel_index, int64_t first, int64_t end,
                 float* panel) {
  constexpr int64_t kChunk = 128;
  float rows[kColumns * kChunk];
  const int64_t values = args.kernel[0] * args.kernel[1] * args.kernel[2] * args.channels;
  // Pairs lie in the weight as they are wanted: words like those of float32.
  const int64_t depth = plan.pairs ? values / 2 : values;
  const FloatType type = plan.pairs ? FloatType::f32 : args.weight_type;
  const int64_t channel = panel_index * kColumns;
  const int64_t present = smaller(kColumns, args.out_channels - channel);
  for (int64_t i = present * kChunk; i < kColumns * kChunk; ++i) rows[i] = 0.0f;
  for (int64_t k = first; k < end; k += kChunk) {
    const int64_t n = smaller(kChunk, end - k);
    for (int64_t c = 0; c < present; ++c)
      load_floats(args.weight, type, (channel + c) * depth + k, 1, n, rows + c * kChunk);
    transpose(rows, kChunk, kColumns, n, panel + k * kColumns);
  }
}

Vec activate(const ConvArgs& args, Vec x) {
  switch (args.activation) {
    case ConvActivation::silu:
      return silu(x);
    case ConvActivation::leaky_relu:
      return select(x >= zero(), x, x * args.negative_slope);
    case ConvActivation::none:
      break;
  }
  return x;
}

// x[i] = f(x[i], i) for i < n, a vector at a time; the last one may be partly filled.
template <typename F>
void update(float* x, int64_t n, const F& f) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(x + i, f(load(x + i), i, kLanes));
  if (i < n) store_part(x + i, f(load_part(x + i, n - i), i, n - i), n - i);
}

Vec load_upto(const float* p, int64_t n) { return n == kLanes ? load(p) : load_part(p, n); }

// Norm, modulation and activation of `count` voxels that lie `pitch` floats apart.
void prologue(const ConvArgs& args, int64_t batch, int64_t count, int64_t pitch, float* x) {
  const int64_t channels = args.channels;
  const float* scale = args.scale == nullptr ? nullptr : args.scale + batch * channels;
  const float* shift = args.shift == nullptr ? nullptr : args.shift + batch * channels;
  if (!args.pixel_norm && scale == nullptr && shift == nullptr) {
    if (args.activation == ConvActivation::none) return;
    const bool together = pitch == channels;
    const int64_t n = together ? count * channels : channels;
    for (int64_t i = 0; i < (together ? 1 : count); ++i)
      update(x + i * pitch, n, [&](Vec v, int64_t, int64_t) { return activate(args, v); });
    return;
  }
  for (int64_t i = 0; i < count; ++i, x += pitch) {
    float factor = 1.0f;
    if (args.pixel_norm)
      factor = 1.0f / __builtin_sqrtf(sum_of_squares(x, channels) / float(channels) + args.pixel_norm_eps);
    update(x, channels, [&](Vec v, int64_t c, int64_t n) {
      v = v * factor;
      if (scale != nullptr) v = v * (load_upto(scale + c, n) + 1.0f);
      if (shift != nullptr) v = v + load_upto(shift + c, n);
      return activate(args, v);
    });
  }
}

constexpr int64_t kZero = -1;    // outside, padded with zeros
constexpr int64_t kUnused = -2;  // under no tap

// The input index below place i of the region of a tile along one axis.
int64_t source_index(const ConvArgs& args, const ConvTile& tile, int axis, int64_t i) {
  const int64_t stride = args.stride[axis], dilation = args.dilation[axis], taps = args.kernel[axis];
  if (stride > dilation * (taps - 1) + 1 || dilation > 1) {  // the taps may leave gaps
    bool used = false;
    for (int64_t tap = 0; tap < taps && !used; ++tap) {
      const int64_t from = i - tap * dilation;
      used = from >= 0 && from % stride == 0 && from / stride < tile.count[axis];
    }
    if (!used) return kUnused;
  }
  const int64_t size = args.in_size[axis];
  int64_t index = tile.first[axis] * stride + i - args.pad_before[axis];
  if (index >= 0 && index < size) return index;
  switch (args.pad_mode[axis]) {
    case PadMode::zeros:
      return kZero;
    case PadMode::edge:
      return index < 0 ? 0 : size - 1;
    case PadMode::reflect:
      break;
  }
  return index < 0 ? -index : 2 * (size - 1) - index;
}

// Loads `count` voxels that are neighbours along the width, and puts what the prologue makes of them `pitch` words apart.
// values: room for them as float32, where words are pairs.
void load_voxels(const ConvArgs& args, const ConvPlan& plan, int64_t batch, const Voxels& from, int64_t first,
                 int64_t count, float* values, float* to) {
  const int64_t channels = args.channels, stride = from.strides[3];
  const bool together = from.strides[4] == 1 && stride == channels;
  const int64_t pitch = plan.pairs ? channels : plan.pitch;
  float* x = plan.pairs ? values : to;
  if (together && pitch == channels) {
    load_floats(from.data, args.type, first, 1, count * channels, x);
  } else {
    for (int64_t i = 0; i < count; ++i)
      load_floats(from.data, args.type, first + i * stride, from.strides[4], channels, x + i * pitch);
  }
  prologue(args, batch, count, pitch, x);
  if (!plan.pairs) return;
  if (plan.pitch == channels / 2) {
    store_floats(x, count * channels, to, FloatType::bf16, 0);
  } else {
    for (int64_t i = 0; i < count; ++i)
      store_floats(x + i * channels, channels, to + i * plan.pitch, FloatType::bf16, 0);
  }
}

// Fills the region of a tile.
void load_region(const ConvArgs& args, const ConvPlan& plan, const ConvTile& tile, float* region, int64_t* columns,
                 float* values) {
  const int64_t pitch = plan.pitch, words = plan.pairs ? args.channels / 2 : args.channels;
  int64_t extent[3];
  for (int axis = 0; axis < 3; ++axis)
    extent[axis] = (tile.count[axis] - 1) * args.stride[axis] + (args.kernel[axis] - 1) * args.dilation[axis] + 1;
  for (int64_t i = 0; i < extent[2]; ++i) columns[i] = source_index(args, tile, 2, i);
  for (int64_t f = 0; f < extent[0]; ++f) {
    const int64_t frame = source_index(args, tile, 0, f);
    if (frame == kUnused) continue;
    const bool in_halo = frame >= 0 && frame < args.halo_frames;
    const Voxels& from = in_halo ? args.halo : args.x;
    const int64_t from_frame =
        tile.batch * from.strides[0] + (in_halo ? frame : frame - args.halo_frames) * from.strides[1];
    for (int64_t r = 0; r < extent[1]; ++r) {
      const int64_t row = source_index(args, tile, 1, r);
      if (row == kUnused) continue;
      float* to = region + (f * plan.region[1] + r) * plan.region[2] * pitch;
      for (int64_t i = 0; i < extent[2];) {
        const int64_t column = columns[i];
        if (column == kUnused) {
          ++i;
          continue;
        }
        if (column == kZero || row == kZero || frame == kZero) {
          for (int64_t c = 0; c < words; ++c) to[i * pitch + c] = 0.0f;
          ++i;
          continue;
        }
        int64_t count = 1;
        while (i + count < extent[2] && columns[i + count] == column + count) ++count;
        const int64_t first = from_frame + row * from.strides[2] + column * from.strides[3];
        load_voxels(args, plan, tile.batch, from, first, count, values, to + i * pitch);
        i += count;
      }
    }
  }
}

// Adds bias and residual to the sums of one panel and stores them. sums: [outputs of the tile][kColumns].
template <typename T>
void epilogue(const ConvArgs& args, const ConvTile& tile, int64_t panel, const float* sums, T* out) {
  const int64_t channel = panel * kColumns, n = smaller(kColumns, args.out_channels - channel);
  float bias[kColumns] = {};
  if (args.bias != nullptr)
    for (int64_t c = 0; c < n; ++c) bias[c] = args.bias[channel + c];
  const Voxels& residual = args.residual;
  for (int64_t f = 0; f < tile.count[0]; ++f) {
    for (int64_t r = 0; r < tile.count[1]; ++r) {
      const int64_t frame = tile.first[0] + f, row = tile.first[1] + r, column = tile.first[2];
      T* to = out + (((tile.batch * args.out_size[0] + frame) * args.out_size[1] + row) * args.out_size[2] + column) *
                        args.out_channels + channel;
      const T* add = residual.data == nullptr
                         ? nullptr
                         : static_cast<const T*>(residual.data) + tile.batch * residual.strides[0] +
                               frame * residual.strides[1] + row * residual.strides[2] + column * residual.strides[3] +
                               channel * residual.strides[4];
      for (int64_t i = 0; i < tile.count[2]; ++i, sums += kColumns, to += args.out_channels) {
        for (int64_t c = 0; c < n; c += kLanes) {
          const int64_t here = smaller(kLanes, n - c);
          Vec v = load(sums + c) + load(bias + c);
          if (add != nullptr) {
            if (residual.strides[4] == 1 && here == kLanes) {
              v = v + load(add + c);
            } else {
              for (int64_t lane = 0; lane < here; ++lane) v[lane] += to_float(add[(c + lane) * residual.strides[4]]);
            }
          }
          if (here == kLanes) {
            store(to + c, v);
          } else {
            store_part(to + c, v, here);
          }
        }
        if (add != nullptr) add += residual.strides[3];
      }
    }
  }
}

int64_t outputs_of(const ConvPlan& plan) { return plan.tile[0] * plan.tile[1] * plan.tile[2]; }

// Work: the region, the sums of one panel, the addresses of the rows, the input columns of the region, and where words
// are pairs a row of the region as float32.
int64_t region_floats(const ConvPlan& plan) {
  return (plan.region[0] * plan.region[1] * plan.region[2] * plan.pitch + 15) / 16 * 16;
}
int64_t work_floats(const ConvArgs& args, const ConvPlan& plan) {
  return region_floats(plan) + outputs_of(plan) * (kColumns + 2) + plan.region[2] * 2 +
         (plan.pairs ? plan.region[2] * args.channels : 0);
}

void convolve(const ConvArgs& args, const ConvPlan& plan, const ConvTile& tile, int64_t first_panel, int64_t end_panel,
              const float* panels, float* work) {
  float* region = work;
  float* sums = region + region_floats(plan);
  const float** rows = (const float**)(sums + outputs_of(plan) * kColumns);
  int64_t* columns = (int64_t*)(rows + outputs_of(plan));
  load_region(args, plan, tile, region, columns, (float*)(columns + plan.region[2]));
  int64_t row_count = 0;
  for (int64_t f = 0; f < tile.count[0]; ++f) {
    for (int64_t r = 0; r < tile.count[1]; ++r) {
      const int64_t region_row = f * args.stride[0] * plan.region[1] + r * args.stride[1];
      const float* row = region + region_row * plan.region[2] * plan.pitch;
      for (int64_t i = 0; i < tile.count[2]; ++i) rows[row_count++] = row + i * args.stride[2] * plan.pitch;
    }
  }
  for (int64_t panel = first_panel; panel < end_panel; ++panel) {
    const int panel_width = int(smaller(kColumns, args.out_channels - panel * kColumns));
    int64_t run = 0;
    for (int64_t g = 0; g < plan.groups; ++g) {
      const int64_t run_count = plan.group_ends[g] - run;
      for (int64_t r = 0; r < row_count; r += kTileRows) {
        const int here = int(smaller(kTileRows, row_count - r));
#ifdef LTX2RT_BF16_DOT
        if (plan.pairs) {
          fma_tile<PairWords>(here, panel_width, rows + r, plan.runs + run, run_count, panels, sums + r * kColumns,
                              kColumns, g > 0);
          continue;
        }
#endif
        fma_tile(here, panel_width, rows + r, plan.runs + run, run_count, panels, sums + r * kColumns, kColumns, g > 0);
      }
      for (; run < plan.group_ends[g]; ++run) panels += plan.runs[run].length * kColumns;
    }
    switch (args.type) {
      case FloatType::f32:
        epilogue(args, tile, panel, sums, (float*)args.out);
        break;
      case FloatType::f16:
        epilogue(args, tile, panel, sums, (F16*)args.out);
        break;
      case FloatType::bf16:
        epilogue(args, tile, panel, sums, (BF16*)args.out);
        break;
    }
  }
}

}  // namespace

const ConvKernel& causal_conv3d_kernel() {
#ifdef LTX2RT_BF16_DOT
  constexpr bool kHasPairs = true;
#else
  constexpr bool kHasPairs = false;
#endif
  static constexpr ConvKernel kernel{kHasPairs, kColumns, kTileRows, pack_weight, work_floats, convolve};
  return kernel;
}

}  // namespace ltx2rt::cpu::LTX2RT_ISA
