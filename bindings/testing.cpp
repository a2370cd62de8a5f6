// Hooks into the machine layer (threads, instruction set) for tests alone; what programs ask is in runtime.cpp.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/variant.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <mutex>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "bindings/register.h"
#include "csrc/cpu/available_cores.h"
#include "csrc/cpu/float_environment.h"
#include "csrc/cpu/isa.h"
#include "csrc/cpu/isa_choice.h"
#include "csrc/cpu/self_check.h"
#include "csrc/cpu/thread_pool.h"
#include "mlx/primitives.h"
#include "mlx/utils.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace ltx2rt {
namespace {

namespace mx = mlx::core;

// An op whose evaluation fails, as one does that is refused memory. A late failure leaves an array that counts as
// evaluated, over memory that nobody wrote: so fail tasks that had been handed to a GPU or to MLX's threads.
class FailingKernel : public mx::Primitive {
 public:
  FailingKernel(mx::Stream stream, bool late) : mx::Primitive(stream), late_(late) {}
  void eval_cpu(const std::vector<mx::array>&, std::vector<mx::array>& outputs) override { fail(outputs[0]); }
  void eval_gpu(const std::vector<mx::array>&, std::vector<mx::array>& outputs) override { fail(outputs[0]); }
  const char* name() const override { return "ltx2rt::FailingKernel"; }
  std::vector<mx::Shape> output_shapes(const std::vector<mx::array>& inputs) override { return {inputs[0].shape()}; }

 private:
  [[noreturn]] void fail(mx::array& output) const {
    if (late_) {
      output.set_data(mx::allocator::malloc(output.nbytes()));
      output.set_status(mx::array::Status::available);
    }
    throw std::runtime_error("[failing_kernel] fails whenever it is evaluated.");
  }

  bool late_;
};

mx::array failing_kernel(const mx::array& x, bool late, const mx::StreamOrDevice& stream) {
  return mx::array(x.shape(), x.dtype(), std::make_shared<FailingKernel>(mx::to_stream(stream), late), {x});
}

// How often each of n items was visited by a loop; inner > 0 nests a second loop.
std::vector<int> count_visits(int64_t n, int64_t grain, int64_t inner) {
  std::vector<int> visits(n);
  cpu::parallel_for(n, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      if (inner == 0) ++visits[i];
      cpu::parallel_for(inner, 1, [&](int64_t first, int64_t last) { visits[i] += static_cast<int>(last - first); });
    }
  });
  return visits;
}

// How many threads took part in one of several loops of n slow items.
int count_threads(int64_t n) {
  std::mutex mutex;
  std::set<std::thread::id> seen;
  cpu::parallel_for(n, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      const std::lock_guard<std::mutex> lock(mutex);
      seen.insert(std::this_thread::get_id());
    }
  });
  return static_cast<int>(seen.size());
}

// Items that each of `threads` worker numbers got in a loop of n slow items; all -1 if a number was out of bounds or two
// bodies had it at the same time.
std::vector<int> count_workers(int64_t n, int threads) {
  std::vector<std::atomic<int>> running(threads), seen(threads);
  std::atomic<bool> wrong{false};
  const auto body = [&](int64_t begin, int64_t end, int worker) {
    if (worker < 0 || worker >= threads || running[worker].fetch_add(1) != 0) {
      wrong = true;
      return;
    }
    for (int64_t i = begin; i < end; ++i) std::this_thread::sleep_for(std::chrono::microseconds(100));
    seen[worker] += static_cast<int>(end - begin);
    running[worker].fetch_sub(1);
  };
  cpu::parallel_for(n, 1, body, threads);
  std::vector<int> counts(seen.begin(), seen.end());
  if (wrong) counts.assign(threads, -1);
  return counts;
}

// Items of a loop of n slow items in which a subnormal number stayed what it is, on whichever thread, when the loop's
// caller is a new thread that flushes such numbers to zero, or does not.
int64_t count_subnormals(int64_t n, bool flush) {
  std::atomic<int64_t> kept{0};
  std::thread([&] {
    if (flush) cpu::DefaultFloatEnvironment::flush_subnormals();
    cpu::parallel_for(n, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        std::this_thread::sleep_for(std::chrono::microseconds(100));
        const volatile float least = 1.17549435e-38f;
        const volatile float half = least / 2.0f;
        if (half > 0.0f) ++kept;
      }
    });
  }).join();
  return kept;
}

cpu::Isa isa_named(const std::string& name) {
  for (const auto& state : cpu::isa_states()) {
    if (name == cpu::isa_name(state.isa) && state.built && state.supported) return state.isa;
  }
  throw std::invalid_argument("instruction set \"" + name + "\" is not built or not supported here");
}

// The kernels of a set of which one part is made to compute something slightly wrong.
cpu::KernelTables broken(cpu::KernelTables tables, const std::string& part) {
  static cpu::KernelTables whole;  // function pointers cannot capture
  whole = tables;
  if (part == "multiply") {
    tables.linear.values.multiply = [](const float* a, int64_t rows, const float* panel, int64_t k, float* c,
                                       int64_t ldc, bool add, const cpu::ReadAhead& ahead) {
      whole.linear.values.multiply(a, rows, panel, k - 1, c, ldc, add, ahead);
    };
  } else if (part == "pairs") {
    if (!tables.linear.has_pairs) throw std::invalid_argument("this instruction set has no pairs");
    tables.linear.pairs.multiply = [](const float* a, int64_t rows, const float* panel, int64_t k, float* c,
                                      int64_t ldc, bool add, const cpu::ReadAhead& ahead) {
      whole.linear.pairs.multiply(a, rows, panel, k - 2, c, ldc, add, ahead);
    };
  } else if (part == "split pairs") {
    if (!tables.linear.has_split_pairs) throw std::invalid_argument("this instruction set does not split pairs");
    tables.linear.split_pairs.multiply = [](const float* a, int64_t rows, const float* panel, int64_t k, float* c,
                                            int64_t ldc, bool add, const cpu::ReadAhead& ahead) {
      whole.linear.split_pairs.multiply(a, rows, panel, k - 1, c, ldc, add, ahead);
    };
  } else if (part == "tiles") {
    if (!tables.linear.has_tiles) throw std::invalid_argument("this instruction set has no tiles");
    tables.linear.tiles.multiply = [](const float* a, int64_t rows, const float* panel, int64_t k, float* c,
                                      int64_t ldc, bool add, const cpu::ReadAhead& ahead) {
      whole.linear.tiles.multiply(a, rows, panel, k - 32, c, ldc, add, ahead);
    };
  } else if (part == "row tiles") {
    if (!tables.linear.has_tiles) throw std::invalid_argument("this instruction set has no tiles");
    tables.linear.row_tiles.multiply_few = [](const cpu::WeightMatrix& w, int64_t n0, int64_t k0, int64_t k,
                                              const float* a, int64_t rows, float* c, int64_t ldc, bool add) {
      whole.linear.row_tiles.multiply_few(w, n0, k0, k - 32, a, rows, c, ldc, add);
    };
  } else if (part == "codes") {
    for (auto* loops : {&tables.codes.quads, &tables.codes.tiles}) {
      loops->prepare = [](cpu::FloatType type, const char* const* from, int64_t rows, int64_t n, float* to) {
        whole.codes.quads.prepare(type, from, rows, n - 1, to);
      };
    }
  } else if (part == "finish") {
    tables.linear.finish = [](const cpu::LinearEpilogue& epilogue, const float* sums, void* out, int64_t n) {
      whole.linear.finish(epilogue, sums, out, n - 1);
    };
  } else if (part == "norm") {
    tables.norm.row = [](NormKind kind, float eps, float* x, const float* scale, const float* shift,
                         cpu::FloatType type, void* out,
                         int64_t n) { whole.norm.row(kind, eps * 100, x, scale, shift, type, out, n); };
  } else if (part == "attention") {
    tables.attention.values.advance = [](const cpu::AttentionArgs& args, const cpu::QueryBlock& queries, int64_t first,
                                         int64_t end, const float* blocks, float* state, float* work) {
      whole.attention.values.advance(args, queries, first, end - 1, blocks, state, work);
    };
  } else if (part == "attention pairs") {
    if (!tables.attention.has_pairs) throw std::invalid_argument("this instruction set has no pairs");
    tables.attention.pairs.advance = [](const cpu::AttentionArgs& args, const cpu::QueryBlock& queries, int64_t first,
                                        int64_t end, const float* blocks, float* state, float* work) {
      whole.attention.pairs.advance(args, queries, first, end - 1, blocks, state, work);
    };
  } else if (part == "attention tiles") {
    if (!tables.attention.has_tiles) throw std::invalid_argument("this instruction set has no tiles");
    tables.attention.tiles.advance = [](const cpu::AttentionArgs& args, const cpu::QueryBlock& queries, int64_t first,
                                        int64_t end, const float* blocks, float* state, float* work) {
      whole.attention.tiles.advance(args, queries, first, end - 1, blocks, state, work);
    };
  } else if (part.starts_with("neighborhood")) {
    auto& neighborhood = tables.neighborhood;
    const bool pairs = part == "neighborhood pairs", tiles = part == "neighborhood tiles";
    if (pairs ? !neighborhood.has_pairs : tiles && !neighborhood.has_tiles)
      throw std::invalid_argument("this instruction set has no " + part.substr(part.find(' ') + 1));
    static cpu::NeighborhoodLoops loops;
    auto& broken = pairs ? neighborhood.pairs : tiles ? neighborhood.tiles : neighborhood.values;
    loops = broken;
    broken.attend = [](const cpu::NeighborhoodArgs& args, const cpu::PackedPlane& plane, const cpu::LaneBox& box,
                       const cpu::NeighborhoodBlock& block, const cpu::SeenFrame* seen, int64_t count,
                       const float* planes, int64_t stride,
                       float* work) { loops.attend(args, plane, box, block, seen, count - 1, planes, stride, work); };
  } else if (part == "conv") {
    tables.conv.pack_weight = [](const cpu::ConvArgs& args, const cpu::ConvPlan& plan, int64_t panel, int64_t first,
                                 int64_t end, float* to) {
      whole.conv.pack_weight(args, plan, panel, first, end, to);
      to[(end - 1) * whole.conv.panel_columns] += 0.001f;
    };
  } else if (part == "winograd") {
    tables.winograd.multiply = [](const cpu::ConvArgs& args, const cpu::WinogradPlan& plan,
                                  const cpu::WinogradSlab& slab, int64_t first_cell, int64_t end_cell,
                                  int64_t first_panel, int64_t end_panel, const float* words, const float* panels,
                                  float* work) {
      whole.winograd.multiply(args, plan, slab, first_cell, end_cell - 1, first_panel, end_panel, words, panels, work);
    };
  } else if (part == "snake") {
    tables.snake.tile = [](const cpu::SnakeArgs& args, int64_t batch, int64_t tile, int64_t group, float* work) {
      auto short_by_one = args;
      --short_by_one.samples;
      whole.snake.tile(short_by_one, batch, tile, group, work);
    };
  } else if (!part.empty()) {
    throw std::invalid_argument("no part \"" + part + "\" to break");
  }
  return tables;
}

std::pair<std::string, std::string> choose_isa(const std::string& asked, const std::vector<std::string>& usable,
                                               const std::vector<std::string>& faulty,
                                               const std::vector<std::string>& proven) {
  const auto holds = [](const std::vector<std::string>& names, cpu::Isa isa) {
    return std::find(names.begin(), names.end(), cpu::isa_name(isa)) != names.end();
  };
  auto states = cpu::isa_states();
  for (auto& state : states) {
    state.built = state.supported = holds(usable, state.isa);
    state.proven = holds(proven, state.isa);
  }
  const auto choice = cpu::choose_isa(
      states, asked.c_str(), [&](cpu::Isa isa) { return std::string(holds(faulty, isa) ? "a difference" : ""); });
  return {cpu::isa_name(choice.isa), choice.warning};
}

}  // namespace

void bind_testing(nb::module_& m) {
  m.def(
      "kernel_fault",
      [](const std::string& isa, const std::string& part) {
        return cpu::find_fault(broken(cpu::kernel_tables(isa_named(isa)), part));
      },
      "isa"_a, "broken"_a = "",
      "What the self-check finds in an instruction set, of which one part may be broken for the test.");
  m.def(
      "choose_isa", &choose_isa, "asked"_a, "usable"_a, "faulty"_a, "proven"_a,
      "The set chosen, and the warning, on a machine that has `usable`, of which `faulty` compute wrongly and `proven` "
      "are not checked.");
  m.def("failing_kernel", &failing_kernel, "x"_a, nb::kw_only(), "late"_a = false, "stream"_a = nb::none(),
        "A lazy array like x whose evaluation raises RuntimeError: for tests of what becomes of errors. With late it "
        "raises once, and then counts as evaluated, as arrays do whose work fails after it was handed on.");
  m.def("count_visits", &count_visits, "n"_a, "grain"_a, "inner"_a = 0, nb::call_guard<nb::gil_scoped_release>(),
        "Visits per item of a parallel loop.");
  m.def("count_threads", &count_threads, "n"_a, nb::call_guard<nb::gil_scoped_release>(),
        "Threads that took part in a loop of n slow items.");
  m.def("count_workers", &count_workers, "n"_a, "threads"_a, nb::call_guard<nb::gil_scoped_release>(),
        "Items per worker number of a loop of n slow items; all -1 if two bodies had the same number at one time.");
  m.def("count_subnormals", &count_subnormals, "n"_a, "flush"_a, nb::call_guard<nb::gil_scoped_release>(),
        "Items of a loop of n slow items that kept a subnormal number, called by a thread that flushes them or not.");
  m.def("guided_range", &cpu::guided_range, "rest"_a, "threads"_a, "grain"_a,
        "Items of the next range of a loop of which `rest` are left.");
  m.def("cgroup_cores", &cpu::cgroup_cores, "root"_a = "",
        "Cores' worth of time that control groups grant, or None; files are looked up below `root`.");
}

}  // namespace ltx2rt
