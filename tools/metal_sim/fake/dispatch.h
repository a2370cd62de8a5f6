// What the fake encoder hands on for each dispatch, and who receives it.
#pragma once

#include <Metal/Metal.hpp>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "mlx/array.h"

namespace ltx2rt::metal_sim {

// One bound argument. Of an array, the bytes from its first to its last element are visible to the kernel, after up to
// 15 bytes before them, so that addresses have the alignment that they have in the array's Metal buffer.
struct Argument {
  enum Kind { inline_bytes, input, output };
  Kind kind;
  std::vector<char> bytes;  // inline_bytes
  char* data = nullptr;     // the visible bytes of an array
  size_t size = 0;
  size_t offset = 0;        // where in them the argument starts
  mlx::core::Dtype dtype = mlx::core::uint8;
};

struct Dispatch {
  const MTL::ComputePipelineState* pipeline;
  std::map<int, Argument> arguments;
  std::map<int, size_t> threadgroup_memory;
  MTL::Size grid, group;
  bool grid_is_threads;
};

// Runs dispatches; until one is set, a dispatch throws.
using Executor = std::function<void(const Dispatch&)>;
void set_executor(Executor executor);
void execute(const Dispatch& dispatch);

}  // namespace ltx2rt::metal_sim
