// An uninitialised float buffer that starts on a cache line.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

namespace ltx2rt::cpu {

class AlignedFloats {
 public:
  static constexpr std::align_val_t kAlignment{64};

  explicit AlignedFloats(int64_t count)
      : memory_(static_cast<float*>(::operator new(static_cast<size_t>(count) * sizeof(float), kAlignment))) {}

  float* data() const { return memory_.get(); }

 private:
  struct Release {
    void operator()(float* memory) const { ::operator delete(memory, kAlignment); }
  };
  std::unique_ptr<float, Release> memory_;
};

}  // namespace ltx2rt::cpu
