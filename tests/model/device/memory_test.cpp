// SPDX-License-Identifier: Apache-2.0
#include "device/memory.hpp"

#include "store/temporary_folder.hpp"

#include <higgs/core/error.hpp>

#include <catch2/catch.hpp>

#include <cstdint>
#include <string>

using namespace higgs::model;
using Catch::Contains;

TEST_CASE("a model that does not fit is refused with every number, one that fits exactly is not",
          "[model][device]") {
  constexpr std::int64_t mib = 1 << 20;
  const DeviceNeeds needs{.weights = 100 * mib, .cache = 20 * mib, .workspace = 3 * mib};
  CHECK_NOTHROW(require_memory("m", needs, 123 * mib));
  const std::string message =
      message_of<higgs::InvalidArgument>([&] { require_memory("the model", needs, 123 * mib - 1); });
  CHECK_THAT(message, Contains("the model") && Contains("needs 123.0 MiB") && Contains("weights 100.0 MiB") &&
                          Contains("keys and values 20.0 MiB") && Contains("workspace 3.0 MiB") &&
                          Contains("and 123.0 MiB are free"));
}

TEST_CASE("heads that attention on a GPU cannot do are refused by their width", "[model][device]") {
  ModelConfig config;
  for (const std::int64_t width : {2, 10, 64, 96, 128, 256}) {
    config.head_width = width;
    CHECK_NOTHROW(require_shapes("m", config));
  }
  for (const std::int64_t width : {7, 258, 320}) {
    config.head_width = width;
    CHECK_THAT(message_of<higgs::InvalidArgument>([&] { require_shapes("the model", config); }),
               Contains("the model") && Contains("heads of " + std::to_string(width)) && Contains("256"));
  }
}
