// Memory in large pages, where the system lets a process ask for them.
#pragma once
#include <cstdint>

namespace ltx2rt::cpu {

// Asks for large pages (2 MiB on x86) in the memory [data, data + bytes), which nobody has touched yet: weights are read
// row beside row, a page each, and large ones need fewer entries of the processor's tables. A request: where the system
// forbids it (/sys/kernel/mm/transparent_hugepage/enabled says "never"), has no large page left, or is not Linux, pages are
// of the usual size. Memory of less than a few large pages is left alone.
void prefer_large_pages(void* data, int64_t bytes);

}  // namespace ltx2rt::cpu
