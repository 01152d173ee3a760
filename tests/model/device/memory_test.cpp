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
  const DeviceNeeds needs{
      .weights = 100 * mib, .cache = 20 * mib, .workspace = 3 * mib, .rounding = 2 * mib, .copies = 7 * mib};
  CHECK_NOTHROW(require_memory("m", needs, 132 * mib + driver_bytes));
  const std::string message = message_of<higgs::InvalidArgument>(
      [&] { require_memory("the model", needs, 132 * mib + driver_bytes - 1); });
  CHECK_THAT(message, Contains("the model") && Contains("needs 388.0 MiB") && Contains("weights 100.0 MiB") &&
                          Contains("keys and values 20.0 MiB") && Contains("workspace 3.0 MiB") &&
                          Contains("rounding 2.0 MiB") && Contains("copies 7.0 MiB") &&
                          Contains("driver 256.0 MiB") && Contains("and 388.0 MiB are free"));
}

TEST_CASE("a matrix is packed before keys and values are there", "[model][device]") {
  DeviceNeeds needs{.weights = 1000, .cache = 50, .workspace = 30};
  needs.loading = 60;
  CHECK(needs.all() == 1080 + driver_bytes);
  needs.loading = 90;
  CHECK(needs.all() == 1090 + driver_bytes);
}

TEST_CASE("allocations are rounded up to 512 bytes, large ones to 2 MiB", "[model][device]") {
  constexpr std::int64_t mib = 1 << 20;
  CHECK(rounding_of(0) == 0);
  CHECK(rounding_of(1) == 511);
  CHECK(rounding_of(512) == 0);
  CHECK(rounding_of(mib) == 0);
  CHECK(rounding_of(mib + 1) == mib - 1);
  CHECK(rounding_of(2 * mib) == 0);
  CHECK(rounding_of(5 * mib) == mib);
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
