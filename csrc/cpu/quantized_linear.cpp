// CPU evaluation of quantized_linear: rows prepared once, weights expanded panel by panel, tiles in parallel.
#include "csrc/quantized_linear.h"

#include <algorithm>

#include "csrc/ceil_div.h"
#include "csrc/cpu/dispatch.h"
#include "csrc/cpu/aligned_floats.h"
#include "csrc/cpu/code_kernels.h"
#include "csrc/cpu/linear_kernels.h"
#include "csrc/cpu/rows.h"
#include "csrc/cpu/thread_pool.h"

namespace ltx2rt {
namespace {

using cpu::kDepthBlock;

// Cutting of the work; results do not depend on it. One block of rows (at most 260 KiB as words of one depth block), its
// sums (130 KiB) and its panel stay in the second-level cache, the panel even in the first.
constexpr int64_t kBlockRows = 528;
constexpr int64_t kBlockColumns = 64;
// A block of fewer rows spends 4 % of its time and more on the expansion of weights.
constexpr int64_t kLeastBlockRows = 132;
constexpr int64_t kItemsPerThread = 4;
// Prepared rows of x held at a time, or of every thread, if that is more: with many threads a chunk is more items.
constexpr int64_t kRowBytes = 24 << 20;
constexpr int64_t kThreadRowBytes = 3 << 20;

// Bytes of the levels of w4a8.
constexpr int64_t kLevels = 256 * 16;

// The size of the fewest parts of n that hold at most `most` each, rounded up to whole groups.
int64_t even_part(int64_t n, int64_t most, int64_t group) {
  return ceil_div(ceil_div(n, ceil_div(n, most)), group) * group;
}

const cpu::LinearLoops& loops_for(WeightFormat format, cpu::FloatType x_type, bool codes, int64_t rows) {
  if (codes) {
    const auto& kernels = cpu::code_kernels();
    if (!kernels.has_tiles || !cpu::tiles_in_use()) return kernels.quads;
    return rows <= kernels.row_tiles.few_rows ? kernels.row_tiles : kernels.tiles;
  }
  const auto& kernels = cpu::linear_kernels();
  const bool wide = format == WeightFormat::f32 || format == WeightFormat::f16;
  if (!kernels.has_pairs || wide || x_type != cpu::FloatType::bf16) return kernels.values;
  if (kernels.has_tiles && cpu::tiles_in_use()) {
    const bool by_rows = cpu::has_row_tiles(format) && rows <= kernels.row_tiles.few_rows;
    return by_rows ? kernels.row_tiles : kernels.tiles;
  }
  const bool split = kernels.has_split_pairs && cpu::pairs_are_slow() && rows > kernels.pairs.few_rows;
  return split ? kernels.split_pairs : kernels.pairs;
}

// How `count` prepared rows times all columns are cut into items of work.
struct Cut {
  Cut(const cpu::LinearLoops& loops, int64_t count, int64_t width, int threads) {
    const int64_t least_columns =
        cpu::linear_kernels().panel_columns * (count <= loops.few_rows ? loops.few_panels : 1);
    block_rows = even_part(count, kBlockRows, loops.tile_rows);
    block_columns = kBlockColumns;
    const auto enough = [&] {
      row_blocks = ceil_div(count, block_rows);
      items = row_blocks * ceil_div(width, block_columns);
      return items >= kItemsPerThread * threads;
    };
    // Rows first: an item reads (rows + columns) values for rows * columns products, and the columns are fewer.
    while (!enough()) {
      if (block_rows >= 2 * kLeastBlockRows) {
        block_rows = even_part(count, block_rows / 2, loops.tile_rows);
      } else if (block_columns > least_columns) {
        block_columns /= 2;
      } else {
        break;
      }
    }
    workers = static_cast<int>(std::min<int64_t>(threads, items));
    sum_bytes = std::min(count, block_rows) * block_columns * static_cast<int64_t>(sizeof(float));
  }

  int64_t block_rows, block_columns, row_blocks, items, sum_bytes;
  int workers;
};

// How the rows are cut into chunks, and where the scratch of one chunk and of each thread lies.
struct Plan {
  Plan(int64_t rows, int64_t depth, int64_t width, cpu::FloatType x_type, WeightFormat format, bool strided_x,
       int64_t rotation, bool codes, int most_threads)
      : threads(most_threads) {
    const auto& loops = loops_for(format, x_type, codes, rows);
    const int64_t words = kDepthBlock / loops.values_per_word, group = loops.tile_rows;
    constexpr int64_t kFloat = sizeof(float);
    const int64_t padded_depth = ceil_div(depth, kDepthBlock) * words;
    const int64_t bytes = std::max(kRowBytes, threads * kThreadRowBytes);
    const int64_t most = std::max<int64_t>(1, bytes / kFloat / padded_depth / group) * group;
    chunk = even_part(rows, most, group);
    const int64_t first = std::min(rows, chunk), last = rows - (rows - 1) / chunk * chunk;
    const Cut first_cut(loops, first, width, threads), last_cut(loops, last, width, threads);
    prepared = layout.add(first * padded_depth * kFloat);
    panel_bytes = cpu::ScratchLayout::round_up(kDepthBlock * cpu::linear_kernels().panel_columns * kFloat);
    work_bytes = panel_bytes + cpu::ScratchLayout::round_up(std::max(first_cut.sum_bytes, last_cut.sum_bytes));
    work = layout.add_slots(std::max(first_cut.workers, last_cut.workers), work_bytes);
    // Others are rotated block by block on the way.
    whole_rows = rotation > kDepthBlock || (codes && rotation > 0);
    const auto workers = std::min<int64_t>(threads, ceil_div(first, group));
    if (strided_x || whole_rows) {
      gathered_row_bytes = depth * cpu::size_of(x_type);
      gathered_bytes = cpu::ScratchLayout::round_up(group * gathered_row_bytes);
      gathered = layout.add_slots(workers, gathered_bytes);
    }
    if (whole_rows) {
      wide_bytes = cpu::ScratchLayout::round_up(depth * kFloat);
      wide = layout.add_slots(workers, wide_bytes);
    }
    if (codes) {
      code_bytes = cpu::ScratchLayout::round_up(group * depth);
      row_codes = layout.add_slots(workers, code_bytes);
      row_scales = layout.add(first * kFloat);
    }
    if (format == WeightFormat::w4a8) levels = layout.add(kLevels);
  }

  int threads;
  int64_t chunk;                          // rows that are prepared and multiplied at a time
  int64_t prepared;                       // of one chunk
  int64_t work, work_bytes, panel_bytes;  // of each thread: a panel, then sums
  // Of each thread: rows of x that are not read in place.
  int64_t gathered = 0, gathered_bytes = 0, gathered_row_bytes = 0;
  bool whole_rows;                        // are rotated, and not block by block
  int64_t wide = 0, wide_bytes = 0;       // of each thread: such a row in float32
  int64_t row_codes = 0, code_bytes = 0;  // of each thread: a group of rows of x as 8-bit codes
  int64_t row_scales = 0;                 // of these rows, of one chunk
  int64_t levels = 0;                     // of w4a8
  cpu::ScratchLayout layout;
};

// Everything a dispatched product needs; buffers belong to arrays that MLX keeps alive.
struct Product {
  cpu::WeightMatrix weight;
  cpu::Rows x;
  cpu::FloatType x_type;
  int64_t rows, depth, width;
  int64_t rotation = 0;
  bool codes = false;             // rows of x are multiplied as 8-bit codes
  float factor = 1.0f;            // of all sums
  const float* scale = nullptr;   // of all sums, or
  const float* scales = nullptr;  // of those of each column
  const float* table = nullptr;   // of w4a8
  Activation activation = Activation::none;
  const char* bias = nullptr;
  cpu::FloatType bias_type = cpu::FloatType::f32;
  std::optional<cpu::Rows> residual = std::nullopt;
  const char* gate = nullptr;
  cpu::FloatType gate_type = cpu::FloatType::f32;
  int64_t gate_rows = 1;
  const int32_t* gate_index = nullptr;
  char* out = nullptr;

  void run(const Plan& plan, const cpu::Scratch& scratch) const;

 private:
  const cpu::LinearLoops& loops() const { return loops_for(weight.format, x_type, codes, rows); }
  // Words of one depth block.
  int64_t block_words() const { return kDepthBlock / loops().values_per_word; }
  // Rows [first, first + count) as blocks of kDepthBlock columns, each interleaved (see LinearLoops).
  void prepare_rows(int64_t first, int64_t count, float* to, const Plan& plan, const cpu::Scratch& scratch) const;
  // Sums of `count` prepared rows (of `stride` per depth block) and panel columns [n0, n0 + columns).
  void multiply(const float* a, int64_t stride, int64_t count, int64_t n0, int64_t columns, float* panel, float* sums,
                int64_t lds) const;
  // Where the weights of a panel lie.
  cpu::ReadAhead panel_bytes(int64_t n0, int64_t k0) const;
  // row_scales: of rows from `first` on, where they are codes.
  void finish(int64_t first, int64_t count, int64_t n0, int64_t columns, float* sums, int64_t lds,
              const float* row_scales) const;
};

void Product::prepare_rows(int64_t first, int64_t count, float* to, const Plan& plan,
                           const cpu::Scratch& scratch) const {
  const auto& loops = this->loops();
  const auto& kernels = cpu::linear_kernels();
  const int64_t words = block_words(), group = loops.tile_rows;
  const auto body = [&](int64_t begin, int64_t end, int worker) {
    const char* from[cpu::kMaxTileRows];
    char* gathered = scratch.at<char>(plan.gathered + worker * plan.gathered_bytes);
    for (int64_t r0 = begin * group; r0 < std::min(count, end * group); r0 += group) {
      const int64_t rows = std::min(group, count - r0);
      for (int64_t r = 0; r < rows; ++r) {
        char* copy = gathered + r * plan.gathered_row_bytes;
        from[r] = cpu::contiguous_row(x, first + r0 + r, 0, depth, copy);
        if (plan.whole_rows) {
          auto* wide = scratch.at<float>(plan.wide + worker * plan.wide_bytes);
          kernels.rotate(x_type, from[r], depth, rotation, wide, copy);
          from[r] = copy;
        }
        if (codes) {
          auto* to = scratch.at<int8_t>(plan.row_codes + worker * plan.code_bytes) + r * depth;
          scratch.at<float>(plan.row_scales)[r0 + r] = kernels.quantise(x_type, from[r], depth, to);
          from[r] = reinterpret_cast<const char*>(to);
        }
      }
      for (int64_t k0 = 0; k0 < depth; k0 += kDepthBlock) {
        const int64_t k = std::min(kDepthBlock, depth - k0);
        const char* parts[cpu::kMaxTileRows];
        alignas(64) char rotated[cpu::kMaxTileRows][kDepthBlock * sizeof(float)];
        for (int64_t r = 0; r < rows; ++r) {
          parts[r] = from[r] + k0 * (codes ? 1 : cpu::size_of(x_type));
          if (rotation == 0 || plan.whole_rows) continue;
          alignas(64) float wide[kDepthBlock];
          kernels.rotate(x_type, parts[r], k, rotation, wide, rotated[r]);
          parts[r] = rotated[r];
        }
        loops.prepare(x_type, parts, rows, k, to + (k0 / kDepthBlock * count + r0) * words);
      }
    }
  };
  cpu::parallel_for(ceil_div(count, group), std::max<int64_t>(1, 32768 / depth / group), body, plan.threads);
}

cpu::ReadAhead Product::panel_bytes(int64_t n0, int64_t k0) const {
  const int64_t k = std::min(kDepthBlock, depth - k0), row = weight.row_bytes;
  return {static_cast<const char*>(weight.values) + n0 * row + k0 * row / depth, row,
          std::min(cpu::linear_kernels().panel_columns, width - n0), k * row / depth};
}

void Product::multiply(const float* a, int64_t stride, int64_t count, int64_t n0, int64_t columns, float* panel,
                       float* sums, int64_t lds) const {
  const auto& loops = this->loops();
  const int64_t step = cpu::linear_kernels().panel_columns, words = block_words();
  // The last block of many rows may have few, and its sums no room for so many panels.
  if (count <= loops.few_rows && lds >= loops.few_panels * step) {
    const int64_t most = count == stride ? loops.few_depth : kDepthBlock;
    for (int64_t n = 0; n < columns; n += loops.few_panels * step) {
      for (int64_t k0 = 0; k0 < depth; k0 += most) {
        loops.multiply_few(weight, n0 + n, k0, std::min(most, depth - k0), a + k0 / kDepthBlock * stride * words, count,
                           sums + n, lds, k0 > 0);
      }
    }
    return;
  }
  for (int64_t k0 = 0; k0 < depth; k0 += kDepthBlock) {
    const int64_t k = std::min(kDepthBlock, depth - k0);
    for (int64_t n = 0; n < columns; n += step) {
      loops.pack(weight, n0 + n, k0, k, panel);
      const bool last = n + step >= columns;
      const bool end = last && k0 + k == depth;
      const auto ahead = end ? cpu::ReadAhead{} : panel_bytes(last ? n0 : n0 + n + step, last ? k0 + k : k0);
      loops.multiply(a + k0 / kDepthBlock * stride * words, count, panel, k, sums + n, lds, k0 > 0, ahead);
    }
  }
}

void Product::finish(int64_t first, int64_t count, int64_t n0, int64_t columns, float* sums, int64_t lds,
                     const float* row_scales) const {
  const auto& kernels = cpu::linear_kernels();
  float bias_values[kBlockColumns], gate_values[kBlockColumns];
  char gathered[kBlockColumns * sizeof(float)];
  cpu::LinearEpilogue epilogue{.factor = scale ? *scale * factor : factor,
                               .scale = scales ? scales + n0 : nullptr,
                               .activation = activation,
                               .bias = bias ? bias_values : nullptr,
                               .gate = gate ? gate_values : nullptr,
                               .residual = nullptr,
                               .type = x_type};
  if (bias) kernels.widen(bias_type, bias + n0 * cpu::size_of(bias_type), bias_values, columns);
  int64_t widened = -1;
  for (int64_t r = first; r < first + count; ++r, sums += lds) {
    if (gate) {
      const int64_t row = gate_index != nullptr ? cpu::table_row(gate_index[r], gate_rows) : 0;
      if (row != widened) {
        kernels.widen(gate_type, gate + (row * width + n0) * cpu::size_of(gate_type), gate_values, columns);
        widened = row;
      }
    }
    if (codes) {
      kernels.widen_sums(sums, columns);
      epilogue.factor = row_scales[r - first];
    }
    if (residual) epilogue.residual = cpu::contiguous_row(*residual, r, n0, columns, gathered);
    kernels.finish(epilogue, sums, out + (r * width + n0) * cpu::size_of(x_type), columns);
  }
}

void Product::run(const Plan& plan, const cpu::Scratch& scratch) const {
  if (table != nullptr) cpu::linear_kernels().make_levels(table, scratch.at<int8_t>(plan.levels));
  const int64_t words = block_words();
  float* prepared = scratch.at<float>(plan.prepared);
  for (int64_t first = 0; first < rows; first += plan.chunk) {
    const int64_t count = std::min(plan.chunk, rows - first);
    prepare_rows(first, count, prepared, plan, scratch);
    const Cut cut(loops(), count, width, plan.threads);
    const auto body = [&](int64_t begin, int64_t end, int worker) {
      const int64_t work = plan.work + worker * plan.work_bytes;
      auto *panel = scratch.at<float>(work), *sums = scratch.at<float>(work + plan.panel_bytes);
      for (int64_t item = begin; item < end; ++item) {  // those of the same columns in turn
        const int64_t m0 = item % cut.row_blocks * cut.block_rows;
        const int64_t n0 = item / cut.row_blocks * cut.block_columns;
        const int64_t m = std::min(cut.block_rows, count - m0);
        const int64_t columns = std::min(cut.block_columns, width - n0);
        multiply(prepared + m0 * words, count, m, n0, columns, panel, sums, cut.block_columns);
        finish(first + m0, m, n0, columns, sums, cut.block_columns, scratch.at<float>(plan.row_scales) + m0);
      }
    };
    cpu::parallel_for(cut.items, 1, body, cut.workers);
  }
}

}  // namespace

int64_t quantized_linear_scratch_bytes(int64_t rows, int64_t depth, int64_t width, cpu::FloatType x_type,
                                       WeightFormat format, bool strided_x, int rotation, bool int8_activations,
                                       int threads) {
  if (rows == 0) return 0;
  return Plan(rows, depth, width, x_type, format, strided_x, rotation, int8_activations, threads).layout.bytes();
}

void QuantizedLinear::eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) {
  const auto& x = inputs[0];
  const auto& values = inputs[1];
  const auto& p = parameters_;
  auto part = [&inputs, next = size_t{2}](bool present) mutable { return present ? &inputs[next++] : nullptr; };
  const mx::array* scale = part(p.has_scale);
  const mx::array* zero = part(p.has_zero);
  const mx::array* table = part(p.has_table);
  const mx::array* bias = part(p.has_bias);
  const mx::array* residual = part(p.has_residual);
  const mx::array* gate = part(p.has_gate);
  const mx::array* gate_index = part(p.has_gate_index);

  // Each element of the residual is read just before the same element of the result is written.
  cpu::Evaluation evaluation(*this, inputs, outputs, residual);
  if (evaluation.empty()) return;

  // Scales and zeros of groups, and those of whole rows or all of W.
  const bool affine = p.format == WeightFormat::int8 || p.format == WeightFormat::int4;
  const bool coded =
      p.format == WeightFormat::nvfp4 || p.format == WeightFormat::mxfp8 || p.format == WeightFormat::w4a8;
  const bool grouped = affine || coded;
  const mx::array* factor = coded ? zero : affine ? nullptr : scale;
  Product product{.weight = {.format = p.format,
                             .values = values.data<char>(),
                             .row_bytes = static_cast<int64_t>(values.shape(1) * values.itemsize()),
                             .columns = values.shape(0),
                             .scale = grouped ? scale->data<char>() : nullptr,
                             .zero = affine ? zero->data<char>() : nullptr,
                             .group_type = affine ? cpu::float_type(scale->dtype()) : cpu::FloatType::f32,
                             .groups = grouped ? scale->shape(1) : 0,
                             .group_size = p.group_size,
                             .levels = nullptr},
                  .x = cpu::Rows(x),
                  .x_type = cpu::float_type(x.dtype()),
                  .rows = static_cast<int64_t>(x.size()) / x.shape(-1),
                  .depth = x.shape(-1),
                  .width = values.shape(0),
                  .rotation = p.rotation,
                  .codes = p.int8_activations,
                  .factor = p.format == WeightFormat::e4m3 ? cpu::kE4m3Factor : 1.0f,
                  .activation = p.activation};
  if (factor != nullptr) (factor->size() == 1 ? product.scale : product.scales) = factor->data<float>();
  if (table != nullptr) product.table = table->data<float>();
  if (bias != nullptr) {
    product.bias = bias->data<char>();
    product.bias_type = cpu::float_type(bias->dtype());
  }
  if (residual != nullptr) product.residual.emplace(*residual);
  if (gate != nullptr) {
    product.gate = gate->data<char>();
    product.gate_type = cpu::float_type(gate->dtype());
    product.gate_rows = gate->shape(0);
  }
  if (gate_index != nullptr) product.gate_index = gate_index->data<int32_t>();
  product.out = outputs[0].data<char>();
  const Plan plan(product.rows, product.depth, product.width, product.x_type, p.format, product.x.stride() != 1,
                  p.rotation, p.int8_activations, cpu::num_threads());
  const auto scratch = evaluation.scratch(plan.layout.bytes());
  if (table != nullptr) product.weight.levels = scratch.at<int8_t>(plan.levels);
  evaluation.dispatch([product, plan, scratch]() noexcept { product.run(plan, scratch); });
}

}  // namespace ltx2rt
