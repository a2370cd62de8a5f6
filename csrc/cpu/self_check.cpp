// Small problems of every kernel, and what of them may differ between instruction sets.
#include "csrc/cpu/self_check.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "csrc/cpu/antialiased_snake.h"
#include "csrc/cpu/conv_direct.h"
#include "csrc/cpu/conv_winograd.h"
#include "csrc/cpu/dispatch.h"
#include "csrc/cpu/neighborhood_attention.h"

namespace ltx2rt::cpu {
namespace {

// What rounding explains, relative to the sum of the magnitudes that were added up.
constexpr double kRounding = 1e-5;
constexpr double kHalfRounding = 1.0 / 128;  // of a result stored in 16 bits

// The same values on every machine, in [-1, 1).
class Numbers {
 public:
  explicit Numbers(uint32_t seed) : state_(seed * 2654435761u + 1) {}
  uint32_t bits() {
    state_ = state_ * 1664525u + 1013904223u;
    return state_ >> 8;
  }
  float next() { return static_cast<float>(bits()) / (1 << 23) - 1.0f; }
  std::vector<float> floats(int64_t n) {
    std::vector<float> values(n);
    for (auto& value : values) value = next();
    return values;
  }

 private:
  uint32_t state_;
};

uint16_t bfloat16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

float from_bfloat16(uint16_t word) {
  const uint32_t bits = static_cast<uint32_t>(word) << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

float from_float16(uint16_t word) {
  const int exponent = word >> 10 & 31;
  const float mantissa = static_cast<float>(word & 0x3ff) / 1024.0f;
  const float sign = (word & 0x8000) != 0 ? -1.0f : 1.0f;
  if (exponent == 31) return mantissa != 0 ? NAN : sign * INFINITY;
  return sign * (exponent == 0 ? std::ldexp(mantissa, -14) : std::ldexp(1.0f + mantissa, exponent - 15));
}

std::vector<uint16_t> bfloat16s(const std::vector<float>& values) {
  std::vector<uint16_t> words;
  for (float value : values) words.push_back(bfloat16(value));
  return words;
}

// The values of n words of a type, as float32.
std::vector<float> read(FloatType type, const void* data, int64_t n) {
  std::vector<float> values(n);
  if (type == FloatType::f32) std::memcpy(values.data(), data, n * 4);
  const auto* words = static_cast<const uint16_t*>(data);
  for (int64_t i = 0; type != FloatType::f32 && i < n; ++i) {
    values[i] = type == FloatType::bf16 ? from_bfloat16(words[i]) : from_float16(words[i]);
  }
  return values;
}

// The first place where `got` is further from `expected` than tolerance * (1 + |expected|), as a message.
std::string compare(const std::string& what, const std::vector<float>& got, const std::vector<float>& expected,
                    double tolerance) {
  for (size_t i = 0; i < expected.size(); ++i) {
    if (std::isnan(got[i]) && std::isnan(expected[i])) continue;
    if (got[i] == expected[i]) continue;
    const double error = std::fabs(static_cast<double>(got[i]) - expected[i]);
    if (error <= tolerance * (1.0 + std::fabs(static_cast<double>(expected[i])))) continue;  // false for NaN
    return what + "[" + std::to_string(i) + "] is " + std::to_string(got[i]) + " instead of " +
           std::to_string(expected[i]);
  }
  return "";
}

constexpr FloatType kTypes[] = {FloatType::f32, FloatType::f16, FloatType::bf16};

std::string check_conversions(const KernelTables& kernels, const KernelTables& portable) {
  constexpr int64_t kCount = 65536 / 7 + 5;  // not a whole number of vectors
  std::vector<uint16_t> words;
  for (int64_t i = 0; i < kCount; ++i) words.push_back(static_cast<uint16_t>(i * 7));
  for (const FloatType type : {FloatType::f16, FloatType::bf16}) {
    for (const auto& [got, expected] :
         {std::pair{kernels.linear.widen, portable.linear.widen}, std::pair{kernels.norm.widen, portable.norm.widen}}) {
      std::vector<float> a(kCount), b(kCount);
      got(type, words.data(), a.data(), kCount);
      expected(type, words.data(), b.data(), kCount);
      const auto fault = compare("widen", a, b, 0.0);
      if (!fault.empty()) return fault;
    }
  }
  return "";
}

struct Weights {
  Weights(WeightFormat format, int64_t columns, int64_t depth) {
    Numbers numbers(static_cast<uint32_t>(format) + 1);
    const auto block = weight_block(format);
    const int64_t row = depth / block.count * block.bytes;
    bytes_.resize(columns * row + 64);  // kernels may prefetch beyond it, never read
    for (auto& byte : bytes_) byte = static_cast<uint8_t>(numbers.bits());
    if (format == WeightFormat::f32) {
      const auto values = numbers.floats(columns * depth);
      std::memcpy(bytes_.data(), values.data(), values.size() * 4);
    } else if (format == WeightFormat::bf16) {
      const auto values = bfloat16s(numbers.floats(columns * depth));
      std::memcpy(bytes_.data(), values.data(), values.size() * 2);
    } else if (format == WeightFormat::f16) {  // magnitudes below 2
      for (int64_t i = 0; i < columns * depth; ++i) bytes_[2 * i + 1] &= 0xbf;
    } else if (format == WeightFormat::e4m3) {  // all codes, but of those for NaN only one, once
      for (int64_t i = 0; i < columns * depth; ++i) {
        const auto code = static_cast<uint8_t>(i);
        bytes_[i] = (code & 0x7f) == 0x7f ? bytes_[i] & 0xf7 : code;
      }
      bytes_[depth + 3] |= 0x7f;
    } else if (format == WeightFormat::mxfp8) {  // scales of all kinds, zero and those outside of bfloat16 among them
      for (int64_t i = 0; i < columns * depth; ++i) bytes_[i] = (bytes_[i] & 0x7f) == 0x7f ? 0x80 : bytes_[i];
      bytes_[depth + 40] |= 0x7f;
      for (int64_t i = 0; i < columns * depth / 32; ++i) {
        scale_codes_.push_back(static_cast<uint8_t>(i % 11 == 0 ? 0 : 117 + numbers.bits() % 6));
      }
      scale_codes_[5 * (depth / 32)] = 3;
    } else if (format == WeightFormat::nvfp4 || format == WeightFormat::w4a8) {
      for (int64_t i = 0; i < columns * depth / 16; ++i) {  // -15 to 15, subnormal ones among them
        scale_codes_.push_back(static_cast<uint8_t>(numbers.bits() % 88 | numbers.bits() % 2 << 7));
      }
      for (int i = 0; i < 256 * 16; ++i) levels_.push_back(static_cast<int8_t>(numbers.bits() % 255 - 127));
    } else if (format > WeightFormat::int8_rows) {  // GGML's blocks: the scales are float16
      const auto put_scale = [&](int64_t at) {
        for (int64_t i = at; i < columns * row; i += block.bytes) {
          bytes_[i + 1] = static_cast<uint8_t>((bytes_[i + 1] & 0x80) | 0x1c);  // 2^-8 to 2^-7
        }
      };
      put_scale(format == WeightFormat::q6_k ? 208 : 0);
      if (format == WeightFormat::q4_k || format == WeightFormat::q5_k) put_scale(2);
    }
    // Affine weights of few bits, which bfloat16 holds.
    const int64_t groups = (depth + 31) / 32;
    std::vector<float> scale, zero;
    for (int64_t i = 0; i < columns * groups; ++i) {
      scale.push_back(std::ldexp(1.0f, -static_cast<int>(numbers.bits() % 5)));
      zero.push_back(scale.back() * (format == WeightFormat::int8 ? -128.0f : -7.0f));
    }
    scale_ = bfloat16s(scale);
    zero_ = bfloat16s(zero);
    matrix = {format, bytes_.data(), row, columns, scale_.data(), zero_.data(), FloatType::bf16, groups, 32, nullptr};
    if (!scale_codes_.empty()) {
      matrix.scale = scale_codes_.data();
      matrix.group_size = format == WeightFormat::mxfp8 ? 32 : 16;
      matrix.groups = depth / matrix.group_size;
      matrix.levels = levels_.data();
    }
  }
  Weights(const Weights&) = delete;

  WeightMatrix matrix;

 private:
  std::vector<uint8_t> bytes_;
  std::vector<uint16_t> scale_, zero_;
  std::vector<uint8_t> scale_codes_;
  std::vector<int8_t> levels_;
};

// Sums of `rows` rows and every column of one depth block, by one kind of loops.
std::vector<float> product(const LinearKernels& kernels, const LinearLoops& loops, const WeightMatrix& w, int64_t rows,
                           int64_t k0, int64_t k, FloatType type, const void* x, bool few) {
  const int64_t step = kernels.panel_columns * (few ? loops.few_panels : 1);
  const int64_t padded = (w.columns + step - 1) / step * step;
  const int64_t words = kDepthBlock / loops.values_per_word, group = loops.tile_rows;
  std::vector<float> a(rows * words), panel(kDepthBlock * step), sums(rows * padded, 0.25f);
  for (int64_t first = 0; first < rows; first += group) {
    const int64_t count = std::min(group, rows - first);
    const char* from[kMaxTileRows];
    for (int64_t r = 0; r < count; ++r) from[r] = static_cast<const char*>(x) + (first + r) * k * size_of(type);
    loops.prepare(type, from, count, k, a.data() + first * words);
  }
  for (int64_t n = 0; n < w.columns; n += step) {
    for (const bool add : {false, true}) {
      if (few) {
        loops.multiply_few(w, n, k0, k, a.data(), rows, sums.data() + n, padded, add);
      } else {
        loops.pack(w, n, k0, k, panel.data());
        loops.multiply(a.data(), rows, panel.data(), k, sums.data() + n, padded, add, ReadAhead{});
      }
    }
  }
  std::vector<float> result;
  for (int64_t r = 0; r < rows; ++r)
    result.insert(result.end(), sums.begin() + r * padded, sums.begin() + r * padded + w.columns);
  return result;
}

// What weights of a format are below, about.
double largest(WeightFormat format) {
  switch (format) {
    case WeightFormat::int8:
    case WeightFormat::int8_rows:
    case WeightFormat::w4a8:
      return 128.0;
    case WeightFormat::nvfp4:
      return 90.0;
    case WeightFormat::q4_k:
    case WeightFormat::q5_k:
    case WeightFormat::q6_k:
      return 64.0;
    default:
      return 8.0;
  }
}

// Sums of rows of 8-bit codes, by one kind of loops.
std::vector<int32_t> code_sums(const LinearKernels& kernels, const LinearLoops& loops, const WeightMatrix& w,
                               int64_t rows, int64_t k, const int8_t* codes, bool few) {
  const int64_t step = kernels.panel_columns, padded = (w.columns + step - 1) / step * step;
  const int64_t words = kDepthBlock / loops.values_per_word, group = loops.tile_rows;
  std::vector<float> a(rows * words), panel(kDepthBlock * step), sums(rows * padded);
  for (int64_t first = 0; first < rows; first += group) {
    const int64_t count = std::min(group, rows - first);
    const char* from[kMaxTileRows];
    for (int64_t r = 0; r < count; ++r) from[r] = reinterpret_cast<const char*>(codes) + (first + r) * k;
    loops.prepare(FloatType::f32, from, count, k, a.data() + first * words);
  }
  for (int64_t n = 0; n < w.columns; n += step) {
    for (const bool add : {false, true}) {
      if (few) {
        loops.multiply_few(w, n, 0, k, a.data(), rows, sums.data() + n, padded, add);
      } else {
        loops.pack(w, n, 0, k, panel.data());
        loops.multiply(a.data(), rows, panel.data(), k, sums.data() + n, padded, add, ReadAhead{});
      }
    }
  }
  std::vector<int32_t> result(rows * w.columns);
  for (int64_t r = 0; r < rows; ++r) {
    std::memcpy(result.data() + r * w.columns, sums.data() + r * padded, w.columns * sizeof(int32_t));
  }
  return result;
}

std::string check_codes(const KernelTables& kernels, const KernelTables& portable) {
  constexpr int64_t kColumns = 37, kRows = 29, kDepth = 93;
  const Weights weights(WeightFormat::int8_rows, kColumns, kDepth);
  const auto x = Numbers(19).floats(kRows * kDepth);
  std::vector<int8_t> codes(kRows * kDepth), expected_codes(kRows * kDepth);
  for (int64_t r = 0; r < kRows; ++r) {
    const auto* row = x.data() + r * kDepth;
    const float scale = kernels.linear.quantise(FloatType::f32, row, kDepth, codes.data() + r * kDepth);
    if (scale != portable.linear.quantise(FloatType::f32, row, kDepth, expected_codes.data() + r * kDepth)) {
      return "quantise has another scale";
    }
  }
  for (size_t i = 0; i < codes.size(); ++i) {  // what lies between two codes may be rounded to either
    if (std::abs(codes[i] - expected_codes[i]) > 1) return "quantise has other codes";
  }
  const auto expected =
      code_sums(portable.linear, portable.codes.quads, weights.matrix, kRows, kDepth, codes.data(), false);
  const struct {
    const char* name;
    bool there;
    const LinearLoops& loops;
  } ways[] = {{"", true, kernels.codes.quads},
              {" in tiles", kernels.codes.has_tiles, kernels.codes.tiles},
              {" in tiles of few rows", kernels.codes.has_tiles, kernels.codes.row_tiles}};
  for (const auto& [name, there, loops] : ways) {
    for (const bool few : {false, true}) {
      if (!there || (!few && loops.multiply == nullptr)) continue;
      for (const int64_t rows : {int64_t{1}, int64_t{6}, kRows}) {
        if (few && rows > loops.few_rows) continue;
        auto sums = code_sums(kernels.linear, loops, weights.matrix, rows, kDepth, codes.data(), few);
        if (!std::equal(sums.begin(), sums.end(), expected.begin())) {
          return std::string("multiply codes") + name + " has other sums";
        }
      }
    }
  }
  std::vector<float> got(kColumns);
  std::memcpy(got.data(), expected.data(), kColumns * sizeof(float));
  kernels.linear.widen_sums(got.data(), kColumns);
  for (int64_t i = 0; i < kColumns; ++i) {
    if (got[i] != static_cast<float>(expected[i])) return "widen_sums has other values";
  }
  return "";
}

std::string check_linear(const KernelTables& kernels, const KernelTables& portable) {
  constexpr const char* kNames[] = {"f32",  "f16",  "bf16", "e4m3", "int8",  "int4",  "int8_rows",
                                    "q8_0", "q4_k", "q5_k", "q6_k", "nvfp4", "mxfp8", "w4a8"};
  constexpr int64_t kColumns = 37;
  for (int i = 0; i < static_cast<int>(std::size(kNames)); ++i) {
    const auto format = static_cast<WeightFormat>(i);
    const bool k_quants = weight_block(format).count == kDepthBlock;
    const bool groups = format == WeightFormat::int8 || format == WeightFormat::int4 || format == WeightFormat::q8_0 ||
                        format > WeightFormat::q6_k;
    const Weights weights(format, kColumns, 2 * kDepthBlock + (k_quants ? 0 : groups ? 32 : 35));
    for (const int64_t first : {int64_t{32}, kDepthBlock}) {  // part of a depth block, and a whole one
      if (k_quants && first < kDepthBlock) continue;
      const int64_t count = first == kDepthBlock ? kDepthBlock : groups ? 96 : 93;
      for (const int64_t rows : {1, 3, 4, 29}) {
        const auto x = bfloat16s(Numbers(7).floats(rows * count));
        const auto expected = product(portable.linear, portable.linear.values, weights.matrix, rows, first, count,
                                      FloatType::bf16, x.data(), false);
        const double sum = static_cast<double>(count) * largest(format);
        const auto& linear = kernels.linear;
        const struct {
          const char* name;
          bool there;
          const LinearLoops& loops;
        } ways[] = {{"", true, linear.values},
                    {" pairs", linear.has_pairs, linear.pairs},
                    {" split pairs", linear.has_split_pairs, linear.split_pairs},
                    {" tiles", linear.has_tiles, linear.tiles},
                    {" tiles of few rows", linear.has_tiles && has_row_tiles(format), linear.row_tiles}};
        for (const auto& [name, there, loops] : ways) {
          const bool wide = format == WeightFormat::f32 || format == WeightFormat::f16, narrow = *name != '\0';
          // Values of more bits than bfloat16 has are rounded in pairs.
          const bool rounded = narrow && format >= WeightFormat::q8_0 && format <= WeightFormat::q6_k;
          if (!there || (narrow && wide)) continue;
          for (const bool few : {false, true}) {
            if (few ? rows > loops.few_rows : loops.multiply == nullptr) continue;
            const auto got =
                product(kernels.linear, loops, weights.matrix, rows, first, count, FloatType::bf16, x.data(), few);
            const auto fault =
                compare(std::string(few ? "multiply_few " : "multiply ") + kNames[int(format)] + name, got, expected,
                        rounded ? kHalfRounding / 2 * std::sqrt(sum) : kRounding / 10 * std::sqrt(sum));
            if (!fault.empty()) return fault;
          }
        }
      }
    }
  }
  for (const FloatType type : kTypes) {
    constexpr int64_t kGroup = 64, kCount = 3 * kGroup;
    const auto x = Numbers(13).floats(kCount);
    const auto words = bfloat16s(x);  // sound values of both types of 16 bits
    const void* from = type == FloatType::f32 ? static_cast<const void*>(x.data()) : words.data();
    std::vector<float> work(kCount), got(kCount), expected(kCount);
    kernels.linear.rotate(type, from, kCount, kGroup, work.data(), got.data());
    portable.linear.rotate(type, from, kCount, kGroup, work.data(), expected.data());
    const auto fault = compare("rotate", read(type, got.data(), kCount), read(type, expected.data(), kCount),
                               type == FloatType::f32 ? kRounding : kHalfRounding);
    if (!fault.empty()) return fault;
  }
  {
    auto table = Numbers(17).floats(16);
    for (auto& value : table) value *= 60.0f;
    table[3] = 2.5f;  // times powers of two: a tie
    std::vector<int8_t> got(256 * 16), expected(256 * 16);
    kernels.linear.make_levels(table.data(), got.data());
    portable.linear.make_levels(table.data(), expected.data());
    if (got != expected) return "make_levels has other levels";
  }
  Numbers numbers(11);
  const auto sums = numbers.floats(kColumns), bias = numbers.floats(kColumns), gate = numbers.floats(kColumns);
  const auto scale = numbers.floats(kColumns);
  for (const FloatType type : kTypes) {
    for (const Activation activation : {Activation::none, Activation::gelu_tanh, Activation::silu}) {
      std::vector<float> residual(kColumns), got(kColumns), expected(kColumns);
      std::vector<uint16_t> words(kColumns);  // sound values of every type, of float32 in half of the columns
      for (int64_t i = 0; i < kColumns; ++i) words[i] = static_cast<uint16_t>(0x3c00 + i);
      std::memcpy(residual.data(), words.data(), words.size() * sizeof words[0]);
      const LinearEpilogue epilogue{3.0f, scale.data(), activation, bias.data(), gate.data(), residual.data(), type};
      kernels.linear.finish(epilogue, sums.data(), got.data(), kColumns);
      portable.linear.finish(epilogue, sums.data(), expected.data(), kColumns);
      const auto fault = compare("finish", read(type, got.data(), kColumns), read(type, expected.data(), kColumns),
                                 type == FloatType::f32 ? kRounding : kHalfRounding);
      if (!fault.empty()) return fault;
    }
  }
  return "";
}

std::string check_norm(const KernelTables& kernels, const KernelTables& portable) {
  for (const int64_t n : {5, 77, 320}) {
    for (const NormKind kind : {NormKind::rms, NormKind::layer, NormKind::none}) {
      for (const FloatType type : kTypes) {
        Numbers numbers(static_cast<uint32_t>(n));
        const auto x = numbers.floats(n), scale = numbers.floats(n), shift = numbers.floats(n);
        auto a = x, b = x;
        std::vector<float> got(n), expected(n);
        kernels.norm.row(kind, 1e-6f, a.data(), scale.data(), shift.data(), type, got.data(), n);
        portable.norm.row(kind, 1e-6f, b.data(), scale.data(), shift.data(), type, expected.data(), n);
        const auto fault = compare("modulated_norm", read(type, got.data(), n), read(type, expected.data(), n),
                                   type == FloatType::f32 ? kRounding : kHalfRounding);
        if (!fault.empty()) return fault;
      }
    }
  }
  return "";
}

struct AttentionProblem {
  int64_t head_size, queries, keys;
  FloatType type;
  bool interleaved, causal;
};

std::vector<float> attend(const AttentionLoops& kernel, const AttentionProblem& problem) {
  constexpr int64_t kHeads = 2;
  const int64_t width = kHeads * problem.head_size, half = problem.head_size / 2;
  Numbers numbers(5);
  const auto rows = [&](int64_t tokens) { return numbers.floats(tokens * width); };
  std::vector<float> q = rows(problem.queries), k = rows(problem.keys), v = rows(problem.keys);
  const auto norm = numbers.floats(width), bias = numbers.floats(problem.queries * problem.keys);
  const auto gate = numbers.floats(problem.queries * kHeads), angles = numbers.floats(problem.keys * half);
  std::vector<float> cos, sin;
  for (float angle : angles) {
    cos.push_back(std::cos(angle));
    sin.push_back(std::sin(angle));
  }
  std::vector<int32_t> index;
  for (int64_t i = 0; i < problem.keys; ++i) index.push_back(static_cast<int32_t>(i * 5 % problem.keys));
  const bool narrow = problem.type == FloatType::bf16;
  std::vector<uint16_t> words[3];
  const auto tokens = [&](const std::vector<float>& values, int i) {
    if (narrow) words[i] = bfloat16s(values);
    return TokenRows{narrow ? static_cast<const void*>(words[i].data()) : values.data(), problem.type, 0, width, 1};
  };
  const RopeRows rope{cos.data(), sin.data(), index.data(), 0, problem.keys, half, 1, 0, true};
  std::vector<float> out(problem.queries * width);
  AttentionArgs args{};
  args.batch = 1;
  args.head_size = problem.head_size;
  args.q = {tokens(q, 0), problem.queries, kHeads, norm.data(), true, nullptr, rope};
  args.k = {tokens(k, 1), problem.keys, kHeads, norm.data(), true, nullptr, rope};
  args.v = tokens(v, 2);
  args.norm_eps = 1e-6f;
  args.scale = 0.3f;
  args.interleaved = problem.interleaved;
  args.causal = problem.causal;
  args.bias = bias.data();
  args.bias_type = FloatType::f32;
  args.bias_strides[2] = problem.keys;
  args.bias_strides[3] = 1;
  args.gate_logits = gate.data();
  args.gate_type = FloatType::f32;
  args.gate_strides[1] = kHeads;
  args.gate_strides[2] = 1;
  args.out = out.data();
  args.out_type = FloatType::f32;
  std::vector<float> state(kernel.state_floats(args.head_size)), work(kernel.work_floats(args.head_size));
  const int64_t count = (problem.keys + kKeyBlock - 1) / kKeyBlock, block = kernel.block_floats(args.head_size);
  std::vector<float> blocks(kHeads * count * block);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t first = i * kKeyBlock;
    kernel.pack(args, 0, 0, kHeads, first, static_cast<int>(std::min<int64_t>(kKeyBlock, problem.keys - first)),
                blocks.data() + i * block, count * block);
  }
  for (int64_t head = 0; head < kHeads; ++head) {
    const QueryBlock queries{0, head, 0, static_cast<int>(problem.queries)};
    kernel.start(args, queries, state.data(), work.data());
    kernel.advance(args, queries, 0, problem.keys, blocks.data() + head * count * block, state.data(), work.data());
    kernel.finish(args, queries, state.data(), work.data());
  }
  return out;
}

std::string check_attention(const KernelTables& kernels, const KernelTables& portable) {
  const AttentionProblem problems[] = {{20, 13, kKeyBlock + 9, FloatType::f32, false, true},
                                       {32, 29, 45, FloatType::bf16, true, false}};
  for (const auto& problem : problems) {
    // Pairs round q, k and the weights to bfloat16, the portable loops do not. The sums of values in [-1, 1) then differ
    // by a fraction of such a rounding: scores of a few units turn 2^-9 of each factor into about 1 % of a weight.
    const bool pairs = kernels.attention.has_pairs && problem.type == FloatType::bf16;
    const auto expected = attend(portable.attention.values, problem);
    auto fault = compare(pairs ? "rope_attention pairs" : "rope_attention",
                         attend(kernels.attention.vector_loops(problem.type), problem), expected,
                         pairs ? kHalfRounding : 2 * kRounding);
    if (fault.empty() && kernels.attention.has_tiles && problem.head_size % 32 == 0) {
      fault = compare("rope_attention tiles", attend(kernels.attention.tiles, problem), expected, kHalfRounding);
    }
    if (!fault.empty()) return fault;
  }
  return "";
}

// The checks may run while another thread has the pool, and before it is known how many threads there are.
constexpr int kThreads = 1;

// Two heads of 64 of a few frames, whose windows are shifted in one axis and replicated in the other, by some loops.
std::vector<float> attend_nearby(const NeighborhoodKernel& kernel, const NeighborhoodLoops& loops, FloatType type) {
  constexpr int64_t kFrames = 3, kKeyFrames = 4, kRows = 5, kColumns = 18, kHeads = 2, kHead = 64, kSlots = 3;
  constexpr int64_t kWindowRows = 3, kWindowColumns = 11, kWidth = kHeads * kHead;
  const int32_t key_frames[kFrames * kSlots] = {0, 1, 3, 1, 2, -1, 2, 1, 0};
  Numbers numbers(7);
  const bool narrow = type == FloatType::bf16;
  std::vector<float> values[3];
  std::vector<uint16_t> words[3];
  CellRows cells[3];
  for (int i = 0; i < 3; ++i) {
    values[i] = numbers.floats((i == 0 ? kFrames : kKeyFrames) * kRows * kColumns * kWidth);
    if (narrow) words[i] = bfloat16s(values[i]);
    cells[i] = {narrow ? static_cast<const void*>(words[i].data()) : values[i].data(),
                type,
                0,
                kRows * kColumns * kWidth,
                kColumns * kWidth,
                kWidth,
                1};
  }
  const auto norm = numbers.floats(kHead);
  std::vector<std::vector<float>> tables;
  const auto angles = [&](int64_t rows, int64_t pairs) {
    std::vector<float> cos_and_sin(2 * rows * pairs);
    for (int64_t i = 0; i < rows * pairs; ++i) {
      const float angle = 3 * numbers.next();
      cos_and_sin[i] = std::cos(angle);
      cos_and_sin[rows * pairs + i] = std::sin(angle);
    }
    tables.push_back(std::move(cos_and_sin));
    return AngleRows{tables.back().data(), rows * pairs, pairs};
  };
  NeighborhoodArgs args{};
  args.batch = 1;
  args.frames = kFrames;
  args.key_frames = kKeyFrames;
  args.heads = kHeads;
  args.head_size = kHead;
  args.rows = {kRows, kWindowRows, Border::shift};
  args.columns = {kColumns, kWindowColumns, Border::replicate};
  args.q = cells[0];
  args.k = cells[1];
  args.v = cells[2];
  args.q_norm = args.k_norm = norm.data();
  args.rotated = true;
  args.q_time = angles(kFrames, 8);
  args.k_time = angles(kKeyFrames, 8);
  args.height = angles(kRows + kWindowRows - 1, 12);
  args.width = angles(kColumns + kWindowColumns - 1, 12);
  args.norm_eps = 1e-6f;
  args.scale = 0.2f;
  std::vector<float> out(kFrames * kRows * kColumns * kWidth);
  args.out = out.data();
  args.out_type = FloatType::f32;
  const NeighborhoodPlan plan(args, kSlots, kThreads, kernel, loops);
  NeighborhoodSchedule(args, plan, Scratch(plan.layout.bytes()), loops, key_frames).run();
  return out;
}

std::string check_neighborhood(const KernelTables& kernels, const KernelTables& portable) {
  const auto& kernel = kernels.neighborhood;
  const auto check = [&](const std::string& name, const NeighborhoodLoops& loops, FloatType type, double tolerance) {
    return compare(name, attend_nearby(kernel, loops, type),
                   attend_nearby(portable.neighborhood, portable.neighborhood.values, type), tolerance);
  };
  auto fault = check("neighborhood_attention", kernel.values, FloatType::f32, 2 * kRounding);
  // As in check_attention: pairs round what the portable loops do not.
  if (fault.empty() && kernel.has_pairs)
    fault = check("neighborhood_attention pairs", kernel.pairs, FloatType::bf16, kHalfRounding);
  if (fault.empty() && kernel.has_tiles)
    fault = check("neighborhood_attention tiles", kernel.tiles, FloatType::bf16, kHalfRounding);
  return fault;
}

struct ConvSizes {
  int64_t in[3], taps[3];
  int64_t channels, out_channels;
};

// A convolution with norm, modulation, SiLU and bias, by the schedule of one of its forms.
template <typename Schedule, typename Kernel>
std::vector<float> convolve(const Kernel& kernel, const ConvSizes& sizes, FloatType type) {
  ConvArgs args{};
  args.type = args.weight_type = type;
  args.batch = 1;
  args.channels = sizes.channels;
  args.out_channels = sizes.out_channels;
  int64_t inputs = sizes.channels, depth = sizes.channels, outputs = sizes.out_channels;
  for (int axis = 0; axis < 3; ++axis) {
    args.in_size[axis] = sizes.in[axis];
    args.kernel[axis] = sizes.taps[axis];
    args.stride[axis] = args.dilation[axis] = 1;
    args.out_size[axis] = sizes.in[axis] - sizes.taps[axis] + 1;
    inputs *= args.in_size[axis];
    depth *= args.kernel[axis];
    outputs *= args.out_size[axis];
  }
  Numbers numbers(3);
  const auto x = numbers.floats(inputs), weight = numbers.floats(depth * sizes.out_channels);
  const auto bias = numbers.floats(sizes.out_channels);
  const auto scale = numbers.floats(sizes.channels), shift = numbers.floats(sizes.channels);
  const auto narrow_x = bfloat16s(x), narrow_weight = bfloat16s(weight);
  const bool narrow = type == FloatType::bf16;
  args.x = {narrow ? static_cast<const void*>(narrow_x.data()) : x.data(),
            {inputs, sizes.in[1] * sizes.in[2] * sizes.channels, sizes.in[2] * sizes.channels, sizes.channels, 1}};
  args.weight = narrow ? static_cast<const void*>(narrow_weight.data()) : weight.data();
  args.bias = bias.data();
  args.scale = scale.data();
  args.shift = shift.data();
  args.pixel_norm = true;
  args.pixel_norm_eps = 1e-6f;
  args.activation = ConvActivation::silu;
  std::vector<float> out(outputs);
  args.out = out.data();
  const Schedule schedule(args, kThreads, kernel);
  schedule.run(Scratch(schedule.scratch_bytes()));
  return read(type, out.data(), outputs);
}

std::string check_conv(const KernelTables& kernels, const KernelTables& portable) {
  for (const FloatType type : {FloatType::f32, FloatType::bf16}) {
    const double rounding = type == FloatType::f32 ? 2 * kRounding : kHalfRounding;
    for (const int64_t channels : {19, 20}) {  // several groups of the sum
      // An even number of bfloat16 channels may be multiplied in pairs; the portable kernel does not round them first.
      const bool pairs = kernels.conv.has_pairs && type == FloatType::bf16 && channels % 2 == 0;
      const ConvSizes sizes{{3, 5, 7}, {2, 3, 2}, channels, 37};
      const auto fault = compare("causal_conv3d", convolve<ConvSchedule>(kernels.conv, sizes, type),
                                 convolve<ConvSchedule>(portable.conv, sizes, type), pairs ? 8 * rounding : rounding);
      if (!fault.empty()) return fault;
    }
    // Several groups of the sum in few cells, whose weights are packed where they are used, and one group in many.
    const bool pairs = kernels.winograd.has_pairs && type == FloatType::bf16;
    const int64_t deep = type == FloatType::f32 ? 128 : 224;
    for (const auto& sizes : {ConvSizes{{3, 5, 7}, {2, 3, 3}, deep, 37}, ConvSizes{{2, 21, 21}, {2, 3, 3}, 32, 37}}) {
      const auto fault =
          compare("causal_conv3d in Winograd form", convolve<WinogradSchedule>(kernels.winograd, sizes, type),
                  convolve<WinogradSchedule>(portable.winograd, sizes, type),
                  (pairs ? 24 : 4) * rounding * std::sqrt(double(sizes.channels) / 32.0));
      if (!fault.empty()) return fault;
    }
  }
  return "";
}

// The numbers rounded down to a few bits, whose sums of products are exact in any order.
std::vector<float> coarse(std::vector<float> values) {
  for (auto& value : values) value = std::floor(value * 16.0f) / 16.0f;
  return values;
}

// Two tiles, the last of them short, with angles on both sides of the limit of the fast sine: only of exact sums can
// so many turns be compared.
std::vector<float> activate(const KernelTables& kernels, FloatType type) {
  constexpr int64_t kBatch = 1, kSamples = 150, kChannels = 37, kCount = kBatch * kSamples * kChannels;
  Numbers numbers(13);
  const auto x = coarse(numbers.floats(kCount)), beta = numbers.floats(kChannels);
  auto alpha = numbers.floats(kChannels);
  alpha[kChannels / 2] = 12.0f;
  const auto rise = coarse(numbers.floats(12)), fall = numbers.floats(12);
  const auto narrow = bfloat16s(x);
  std::vector<float> out(kCount);
  const void* const data = type == FloatType::bf16 ? static_cast<const void*>(narrow.data()) : x.data();
  const auto vector = [](const std::vector<float>& values) { return FloatVector{values.data(), FloatType::f32}; };
  const SnakeCall call{type,      data,          out.data(),   kBatch,       kSamples,
                       kChannels, vector(alpha), vector(beta), vector(rise), vector(fall)};
  const SnakeSchedule schedule(call, kThreads, kernels.snake, kernels.norm);
  schedule.run(Scratch(schedule.scratch_bytes()));
  return read(type, out.data(), kCount);
}

std::string check_snake(const KernelTables& kernels, const KernelTables& portable) {
  for (const FloatType type : {FloatType::f32, FloatType::bf16}) {
    const auto fault = compare("antialiased_snake", activate(kernels, type), activate(portable, type),
                               type == FloatType::f32 ? 2 * kRounding : kHalfRounding);
    if (!fault.empty()) return fault;
  }
  return "";
}

}  // namespace

KernelTables kernel_tables(Isa isa) {
  KernelTables tables{linear_kernels(isa),
                      code_kernels(isa),
                      norm_kernels(isa),
                      rope_attention_kernel(isa),
                      neighborhood_attention_kernel(isa),
                      causal_conv3d_kernel(isa),
                      conv_winograd_kernel(isa),
                      snake_kernels(isa)};
  if (isa != Isa::amxbf16) {
    tables.linear.has_tiles = tables.codes.has_tiles = tables.attention.has_tiles = tables.neighborhood.has_tiles =
        false;
  }
  return tables;
}

std::string find_fault(const KernelTables& kernels) {
  const KernelTables portable = kernel_tables(Isa::portable);
  for (const auto check : {check_conversions, check_linear, check_codes, check_norm, check_attention,
                           check_neighborhood, check_conv, check_snake}) {
    auto fault = check(kernels, portable);
    if (!fault.empty()) return fault;
  }
  return "";
}

}  // namespace ltx2rt::cpu
