// Memory in large pages, where the system lets a process ask for them.
#include "csrc/cpu/large_pages.h"

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace ltx2rt::cpu {

void prefer_large_pages([[maybe_unused]] void* data, [[maybe_unused]] int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr int64_t kLeastBytes = 8 << 20;
  if (bytes < kLeastBytes) return;
  // Whole pages inside: the others may be shared with somebody else's memory.
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE)), start = reinterpret_cast<uintptr_t>(data);
  const uintptr_t first = (start + page - 1) / page * page, end = (start + static_cast<uintptr_t>(bytes)) / page * page;
  // Refused: the pages are of the usual size, which is no error.
  (void)madvise(reinterpret_cast<void*>(first), end - first, MADV_HUGEPAGE);
#endif
}

}  // namespace ltx2rt::cpu
