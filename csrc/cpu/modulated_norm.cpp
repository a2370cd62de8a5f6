// CPU evaluation of modulated_norm: rows in parallel.
#include "csrc/modulated_norm.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "csrc/cpu/modulated_norm_kernels.h"
#include "csrc/cpu/rows.h"
#include "csrc/cpu/thread_pool.h"
#include "mlx/allocator.h"
#include "mlx/backend/cpu/encoder.h"

namespace ltx2rt {
namespace {

// About 16k values per range: below that a second thread costs more than it brings.
constexpr int64_t kGrainValues = 16384;

// The rows of scale or shift, widened on demand; consecutive rows of x usually share one.
class Table {
 public:
  Table(const mx::array& values)
      : data_(values.data<char>()), type_(cpu::float_type(values.dtype())), width_(values.shape(1)) {}

  class Reader {
   public:
    explicit Reader(const Table* table) : table_(table), row_(table ? table->width_ : 0) {}
    const float* operator[](int64_t r) {
      if (table_ == nullptr) return nullptr;
      if (r != current_) {
        const auto* from = table_->data_ + r * table_->width_ * cpu::size_of(table_->type_);
        cpu::norm_kernels().widen(table_->type_, from, row_.data(), table_->width_);
        current_ = r;
      }
      return row_.data();
    }

   private:
    const Table* table_;
    std::vector<float> row_;
    int64_t current_ = -1;
  };

 private:
  const char* data_;
  cpu::FloatType type_;
  int64_t width_;
};

}  // namespace

void ModulatedNorm::eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) {
  const auto& x = inputs[0];
  auto& out = outputs[0];
  if (x.is_donatable() && x.flags().row_contiguous) {
    out.copy_shared_buffer(x);
  } else {
    out.set_data(mx::allocator::malloc(out.nbytes()));
  }
  auto& encoder = mx::cpu::get_command_encoder(stream());
  for (const auto& input : inputs) encoder.set_input_array(input);
  encoder.set_output_array(out);
  if (out.size() == 0) return;

  size_t next = 1;
  std::optional<Table> scale, shift;
  if (parameters_.has_scale) scale.emplace(inputs[next++]);
  if (parameters_.has_shift) shift.emplace(inputs[next++]);
  const int64_t table_rows = next > 1 ? inputs[1].shape(0) : 1;
  const int32_t* index = parameters_.has_index ? inputs[next].data<int32_t>() : nullptr;
  const int64_t width = x.shape(-1);
  encoder.dispatch([=, parameters = parameters_, x = cpu::Rows(x), type = cpu::float_type(x.dtype()),
                    to = out.data<char>(), count = static_cast<int64_t>(out.size()) / width] {
    const auto& kernels = cpu::norm_kernels();
    cpu::parallel_for(count, std::max<int64_t>(1, kGrainValues / width), [&](int64_t begin, int64_t end) {
      std::vector<float> values(width);
      std::vector<char> gathered;
      Table::Reader scale_rows(scale ? &*scale : nullptr);
      Table::Reader shift_rows(shift ? &*shift : nullptr);
      for (int64_t r = begin; r < end; ++r) {
        int64_t row = 0;
        if (index != nullptr) {
          row = index[r] < 0 ? index[r] + table_rows : index[r];
          if (row < 0 || row >= table_rows) {
            throw std::out_of_range("[modulated_norm] index holds " + std::to_string(index[r]) +
                                    " but scale and shift have " + std::to_string(table_rows) + " rows.");
          }
        }
        kernels.widen(type, cpu::contiguous_row(x, r, 0, width, gathered), values.data(), width);
        kernels.row(parameters.norm, parameters.eps, values.data(), scale_rows[row], shift_rows[row], type,
                    to + r * width * cpu::size_of(type), width);
      }
    });
  });
}

}  // namespace ltx2rt
