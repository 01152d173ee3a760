// SPDX-License-Identifier: Apache-2.0
#include "quantize/sizes.hpp"

#include "model/tiny_model.hpp"

#include <catch2/catch.hpp>

#include <string>

using namespace higgs::model;

TEST_CASE("bytes are written with three digits in their unit", "[model][sizes]") {
  CHECK(with_bytes(0) == "0 bytes");
  CHECK(with_bytes(1) == "1 byte");
  CHECK(with_bytes(999) == "999 bytes");
  CHECK(with_bytes(1000) == "1.00 kB");
  CHECK(with_bytes(9994) == "9.99 kB");
  CHECK(with_bytes(9996) == "10.0 kB");
  CHECK(with_bytes(99960) == "100 kB");
  CHECK(with_bytes(999600) == "1.00 MB");
  CHECK(with_bytes(84113344) == "84.1 MB");
  CHECK(with_bytes(1234567890) == "1.23 GB");
  CHECK(with_bytes(140000000000) == "140 GB");
  CHECK(counted(1, "tensor") == "1 tensor");
  CHECK(counted(0, "matrix", "matrices") == "0 matrices");
}

TEST_CASE("shares add up to the file but for its header, and nothing divides by nothing", "[model][sizes]") {
  CHECK(Sizes{}.bits() == 0);
  CHECK(Share{}.bits() == 0);
  CHECK(Sizes{}.lines().empty());
  const ModelConfig config = tiny_config("qwen3");
  const TemporaryFolder folder;
  write_folder(folder.path(), config);
  const Sizes sizes = sizes_of(ModelSource(folder.path()));
  std::int64_t weights = 0;
  for (const TinyTensor& tensor : tiny_tensors(config))
    weights += static_cast<std::int64_t>(tensor.values.size());
  CHECK(sizes.weights() == weights);
  const std::int64_t bytes =
      sizes.linear.bytes + sizes.embedding.bytes + sizes.output.bytes + sizes.rest.bytes;
  CHECK(bytes == 4 * weights);
  CHECK(static_cast<std::int64_t>(sizes.file_bytes) > bytes);
  CHECK(sizes.lines().size() == 4);
  CHECK(sizes.output.bits() == 32);
}
