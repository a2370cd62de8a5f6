// How many cores' worth of time this process may use.
#pragma once
#include <optional>
#include <string>
#include <vector>

namespace ltx2rt::cpu {

// More than any core's number that is looked at.
inline constexpr int kMostCores = 1 << 16;

// Cores that the scheduler may run this process on (its affinity mask, which a cpuset narrows too), in ascending order.
// Empty where the system has no such mask.
std::vector<int> allowed_cores();

// Cores' worth of CPU time, rounded up, that the control groups of this process grant it: the least quota / period of
// its own group and of all groups above it, as far as they are visible. Reads version 2 (cpu.max) and version 1
// (cpu.cfs_quota_us, cpu.cfs_period_us) hierarchies, whichever are mounted. No value: no limit. A group whose files are
// missing, say "max" or -1, or hold anything but two positive numbers, sets none.
//
// All files are looked up below `root`, which is empty but in tests.
std::optional<int> cgroup_cores(const std::string& root = "");

// The smaller of the two, at least 1; where there is no affinity mask, the cores of the machine count.
int available_cores();

}  // namespace ltx2rt::cpu
