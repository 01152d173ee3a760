// SPDX-License-Identifier: Apache-2.0
// Writes the golden files of docs/format.md: checkpoints with every code and every option of the format, and the weights
// that the library decodes from them. A test compares them with the files in tests/store/golden, byte for byte.
// Usage: higgs_write_golden FOLDER
#include "checkpoint_example.hpp"

#include <higgs/codes/e8/e8.hpp>
#include <higgs/codes/grid/grid.hpp>
#include <higgs/codes/lattice/lattice.hpp>
#include <higgs/codes/radix/radix.hpp>
#include <higgs/codes/uniform/uniform.hpp>
#include <higgs/codes/window/window.hpp>
#include <higgs/core/half.hpp>
#include <higgs/core/scale_format.hpp>
#include <higgs/matmul/decode.hpp>
#include <higgs/store/checkpoint_writer.hpp>
#include <higgs/store/safetensors.hpp>

#include <cstdint>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace {

using higgs::CodeLayout;

template <class T>
std::span<const std::uint8_t> bytes_of(const std::vector<T>& values) {
  return {reinterpret_cast<const std::uint8_t*>(values.data()), values.size() * sizeof(T)};
}

class Golden {
 public:
  /// Declares a layer of made-up codes and scales. `log8` keeps the scales in 8 bits, `inputs` adds input scales.
  template <class Code>
  void add(const std::string& name, CodeLayout layout, std::optional<std::uint64_t> seed, int exponent,
           bool log8 = false, bool inputs = false) {
    layout.input_scales = inputs;
    auto matrix = example_matrix<Code>(layout, seed, exponent);
    if (log8) {
      matrix.layout.scale_format = higgs::ScaleFormat::Log8;
      for (std::size_t i = 0; i < matrix.scales.size(); ++i)
        log8_scales_.push_back(
            static_cast<higgs::Half>(higgs::Log8::from_code(static_cast<std::uint8_t>(i * 37))));
      matrix.scales = log8_scales_;  // one layer alone has such scales
    }
    contents_.add_layer(name, matrix, "BF16");
    std::vector<float> weights(static_cast<std::size_t>(layout.rows * layout.cols));
    higgs::dequantize(matrix, higgs::MatrixView<float>(weights.data(), layout.rows, layout.cols));
    weights_[name] = {{name, higgs::DType::F32, {layout.rows, layout.cols}}, weights};
    writes_.push_back([name, matrix](higgs::CheckpointWriter& writer) { writer.write_layer(name, matrix); });
  }
  /// Declares a tensor that is kept as it is.
  void add_tensor(const std::string& name, const std::vector<float>& values) {
    contents_.add_tensor({name, higgs::DType::F32, {std::ssize(values)}});
    writes_.push_back([name, values](higgs::CheckpointWriter& writer) {
      writer.write_tensor(name, 0, bytes_of(values));
      writer.finish_tensor(name);
    });
  }
  /// Writes the checkpoint to `path`, in files of at most `max_shard_bytes` of tensors unless that is 0.
  void write(const std::filesystem::path& path, std::uint64_t max_shard_bytes = 0) const {
    higgs::CheckpointOptions options;
    options.max_shard_bytes = max_shard_bytes;
    higgs::CheckpointWriter writer(path, contents_, options);
    for (const auto& write : writes_) write(writer);
    writer.commit();
  }
  /// Writes the decoded weights of all layers as a plain safetensors file.
  void write_weights(const std::filesystem::path& path) const {
    std::vector<higgs::TensorShape> shapes;
    for (const auto& [name, weights] : weights_) shapes.push_back(weights.first);
    higgs::SafetensorsWriter writer(path, shapes);
    for (const auto& [name, weights] : weights_) writer.write(name, 0, bytes_of(weights.second));
    writer.commit();
  }

 private:
  higgs::CheckpointContents contents_;
  std::vector<std::function<void(higgs::CheckpointWriter&)>> writes_;
  std::map<std::string, std::pair<higgs::TensorShape, std::vector<float>>> weights_;
  std::vector<higgs::Half> log8_scales_;
};

void write_all(const std::filesystem::path& folder) {
  using higgs::GridCodebook, higgs::NestedE8Codebook, higgs::UniformCodebook;
  std::filesystem::create_directories(folder / "sharded");
  Golden one;  // rows, cols, block, group; seed; exponent
  one.add<GridCodebook<1, 2>>("1x2", {2, 20, 8, 8}, 1, 0);
  one.add<GridCodebook<1, 3>>("1x3", {2, 24, 24, 3}, 2, -7);
  one.add<GridCodebook<1, 4>>("1x4", {3, 60, 32, 16}, 3, -3);
  one.add<GridCodebook<1, 8>>("1x8", {2, 52, 52, 13}, 4, -3);
  one.add<GridCodebook<1, 16>>("1x16", {2, 50, 28, 7}, 18446744073709551615u, -3);
  one.add<GridCodebook<1, 256>>("1x256", {1, 76, 76, 19}, 5, 9);
  one.add<GridCodebook<2, 16>>("2x16", {3, 45, 12, 3}, 6, -3);
  one.add<GridCodebook<2, 64>>("2x64", {2, 100, 60, 60}, std::nullopt, -3);
  one.add<GridCodebook<2, 256>>("2x256 with 8-bit scales", {2, 300, 64, 4}, 7, -20, true);
  one.add<GridCodebook<2, 256>>("2x256 with input scales", {2, 90, 32, 16}, 8, -3, false, true);
  one.add<GridCodebook<3, 512>>("3x512", {2, 40, 40, 8}, 9, -3);
  one.add<GridCodebook<4, 256>>("4x256", {2, 72, 36, 18}, 10, -3);
  one.add<UniformCodebook<4>>("u4", {2, 3, 1, 1}, 11, -3);
  one.add<UniformCodebook<8>>("ch8", {2, 130, 128, 32}, 12, -3);
  one.add<higgs::E8Codebook>("e8", {4, 100, 100, 20}, 13, -3, false, true);
  one.add<NestedE8Codebook<2>>("e8n2", {3, 44, 44, 44}, 14, -3);
  one.add<NestedE8Codebook<3>>("e8n3", {3, 20, 20, 20}, 15, -3);
  one.add<NestedE8Codebook<4>>("e8n4", {3, 136, 136, 8}, 16, -3);
  one.add<higgs::RadixCodebook<GridCodebook<2, 84>, 5>>("2x84r5", {2, 84, 84, 21}, 17, -3, false, true);
  one.add<higgs::WindowCode<2>>("w1", {2, 72, 72, 36}, 18, -3);
  one.add<higgs::WindowCode<3>>("w1.5", {3, 50, 28, 7}, 19, -3);
  one.add<higgs::WindowCode<4>>("w2", {2, 96, 32, 16}, 20, -3, false, true);
  one.add<higgs::WindowCode<5>>("w2.5", {2, 88, 44, 22}, 21, -3);
  one.add<higgs::WindowCode<6>>("w3", {2, 64, 64, 64}, std::nullopt, -3);
  one.add<higgs::WindowCode<7>>("w3.5", {3, 30, 20, 5}, 22, -3);
  one.add<higgs::WindowCode<8>>("w4", {2, 100, 100, 20}, 23, -3);
  one.add<higgs::WindowCode<9>>("w4.5", {2, 36, 36, 9}, 24, -3);
  one.add<higgs::WindowCode<10>>("w5", {2, 40, 20, 20}, 25, -3);
  one.add_tensor("norm", {1.0f, -0.5f, 0.25f});
  one.write(folder / "all.safetensors");
  one.write_weights(folder / "all.weights.safetensors");

  Golden parts;  // a checkpoint of two files and an index
  parts.add<GridCodebook<2, 64>>("first", {2, 26, 104, 26}, 18, 3, true);
  parts.add<higgs::E8Codebook>("second", {2, 64, 64, 64}, std::nullopt, -3);
  parts.add_tensor("third", {2.0f, 3.0f});
  std::filesystem::remove_all(folder / "sharded");
  parts.write(folder / "sharded", 150);
  parts.write_weights(folder / "sharded.weights.safetensors");
}

}  // namespace

int main(int count, char** arguments) try {
  if (count != 2) return std::fputs("usage: higgs_write_golden FOLDER\n", stderr), 2;
  write_all(arguments[1]);
} catch (const std::exception& error) {
  std::fprintf(stderr, "higgs_write_golden: %s\n", error.what());
  return 1;
}
