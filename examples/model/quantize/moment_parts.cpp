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

// What linear layers of all blocks read or write at one place of a block.
struct Side {
  std::string_view name;
  std::int64_t cols, block, padded;    // outputs come in blocks as well, but without padding
  std::int64_t count = 1;              // diagonal parts
  std::int64_t layers = 0;             // matrices that read it
  const std::string* first = nullptr;  // name of the first of them

  std::int64_t part() const noexcept {
    const std::int64_t blocks = (padded + block - 1) / block;
    return (blocks + count - 1) / count * block;
  }
  bool divisible() const noexcept { return part() > block; }
  std::int64_t bytes(std::int64_t width) const noexcept {
    return width * std::min(width, part()) * std::int64_t{sizeof(float)};
  }
  std::int64_t moment_bytes() const noexcept { return bytes(cols); }
  std::int64_t factor_bytes() const noexcept { return bytes(padded); }
};

// Adds what a layer reads or writes to those of others.
void add(std::vector<Side>& sides, const Side& side) {
  auto found = std::ranges::find(sides, side.name, &Side::name);
  if (found == sides.end()) found = sides.insert(found, side);
  ++found->layers;
}

// What the matrices of a block read, and what they write.
struct Sides {
  std::vector<Side> inputs, outputs;

  Sides(const Outline& outline, bool with_outputs) {
    constexpr std::int64_t outputs_of_block = 64;
    for (const Outline::Matrix& matrix : outline.matrices) {
      const std::string& name = matrix.tensor->name;
      const Part* part = linear_part(name);
      if (!part) continue;
      const CodeLayout& layout = matrix.layout;
      add(inputs, {part->input, layout.cols, layout.block, layout.padded_cols(), 1, 0, &name});
      if (with_outputs) add(outputs, {part->name, layout.rows, outputs_of_block, layout.rows, 1, 0, &name});
    }
  }

  // Second moments of all inputs are there at once, those of outputs one at a time; of factors there is one for each side.
  std::int64_t bytes() const {
    std::int64_t moments = 0, factor = 0, both = 0;
    for (const Side& input : inputs) {
      moments += input.moment_bytes();
      factor = std::max(factor, input.factor_bytes());
    }
    for (const Side& output : outputs) both = std::max(both, output.moment_bytes() + output.factor_bytes());
    return moments + factor + both;
  }

  // The one to be divided next; null if there is none.
  Side* largest() {
    Side* found = nullptr;
    for (std::vector<Side>* sides : {&inputs, &outputs})
      for (Side& side : *sides)
        if (side.divisible() && (!found || side.moment_bytes() > found->moment_bytes())) found = &side;
    return found;
  }
};

std::string describe(const std::vector<Side>& sides, const char* what, std::int64_t memory) {
  std::int64_t layers = 0;
  const Side* widest = nullptr;
  for (const Side& side : sides) {
    if (side.count == 1) continue;
    layers += side.layers;
    if (!widest || side.cols > widest->cols) widest = &side;
  }
  if (!widest) return "";
  return "second moments of " + std::string(what) + " fit into " + with_bytes(memory) +
         " in diagonal parts only in " + counted(layers, "matrix", "matrices") + ", the first " +
         *widest->first + ": " + std::to_string(widest->part()) + " of " + std::to_string(widest->cols) +
         " a part; --round-memory gives more";
}

std::map<std::string_view, std::int64_t> parts_of(const std::vector<Side>& sides) {
  std::map<std::string_view, std::int64_t> out;
  for (const Side& side : sides) out.emplace(side.name, side.count == 1 ? 0 : side.part());
  return out;
}

}  // namespace

std::string MomentParts::text() const {
  std::string out = "\nparts";
  for (const auto* sides : {&parts, &outputs})
    for (const auto& [name, part] : *sides)
      out.append(" ").append(name).append(" ").append(std::to_string(part));
  return out;
}

MomentParts divide_moments(const Outline& outline, std::int64_t memory, bool with_outputs) {
  Sides sides(outline, with_outputs);
  while (sides.bytes() > memory) {
    Side* largest = sides.largest();
    if (!largest)
      throw InvalidArgument("second moments of a block take " + with_bytes(sides.bytes()) +
                            " even in parts of a rotation's block, but --round-memory is " +
                            with_bytes(memory));
    ++largest->count;
  }
  MomentParts out;
  out.parts = parts_of(sides.inputs);
  out.outputs = parts_of(sides.outputs);
  out.bytes = sides.bytes();
  for (const std::string& note :
       {describe(sides.inputs, "inputs", memory), describe(sides.outputs, "outputs", memory)})
    if (!note.empty()) out.notes.push_back(note);
  return out;
}

std::int64_t default_moment_memory() {
  constexpr std::int64_t unknown = std::int64_t{4} << 30;
  const auto free = free_memory();
  return free ? *free / 2 : unknown;
}

}  // namespace higgs::model
