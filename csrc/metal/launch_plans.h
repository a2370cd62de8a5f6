// How the shaders are launched: which variant, how many threads, how the work is cut. Plain C++ without MLX, so that
// the simulator's tests call the very functions that the launch code calls.
#pragma once
#include <stdint.h>

#include "csrc/ceil_div.h"
#include "csrc/metal/causal_conv3d_params.h"
#include "csrc/metal/modulated_norm_params.h"
#include "csrc/metal/neighborhood_attention_params.h"
#include "csrc/metal/quantized_linear_params.h"
#include "csrc/metal/rope_attention_params.h"
#include "csrc/metal/rotate_rows_params.h"

namespace ltx2rt {
namespace metal_plan {

// No dispatch does more than this many floating point operations: 11 ms at 2.3 TFLOP/s, the float32 peak of the
// smallest M1 (7 cores), about 2.5 ms on an M1 Max. MLX commits a command buffer after 20 to 50 dispatches
// (MLX_MAX_OPS_PER_BUFFER), so that one holds about a second of the smallest GPU's work at most and keeps the display
// waiting no longer.
constexpr int64_t kMostOperationsPerDispatch = int64_t{25} * 1000 * 1000 * 1000;
// What a byte costs in operations where memory is the limit: 2.3 TFLOP/s over the 68 GB/s of an M1.
constexpr int64_t kOperationsPerByte = 34;

using ltx2rt::ceil_div;

// Shaders find with 64 bits where what they read begins and count elements from there with 32, because a GPU adds 32 bits
// to an address at no cost. Whether `count` rows of `width` elements, `stride` elements apart, are within that reach:
// operands that are not are copied first, and what no copy can help is built as the reference graph.
constexpr int64_t kReach = INT32_MAX;
constexpr bool within_reach(int64_t count, int64_t stride, int64_t width, int64_t reach = kReach) {
  return (count - 1) * (stride < 0 ? -stride : stride) + width <= reach;
}

// How many of `units` equal pieces of work of `operations` each go into one dispatch of at most `most`; at least one.
constexpr int64_t units_per_dispatch(int64_t units, int64_t operations, int64_t most = kMostOperationsPerDispatch) {
  const int64_t fitting = operations > 0 ? most / operations : units;
  return fitting < 1 ? 1 : fitting < units ? fitting : units;
}

// A box of threadgroups, of a grid.
struct GridPart {
  int64_t first[3];
  int64_t count[3];
};

// The size of the boxes into which a grid is cut when each threadgroup costs `operations`: whole rows before whole
// planes.
constexpr GridPart first_grid_part(const int64_t (&grid)[3], int64_t operations,
                                   int64_t most = kMostOperationsPerDispatch) {
  GridPart part{{0, 0, 0}, {1, 1, 1}};
  int64_t cost = operations;
  for (int axis = 0; axis < 3; axis++) {
    part.count[axis] = units_per_dispatch(grid[axis], cost, most);
    if (part.count[axis] < grid[axis]) break;
    cost *= grid[axis];
  }
  return part;
}

// ---- modulated_norm ----
// Threads of the threadgroup of one row. A thread keeps 16 values, the most that leaves a row of 4096 at 256 threads
// and one of 512 in a single simdgroup, which needs no barrier.
constexpr int norm_threads(int64_t width) {
  return static_cast<int>(ceil_div(width, metal_shared::kNormValuesPerThread * 32) * 32);
}

// Whether the shader takes rows of this width; it keeps a row in the registers of one threadgroup.
constexpr bool norm_has_shader(int64_t width) { return width >= 1 && width <= metal_shared::kMaxNormWidth; }

// ---- quantized_linear ----
struct LinearTile {
  int64_t most_rows;
  int rows, columns;  // of a tile: the kernel is linear_tile_X_W_{rows}x{columns}
};
// By device bytes per output in the simulator, (rows + columns) / (rows * columns) values of depth: 128 x 64 reads 25 %
// less than MLX's 64 x 64. Smaller tiles where a larger one would be mostly empty.
constexpr LinearTile kLinearTiles[] = {
    {32, 32, 64},
    {64, 64, 64},
    {INT64_MAX, 128, 64},
};
constexpr LinearTile linear_tile(int64_t rows) {
  int i = 0;
  while (rows > kLinearTiles[i].most_rows) i++;
  return kLinearTiles[i];
}

struct FewRows {
  WeightFormat format;
  int64_t most_rows;
};
// Up to this many rows weights are expanded in registers, once per four rows; a tile expands them once, but multiplies
// 32 rows whatever their number. On paper, at 10.6 TFLOP/s and 400 GB/s, a byte costs 2.5 ps to read and a weight of a
// tile 6 ps to multiply, so that they meet at 8 rows for 8 bits and at 16 for 4. Twice that is taken, because N / 64
// tiles of two simdgroups are too few to keep a GPU's cores at their peak. Formats of four to six bits whose values take
// more operations than a shift (scales of six bits, a table) are treated as eight bits. Dense weights: tiles read them
// once from five rows on.
constexpr FewRows kFewRows[] = {
    {WeightFormat::f32, 4},    {WeightFormat::f16, 4},   {WeightFormat::bf16, 4},       {WeightFormat::e4m3, 16},
    {WeightFormat::int8, 16},  {WeightFormat::int4, 32}, {WeightFormat::int8_rows, 16}, {WeightFormat::q8_0, 16},
    {WeightFormat::q4_k, 16},  {WeightFormat::q5_k, 16}, {WeightFormat::q6_k, 16},      {WeightFormat::nvfp4, 32},
    {WeightFormat::mxfp8, 16}, {WeightFormat::w4a8, 16},
};
constexpr bool linear_uses_few(WeightFormat format, int64_t rows) {
  for (const auto& entry : kFewRows) {
    if (entry.format == format) return rows <= entry.most_rows;
  }
  return false;
}

// Quantised weights of more rows. Up to this many blocks of rows linear_tile_codes expands them as it stages them, once
// per block. For more, dequantise expands a slab of W's rows (output columns) at a time for linear_tile, into one
// buffer that all slabs share. Unmeasured, as all of this: expanding costs about 10 operations per weight, a block of
// 128 rows multiplies it 256 times.
constexpr int64_t kMostCodedRowBlocks = 4;
// Of the buffer: 2048 columns of K = 4096 in 16 bits, so 1536 threadgroups per slab of 6144 rows. The whole of a
// feed-forward's W would be 128 MB, and MLX lets ten command buffers run ahead whose temporaries are all alive.
constexpr int64_t kSlabBytes = int64_t{16} << 20;

constexpr bool linear_is_dense(WeightFormat format) { return format <= WeightFormat::bf16; }

// Columns of W (N, K) that are expanded at a time, in values of `itemsize` bytes: equal slabs of whole tiles, of at
// most slab_bytes where a slab has more than one tile. 0: nothing is expanded into memory.
constexpr int64_t linear_slab_columns(WeightFormat format, int64_t rows, int64_t columns, int64_t depth,
                                      int64_t itemsize, int64_t slab_bytes = kSlabBytes) {
  if (linear_is_dense(format) || linear_uses_few(format, rows)) return 0;
  const LinearTile tile = linear_tile(rows);
  if (ceil_div(rows, tile.rows) <= kMostCodedRowBlocks) return 0;
  const int64_t fitting = slab_bytes / (depth * itemsize) / tile.columns * tile.columns;
  const int64_t most = fitting > tile.columns ? fitting : tile.columns;
  const int64_t slabs = ceil_div(columns, most);
  const int64_t even = ceil_div(ceil_div(columns, slabs), tile.columns) * tile.columns;
  return even < columns ? even : columns;
}

// Rows of x, or of W, that a loop reaches from where its threadgroup's begin.
constexpr int64_t kLinearReachedRows = 128;
// Whether the shaders take rows of `depth` values, rotated in groups of a power of four up to kRotateMost or not at all
// (0).
constexpr bool linear_has_shader(int64_t rotation, int64_t depth) {
  const bool rotates =
      rotation == 0 || rotation == 4 || rotation == 16 || rotation == 64 || rotation == metal_shared::kRotateMost;
  return rotates && within_reach(kLinearReachedRows, depth, depth);
}
// Threads of the threadgroups of rotate_rows.
constexpr int rotate_threads(int64_t depth) {
  const int64_t threads = ceil_div(ceil_div(depth, metal_shared::kRotatePerThread), 32) * 32;
  return static_cast<int>(threads < metal_shared::kRowThreads ? threads : int64_t{metal_shared::kRowThreads});
}

// A sum over K in parts: how many, and the depth of each but the last.
struct LinearParts {
  int64_t parts;
  int64_t depth;
};
// From this K on, few tiles are made in parts of at least a quarter of it, so that all cores have work: MLX does the same
// (dense: matmul.cpp, from 2 to 32 parts; quantised: qmm_splitk, up to 512 threadgroups).
constexpr int64_t kLeastDepthInParts = 8192;
// Simdgroups of linear_tile that keep a large GPU busy: 8 for each of 64 cores.
constexpr int64_t kBusySimdgroups = 512;
// linear_few has no parts: with the 2048 to 4096 columns that models have, its groups of four simdgroups are many.
constexpr LinearParts linear_parts(WeightFormat format, int64_t rows, int64_t columns, int64_t depth,
                                   int64_t least_depth = kLeastDepthInParts) {
  const LinearTile tile = linear_tile(rows);
  const int64_t row_blocks = ceil_div(rows, tile.rows);
  const bool expands_slabs = !linear_is_dense(format) && row_blocks > kMostCodedRowBlocks;
  const int64_t simdgroups = row_blocks * ceil_div(columns, tile.columns) * (tile.rows * tile.columns / 1024);
  if (linear_uses_few(format, rows) || expands_slabs || depth < least_depth || simdgroups >= kBusySimdgroups) {
    return {1, depth};
  }
  const int64_t wanted = ceil_div(kBusySimdgroups, simdgroups), most = 4 * depth / least_depth;
  const int64_t even = ceil_div(depth, wanted < most ? wanted : most);
  const int64_t part_depth = ceil_div(even, metal_shared::kLinearDepthBlock) * metal_shared::kLinearDepthBlock;
  return {ceil_div(depth, part_depth), part_depth};
}

// Bytes that one quantized_linear takes besides its operands and output while it runs, without copies of operands whose
// layout the shaders do not read: rotated rows, expanded weights and parts of sums. They are free again when the command buffer that
// holds the call has ended, so that those of several calls may be alive at once.
constexpr int64_t linear_temporary_bytes(WeightFormat format, int64_t rows, int64_t columns, int64_t depth,
                                         int64_t itemsize, int64_t rotation) {
  const int64_t rotated = rotation > 0 ? rows : 0;
  const int64_t parts = linear_parts(format, rows, columns, depth).parts;
  return (rotated + linear_slab_columns(format, rows, columns, depth, itemsize)) * depth * itemsize +
         (parts > 1 ? parts * rows * columns * 4 : 0);
}

// ---- rope_attention ----
struct AttentionTile {
  int head_size;
  int queries;  // per threadgroup
  int threads;
};
// 64 queries share a block of keys: half of the keys' bytes of MLX's 32. A simdgroup holds 8 queries of a head of 128
// (72 registers of fragments per lane) or 16 of one of 64 or less.
constexpr AttentionTile kAttentionTiles[] = {{32, 64, 128}, {64, 64, 128}, {128, 64, 256}};
constexpr AttentionTile attention_tile(int64_t head_size) {
  for (const auto& tile : kAttentionTiles) {
    if (tile.head_size == head_size) return tile;
  }
  return {0, 0, 0};  // no shader for this head size
}
// Keys whose rows a loop of the shaders reaches from the first of a block of them, and queries of a threadgroup.
constexpr int64_t kReachedKeys = 32, kReachedQueries = 64;
// Whether the shaders take these keys (kv_heads heads of head_size are one row of rope_attention_keys), rope_axes, the
// larger number of axes of both rotary tables, and rope_values, the larger number of their angles.
constexpr bool attention_has_shader(int64_t head_size, int64_t kv_heads, int64_t keys, int64_t rope_axes,
                                    int64_t rope_values) {
  return attention_tile(head_size).queries > 0 && keys >= 1 && rope_axes <= metal_shared::kMostRopeAxes &&
         head_size * kv_heads <= metal_shared::kKeysMostThreads * metal_shared::kKeysValuesPerThread &&
         within_reach(kReachedQueries, keys, keys) && rope_values <= kReach;
}
// Whether a bias of these strides can be read in place, of one threadgroup's queries and all keys.
constexpr bool bias_within_reach(int64_t query_stride, int64_t key_stride, int64_t keys, int64_t reach = kReach) {
  const int64_t last_key = (keys - 1) * (key_stride < 0 ? -key_stride : key_stride);
  return within_reach(kReachedQueries, query_stride, last_key + 1, reach);
}
// Tokens per threadgroup of rope_attention_keys: four read the norm's weights once, where 64 threadgroups remain.
constexpr int attention_keys_tokens(int64_t tokens) {
  return static_cast<int>(tokens / 64 < 1 ? 1 : tokens / 64 > 4 ? 4 : tokens / 64);
}
// Threads of rope_attention_keys for rows of `width` values.
constexpr int attention_keys_threads(int64_t width) {
  return static_cast<int>(ceil_div(width, metal_shared::kKeysValuesPerThread * 32) * 32);
}

// ---- neighborhood_attention ----
// Whether the shader takes these heads, slots of key_frames, windows of height and width, and pairs of the rotary tables
// (null without rotation). It reads the turns of four pairs at once, and keeps in threadgroup memory those of all rows
// and columns that a brick sees: of windows up to 16 x 16 with the published 8, 12 and 12 pairs.
constexpr bool neighborhood_has_shader(int64_t head_size, int64_t slots, int64_t height, int64_t width,
                                       int64_t channels, const int64_t (&window)[2], const int64_t* pairs) {
  // Within a frame that is contiguous, 32 bits address every element.
  const bool fits = head_size == metal_shared::kNeighborhoodHead && slots >= 1 &&
                    slots <= metal_shared::kMostKeySlots && channels <= INT32_MAX &&
                    height * width <= INT32_MAX / channels;
  if (!fits || !pairs) return fits;
  for (int axis = 0; axis < 3; axis++) {
    if (pairs[axis] % 4 != 0) return false;
  }
  const int64_t rows = metal_shared::kBrickRows - 1 + window[0], columns = metal_shared::kBrickColumns - 1 + window[1];
  // A position has a four of cosines and one of sines for every four pairs; of time, one frame is kept.
  const int64_t turns = pairs[0] / 2 + rows * (pairs[1] / 2) + columns * (pairs[2] / 2);
  return turns <= metal_shared::kNeighborhoodTurns;
}
// At most what a threadgroup multiplies: a block of 2 x 2 x 2 queries sees two lists of frames, and one row and one
// column more than a query, in fragments of four rows (of which a piece that ends between begins a new one) and two
// columns.
constexpr int64_t neighborhood_operations(int64_t slots, int64_t window_height, int64_t window_width) {
  constexpr int64_t kQueries =
      int64_t{metal_shared::kBrickFrames} * metal_shared::kBrickRows * metal_shared::kBrickColumns;
  const int64_t rows = ceil_div(window_height + 1, 4) * 4 + 4 * ((window_height + 3) / 16);
  const int64_t keys = 2 * slots * rows * (window_width + 3);
  return 4 * kQueries * keys * metal_shared::kNeighborhoodHead;
}

// ---- causal_conv3d ----
// Tiles of kConvTile outputs, along frames, rows and columns. The first three suit three axes and small regions; the
// others thin volumes, images and signals.
constexpr int kConvTiles[][3] = {{4, 4, 8}, {2, 8, 8}, {1, 8, 16}, {2, 4, 16}, {1, 4, 32}, {1, 1, 128}};

struct ConvPlan {
  int tile[3];
  int region[3];
  int tiles[3];
  bool one_phase;
};

// The tile that stages the fewest values per slab of channels: the region, and the weights of 64 output channels. Where
// the region of all taps fits for no tile, a phase per tap with the tile that wastes the fewest outputs.
constexpr ConvPlan conv_plan(const int64_t out[3], const int kernel[3], const int stride[3], const int dilation[3]) {
  constexpr int64_t kTooLarge = metal_shared::kConvRegion + 1;
  ConvPlan best{};
  int64_t best_cost = -1;
  for (int phases = 0; phases < 2 && best_cost < 0; phases++) {
    for (const auto& tile : kConvTiles) {
      ConvPlan plan{};
      int64_t voxels = 1, count = 1, taps = 1;
      for (int a = 0; a < 3; a++) {
        int64_t region = tile[a];
        if (phases == 0) region = int64_t{tile[a] - 1} * stride[a] + (int64_t{kernel[a]} - 1) * dilation[a] + 1;
        // Of an axis that does not fit alone the size does not matter, and may be beyond an int.
        plan.region[a] = static_cast<int>(region < kTooLarge ? region : kTooLarge);
        plan.tile[a] = tile[a];
        plan.tiles[a] = static_cast<int>(ceil_div(out[a], tile[a]));
        voxels *= plan.region[a];
        count *= plan.tiles[a];
        taps *= kernel[a];
      }
      plan.one_phase = phases == 0;
      if (voxels > metal_shared::kConvRegion) continue;
      const int64_t cost = count * (voxels + 64 * taps);
      if (best_cost < 0 || cost < best_cost) {
        best = plan;
        best_cost = cost;
      }
    }
  }
  return best;
}

// Output channels per threadgroup: the kernel is causal_conv3d_T_128x{columns}.
constexpr int conv_columns(int64_t out_channels) { return out_channels <= 32 ? 32 : 64; }

// Whether a frame of voxels, `row` and `column` elements apart, can be read in place.
constexpr bool frame_within_reach(int64_t rows, int64_t row, int64_t columns, int64_t column, int64_t channels,
                                  int64_t reach = kReach) {
  const int64_t last_column = (columns - 1) * (column < 0 ? -column : column);
  return within_reach(rows, row, last_column + channels, reach);
}
// Whether the shaders take frames of this size and kernels of so many taps.
constexpr bool conv_has_shader(int64_t rows, int64_t columns, int64_t channels, int64_t taps) {
  return frame_within_reach(rows, columns * channels, columns, channels, channels) &&
         within_reach(conv_columns(INT32_MAX), taps * channels, taps * channels);
}

}  // namespace metal_plan
}  // namespace ltx2rt
