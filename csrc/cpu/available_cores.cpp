// Affinity mask and control groups (Linux); elsewhere the cores of the machine.
#include "csrc/cpu/available_cores.h"

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <fstream>
#include <limits>
#include <sstream>
#include <string_view>
#include <thread>

#ifdef __linux__
#include <sched.h>
#endif

namespace ltx2rt::cpu {
namespace {

// One line of /proc/self/mountinfo: `root` is the folder of the hierarchy that is visible at `point`.
struct Mount {
  std::string root, point, type, options;
};

// The words of a line, at spaces.
std::vector<std::string> words_of(const std::string& line) {
  std::istringstream stream(line);
  std::vector<std::string> words;
  for (std::string word; stream >> word;) words.push_back(word);
  return words;
}

// Paths in mountinfo have \040 for a space and alike.
std::string unescape(const std::string& text) {
  std::string plain;
  for (size_t i = 0; i < text.size(); ++i) {
    unsigned code = 0;
    if (text[i] == '\\' && i + 3 < text.size()) {
      const char* const end = text.data() + i + 4;
      if (std::from_chars(text.data() + i + 1, end, code, 8).ptr == end) {
        plain += static_cast<char>(code);
        i += 3;
        continue;
      }
    }
    plain += text[i];
  }
  return plain;
}

// "36 35 98:0 /root /point rw,noatime shared:1 ... - type source options"
std::optional<Mount> parse_mount(const std::string& line) {
  const auto words = words_of(line);
  const auto dash = std::find(words.begin(), words.end(), "-");
  if (dash - words.begin() < 6 || words.end() - dash < 4) return std::nullopt;
  return Mount{unescape(words[3]), unescape(words[4]), dash[1], dash[3]};
}

// Whether a list separated by commas has this entry.
bool lists(const std::string& list, std::string_view entry) {
  std::istringstream stream(list);
  for (std::string part; std::getline(stream, part, ',');) {
    if (part == entry) return true;
  }
  return false;
}

std::optional<int64_t> positive(const std::string& text) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 1) return std::nullopt;
  return value;
}

// The first line of a file; empty if there is none.
std::string first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// Quota / period of one group, rounded up.
std::optional<int> group_cores(const std::string& folder, bool version_2) {
  const auto words =
      version_2 ? words_of(first_line(folder + "/cpu.max"))
                : std::vector{first_line(folder + "/cpu.cfs_quota_us"), first_line(folder + "/cpu.cfs_period_us")};
  if (words.size() != 2) return std::nullopt;
  const auto quota = positive(words[0]), period = positive(words[1]);
  if (!quota || !period) return std::nullopt;
  return static_cast<int>(std::min<int64_t>((*quota - 1) / *period + 1, std::numeric_limits<int>::max()));
}

// The group `path` of a hierarchy as a path below the mount's point. A path outside of the part that is mounted (that
// of the host, say, seen in a container without a namespace for groups) is that part's top: the container's own group.
std::string below_mount(const std::string& path, const Mount& mount) {
  const std::string root = mount.root == "/" ? "" : mount.root;
  const bool begins = path.compare(0, root.size(), root) == 0;
  const bool inside = begins && (path.size() == root.size() || path[root.size()] == '/');
  std::string below = inside ? path.substr(root.size()) : "";
  while (!below.empty() && below.back() == '/') below.pop_back();
  return below;
}

}  // namespace

std::vector<int> allowed_cores() {
  std::vector<int> cores;
#ifdef __linux__
  // The kernel refuses masks smaller than its own.
  for (int most = CPU_SETSIZE; most <= kMostCores && cores.empty(); most *= 2) {
    std::vector<cpu_set_t> mask(most / CPU_SETSIZE);
    const size_t bytes = mask.size() * sizeof(cpu_set_t);
    if (sched_getaffinity(0, bytes, mask.data()) != 0) continue;
    for (int core = 0; core < most; ++core) {
      if (CPU_ISSET_S(core, bytes, mask.data())) cores.push_back(core);
    }
  }
#endif
  return cores;
}

std::optional<int> cgroup_cores(const std::string& root) {
  // The path of this process's group in the hierarchy of version 2, and in that of version 1 which rules CPU time.
  std::optional<std::string> paths[2];
  std::ifstream groups(root + "/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    const auto first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    if (controllers.empty()) paths[1] = line.substr(second + 1);
    if (lists(controllers, "cpu")) paths[0] = line.substr(second + 1);
  }
  std::optional<int> least;
  std::ifstream mounts(root + "/proc/self/mountinfo");
  for (std::string line; std::getline(mounts, line);) {
    const auto mount = parse_mount(line);
    if (!mount) continue;
    const bool version_2 = mount->type == "cgroup2";
    if (!version_2 && !(mount->type == "cgroup" && lists(mount->options, "cpu"))) continue;
    if (!paths[version_2]) continue;
    for (std::string below = below_mount(*paths[version_2], *mount);; below.resize(below.rfind('/'))) {
      const auto cores = group_cores(root + mount->point + below, version_2);
      if (cores) least = std::min(*cores, least.value_or(*cores));
      if (below.empty()) break;
    }
  }
  return least;
}

int available_cores() {
  int cores = static_cast<int>(allowed_cores().size());
  if (cores == 0) cores = static_cast<int>(std::thread::hardware_concurrency());
  return std::max(1, std::min(cores, cgroup_cores().value_or(cores)));
}

}  // namespace ltx2rt::cpu
