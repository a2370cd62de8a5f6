// Reading ahead a little at a time, for *_simd.cpp files.
#pragma once

#include <stdint.h>

#include "csrc/cpu/linear_kernels.h"

namespace ltx2rt::cpu::LTX2RT_ISA {

// Fetches its share of `ahead` with each of a number of turns: a processor drops what is asked for all at once.
class Fetcher {
 public:
  Fetcher(const ReadAhead& ahead, int64_t turns)
      : ahead_(ahead),
        lines_(ahead.rows * (ahead.bytes > 0 ? (ahead.bytes - 1) / kLine + 2 : 0)),
        share_((lines_ + turns - 1) / turns) {}

  void fetch_share() {
    for (int64_t i = 0; i < share_ && lines_ > 0; ++i, --lines_) {
      // The last line holds the last byte, wherever the first one starts.
      const int64_t at = offset_ < ahead_.bytes ? offset_ : ahead_.bytes - 1;
      __builtin_prefetch(ahead_.first + row_ * ahead_.stride + at, 0, 2);
      if (++row_ == ahead_.rows) {
        row_ = 0;
        offset_ += kLine;
      }
    }
  }

 private:
  static constexpr int64_t kLine = 64;
  const ReadAhead& ahead_;
  int64_t lines_, share_, row_ = 0, offset_ = 0;
};

}  // namespace ltx2rt::cpu::LTX2RT_ISA
