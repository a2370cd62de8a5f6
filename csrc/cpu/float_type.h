// The float formats that CPU kernels read and write, without MLX's headers (see isa.h).
#pragma once

#include <stdint.h>

namespace ltx2rt::cpu {

enum class FloatType : uint8_t { f32, f16, bf16 };

constexpr int64_t size_of(FloatType type) { return type == FloatType::f32 ? 4 : 2; }

}  // namespace ltx2rt::cpu
