// SPDX-License-Identifier: Apache-2.0
#include "quantize/states_file.hpp"

#include "store/temporary_folder.hpp"

#include <higgs/core/error.hpp>

#include <catch2/catch.hpp>

#include <cstddef>
#include <filesystem>
#include <string>
#include <vector>

using namespace higgs::model;

namespace {

Matrix counting(std::int64_t rows, std::int64_t cols, float first) {
  Matrix out(rows, cols);
  for (float& value : out.values) value = first++;
  return out;
}

std::vector<RoundedLayer> some_layers(std::int64_t count) {
  std::vector<RoundedLayer> out;
  for (std::int64_t i = 0; i < count; ++i)
    out.push_back({0.1 * static_cast<double>(i), 1.0 / 3, 1e-300, i, i % 2});
  return out;
}

}  // namespace

TEST_CASE("states come back as they were saved last", "[model][states_file]") {
  const TemporaryFolder folder;
  const StatesFile file(folder / "model.safetensors", "this run");
  CHECK_FALSE(file.load());
  for (std::int64_t block = 0; block < 3; ++block) {
    const Matrix states = counting(5, 3, static_cast<float>(100 * block));
    file.save(block, 1000 + block, some_layers(7 * block), states.view());
    const auto saved = StatesFile(folder / "model.safetensors", "this run").load();
    REQUIRE(saved);
    CHECK(saved->block == block);
    CHECK(saved->memory == 1000 + block);
    CHECK(saved->layers == some_layers(7 * block));
    CHECK(saved->states.rows == 5);
    CHECK(saved->states.cols == 3);
    CHECK(saved->states.values == states.values);
  }
  CHECK_FALSE(StatesFile(folder / "model.safetensors", "another run").load());
}

TEST_CASE("states that are damaged or cut short anywhere are not loaded", "[model][states_file]") {
  const TemporaryFolder folder;
  const StatesFile file(folder / "model.safetensors", "run");
  file.save(1, 5, some_layers(2), counting(2, 3, 1).view());
  const std::string whole = read_file(file.path());
  for (std::size_t size = 0; size < whole.size(); ++size) {
    write_file(file.path(), whole.substr(0, size));
    CHECK_FALSE(file.load());
  }
  write_file(file.path(), whole + "x");
  CHECK_FALSE(file.load());
  for (std::size_t at = 0; at < 64 + 2 * sizeof(RoundedLayer); ++at) {  // header and layers
    std::string damaged = whole;
    damaged[at] = static_cast<char>(damaged[at] ^ 1);
    write_file(file.path(), damaged);
    CHECK_FALSE(file.load());
  }
  write_file(file.path(), whole);
  CHECK(file.load());
}

TEST_CASE("a kill while states are saved leaves those before", "[model][states_file]") {
  const TemporaryFolder folder;
  const auto checkpoint = folder / "model.safetensors";
  const StatesFile file(checkpoint, "run");
  file.save(1, 5, {}, counting(2, 3, 1).view());
  const std::string whole = read_file(file.path());
  write_file(file.path().string() + ".partial", whole.substr(0, 60));  // what the kill left
  CHECK(file.load()->block == 1);
  file.save(2, 5, {}, counting(2, 3, 7).view());
  CHECK(file.load()->block == 2);
  write_file(file.path().string() + ".partial", whole);
  StatesFile::remove(checkpoint);
  CHECK(std::filesystem::is_empty(folder.path()));
  CHECK_NOTHROW(StatesFile::remove(checkpoint));
}

TEST_CASE("the room for states is that of the old and the new, less what is there", "[model][states_file]") {
  const TemporaryFolder folder;
  const auto checkpoint = folder / "model.safetensors";
  const std::uint64_t before = StatesFile::room(checkpoint, 1000, 24, 90);
  const StatesFile file(checkpoint, "run");
  file.save(0, 5, some_layers(90), counting(1000, 24, 0).view());
  const std::uint64_t size = std::filesystem::file_size(file.path());
  CHECK(before >= 2 * size);
  CHECK(before < 2 * size + 1000);
  CHECK(StatesFile::room(checkpoint, 1000, 24, 90) == before - size);
}
