// SPDX-License-Identifier: Apache-2.0
// A model on the device as the commands that measure models see it.
#pragma once

#include "device/decoder.cuh"
#include "device/device.hpp"
#include "device/stream.cuh"
#include "device/weights.cuh"
#include "network/network.hpp"

#include <higgs/gpu/matrix.cuh>

#include <memory>
#include <optional>
#include <set>
#include <string>

namespace higgs::model {

/// Turns hidden states in host memory into logits there, some rows at a time.
template <class T>
class DeviceOutput {
 public:
  DeviceOutput(const ModelConfig& config, DeviceLinear<T> layer);
  void operator()(MatrixView<const float> hidden, MatrixView<float> logits) const;

 private:
  DeviceLinear<T> layer_;
  gpu::DeviceBuffer<T> hidden_;      // (output_rows, width)
  gpu::DeviceBuffer<float> logits_;  // (output_rows, vocabulary)
  ProductSpace space_;
};

/// A Network whose weights and activations are on the device, in fp16 or bf16 (T). States cross to the host and back
/// between steps; forward() keeps them there.
template <class T>
class DeviceNetwork final : public Network {
 public:
  DeviceNetwork(const ModelSource& source, const DeviceOptions& options, Executor& executor);

  const ModelConfig& config() const noexcept override { return config_; }
  const std::string& name() const noexcept override { return name_; }
  void embed(std::span<const TokenId> tokens, MatrixView<float> x) override;
  void run_blocks(std::size_t first, std::size_t last, MatrixView<float> x) override;
  void finish(MatrixView<const float> x, MatrixView<float> hidden) override;
  void forward(std::span<const TokenId> tokens, MatrixView<float> hidden) override;
  void logits(MatrixView<const float> hidden, MatrixView<float> logits) override;
  OutputLayer output() const override;
  /// Reads the file again. Throws InvalidArgument for a matrix that was replaced, too.
  SharedMatrix dense(std::string_view matrix, const char* function) const override;
  std::unique_ptr<Network> copy() const override;
  void replace(std::string_view matrix, const Replacement& weight) override;

 private:
  // Memory for texts of one length.
  struct Text {
    Text(const ModelConfig& config, const DeviceWeights<T>& weights, const DecoderSize& size);
    Decoder<T> decoder;
    gpu::DeviceBuffer<std::int32_t> tokens, positions, sequences;  // (capacity), the last of zeros
  };
  DeviceNetwork(const DeviceNetwork& other);
  Text& text(std::int64_t tokens);
  TokenRows rows_from(std::int64_t first) const;

  const ModelSource& source_;
  ModelConfig config_;
  std::string name_;
  DeviceOptions options_;
  Executor& executor_;
  DeviceWeights<T> weights_;
  std::set<std::string, std::less<>> replaced_;
  Stream stream_;
  std::unique_ptr<Text> text_;
  mutable std::shared_ptr<const DeviceOutput<T>> output_;  // made when it is first asked for
};

}  // namespace higgs::model
