// The Metal sources that this build carries, each complete in itself; the build writes them from csrc/metal/*.metal.
#pragma once

#include <string_view>
#include <vector>

namespace ltx2rt::metal {

// Names without ".metal".
std::vector<std::string_view> shader_names();

// The source of one of them, ASCII, our headers inlined. Throws std::invalid_argument for any other name.
std::string_view shader_source(std::string_view name);

}  // namespace ltx2rt::metal
