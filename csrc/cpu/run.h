// A piece of a summed index, as the schedules of products hand it to their inner loops.
#pragma once
#include <stdint.h>

namespace ltx2rt::cpu {

// `length` floats that lie together, starting `offset` floats after the start of each row.
struct Run {
  int64_t offset;
  int64_t length;
};

}  // namespace ltx2rt::cpu
