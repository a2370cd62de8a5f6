// The part of MLX's metal::Device and metal::CommandEncoder that launch code uses, with MLX's signatures, for builds in
// which the simulator takes the place of a GPU. A dispatch is executed at once.
#pragma once

#include <Metal/Metal.hpp>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "mlx/array.h"
#include "mlx/backend/common/metal_kernel.h"
#include "mlx/device.h"
#include "mlx/stream.h"
#include "mlx/utils.h"
#include "tools/metal_sim/fake/dispatch.h"

namespace mlx::core::metal {

using MTLFCList =
    std::vector<std::tuple<const void*, MTL::DataType, NS::UInteger>>;

class CommandEncoder {
 public:
  struct ConcurrentContext {
    ConcurrentContext(CommandEncoder& enc) : enc(enc) {
      enc.concurrent_ = true;
    }
    ~ConcurrentContext() {
      enc.concurrent_ = false;
      enc.written_.merge(enc.written_at_once_);
      enc.written_at_once_.clear();
    }

   private:
    CommandEncoder& enc;
  };

  void set_input_array(const array& a, int idx, int64_t offset = 0);
  void set_output_array(array& a, int idx, int64_t offset = 0);
  void add_temporary(array arr);
  void add_temporaries(std::vector<array> arrays);
  void dispatch_threadgroups(MTL::Size grid_dims, MTL::Size group_dims);
  void dispatch_threads(MTL::Size grid_dims, MTL::Size group_dims);
  void set_compute_pipeline_state(MTL::ComputePipelineState* kernel);
  void set_threadgroup_memory_length(size_t length, int idx);
  void barrier();

  template <typename Vec, typename = std::enable_if_t<is_vector_v<Vec>>>
  void set_vector_bytes(const Vec& vec, size_t nelems, int idx) {
    set_inline(vec.data(), nelems * sizeof(typename Vec::value_type), idx);
  }
  template <typename Vec, typename = std::enable_if_t<is_vector_v<Vec>>>
  void set_vector_bytes(const Vec& vec, int idx) {
    set_vector_bytes(vec, vec.size(), idx);
  }
  template <typename T>
  void set_bytes(const T* v, int n, int idx) {
    set_inline(v, n * sizeof(T), idx);
  }
  template <typename T>
  void set_bytes(const T& v, int idx) {
    set_inline(&v, sizeof(T), idx);
  }

  ConcurrentContext start_concurrent() {
    return ConcurrentContext(*this);
  }

  // Around what one primitive encodes. finish() throws when an element of its outputs or temporaries was never written.
  void start();
  void finish();

 private:
  void set_inline(const void* bytes, size_t size, int idx);
  void set_array(const array& a, int idx, int64_t offset, bool writes);
  void dispatch(MTL::Size grid, MTL::Size group, bool grid_is_threads);
  void order();

  MTL::ComputePipelineState* pipeline_ = nullptr;
  std::map<int, ltx2rt::metal_sim::Argument> arguments_;
  std::map<int, size_t> threadgroup_memory_;
  std::vector<array> temporaries_;
  std::map<const void*, array> outputs_;  // by the start of their data
  bool concurrent_ = false;
  // Memory, from its first byte to beyond its last, that dispatches since the last barrier read and wrote, and that
  // those of the current concurrent context wrote.
  using Ranges = std::set<std::pair<const char*, const char*>>;
  Ranges read_, written_, written_at_once_;
};

class Device {
 public:
  const std::string& get_architecture() const {
    return architecture_;
  }

  MTL::Library* get_library(
      const std::string& name,
      const std::string& path = "");
  MTL::Library* get_library(
      const std::string& name,
      const CompileOptions& compile_options,
      const std::function<std::string(void)>& builder);
  MTL::Library* get_library(
      const std::string& name,
      const std::function<std::string(void)>& builder) {
    return get_library(name, {}, builder);
  }
  void clear_library(const std::string& name);
  // Names of the libraries that are compiled, of which each is compiled once.
  std::vector<std::string> libraries() const;

  MTL::ComputePipelineState* get_kernel(
      const std::string& base_name,
      MTL::Library* mtl_lib,
      const std::string& hash_name = "",
      const MTLFCList& func_consts = {},
      const std::vector<MTL::Function*>& linked_functions = {});

 private:
  std::string architecture_ = "applegpu_g13g";
  std::map<std::string, std::unique_ptr<MTL::Library>> libraries_;
  std::map<MTL::Library*, std::map<std::string, std::unique_ptr<MTL::ComputePipelineState>>> kernels_;
};

Device& device(mlx::core::Device);
CommandEncoder& get_command_encoder(Stream s);

} // namespace mlx::core::metal
