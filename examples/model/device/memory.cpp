// SPDX-License-Identifier: Apache-2.0
#include "device/memory.hpp"

#include <higgs/core/error.hpp>

#include <cstdio>

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
                        mib(needs.workspace) + "), and " + mib(free) + " are free");
}

void require_shapes(const std::string& model, const ModelConfig& config) {
  if (config.head_width % 2 != 0 || config.head_width > most_head_width)
    throw InvalidArgument(model + ": has heads of " + std::to_string(config.head_width) +
                          " numbers; attention on a GPU does even widths up to " +
                          std::to_string(most_head_width));
}

}  // namespace higgs::model
