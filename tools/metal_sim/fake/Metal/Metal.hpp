// The names of metal-cpp that launch code uses, for builds in which the simulator takes the place of a GPU.
#pragma once

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

namespace NS {
using UInteger = unsigned long;
}

namespace MTL {

struct Size {
  Size() = default;
  Size(NS::UInteger w, NS::UInteger h, NS::UInteger d) : width(w), height(h), depth(d) {}
  NS::UInteger width = 0, height = 0, depth = 0;
};

// With Metal's numbers.
enum DataType : NS::UInteger { DataTypeFloat = 3, DataTypeInt = 29, DataTypeBool = 53 };

class Buffer;
class Function;

class Library {
 public:
  explicit Library(std::string source) : source_(std::move(source)) {}
  const std::string& source() const { return source_; }

 private:
  std::string source_;
};

// A function constant as it was when the pipeline was made.
struct ConstantValue {
  NS::UInteger index;
  DataType type;
  union {
    float f;
    int i;
    bool b;
  };
};

class ComputePipelineState {
 public:
  ComputePipelineState(const Library* library, std::string function, std::vector<ConstantValue> constants)
      : library_(library), function_(std::move(function)), constants_(std::move(constants)) {}

  // What a pipeline allows depends on the registers that its kernel takes; tests lower it with most_threads().
  NS::UInteger maxTotalThreadsPerThreadgroup() const { return most_threads(); }
  static NS::UInteger& most_threads() {
    static NS::UInteger most = 1024;
    return most;
  }
  NS::UInteger threadExecutionWidth() const { return 32; }

  const Library& library() const { return *library_; }
  const std::string& function() const { return function_; }
  const std::vector<ConstantValue>& constants() const { return constants_; }

 private:
  const Library* library_;
  std::string function_;
  std::vector<ConstantValue> constants_;
};

}  // namespace MTL
