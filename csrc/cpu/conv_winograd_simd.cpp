// Inner loops of the Winograd form: the transforms of weights, inputs and sums, and the products between them.
#include "csrc/cpu/conv_lines.h"
#include "csrc/cpu/conv_winograd_kernels.h"
#include "csrc/cpu/fma_tile.h"

namespace ltx2rt::cpu::LTX2RT_ISA {
namespace {

constexpr int64_t kColumns = kTileColumns;
constexpr int64_t kVecs = kColumns / kLanes;
constexpr int64_t kPackWords = kWordStep;
constexpr int64_t kFetchedCells = 6;
constexpr int64_t kPanelsTogether = 4;  // whose sums of one point share a pass over the inputs

// Words of one cell: what becomes of `kLanes` channels from channel c on.
inline void store_words(bool pairs, float* words, int64_t c, Vec v) {
#ifdef LTX2RT_BF16_DOT
  if (pairs) {
    store_for_dot(as_array<BF16>(words) + c, v);
    return;
  }
#endif
  (void)pairs;
  store(words + c, v);
}

// ---- weights: 3 x 3 taps to 4 x 4 points ----

inline void spread(Vec a, Vec b, Vec c, Vec* out, int64_t stride) {
  const Vec ends = (a + c) * 0.5f, middle = b * 0.5f;
  out[0] = a;
  out[stride] = ends + middle;
  out[2 * stride] = ends - middle;
  out[3 * stride] = c;
}

// The points of `kLanes` columns and `kPackWords` words stay in the first-level cache until they are transposed.
template <typename T>
void pack_columns(const ConvArgs& args, const WinogradPlan& plan, const T* weight, int64_t column, int64_t tap,
                  int64_t first, int64_t end, float* to, int64_t point) {
  const int64_t channels = args.channels, per_word = plan.pairs ? 2 : 1, step = kPackWords * per_word;
  const int64_t present = smaller(kLanes, args.out_channels - column);
  alignas(64) float rows[kPoints][kLanes][kPackWords];
  if (present < kLanes) memset(rows, 0, sizeof rows);
  for (int64_t word = first; word < end; word += kPackWords, to += kPackWords * kColumns) {
    for (int64_t o = 0; o < present; ++o) {
      const T* taps = weight + ((column + o) * args.kernel[0] + tap) * 9 * channels + word * per_word;
      for (int64_t t = 0; t < 9; ++t) __builtin_prefetch(taps + t * channels + step);
      for (int64_t c = 0; c < step; c += kLanes) {
        Vec half[4][3], whole[4][4];
#pragma GCC unroll 3
        for (int i = 0; i < 3; ++i) {
          spread(load(taps + i * channels + c), load(taps + (3 + i) * channels + c),
                 load(taps + (6 + i) * channels + c), &half[0][i], 3);
        }
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) spread(half[i][0], half[i][1], half[i][2], whole[i], 1);
#pragma GCC unroll 16
        for (int p = 0; p < kPoints; ++p) store_words(plan.pairs, rows[p][o], c, whole[p / 4][p % 4]);
      }
    }
    for (int64_t p = 0; p < kPoints; ++p)
      transpose(rows[p][0], kPackWords, kLanes, kPackWords, to + p * point, kColumns);
  }
}

// Words [first, end) of tap `tap` of one panel, to rows of kColumns words; `point` words from point to point.
void pack_words(const ConvArgs& args, const WinogradPlan& plan, int64_t panel_index, int64_t tap, int64_t first,
                int64_t end, float* to, int64_t point) {
  with_type(args.weight_type, args.weight, [&](auto* weight) {
    for (int64_t v = 0; v < kColumns; v += kLanes)
      pack_columns(args, plan, weight, panel_index * kColumns + v, tap, first, end, to + v, point);
  });
}

void pack_weight(const ConvArgs& args, const WinogradPlan& plan, int64_t panel_index, int64_t tap, int64_t first,
                 int64_t end, float* panel) {
  pack_words(args, plan, panel_index, tap, first, end, panel + (tap * plan.words + first) * kColumns,
             args.kernel[0] * plan.words * kColumns);
}

// ---- inputs: 4 x 4 values to 4 x 4 points ----

int64_t line_floats(const ConvArgs& args, const WinogradPlan& plan) { return (2 * plan.slab[2] + 2) * args.channels; }

// Work: four lines of inputs, and their columns.
int64_t transform_floats(const ConvArgs& args, const WinogradPlan& plan) {
  return 4 * line_floats(args, plan) + 2 * (2 * plan.slab[2] + 2);
}

template <bool kPairs>
void transform_row(const ConvArgs& args, const WinogradPlan& plan, const float* const* lines, int64_t cells,
                   float* to) {
  const int64_t channels = args.channels;
  for (int64_t cell = 0; cell < cells; ++cell, to += plan.pitch) {
    const float* from[4];
    for (int i = 0; i < 4; ++i) from[i] = lines[i] + 2 * cell * channels;
    for (int64_t c = 0; c < channels; c += kLanes) {
      Vec down[4][4];
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        const int64_t at = j * channels + c;
        const Vec a = load(from[0] + at), b = load(from[1] + at), d = load(from[2] + at), e = load(from[3] + at);
        down[0][j] = a - d;
        down[1][j] = b + d;
        down[2][j] = d - b;
        down[3][j] = b - e;
      }
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        const Vec points[4] = {down[i][0] - down[i][2], down[i][1] + down[i][2], down[i][2] - down[i][1],
                               down[i][1] - down[i][3]};
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) store_words(kPairs, to + (4 * i + j) * plan.point_words, c, points[j]);
      }
    }
  }
}

void transform(const ConvArgs& args, const WinogradPlan& plan, const WinogradSlab& slab, int64_t frame_index,
               int64_t first_row, int64_t end_row, float* words, float* work) {
  const int64_t width = 2 * slab.count[2] + 2, line = line_floats(args, plan);
  int64_t* columns = as_array<int64_t>(work + 4 * line);
  // In outputs; what lies under no output of the clip is read as zeros and reaches none.
  const ConvTile tile{slab.batch,
                      {slab.first[0], 2 * slab.first[1], 2 * slab.first[2]},
                      {slab.count[0], 2 * slab.count[1], 2 * slab.count[2]}};
  const auto source = [&](int axis, int64_t i) {
    return i < args.out_size[axis] - tile.first[axis] + 2 ? source_index(args, tile, axis, i) : kZero;
  };
  for (int64_t i = 0; i < width; ++i) columns[i] = source(2, i);
  const int64_t frame = source_index(args, tile, 0, frame_index);
  if (frame == kUnused) return;
  for (int64_t row = first_row; row < end_row; ++row) {
    const float* lines[4];
    for (int64_t i = 0; i < 4; ++i) {
      float* to = work + (2 * row + i) % 4 * line;
      lines[i] = to;
      if (i < 2 && row > first_row) continue;  // the last two lines of the row before
      load_line(args, slab.batch, frame, source(1, 2 * row + i), columns, width, args.channels, to);
    }
    float* to = words + frame_index * plan.frame_words + row * slab.count[2] * plan.pitch;
    if (plan.pairs) {
      transform_row<true>(args, plan, lines, slab.count[2], to);
    } else {
      transform_row<false>(args, plan, lines, slab.count[2], to);
    }
  }
}

// ---- products, and sums of 4 x 4 points to 2 x 2 outputs ----

// Work: [panels, kPanelsTogether at most][kPoints][cells][kColumns] sums, and the addresses of the cells before them.
int64_t address_floats(int64_t cells) { return (2 * cells + 15) / 16 * 16; }
int64_t multiply_floats(int64_t cells, int64_t panels) {
  return address_floats(cells) + cells * smaller(kPanelsTogether, panels) * kPoints * kColumns;
}

template <typename T>
void finish_cells(const ConvArgs& args, const WinogradSlab& slab, int64_t first_cell, int64_t count, int64_t panel,
                  const float* sums, T* out) {
  const int64_t channel = panel * kColumns, n = smaller(kColumns, args.out_channels - channel);
  float bias[kColumns] = {};
  if (args.bias != nullptr)
    for (int64_t c = 0; c < n; ++c) bias[c] = args.bias[channel + c];
  const Voxels& residual = args.residual;
  const int64_t point = count * kColumns;
  struct Place {
    int64_t frame, row, column;
  };
  const auto place = [&](int64_t i) {
    const int64_t cell = first_cell + i;
    return Place{slab.first[0] + cell / (slab.count[1] * slab.count[2]),
                 2 * (slab.first[1] + cell / slab.count[2] % slab.count[1]),
                 2 * (slab.first[2] + cell % slab.count[2])};
  };
  const auto residual_at = [&](const Place& at, int64_t r, int64_t c) {
    return static_cast<const T*>(residual.data) + slab.batch * residual.strides[0] + at.frame * residual.strides[1] +
           (at.row + r) * residual.strides[2] + (at.column + c) * residual.strides[3] + channel * residual.strides[4];
  };
  for (int64_t i = 0; i < count; ++i, sums += kColumns) {
    const Place at = place(i);
    if (residual.data != nullptr) {  // comes from memory: ask for it some cells ahead
      const Place later = place(smaller(i + kFetchedCells, count - 1));
      for (int64_t r = 0; r < smaller(2, args.out_size[1] - later.row); ++r)
        for (int64_t c = 0; c < smaller(2, args.out_size[2] - later.column); ++c)
          __builtin_prefetch(residual_at(later, r, c));
    }
    Vec values[2][2][kVecs];
#pragma GCC unroll 2
    for (int v = 0; v < kVecs; ++v) {
      Vec across[2][4];
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        const float* p = sums + j * point + v * kLanes;
        const Vec a = load(p), b = load(p + 4 * point), c = load(p + 8 * point), d = load(p + 12 * point);
        across[0][j] = a + (b + c);
        across[1][j] = (b - c) - d;
      }
#pragma GCC unroll 2
      for (int r = 0; r < 2; ++r) {
        values[r][0][v] = across[r][0] + (across[r][1] + across[r][2]);
        values[r][1][v] = (across[r][1] - across[r][2]) - across[r][3];
      }
    }
    for (int64_t r = 0; r < smaller(2, args.out_size[1] - at.row); ++r) {
      for (int64_t c = 0; c < smaller(2, args.out_size[2] - at.column); ++c) {
        T* to = out +
                (((slab.batch * args.out_size[0] + at.frame) * args.out_size[1] + at.row + r) * args.out_size[2] +
                 at.column + c) *
                    args.out_channels +
                channel;
        const T* add = residual.data == nullptr ? nullptr : residual_at(at, r, c);
        finish_output(values[r][c], bias, add, residual.strides[4], n, to);
      }
    }
  }
}

// Asks for the inputs that the runs [run, end) of rows [first, end_row) will read, for the second-level cache.
void fetch_ahead(const float* const* rows, int64_t first, int64_t end_row, const Run* run, const Run* end) {
  constexpr int64_t kLine = 16;
  for (; run < end; ++run)
    for (int64_t r = first; r < end_row; ++r)
      for (int64_t i = 0; i < run->length; i += kLine) __builtin_prefetch(rows[r] + run->offset + i, 0, 2);
}

void multiply_tile(bool pairs, int rows_here, int width, const float* const* rows, const Run* run, const Run* end,
                   const float* weights, float* to, bool add) {
#ifdef LTX2RT_BF16_DOT
  if (pairs) {
    fma_tile<PairWords>(rows_here, width, rows, run, end - run, weights, to, kColumns, add);
    return;
  }
#endif
  (void)pairs;
  fma_tile(rows_here, width, rows, run, end - run, weights, to, kColumns, add);
}

void finish(const ConvArgs& args, const WinogradSlab& slab, int64_t first_cell, int64_t count, int64_t panel,
            const float* sums) {
  switch (args.type) {
    case FloatType::f32:
      return finish_cells(args, slab, first_cell, count, panel, sums, (float*)args.out);
    case FloatType::f16:
      return finish_cells(args, slab, first_cell, count, panel, sums, (F16*)args.out);
    case FloatType::bf16:
      return finish_cells(args, slab, first_cell, count, panel, sums, (BF16*)args.out);
  }
}

void address_cells(const ConvArgs& args, const WinogradPlan& plan, const WinogradSlab& slab, int64_t first_cell,
                   int64_t count, const float* words, const float** cells) {
  const int64_t cells_of_frame = slab.count[1] * slab.count[2];
  for (int64_t i = 0; i < count; ++i) {
    const int64_t frame = (first_cell + i) / cells_of_frame, cell = (first_cell + i) % cells_of_frame;
    cells[i] = words + frame * args.stride[0] * plan.frame_words + cell * plan.pitch;
  }
}

int panel_width(const ConvArgs& args, int64_t panel) {
  return int(smaller(kColumns, args.out_channels - panel * kColumns));
}

struct Runs {
  const Run *begin, *end;
};

// The products of all cells with one group's weights of point p. Fetches part `part` of `parts` of the inputs that the
// next point will read.
void multiply_group(const WinogradPlan& plan, int width, const float* const* cells, int64_t count, int64_t p, Runs runs,
                    const float* weights, float* to, bool add, int64_t part, int64_t parts) {
  for (int64_t i = 0; i < count; i += kTileRows) {
    const int here = int(smaller(kTileRows, count - i));
    const float *rows[kTileRows], *next[kTileRows];
    for (int r = 0; r < here; ++r) {
      rows[r] = cells[i + r] + p * plan.point_words;
      next[r] = rows[r] + plan.point_words;
    }
    if (p + 1 < kPoints) fetch_ahead(next, here * part / parts, here * (part + 1) / parts, runs.begin, runs.end);
    multiply_tile(plan.pairs, here, width, rows, runs.begin, runs.end, weights, to + i * kColumns, add);
  }
}

void multiply(const ConvArgs& args, const WinogradPlan& plan, const WinogradSlab& slab, int64_t first_cell,
              int64_t end_cell, int64_t first_panel, int64_t end_panel, const float* words, const float* panels,
              float* work) {
  const int64_t count = end_cell - first_cell;
  const int64_t point_sums = count * kColumns, point_weights = args.kernel[0] * plan.words * kColumns;
  const float** cells = as_array<const float*>(work);
  float* sums = work + address_floats(count);
  address_cells(args, plan, slab, first_cell, count, words, cells);
  for (; first_panel < end_panel; first_panel += kPanelsTogether, panels += kPanelsTogether * kPoints * point_weights) {
    const int64_t together = smaller(kPanelsTogether, end_panel - first_panel);
    // The inputs of one point serve all panels while they are in the second-level cache.
    for (int64_t p = 0; p < kPoints; ++p) {
      for (int64_t panel = 0; panel < together; ++panel) {
        const float* weights = panels + (panel * kPoints + p) * point_weights;
        float* to = sums + (panel * kPoints + p) * point_sums;
        const Run* run = plan.runs;
        for (int64_t g = 0; g < plan.groups; ++g) {
          const Run* end = plan.runs + plan.group_ends[g];
          multiply_group(plan, panel_width(args, first_panel + panel), cells, count, p, {run, end}, weights, to, g > 0,
                         panel, together);
          for (; run < end; ++run) weights += run->length * kColumns;
        }
      }
    }
    for (int64_t panel = 0; panel < together; ++panel)
      finish(args, slab, first_cell, count, first_panel + panel, sums + panel * kPoints * point_sums);
  }
}

// Work: [kPoints][cells][kColumns] sums, the addresses of the cells, and the weights of one group.
int64_t pack_and_multiply_floats(const WinogradPlan& plan, int64_t cells) {
  return cells * (kPoints * kColumns + 2) + kPoints * plan.group_words * kColumns;
}

void pack_and_multiply(const ConvArgs& args, const WinogradPlan& plan, const WinogradSlab& slab, int64_t panel,
                       const float* words, float* work) {
  const int64_t count = slab.count[0] * slab.count[1] * slab.count[2];
  const int64_t point_sums = count * kColumns, point_weights = plan.group_words * kColumns;
  float* sums = work;
  const float** cells = as_array<const float*>(sums + kPoints * point_sums);
  float* weights = sums + count * (kPoints * kColumns + 2);
  address_cells(args, plan, slab, 0, count, words, cells);
  const Run* run = plan.runs;
  int64_t tap = 0, word = 0;
  for (int64_t g = 0; g < plan.groups; ++g) {
    const Run* end = plan.runs + plan.group_ends[g];
    float* to = weights;
    for (const Run* part = run; part < end; ++part) {
      pack_words(args, plan, panel, tap, word, word + part->length, to, point_weights);
      to += part->length * kColumns;
      word += part->length;
      if (word == plan.words) {
        word = 0;
        ++tap;
      }
    }
    for (int64_t p = 0; p < kPoints; ++p) {
      multiply_group(plan, panel_width(args, panel), cells, count, p, {run, end}, weights + p * point_weights,
                     sums + p * point_sums, g > 0, 0, 1);
    }
    run = end;
  }
  finish(args, slab, 0, count, panel, sums);
}

}  // namespace

const WinogradKernel& conv_winograd_kernel() {
#ifdef LTX2RT_BF16_DOT
  constexpr bool kHasPairs = true;
#else
  constexpr bool kHasPairs = false;
#endif
  static constexpr WinogradKernel kernel{.has_pairs = kHasPairs,
                                         .panel_columns = kColumns,
                                         .tile_rows = kTileRows,
                                         .pack_weight = pack_weight,
                                         .transform = transform,
                                         .transform_floats = transform_floats,
                                         .multiply = multiply,
                                         .multiply_floats = multiply_floats,
                                         .pack_and_multiply = pack_and_multiply,
                                         .pack_and_multiply_floats = pack_and_multiply_floats};
  return kernel;
}

}  // namespace ltx2rt::cpu::LTX2RT_ISA
