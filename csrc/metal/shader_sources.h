// The Metal sources that this build carries, each complete in itself; the build writes them from csrc/metal/*.metal.
#pragma once

#include <string>
#include <string_view>

namespace ltx2rt::metal {

// The source of shader `shader` (a file's name without ".metal") with kernel `kernel` as the only one that it
// instantiates: ASCII, our headers inlined. Throws std::invalid_argument for any other shader or kernel.
std::string shader_source(std::string_view shader, std::string_view kernel);

}  // namespace ltx2rt::metal
