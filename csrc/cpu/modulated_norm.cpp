// CPU evaluation of modulated_norm: rows in parallel.
#include "csrc/modulated_norm.h"

#include <algorithm>

#include "csrc/ceil_div.h"
#include "csrc/cpu/dispatch.h"
#include "csrc/cpu/modulated_norm_kernels.h"
#include "csrc/cpu/rows.h"
#include "csrc/cpu/thread_pool.h"

namespace ltx2rt {
namespace {

// About 16k values per range: below that a second thread costs more than it brings.
constexpr int64_t kGrainValues = 16384;

// How the rows are shared out, and what each thread keeps of a row.
struct Plan {
  Plan(int64_t rows, int64_t width, int threads)
      : grain(std::max<int64_t>(1, kGrainValues / width)),
        slots(static_cast<int>(std::clamp<int64_t>(ceil_div(rows, grain), 1, threads))),
        row_bytes(cpu::ScratchLayout::round_up(width * static_cast<int64_t>(sizeof(float)))) {
    // The row widened, the same gathered where it has gaps, and the rows of scale and shift.
    start = layout.add_slots(slots, 4 * row_bytes);
  }

  template <typename T>
  T* part(const cpu::Scratch& scratch, int worker, int idx) const {
    return scratch.at<T>(start + (4 * worker + idx) * row_bytes);
  }

  int64_t grain;
  int slots;  // threads that work at the same time at most
  int64_t row_bytes, start;
  cpu::ScratchLayout layout;
};

// The rows of scale or shift.
struct Table {
  explicit Table(const mx::array& values)
      : data(values.data<char>()), type(cpu::float_type(values.dtype())), width(values.shape(1)) {}

  const char* data;
  cpu::FloatType type;
  int64_t width;
};

// Widens rows of a table on demand; consecutive rows of x usually share one.
class TableReader {
 public:
  TableReader(const std::optional<Table>& table, float* row) : table_(table ? &*table : nullptr), row_(row) {}

  // Null without a table.
  const float* operator[](int64_t r) {
    if (table_ == nullptr) return nullptr;
    if (r != current_) {
      cpu::norm_kernels().widen(table_->type, table_->data + r * table_->width * cpu::size_of(table_->type), row_,
                                table_->width);
      current_ = r;
    }
    return row_;
  }

 private:
  const Table* table_;
  float* row_;
  int64_t current_ = -1;
};

}  // namespace

int64_t modulated_norm_scratch_bytes(int64_t rows, int64_t width, int threads) {
  return rows == 0 || width == 0 ? 0 : Plan(rows, width, threads).layout.bytes();
}

void ModulatedNorm::eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) {
  const auto& x = inputs[0];
  cpu::Evaluation evaluation(*this, inputs, outputs, &x);
  if (evaluation.empty()) return;

  size_t next = 1;
  std::optional<Table> scale, shift;
  if (parameters_.has_scale) scale.emplace(inputs[next++]);
  if (parameters_.has_shift) shift.emplace(inputs[next++]);
  const int64_t table_rows = next > 1 ? inputs[1].shape(0) : 1;
  const int32_t* index = parameters_.has_index ? inputs[next].data<int32_t>() : nullptr;
  const int64_t width = x.shape(-1), count = static_cast<int64_t>(x.size()) / width;
  const int threads = cpu::num_threads();
  const auto scratch = evaluation.scratch(modulated_norm_scratch_bytes(count, width, threads));
  evaluation.dispatch([=, parameters = parameters_, x = cpu::Rows(x), type = cpu::float_type(x.dtype()),
                       to = outputs[0].data<char>(), plan = Plan(count, width, threads)]() noexcept {
    const auto& kernels = cpu::norm_kernels();
    const auto body = [&](int64_t begin, int64_t end, int worker) {
      float* values = plan.part<float>(scratch, worker, 0);
      char* gathered = plan.part<char>(scratch, worker, 1);
      TableReader scale_rows(scale, plan.part<float>(scratch, worker, 2));
      TableReader shift_rows(shift, plan.part<float>(scratch, worker, 3));
      for (int64_t r = begin; r < end; ++r) {
        const int64_t row = index != nullptr ? cpu::table_row(index[r], table_rows) : 0;
        kernels.widen(type, cpu::contiguous_row(x, r, 0, width, gathered), values, width);
        kernels.row(parameters.norm, parameters.eps, values, scale_rows[row], shift_rows[row], type,
                    to + r * width * cpu::size_of(type), width);
      }
    };
    cpu::parallel_for(count, plan.grain, body, plan.slots);
  });
}

}  // namespace ltx2rt
