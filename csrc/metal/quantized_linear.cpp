// Metal evaluation of quantized_linear: few rows at once, or tiles, for which quantised weights are expanded first.
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
  const mx::array* factor;  // of all weights (E4M3)
  const mx::array* scale;   // of affine weights
  const mx::array* zero;
  const mx::array* bias;
  std::optional<metal::EvenRows> residual;
  const mx::array* gate;
  const mx::array* gate_index;
  int32_t format;
  bool aligned_w;
};

bool at_four(const mx::array* operand) { return !operand || metal::starts_at_four(*operand); }

// All weights in the dtype of x, E4M3 without their factor.
mx::array dequantise(Launch& launch, const Operands& w, int64_t columns, int64_t depth, int32_t group_shift,
                     mx::Dtype dtype) {
  auto dense = launch.temporary({static_cast<int>(columns), static_cast<int>(depth)}, dtype);
  launch.use("quantized_linear", "dequantise_" + metal::type_name(dtype),
             {{metal_shared::kLinearAlignedWId, w.aligned_w},
              {metal_shared::kLinearFormatId, w.format},
              {metal_shared::kLinearGroupTypeId, metal::element_type(w.scale)}});
  auto& encoder = launch.encoder();
  encoder.set_input_array(*w.weight, 0);
  launch.bind(w.scale, 1);
  launch.bind(w.zero, 2);
  encoder.set_output_array(dense, 3);
  metal_shared::DequantiseParams params{0, 0, group_shift, 0};
  constexpr int64_t kPerThread = metal_shared::kDequantisePerThread;
  launch.dispatch_threads(metal_plan::ceil_div(columns * depth, kPerThread),
                          metal_plan::kOperationsPerByte * 4 * kPerThread, [&](int64_t first, int64_t end) {
                            params.first = first * kPerThread;
                            params.end = std::min(end * kPerThread, columns * depth);
                            encoder.set_bytes(params, 4);
                          });
  return dense;
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
  Operands o{metal::even_rows(launch, inputs[0]), &inputs[1], nullptr, nullptr, nullptr, nullptr, std::nullopt,
             nullptr, nullptr, static_cast<int32_t>(p.format), false};
  const bool affine = p.format == WeightFormat::int8 || p.format == WeightFormat::int4;
  const bool dense = o.format <= metal_shared::kBfloat16;
  (affine ? o.scale : o.factor) = given(p.has_scale);
  o.zero = given(p.has_zero);
  o.bias = given(p.has_bias);
  if (const auto* residual = given(p.has_residual)) o.residual = metal::even_rows(launch, *residual);
  o.gate = given(p.has_gate);
  o.gate_index = given(p.has_gate_index);

  const int64_t depth = inputs[0].shape(-1), columns = out.shape(-1), rows = out.size() / columns;
  const int32_t group_shift = affine ? std::countr_zero(static_cast<uint32_t>(p.group_size)) : 0;
  o.aligned_w = depth % 4 == 0 && (dense ? metal::starts_at_four(*o.weight) : o.weight->offset() % 4 == 0);
  const bool aligned_x = depth % 4 == 0 && o.x.stride % 4 == 0 && metal::starts_at_four(o.x.array);
  const bool aligned_out = columns % 4 == 0 && at_four(o.bias) && at_four(o.gate) &&
                           (!o.residual || (o.residual->stride % 4 == 0 && metal::starts_at_four(o.residual->array)));

  const bool few = metal_plan::linear_uses_few(p.format, rows);
  std::optional<mx::array> expanded;
  if (!few && !dense) expanded = dequantise(launch, o, columns, depth, group_shift, out.dtype());
  const mx::array& weight = expanded ? *expanded : *o.weight;

  std::vector<FunctionConstant> constants{
      {metal_shared::kLinearBiasId, metal::element_type(o.bias)},
      {metal_shared::kLinearActivationId, static_cast<int32_t>(p.activation)},
      {metal_shared::kLinearHasResidualId, o.residual.has_value()},
      {metal_shared::kLinearGateId, metal::element_type(o.gate)},
      {metal_shared::kLinearHasGateIndexId, o.gate_index != nullptr},
      {metal_shared::kLinearHasFactorId, o.factor != nullptr},
      {metal_shared::kLinearAlignedXId, aligned_x},
      {metal_shared::kLinearAlignedWId, expanded ? depth % 4 == 0 : o.aligned_w},
      {metal_shared::kLinearAlignedOutId, aligned_out},
  };
  const std::string x_type = metal::type_name(out.dtype());
  int64_t grid[3] = {0, 0, 1}, cost = 0;
  int threads = 0;
  if (few) {
    const int64_t group_rows = std::min<int64_t>(rows, metal_shared::kFewRowsMost);
    constexpr int64_t kColumns = metal_shared::kFewRowsColumns * metal_shared::kFewRowsSimdgroups;
    constants.push_back({metal_shared::kLinearFormatId, o.format});
    constants.push_back({metal_shared::kLinearGroupTypeId, metal::element_type(o.scale)});
    constants.push_back({metal_shared::kLinearFewRowsId, static_cast<int32_t>(group_rows)});
    launch.use("quantized_linear", "linear_few_" + x_type, constants);
    grid[0] = metal_plan::ceil_div(columns, kColumns);
    grid[1] = metal_plan::ceil_div(rows, group_rows);
    threads = 32 * metal_shared::kFewRowsSimdgroups;
    cost = metal_plan::kOperationsPerByte * kColumns * depth * (dense ? weight.itemsize() : 1);
  } else {
    const auto tile = metal_plan::linear_tile(launch.generation(), rows);
    launch.use("quantized_linear",
               "linear_tile_" + x_type + "_" + metal::type_name(weight.dtype()) + "_" + std::to_string(tile.rows) + "x" +
                   std::to_string(tile.columns),
               constants);
    grid[0] = metal_plan::ceil_div(columns, tile.columns);
    grid[1] = metal_plan::ceil_div(rows, tile.rows);
    threads = tile.rows * tile.columns / 32;
    cost = 2 * depth * tile.rows * tile.columns;
  }

  auto& encoder = launch.encoder();
  encoder.set_input_array(o.x.array, 0);
  encoder.set_input_array(weight, 1);
  launch.bind(o.bias, 2);
  launch.bind(o.residual ? &o.residual->array : nullptr, 3);
  launch.bind(o.gate, 4);
  launch.bind(o.gate_index, 5);
  launch.bind(o.factor, 6);
  encoder.set_output_array(out, 7);
  if (few) {
    launch.bind(o.scale, 9);
    launch.bind(o.zero, 10);
  }
  metal_shared::LinearParams params{};
  params.x_row_stride = o.x.stride;
  params.residual_row_stride = o.residual ? o.residual->stride : 0;
  params.rows = rows;
  params.columns = columns;
  params.depth = depth;
  params.group_shift = group_shift;
  params.gate_rows = o.gate ? o.gate->shape(0) : 1;
  launch.dispatch(grid, threads, cost, [&](const int64_t(&first)[3]) {
    params.first_column_block = first[0];
    params.first_row_block = first[1];
    encoder.set_bytes(params, 8);
  });
}

}  // namespace ltx2rt
