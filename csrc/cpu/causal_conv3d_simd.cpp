// Convolution inner loops: packing of weights and of the inputs under a tile, the products, the epilogue.
#include "csrc/cpu/causal_conv3d_kernels.h"
#include "csrc/cpu/conv_lines.h"
#include "csrc/cpu/fma_tile.h"

namespace ltx2rt::cpu::LTX2RT_ISA {
namespace {

constexpr int64_t kColumns = kTileColumns;

void pack_weight(const ConvArgs& args, const ConvPlan& plan, int64_t panel_index, int64_t first, int64_t end,
                 float* panel) {
  constexpr int64_t kChunk = 128;
  float rows[kColumns * kChunk];
  const int64_t values = args.kernel[0] * args.kernel[1] * args.kernel[2] * args.channels;
  const int64_t depth = plan.pairs ? values / 2 : values;
  const int64_t channel = panel_index * kColumns;
  const int64_t present = smaller(kColumns, args.out_channels - channel);
  for (int64_t i = present * kChunk; i < kColumns * kChunk; ++i) rows[i] = 0.0f;
  for (int64_t k = first; k < end; k += kChunk) {
    const int64_t n = smaller(kChunk, end - k);
    for (int64_t c = 0; c < present; ++c) {
      const int64_t word = (channel + c) * depth + k;
      if (plan.pairs) {  // lie in the weight as they are wanted, but perhaps between the addresses of floats
        memcpy(rows + c * kChunk, (const BF16*)args.weight + 2 * word, size_t(n) * sizeof(float));
      } else {
        load_floats(args.weight, args.weight_type, word, 1, n, rows + c * kChunk);
      }
    }
    transpose(rows, kChunk, kColumns, n, panel + k * kColumns);
  }
}

// Fills the region of a tile. line: room for one line of it as float32, where words are pairs.
void load_region(const ConvArgs& args, const ConvPlan& plan, const ConvTile& tile, float* region, int64_t* columns,
                 float* line) {
  const int64_t channels = args.channels;
  int64_t extent[3];
  for (int axis = 0; axis < 3; ++axis)
    extent[axis] = (tile.count[axis] - 1) * args.stride[axis] + (args.kernel[axis] - 1) * args.dilation[axis] + 1;
  for (int64_t i = 0; i < extent[2]; ++i) columns[i] = source_index(args, tile, 2, i);
  for (int64_t f = 0; f < extent[0]; ++f) {
    const int64_t frame = source_index(args, tile, 0, f);
    if (frame == kUnused) continue;
    for (int64_t r = 0; r < extent[1]; ++r) {
      const int64_t row = source_index(args, tile, 1, r);
      if (row == kUnused) continue;
      float* to = region + (f * plan.region[1] + r) * plan.region[2] * plan.pitch;
      if (!plan.pairs) {
        load_line(args, tile.batch, frame, row, columns, extent[2], plan.pitch, to);
        continue;
      }
      load_line(args, tile.batch, frame, row, columns, extent[2], channels, line);
      for (int64_t i = 0; i < extent[2]; ++i)
        if (columns[i] != kUnused) store_floats(line + i * channels, channels, to + i * plan.pitch, FloatType::bf16, 0);
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
      T* to = out +
              (((tile.batch * args.out_size[0] + frame) * args.out_size[1] + row) * args.out_size[2] + column) *
                  args.out_channels +
              channel;
      const T* add = residual.data == nullptr
                         ? nullptr
                         : static_cast<const T*>(residual.data) + tile.batch * residual.strides[0] +
                               frame * residual.strides[1] + row * residual.strides[2] + column * residual.strides[3] +
                               channel * residual.strides[4];
      for (int64_t i = 0; i < tile.count[2]; ++i, sums += kColumns, to += args.out_channels) {
        Vec vecs[kColumns / kLanes];
        for (int v = 0; v < kColumns / kLanes; ++v) vecs[v] = load(sums + v * kLanes);
        finish_output(vecs, bias, add, residual.strides[4], n, to);
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
  const float** rows = as_array<const float*>(sums + outputs_of(plan) * kColumns);
  int64_t* columns = as_array<int64_t>(rows + outputs_of(plan));
  load_region(args, plan, tile, region, columns, as_array<float>(columns + plan.region[2]));
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
