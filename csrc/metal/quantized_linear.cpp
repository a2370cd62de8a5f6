// Metal evaluation of quantized_linear: few rows at once, or tiles. Quantised weights are expanded as tiles are staged,
// or slab by slab where each would be expanded too often.
#include "csrc/quantized_linear.h"

#include <algorithm>
#include <bit>

#include "csrc/metal/launch.h"

namespace ltx2rt {
namespace {

using metal::FunctionConstant;
using metal::Launch;

// The operands of one product.
struct Operands {
  metal::EvenRows x;
  const mx::array* weight;
  const mx::array* factor;  // of all weights or of each row of W, for the epilogue
  const mx::array* scale;   // of groups of weights
  const mx::array* zero;    // of affine weights
  const mx::array* table;
  const mx::array* bias;
  std::optional<metal::EvenRows> residual;
  const mx::array* gate;
  const mx::array* gate_index;
  WeightFormat format;
  bool aligned_w;
  int32_t group_size;
  int32_t group_shift;
};

// Gives the parts of a weight beside its values to the operands that the shaders know them as.
void sort_parts(Operands& o, const mx::array* scale, const mx::array* zero, const mx::array* table) {
  switch (o.format) {
    case WeightFormat::e4m3:
    case WeightFormat::int8_rows:
      o.factor = scale;
      return;
    case WeightFormat::nvfp4:
    case WeightFormat::w4a8:
      o.factor = zero;
      o.scale = scale;
      o.table = table;
      return;
    default:
      o.scale = scale;
      o.zero = zero;
  }
}

// Whether the shaders may read W in words: all that they read at once lies at multiples of its size.
bool reads_words(const mx::array& weight, WeightFormat format, int64_t depth) {
  const int64_t offset = weight.offset();
  switch (format) {
    case WeightFormat::f32:
    case WeightFormat::f16:
    case WeightFormat::bf16:
      return depth % 4 == 0 && metal::starts_at_four(weight);
    case WeightFormat::nvfp4:
    case WeightFormat::w4a8:
      return depth % 8 == 0 && offset % 4 == 0;
    case WeightFormat::q8_0:
    case WeightFormat::q6_k:
      return offset % 2 == 0;
    case WeightFormat::q4_k:
    case WeightFormat::q5_k:
      return offset % 4 == 0;
    default:
      return depth % 4 == 0 && offset % 4 == 0;
  }
}

int64_t slab_bytes() {
#ifdef LTX2RT_METAL_SIM
  return metal::slab_bytes();
#else
  return metal_plan::kSlabBytes;
#endif
}

int64_t least_depth_in_parts() {
#ifdef LTX2RT_METAL_SIM
  return metal::least_depth_in_parts();
#else
  return metal_plan::kLeastDepthInParts;
#endif
}

bool at_four(const mx::array* operand) { return !operand || metal::starts_at_four(*operand); }

std::vector<FunctionConstant> codec_constants(const Operands& w) {
  return {{metal_shared::kLinearFormatId, static_cast<int32_t>(w.format)},
          {metal_shared::kLinearGroupTypeId, metal::element_type(is_affine(w.format) ? w.scale : nullptr)}};
}

// x times the matrix of the rotation, group by group.
metal::EvenRows rotated(Launch& launch, const metal::EvenRows& x, int64_t rows, int64_t depth, int rotation) {
  auto made = launch.temporary({static_cast<int>(rows), static_cast<int>(depth)}, x.array.dtype());
  const int threads = metal_plan::rotate_threads(depth);
  launch.use("rotate_rows", "rotate_rows_" + metal::type_name(made.dtype()),
             {{metal_shared::kRotateGroupId, static_cast<int32_t>(rotation)},
              {metal_shared::kRotateAlignedId, x.stride % 4 == 0 && metal::starts_at_four(x.array)}});
  auto& encoder = launch.encoder();
  encoder.set_input_array(x.array, 0);
  encoder.set_output_array(made, 1);
  metal_shared::RotateParams params{x.stride, static_cast<int32_t>(depth), threads, 0, 0};
  const int64_t values = int64_t{threads} * metal_shared::kRotatePerThread;
  const int64_t cost = metal_plan::kOperationsPerByte * 2 * values * static_cast<int64_t>(made.itemsize());
  launch.dispatch({metal_plan::ceil_div(depth, values), rows, 1}, threads, cost, [&](const int64_t (&first)[3]) {
    params.first_block = first[0];
    params.first_row = first[1];
    encoder.set_bytes(params, 2);
  });
  return {made, depth};
}

// Rows first_row to end_row of W (N, K) in the dtype of `slab`, without factors, into its beginning.
void dequantise(Launch& launch, const Operands& w, int64_t first_row, int64_t end_row, int64_t depth, mx::array& slab) {
  auto constants = codec_constants(w);
  constants.push_back({metal_shared::kLinearAlignedWId, w.aligned_w});
  launch.use("linear_few", "dequantise_" + metal::type_name(slab.dtype()), constants);
  auto& encoder = launch.encoder();
  encoder.set_input_array(*w.weight, 0);
  launch.bind(w.scale, 1);
  launch.bind(w.zero, 2);
  encoder.set_output_array(slab, 3);
  launch.bind(w.table, 5);
  const auto first_weight_row = static_cast<int32_t>(first_row), row_values = static_cast<int32_t>(depth);
  metal_shared::DequantiseParams params{0, 0, first_weight_row, row_values, w.group_size, w.group_shift};
  constexpr int64_t kPerThread = metal_shared::kDequantisePerThread;
  const int64_t values = (end_row - first_row) * depth;
  launch.dispatch_threads(metal_plan::ceil_div(values, kPerThread), metal_plan::kOperationsPerByte * 4 * kPerThread,
                          [&](int64_t first, int64_t end) {
                            params.first = static_cast<int32_t>(first * kPerThread);
                            params.end = static_cast<int32_t>(std::min(end * kPerThread, values));
                            encoder.set_bytes(params, 4);
                          });
}

// What the epilogue reads; with `present` false nothing, for a kernel that leaves the epilogue to another.
std::vector<FunctionConstant> epilogue_constants(const Operands& o, Activation activation, bool aligned_out,
                                                 bool present = true) {
  const auto factor = !o.factor              ? metal_shared::kNoFactor
                      : o.factor->size() > 1 ? metal_shared::kFactorOfRow
                                             : metal_shared::kFactorOfAll;
  return {
      {metal_shared::kLinearBiasId, metal::element_type(present ? o.bias : nullptr)},
      {metal_shared::kLinearActivationId, static_cast<int32_t>(present ? activation : Activation::none)},
      {metal_shared::kLinearHasResidualId, present && o.residual.has_value()},
      {metal_shared::kLinearGateId, metal::element_type(present ? o.gate : nullptr)},
      {metal_shared::kLinearHasGateIndexId, present && o.gate_index != nullptr},
      {metal_shared::kLinearFactorId, static_cast<int32_t>(present ? factor : metal_shared::kNoFactor)},
      {metal_shared::kLinearAlignedOutId, aligned_out},
  };
}

void bind_epilogue(Launch& launch, const Operands& o, bool present = true) {
  launch.bind(present ? o.bias : nullptr, 2);
  launch.bind(present && o.residual ? &o.residual->array : nullptr, 3);
  launch.bind(present ? o.gate : nullptr, 4);
  launch.bind(present ? o.gate_index : nullptr, 5);
  launch.bind(present ? o.factor : nullptr, 6);
}

// Adds up `sums` (parts, rows, columns) and finishes the product.
void join(Launch& launch, const Operands& o, const std::vector<FunctionConstant>& constants,
          const metal_shared::LinearParams& params, const mx::array& sums, mx::array& out) {
  launch.use("linear_few", "linear_join_" + metal::type_name(out.dtype()), constants);
  auto& encoder = launch.encoder();
  encoder.set_input_array(sums, 0);
  bind_epilogue(launch, o);
  encoder.set_output_array(out, 7);
  metal_shared::JoinParams join_params{params, sums.shape(0), 0, 0, 0};
  const int64_t fours = int64_t{params.rows} * metal_plan::ceil_div(params.columns, 4);
  launch.dispatch_threads(fours, metal_plan::kOperationsPerByte * 16 * (sums.shape(0) + 1),
                          [&](int64_t first, int64_t end) {
                            join_params.first = static_cast<int32_t>(first);
                            join_params.end = static_cast<int32_t>(end);
                            encoder.set_bytes(join_params, 8);
                          });
}

}  // namespace

void QuantizedLinear::eval_gpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) {
  Launch launch(stream());
  const auto& p = parameters_;
  auto& out = outputs[0];
  launch.allocate(out);
  if (out.size() == 0) return;
  size_t next = 2;
  const auto given = [&](bool present) { return present ? &inputs[next++] : nullptr; };
  Operands o{metal::even_rows(launch, inputs[0], metal_plan::kLinearReachedRows),
             &inputs[1],
             nullptr,
             nullptr,
             nullptr,
             nullptr,
             nullptr,
             std::nullopt,
             nullptr,
             nullptr,
             p.format,
             false,
             1,
             0};
  const bool dense = metal_plan::linear_is_dense(p.format);
  const auto* scale = given(p.has_scale);
  const auto* zero = given(p.has_zero);
  sort_parts(o, scale, zero, given(p.has_table));
  o.bias = given(p.has_bias);
  if (const auto* residual = given(p.has_residual)) o.residual = metal::even_rows(launch, *residual);
  o.gate = given(p.has_gate);
  o.gate_index = given(p.has_gate_index);

  const int64_t depth = inputs[0].shape(-1), columns = out.shape(-1), rows = out.size() / columns;
  if (p.rotation > 0) o.x = rotated(launch, o.x, rows, depth, p.rotation);
  o.group_size = std::max(1, scale_group(p.format, p.group_size));
  const auto group = static_cast<uint32_t>(o.group_size);
  o.group_shift = std::has_single_bit(group) ? std::countr_zero(group) : -1;
  o.aligned_w = reads_words(*o.weight, p.format, depth);
  const bool of_rows = o.factor && o.factor->size() > 1;
  const bool aligned_x = depth % 4 == 0 && o.x.stride % 4 == 0 && metal::starts_at_four(o.x.array);
  const bool aligned_out = columns % 4 == 0 && at_four(o.bias) && at_four(o.gate) && (!of_rows || at_four(o.factor)) &&
                           (!o.residual || (o.residual->stride % 4 == 0 && metal::starts_at_four(o.residual->array)));

  const bool few = metal_plan::linear_uses_few(p.format, rows);
  const auto tile = metal_plan::linear_tile(rows);
  const int64_t itemsize = out.itemsize();
  const int64_t slab_columns = metal_plan::linear_slab_columns(p.format, rows, columns, depth, itemsize, slab_bytes());
  // Operands as float16 need a kernel with tiles, and activations of 16 bits.
  const bool halves = p.half_operands && !few && out.dtype() != mx::float32;
  std::optional<mx::array> slab;
  if (slab_columns > 0) {
    slab =
        launch.temporary({static_cast<int>(slab_columns), static_cast<int>(depth)}, halves ? mx::float16 : out.dtype());
  }
  const bool coded = !dense && !slab;  // the kernel reads codes
  const mx::array& weight = slab ? *slab : *o.weight;

  const auto in_parts = metal_plan::linear_parts(p.format, rows, columns, depth, least_depth_in_parts());
  std::optional<mx::array> sums;
  if (in_parts.parts > 1) {
    sums = launch.temporary({static_cast<int>(in_parts.parts), static_cast<int>(rows), static_cast<int>(columns)},
                            mx::float32);
  }
  auto constants = epilogue_constants(o, p.activation, aligned_out, !sums);
  constants.push_back({metal_shared::kLinearAlignedXId, aligned_x});
  constants.push_back({metal_shared::kLinearAlignedWId, slab ? depth % 4 == 0 : o.aligned_w});
  if (few || coded) {
    for (const auto& constant : codec_constants(o)) constants.push_back(constant);
  }
  std::string shader, kernel;
  int64_t group_rows, group_columns, cost;
  int threads;
  const std::string x_type = metal::type_name(out.dtype());
  if (few) {
    group_rows = std::min<int64_t>(rows, metal_shared::kFewRowsMost);
    group_columns = metal_shared::kFewRowsColumns * metal_shared::kFewRowsSimdgroups;
    constants.push_back({metal_shared::kLinearFewRowsId, static_cast<int32_t>(group_rows)});
    shader = "linear_few";
    kernel = "linear_few_" + x_type;
    threads = 32 * metal_shared::kFewRowsSimdgroups;
    cost = metal_plan::kOperationsPerByte * group_columns * depth * (dense ? weight.itemsize() : 1);
  } else {
    group_rows = tile.rows;
    group_columns = tile.columns;
    constants.push_back({metal_shared::kLinearFencedId, fenced()});
    constants.push_back({metal_shared::kLinearInPartsId, sums.has_value()});
    shader = "linear_tile";
    kernel = "linear_tile_" + x_type + "_" + (coded ? "codes" : metal::type_name(weight.dtype())) + "_" +
             std::to_string(tile.rows) + "x" + std::to_string(tile.columns) + (halves ? "_half" : "");
    threads = tile.rows * tile.columns / 32;
    cost = 2 * in_parts.depth * tile.rows * tile.columns;
  }

  auto& encoder = launch.encoder();
  metal_shared::LinearParams params{};
  params.x_row_stride = o.x.stride;
  params.residual_row_stride = o.residual ? o.residual->stride : 0;
  params.rows = rows;
  params.columns = columns;
  params.depth = depth;
  params.group_size = o.group_size;
  params.group_shift = o.group_shift;
  params.gate_rows = o.gate ? o.gate->shape(0) : 1;
  params.row_blocks = static_cast<int32_t>(metal_plan::ceil_div(rows, group_rows));
  params.part_depth = static_cast<int32_t>(in_parts.depth);
  // One pass over all columns, or one per slab of them.
  const int64_t step = slab ? slab_columns : columns;
  for (int64_t column = 0; column < columns; column += step) {
    const int64_t end = std::min(columns, column + step);
    if (slab) {
      // MLX's encoder orders a read after the write that it needs, but not a write after reads: the last tiles may
      // still read the slab that is about to be overwritten.
      if (column > 0) encoder.barrier();
      dequantise(launch, o, column, end, depth, *slab);
    }
    launch.use(shader, kernel, constants);
    encoder.set_input_array(o.x.array, 0);
    encoder.set_input_array(weight, 1);
    bind_epilogue(launch, o, !sums);
    encoder.set_output_array(sums ? *sums : out, 7);
    if (few || coded) {
      launch.bind(o.scale, 9);
      launch.bind(o.zero, 10);
      launch.bind(o.table, 11);
    }
    params.first_weight_row = column;
    params.first_column_block = static_cast<int32_t>(column / group_columns);
    params.column_blocks = static_cast<int32_t>(metal_plan::ceil_div(end - column, group_columns));
    launch.dispatch({int64_t{params.row_blocks} * params.column_blocks, in_parts.parts, 1}, threads, cost,
                    [&](const int64_t (&first)[3]) {
                      params.first_tile = static_cast<int32_t>(first[0]);
                      params.first_part = static_cast<int32_t>(first[1]);
                      encoder.set_bytes(params, 8);
                    });
  }
  if (sums) join(launch, o, epilogue_constants(o, p.activation, aligned_out), params, *sums, out);
}

}  // namespace ltx2rt
