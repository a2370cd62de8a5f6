// CPU evaluation of quantized_linear: rows prepared once, weights expanded panel by panel, tiles in parallel.
#include "csrc/quantized_linear.h"

#include <algorithm>
#include <atomic>
#include <stdexcept>
#include <string>

#include "csrc/cpu/aligned_floats.h"
#include "csrc/cpu/linear_kernels.h"
#include "csrc/cpu/rows.h"
#include "csrc/cpu/thread_pool.h"
#include "mlx/allocator.h"
#include "mlx/backend/cpu/encoder.h"

namespace ltx2rt {
namespace {

using cpu::kDepthBlock;

// Cutting of the work; results do not depend on it. One block of rows (at most 260 KiB as words of one depth block), its
// sums (130 KiB) and its panel stay in the second-level cache, the panel even in the first.
constexpr int64_t kBlockRows = 528;
constexpr int64_t kBlockColumns = 64;
// Prepared rows of x held at a time.
constexpr int64_t kRowBytes = 24 << 20;

int64_t blocks(int64_t n, int64_t size) { return (n + size - 1) / size; }
// The size of the fewest parts of n that hold at most `most` each, rounded up to whole groups.
int64_t even_part(int64_t n, int64_t most, int64_t group) {
  return blocks(blocks(n, blocks(n, most)), group) * group;
}

// Everything a dispatched product needs; buffers belong to arrays that MLX keeps alive.
struct Product {
  cpu::WeightMatrix weight;
  cpu::Rows x;
  cpu::FloatType x_type;
  int64_t rows, depth, width;
  const float* e4m3_scale = nullptr;
  Activation activation = Activation::none;
  const char* bias = nullptr;
  cpu::FloatType bias_type = cpu::FloatType::f32;
  std::optional<cpu::Rows> residual = std::nullopt;
  const char* gate = nullptr;
  cpu::FloatType gate_type = cpu::FloatType::f32;
  int64_t gate_rows = 1;
  const int32_t* gate_index = nullptr;
  char* out = nullptr;

  void run() const;

 private:
  const cpu::LinearLoops& loops() const;
  // Words of one depth block.
  int64_t block_words() const { return kDepthBlock / loops().values_per_word; }
  // Rows [first, first + count) as blocks of kDepthBlock columns, each interleaved (see LinearLoops).
  void prepare_rows(int64_t first, int64_t count, float* to) const;
  // Sums of `count` prepared rows (of `stride` per depth block) and panel columns [n0, n0 + columns).
  void multiply(const float* a, int64_t stride, int64_t count, int64_t n0, int64_t columns, float* panel, float* sums,
                int64_t lds) const;
  // Where the weights of a panel lie.
  cpu::ReadAhead panel_bytes(int64_t n0, int64_t k0) const;
  void finish(int64_t first, int64_t count, int64_t n0, int64_t columns, const float* sums, int64_t lds) const;
  int64_t gate_row(int64_t r) const;
};

const cpu::LinearLoops& Product::loops() const {
  const auto& kernels = cpu::linear_kernels();
  const bool wide = weight.format == WeightFormat::f32 || weight.format == WeightFormat::f16;
  return kernels.has_pairs && !wide && x_type == cpu::FloatType::bf16 ? kernels.pairs : kernels.values;
}

void Product::prepare_rows(int64_t first, int64_t count, float* to) const {
  const auto& loops = this->loops();
  const int64_t words = block_words(), group = cpu::linear_kernels().tile_rows;
  cpu::parallel_for(blocks(count, group), std::max<int64_t>(1, 32768 / depth / group), [&](int64_t begin, int64_t end) {
    std::vector<char> gathered[cpu::kMaxTileRows];
    const char* from[cpu::kMaxTileRows];
    for (int64_t r0 = begin * group; r0 < std::min(count, end * group); r0 += group) {
      const int64_t rows = std::min(group, count - r0);
      for (int64_t r = 0; r < rows; ++r) from[r] = cpu::contiguous_row(x, first + r0 + r, 0, depth, gathered[r]);
      for (int64_t k0 = 0; k0 < depth; k0 += kDepthBlock) {
        const int64_t k = std::min(kDepthBlock, depth - k0);
        loops.prepare(x_type, from, rows, k, to + (k0 / kDepthBlock * count + r0) * words);
        for (int64_t r = 0; r < rows; ++r) from[r] += k * cpu::size_of(x_type);
      }
    }
  });
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
  if (count <= cpu::kFewRows) {
    for (int64_t n = 0; n < columns; n += step) {
      for (int64_t k0 = 0; k0 < depth; k0 += kDepthBlock) {
        loops.multiply_few(weight, n0 + n, k0, std::min(kDepthBlock, depth - k0), a + k0 / kDepthBlock * stride * words,
                           count, sums + n, lds, k0 > 0);
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

int64_t Product::gate_row(int64_t r) const {
  if (gate_index == nullptr) return 0;
  const int64_t row = gate_index[r] < 0 ? gate_index[r] + gate_rows : gate_index[r];
  if (row < 0 || row >= gate_rows) {
    throw std::out_of_range("[quantized_linear] gate_index holds " + std::to_string(gate_index[r]) +
                            " but gate has " + std::to_string(gate_rows) + " rows.");
  }
  return row;
}

void Product::finish(int64_t first, int64_t count, int64_t n0, int64_t columns, const float* sums,
                     int64_t lds) const {
  const auto& kernels = cpu::linear_kernels();
  float bias_values[kBlockColumns], gate_values[kBlockColumns];
  std::vector<char> gathered;
  cpu::LinearEpilogue epilogue{.factor = e4m3_scale ? *e4m3_scale * cpu::kE4m3Factor : 1.0f,
                               .activation = activation,
                               .bias = bias ? bias_values : nullptr,
                               .gate = gate ? gate_values : nullptr,
                               .residual = nullptr,
                               .type = x_type};
  if (bias) kernels.widen(bias_type, bias + n0 * cpu::size_of(bias_type), bias_values, columns);
  int64_t widened = -1;
  for (int64_t r = first; r < first + count; ++r, sums += lds) {
    if (gate) {
      const int64_t row = gate_row(r);
      if (row != widened) {
        kernels.widen(gate_type, gate + (row * width + n0) * cpu::size_of(gate_type), gate_values, columns);
        widened = row;
      }
    }
    if (residual) epilogue.residual = cpu::contiguous_row(*residual, r, n0, columns, gathered);
    kernels.finish(epilogue, sums, out + (r * width + n0) * cpu::size_of(x_type), columns);
  }
}

void Product::run() const {
  const auto& kernels = cpu::linear_kernels();
  const int64_t words = block_words(), padded_depth = blocks(depth, kDepthBlock) * words, group = kernels.tile_rows;
  const int64_t most = std::max<int64_t>(1, kRowBytes / 4 / padded_depth / group) * group;
  const int64_t chunk = even_part(rows, most, group);
  const cpu::AlignedFloats prepared(std::min(rows, chunk) * padded_depth);
  for (int64_t first = 0; first < rows; first += chunk) {
    const int64_t count = std::min(chunk, rows - first);
    prepare_rows(first, count, prepared.data());
    const int64_t block_rows = even_part(count, kBlockRows, group), row_blocks = blocks(count, block_rows);
    int64_t block_columns = kBlockColumns;
    while (block_columns > kernels.panel_columns &&
           row_blocks * blocks(width, block_columns) < 4 * cpu::num_threads()) {
      block_columns /= 2;
    }
    const int64_t items = row_blocks * blocks(width, block_columns);
    // Each thread takes one item after the other, those of the same columns in turn.
    std::atomic<int64_t> next{0};
    cpu::parallel_for(std::min<int64_t>(cpu::num_threads(), items), 1, [&](int64_t, int64_t) {
      const cpu::AlignedFloats panel(kDepthBlock * kernels.panel_columns);
      const cpu::AlignedFloats sums(std::min(count, block_rows) * block_columns);
      for (int64_t item; (item = next.fetch_add(1, std::memory_order_relaxed)) < items;) {
        const int64_t m0 = item % row_blocks * block_rows;
        const int64_t n0 = item / row_blocks * block_columns;
        const int64_t m = std::min(block_rows, count - m0);
        const int64_t columns = std::min(block_columns, width - n0);
        multiply(prepared.data() + m0 * words, count, m, n0, columns, panel.data(), sums.data(), block_columns);
        finish(first + m0, m, n0, columns, sums.data(), block_columns);
      }
    });
  }
}

}  // namespace

void QuantizedLinear::eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) {
  const auto& x = inputs[0];
  const auto& values = inputs[1];
  auto& out = outputs[0];
  const auto& p = parameters_;
  auto part = [&inputs, next = size_t{2}](bool present) mutable {
    return present ? &inputs[next++] : nullptr;
  };
  const mx::array* scale = part(p.has_scale);
  const mx::array* zero = part(p.has_zero);
  const mx::array* bias = part(p.has_bias);
  const mx::array* residual = part(p.has_residual);
  const mx::array* gate = part(p.has_gate);
  const mx::array* gate_index = part(p.has_gate_index);

  // Each element of the residual is read just before the same element of the result is written.
  if (residual != nullptr && residual->is_donatable() && residual->flags().row_contiguous) {
    out.copy_shared_buffer(*residual);
  } else {
    out.set_data(mx::allocator::malloc(out.nbytes()));
  }
  auto& encoder = mx::cpu::get_command_encoder(stream());
  for (const auto& input : inputs) encoder.set_input_array(input);
  encoder.set_output_array(out);
  if (out.size() == 0) return;

  const bool affine = p.format == WeightFormat::int8 || p.format == WeightFormat::int4;
  Product product{.weight = {.format = p.format,
                             .values = values.data<char>(),
                             .row_bytes = static_cast<int64_t>(values.shape(1) * values.itemsize()),
                             .columns = values.shape(0),
                             .scale = affine ? scale->data<char>() : nullptr,
                             .zero = affine ? zero->data<char>() : nullptr,
                             .group_type = affine ? cpu::float_type(scale->dtype()) : cpu::FloatType::f32,
                             .groups = affine ? scale->shape(1) : 0,
                             .group_size = p.group_size},
                  .x = cpu::Rows(x),
                  .x_type = cpu::float_type(x.dtype()),
                  .rows = static_cast<int64_t>(x.size()) / x.shape(-1),
                  .depth = x.shape(-1),
                  .width = values.shape(0),
                  .activation = p.activation};
  if (p.format == WeightFormat::e4m3) product.e4m3_scale = scale->data<float>();
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
  product.out = out.data<char>();
  encoder.dispatch([product] { product.run(); });
}

}  // namespace ltx2rt
