// SPDX-License-Identifier: Apache-2.0
// Writes small matrices that were rounded with feedback, for a comparison with another program: a checkpoint in which layer
// NAME has its weights as the tensor NAME.weights (rows, cols) and the second moment of its inputs as NAME.moment (cols, cols).
// Usage: higgs_write_rounded FILE
#include "inputs.hpp"

#include <higgs/codes/grid/grid.hpp>
#include <higgs/codes/uniform/uniform.hpp>
#include <higgs/quantizer.hpp>
#include <higgs/store/checkpoint_writer.hpp>
#include <higgs/store/safetensors.hpp>

#include <cstdint>
#include <cstdio>
#include <exception>
#include <functional>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace {

using higgs::GridCodebook, higgs::MatrixView;

class Cases {
 public:
  /// Adds a matrix (rows, cols) of N(0, 1) that is rounded for `tokens` rows of correlated inputs.
  template <higgs::Codebook Code>
  void add(const std::string& name, std::int64_t rows, std::int64_t cols, std::int64_t tokens,
           const higgs::QuantizeOptions& options = {}) {
    const auto seed = static_cast<std::uint64_t>(std::ssize(writes_));
    const std::vector<float> weights = normals(rows * cols, seed), x = inputs(tokens, cols, seed + 1);
    higgs::SecondMoment moment(cols);
    moment.add(MatrixView<const float>(x.data(), tokens, cols));
    std::vector<float> whole(static_cast<std::size_t>(cols * cols));
    const MatrixView<float> h(whole.data(), cols, cols);
    for (std::int64_t i = 0; i < cols; ++i)
      for (std::int64_t j = i; j < cols; ++j) h(i, j) = h(j, i) = moment.values(0)(i, j);
    const MatrixView<const float> w(weights.data(), rows, cols);
    auto matrix = higgs::quantize(w, Code{}, moment, options);
    contents_.add_layer(name, matrix);
    writes_.push_back([name, matrix](higgs::CheckpointWriter& writer) { writer.write_layer(name, matrix); });
    add_tensor(name + ".weights", rows, cols, weights);
    add_tensor(name + ".moment", cols, cols, whole);
  }
  void write(const std::string& path) const {
    higgs::CheckpointWriter writer(path, contents_);
    for (const auto& write : writes_) write(writer);
    writer.commit();
  }

 private:
  void add_tensor(const std::string& name, std::int64_t rows, std::int64_t cols, std::vector<float> values) {
    contents_.add_tensor({name, higgs::DType::F32, {rows, cols}});
    writes_.push_back([name, values = std::move(values)](higgs::CheckpointWriter& writer) {
      const auto* bytes = reinterpret_cast<const std::uint8_t*>(values.data());
      writer.write_tensor(name, 0, std::span(bytes, 4 * values.size()));
      writer.finish_tensor(name);
    });
  }

  higgs::CheckpointContents contents_;
  std::vector<std::function<void(higgs::CheckpointWriter&)>> writes_;
};

}  // namespace

int main(int count, char** arguments) try {
  if (count != 2) return std::fputs("usage: higgs_write_rounded FILE\n", stderr), 2;
  Cases cases;
  cases.add<GridCodebook<1, 16>>("4 bits", 40, 96, 400);
  cases.add<GridCodebook<1, 8>>("3 bits in four groups", 40, 96, 400, {.group = 24});
  cases.add<GridCodebook<1, 4>>("2 bits, no signs", 40, 96, 400, {.seed = std::nullopt});
  cases.add<higgs::UniformCodebook<3>>("uniform, input scales and padding", 130, 90, 400, {.block = 32});
  cases.add<GridCodebook<1, 8>>("fewer tokens than inputs", 40, 96, 20);
  cases.write(arguments[1]);
} catch (const std::exception& error) {
  std::fprintf(stderr, "higgs_write_rounded: %s\n", error.what());
  return 1;
}
