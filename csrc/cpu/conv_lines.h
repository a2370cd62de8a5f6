// The inputs of a convolution after its prologue and padding, line by line, for *_simd.cpp files.
#pragma once
#include "csrc/cpu/causal_conv3d_kernels.h"
#include "csrc/cpu/float_rows.h"

namespace ltx2rt::cpu::LTX2RT_ISA {

inline Vec activate(const ConvArgs& args, Vec x) {
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

inline Vec load_upto(const float* p, int64_t n) { return n == kLanes ? load(p) : load_part(p, n); }

// Norm, modulation and activation of `count` voxels that lie `pitch` floats apart.
inline void prologue(const ConvArgs& args, int64_t batch, int64_t count, int64_t pitch, float* x) {
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
inline int64_t source_index(const ConvArgs& args, const ConvTile& tile, int axis, int64_t i) {
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

// One line along the width of frame `frame` and row `row`, both as source_index gives them, halo frames counted: the
// inputs columns[i] for i < count as float32, `pitch` floats apart. Unused ones are left alone.
inline void load_line(const ConvArgs& args, int64_t batch, int64_t frame, int64_t row, const int64_t* columns,
                      int64_t count, int64_t pitch, float* to) {
  const int64_t channels = args.channels;
  const bool in_halo = frame >= 0 && frame < args.halo_frames;
  const Voxels& from = in_halo ? args.halo : args.x;
  const int64_t first =
      batch * from.strides[0] + (in_halo ? frame : frame - args.halo_frames) * from.strides[1] + row * from.strides[2];
  const bool together = pitch == channels && from.strides[3] == channels && from.strides[4] == 1;
  for (int64_t i = 0; i < count;) {
    const int64_t column = columns[i];
    if (column == kUnused) {
      ++i;
      continue;
    }
    if (column == kZero || row == kZero || frame == kZero) {
      for (int64_t c = 0; c < channels; ++c) to[i * pitch + c] = 0.0f;
      ++i;
      continue;
    }
    int64_t here = 1;
    while (i + here < count && columns[i + here] == column + here) ++here;
    const int64_t start = first + column * from.strides[3];
    if (together) {
      load_floats(from.data, args.type, start, 1, here * channels, to + i * pitch);
    } else {
      for (int64_t j = 0; j < here; ++j)
        load_floats(from.data, args.type, start + j * from.strides[3], from.strides[4], channels, to + (i + j) * pitch);
    }
    prologue(args, batch, here, pitch, to + i * pitch);
    i += here;
  }
}

// Adds bias, and the residual if there is one, to the sums of one output and of the channels [channel, channel + n), and
// stores them. bias: of these channels. add, to: of these channels of the output; add null: none.
template <typename T>
inline void finish_output(const Vec* sums, const float* bias, const T* add, int64_t add_stride, int64_t n, T* to) {
  for (int64_t c = 0; c < n; c += kLanes) {
    const int64_t here = smaller(kLanes, n - c);
    Vec v = sums[c / kLanes] + load(bias + c);
    if (add != nullptr) {
      if (add_stride == 1 && here == kLanes) {
        v = v + load(add + c);
      } else {
        for (int64_t lane = 0; lane < here; ++lane) v[lane] += to_float(add[(c + lane) * add_stride]);
      }
    }
    if (here == kLanes) {
      store(to + c, v);
    } else {
      store_part(to + c, v, here);
    }
  }
}

}  // namespace ltx2rt::cpu::LTX2RT_ISA
