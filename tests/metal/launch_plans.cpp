// The functions of csrc/metal/launch_plans.h for Python.
#include "csrc/metal/launch_plans.h"

using namespace ltx2rt::metal_plan;

extern "C" {
int norm_threads_of(int64_t width) { return norm_threads(width); }
int few_rows_most() { return ltx2rt::metal_shared::kFewRowsMost; }
void linear_tile_of(int64_t rows, int* out) {
  const auto tile = linear_tile(rows);
  out[0] = tile.rows;
  out[1] = tile.columns;
}
int linear_uses_few_of(int format, int64_t rows) {
  return linear_uses_few(static_cast<ltx2rt::WeightFormat>(format), rows);
}
int64_t linear_slab_columns_of(int format, int64_t rows, int64_t columns, int64_t depth, int64_t itemsize) {
  return linear_slab_columns(static_cast<ltx2rt::WeightFormat>(format), rows, columns, depth, itemsize);
}
int64_t linear_temporary_bytes_of(int format, int64_t rows, int64_t columns, int64_t depth, int64_t itemsize,
                                  int64_t rotation) {
  return linear_temporary_bytes(static_cast<ltx2rt::WeightFormat>(format), rows, columns, depth, itemsize, rotation);
}
int linear_has_shader_of(int64_t rotation, int64_t depth) { return linear_has_shader(rotation, depth); }
void linear_parts_of(int format, int64_t rows, int64_t columns, int64_t depth, int64_t* out) {
  const auto parts = linear_parts(static_cast<ltx2rt::WeightFormat>(format), rows, columns, depth);
  out[0] = parts.parts;
  out[1] = parts.depth;
}
void tile_position_of(int number, int row_blocks, int column_blocks, int* out) {
  const auto at = ltx2rt::metal_shared::tile_position(number, row_blocks, column_blocks);
  out[0] = at.row_block;
  out[1] = at.column_block;
}
int rotated_per_thread() { return ltx2rt::metal_shared::kRotatePerThread; }
int rotate_threads_of(int64_t depth) { return rotate_threads(depth); }
void attention_tile_of(int64_t head_size, int* out) {
  const auto tile = attention_tile(head_size);
  out[0] = tile.queries;
  out[1] = tile.threads;
}
int attention_keys_threads_of(int64_t width) { return attention_keys_threads(width); }
int neighborhood_has_shader_of(const int64_t* sizes, const int64_t* pairs) {
  const int64_t window[2] = {sizes[5], sizes[6]};
  return neighborhood_has_shader(sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], window, pairs);
}
int64_t neighborhood_operations_of(int64_t slots, int64_t window_height, int64_t window_width) {
  return neighborhood_operations(slots, window_height, window_width);
}
void conv_plan_of(const int64_t* sizes, int* out) {
  int kernel[3], stride[3], dilation[3];
  for (int a = 0; a < 3; a++) {
    kernel[a] = static_cast<int>(sizes[3 + a]);
    stride[a] = static_cast<int>(sizes[6 + a]);
    dilation[a] = static_cast<int>(sizes[9 + a]);
  }
  const auto plan = conv_plan(sizes, kernel, stride, dilation);
  for (int a = 0; a < 3; a++) {
    out[a] = plan.tile[a];
    out[3 + a] = plan.region[a];
    out[6 + a] = plan.tiles[a];
  }
  out[9] = plan.one_phase;
}
int attention_has_shader_of(const int64_t* sizes) {
  return attention_has_shader(sizes[0], sizes[1], sizes[2], sizes[3], sizes[4]);
}
int bias_within_reach_of(int64_t query_stride, int64_t key_stride, int64_t keys) {
  return bias_within_reach(query_stride, key_stride, keys);
}
int conv_has_shader_of(int64_t rows, int64_t columns, int64_t channels, int64_t taps) {
  return conv_has_shader(rows, columns, channels, taps);
}
int conv_columns_of(int64_t out_channels) { return conv_columns(out_channels); }
int64_t units_per_dispatch_of(int64_t units, int64_t operations) { return units_per_dispatch(units, operations); }
}
