// Metal evaluation of modulated_norm.
#include "csrc/modulated_norm.h"

#include "csrc/metal/launch.h"

namespace ltx2rt {

void ModulatedNorm::eval_gpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) {
  metal::Launch launch(stream());
  auto& out = outputs[0];
  launch.allocate(out);
  if (out.size() == 0) return;
  size_t next = 1;
  const auto given = [&](bool present) { return present ? &inputs[next++] : nullptr; };
  const mx::array* scale = given(parameters_.has_scale);
  const mx::array* shift = given(parameters_.has_shift);
  const mx::array* index = given(parameters_.has_index);

  const auto x = metal::even_rows(launch, inputs[0]);
  const int64_t width = out.shape(-1), rows = out.size() / width, item = out.itemsize();
  const int32_t table_rows = scale ? scale->shape(0) : shift ? shift->shape(0) : 1;
  const metal_shared::ModulatedNormParams params{x.stride, static_cast<int32_t>(width), parameters_.eps, table_rows, 0};
  bool aligned = width % 4 == 0 && x.stride % 4 == 0 && metal::starts_at_four(x.array);
  for (const auto* operand : {scale, shift}) aligned = aligned && (!operand || metal::starts_at_four(*operand));

  launch.use("modulated_norm", "modulated_norm_" + metal::type_name(out.dtype()),
             {{metal_shared::kNormKindId, static_cast<int32_t>(parameters_.norm)},
              {metal_shared::kNormScaleId, metal::element_type(scale)},
              {metal_shared::kNormShiftId, metal::element_type(shift)},
              {metal_shared::kNormHasIndexId, index != nullptr},
              {metal_shared::kNormAlignedId, aligned}});
  auto& encoder = launch.encoder();
  launch.bind(scale, 1);
  launch.bind(shift, 2);
  if (!index) launch.bind(nullptr, 3);
  encoder.set_bytes(params, 5);
  launch.dispatch({rows, 1, 1}, metal_plan::norm_threads(width), metal_plan::kOperationsPerByte * 2 * width * item,
                  [&](const int64_t (&first)[3]) {
                    encoder.set_input_array(x.array, 0, first[0] * x.stride * item);
                    encoder.set_output_array(out, 4, first[0] * width * item);
                    if (index) encoder.set_input_array(*index, 3, first[0] * index->itemsize());
                  });
}

}  // namespace ltx2rt
