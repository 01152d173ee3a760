// SPDX-License-Identifier: Apache-2.0
#include "quantize/moment_parts.hpp"

#include "architecture/parts.hpp"
#include "quantize/sizes.hpp"
#include "terminal/machine.hpp"
#include "terminal/output.hpp"

#include <higgs/core/error.hpp>

#include <algorithm>
#include <vector>

namespace higgs::model {
namespace {

// What linear layers of all blocks read at one place of a block.
struct Input {
  std::string_view name;
  std::int64_t cols, block, padded;
  std::int64_t count = 1;              // diagonal parts
  std::int64_t layers = 0;             // matrices that read it
  const std::string* first = nullptr;  // name of the first of them

  std::int64_t part() const noexcept {
    const std::int64_t blocks = padded / block;
    return (blocks + count - 1) / count * block;
  }
  bool divisible() const noexcept { return part() > block; }
  std::int64_t bytes(std::int64_t width) const noexcept {
    return width * std::min(width, part()) * std::int64_t{sizeof(float)};
  }
  std::int64_t moment_bytes() const noexcept { return bytes(cols); }
  std::int64_t factor_bytes() const noexcept { return bytes(padded); }
};

std::vector<Input> inputs_of(const Outline& outline) {
  std::vector<Input> out;
  for (const Outline::Matrix& matrix : outline.matrices) {
    const std::string part_name = split_name(matrix.tensor->name).second;
    for (const Part& part : block_parts()) {
      if (!is_block_linear(matrix.tensor->name) || part.name != part_name) continue;
      auto found = std::ranges::find(out, part.input, &Input::name);
      if (found == out.end())
        found = out.insert(out.end(), {part.input, matrix.layout.cols, matrix.layout.block,
                                       matrix.layout.padded_cols(), 1, 0, &matrix.tensor->name});
      ++found->layers;
    }
  }
  return out;
}

std::int64_t bytes_of(const std::vector<Input>& inputs) {
  std::int64_t moments = 0, factor = 0;
  for (const Input& input : inputs) {
    moments += input.moment_bytes();
    factor = std::max(factor, input.factor_bytes());
  }
  return moments + factor;
}

std::string describe(const std::vector<Input>& inputs, std::int64_t memory) {
  std::int64_t layers = 0;
  const Input* widest = nullptr;
  for (const Input& input : inputs) {
    if (input.count == 1) continue;
    layers += input.layers;
    if (!widest || input.cols > widest->cols) widest = &input;
  }
  if (!widest) return "";
  return "second moments fit into " + with_bytes(memory) + " in diagonal parts only in " +
         counted(layers, "matrix", "matrices") + ", the first " + *widest->first + ": " +
         std::to_string(widest->part()) + " of " + std::to_string(widest->cols) +
         " inputs a part; --round-memory gives more";
}

}  // namespace

std::string MomentParts::text() const {
  std::string out = "\nparts";
  for (const auto& [input, part] : parts)
    out.append(" ").append(input).append(" ").append(std::to_string(part));
  return out;
}

MomentParts divide_moments(const Outline& outline, std::int64_t memory) {
  std::vector<Input> inputs = inputs_of(outline);
  while (bytes_of(inputs) > memory) {
    Input* largest = nullptr;
    for (Input& input : inputs)
      if (input.divisible() && (!largest || input.moment_bytes() > largest->moment_bytes())) largest = &input;
    if (!largest)
      throw InvalidArgument("second moments of a block take " + with_bytes(bytes_of(inputs)) +
                            " even in parts of a rotation's block, but --round-memory is " +
                            with_bytes(memory));
    ++largest->count;
  }
  MomentParts out;
  for (const Input& input : inputs) out.parts.emplace(input.name, input.count == 1 ? 0 : input.part());
  out.bytes = bytes_of(inputs);
  out.note = describe(inputs, memory);
  return out;
}

std::int64_t default_moment_memory() {
  constexpr std::int64_t unknown = std::int64_t{4} << 30;
  const auto free = free_memory();
  return free ? *free / 2 : unknown;
}

}  // namespace higgs::model
