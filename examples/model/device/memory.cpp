// SPDX-License-Identifier: Apache-2.0
#include "device/memory.hpp"

#include "architecture/parts.hpp"

#include <higgs/core/error.hpp>

#include <algorithm>
#include <cstdio>
#include <map>

namespace higgs::model {
namespace {

constexpr std::int64_t most_head_width = 256;

std::string mib(std::int64_t bytes) {
  char text[40];
  std::snprintf(text, sizeof text, "%.1f MiB", static_cast<double>(bytes) / (1 << 20));
  return text;
}

}  // namespace

void require_memory(const std::string& model, const DeviceNeeds& needs, std::int64_t free) {
  if (needs.all() <= free) return;
  throw InvalidArgument(model + ": needs " + mib(needs.all()) + " of the GPU's memory (weights " +
                        mib(needs.weights) + ", keys and values " + mib(needs.cache) + ", workspace " +
                        mib(needs.workspace) + (needs.copies != 0 ? ", copies " + mib(needs.copies) : "") +
                        ", rounding " + mib(needs.rounding) + ", left to the driver " + mib(driver_bytes) +
                        "), and " + mib(free) + " are free");
}

std::int64_t copies_bytes(const ModelConfig& config, const DeviceNeeds& model, Copies copies) {
  if (copies == Copies::None) return 0;
  std::int64_t layers = 0, largest_layer = 0;
  std::map<std::size_t, std::int64_t> blocks;
  const auto matrix = [](std::int64_t rows, std::int64_t cols) {
    return 2 * rows * cols + rounding_of(2 * rows * cols);
  };
  for (const BlockLinear& each : block_linears(config)) {
    const Shape shape = each.part->shape(config);
    const std::int64_t bytes = matrix(shape[0], shape[1]);
    layers += bytes;
    blocks[each.block] += bytes;
    largest_layer = std::max(largest_layer, bytes);
  }
  const std::int64_t own = model.cache + model.workspace + most_product_workspace;
  if (copies == Copies::AllLayers) return own + layers + largest_layer;  // one is packed from its codes
  // A layer's group comes apart; the matrix before is there until the next has come.
  std::int64_t most = matrix(config.vocabulary, config.width);
  for (const auto& [block, bytes] : blocks) most = std::max(most, bytes);
  return own + 2 * most;
}

void require_shapes(const std::string& model, const ModelConfig& config) {
  if (config.head_width % 2 != 0 || config.head_width > most_head_width)
    throw InvalidArgument(model + ": has heads of " + std::to_string(config.head_width) +
                          " numbers; attention on a GPU does even widths up to " +
                          std::to_string(most_head_width));
}

}  // namespace higgs::model
