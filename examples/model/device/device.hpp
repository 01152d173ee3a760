// SPDX-License-Identifier: Apache-2.0
// Models on a GPU, for callers that need no CUDA compiler. A build with CUDA has the library higgs_model_device behind
// this header, a build without it no_cuda.cpp, where every function says so.
#pragma once

#include "device/memory.hpp"
#include "network/generate.hpp"
#include "network/network.hpp"
#include "source/source.hpp"
#include "tokenizer/tokenizer.hpp"

#include <higgs/core/executor.hpp>
#include <higgs/core/half.hpp>
#include <higgs/core/matrix_view.hpp>
#include <higgs/store/quantized_matrix.hpp>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace higgs::model {

/// The type of activations, keys, values and dense weights on a GPU. OfModel is bf16 for a model with any tensor that is
/// stored in bf16 or was before it was quantized, fp16 for all others.
enum class DeviceType { OfModel, Fp16, Bf16 };
/// "auto", "fp16" or "bf16"; throws InvalidArgument for other names.
DeviceType device_type_named(std::string_view name);
/// The name that device_type_named() takes.
inline std::string_view name_of(DeviceType type) noexcept {
  if (type == DeviceType::OfModel) return "auto";
  return type == DeviceType::Fp16 ? "fp16" : "bf16";
}
/// Fp16 for Half, Bf16 for BFloat16.
template <class T>
inline constexpr DeviceType device_type_of = std::is_same_v<T, Half> ? DeviceType::Fp16 : DeviceType::Bf16;
/// What may be wrong with a model that gives NaN or infinite numbers with activations of that type, Fp16 or Bf16: the end
/// of a sentence, with the remedy if there is one.
std::string causes_of_infinity(DeviceType type);
/// The type that OfModel stands for: Fp16 or Bf16.
DeviceType type_of(const ModelSource& source);

/// How a model goes to a GPU.
struct DeviceOptions {
  DeviceType type = DeviceType::OfModel;
  /// Rounds a dense output layer (vocabulary, width); none: it stays dense.
  std::function<AnyQuantizedMatrix(MatrixView<const float> weights)> round_output{};
  std::int64_t chunk = 512;  // tokens of one text that are read at once
  /// Programmatic dependent launch: kernels begin while the one in front still runs. Refused where it cannot be. No GPU
  /// has executed it.
  bool overlap = false;
  std::int64_t texts = 1;        // texts, and
  std::int64_t tokens = 0;       // tokens of each, that must fit in memory beside the weights, and
  Copies copies = Copies::None;  // copies of the network, for one such text
};

/// Throws InvalidArgument in a build without CUDA, and for a GPU that is older than compute capability 8.0 or that the
/// build has no code for, with its capability; CudaError, with the text of the runtime, where no GPU can be used.
void require_device();

/// A model on the current GPU, for measurements. Tensors go there one after the other, some rows at a time. Quantized
/// layers keep their codes; a quantized embedding is decoded. Throws InvalidArgument, with all numbers, if model and
/// texts need more memory than is free, and for a model whose shapes the kernels cannot do. `source` and `executor` must
/// outlive it.
std::unique_ptr<Network> open_device_network(const ModelSource& source, const DeviceOptions& options,
                                             Executor& executor = default_executor());

/// The most texts that grow together.
inline constexpr std::int64_t most_texts = 64;

/// What generates on a GPU.
class DeviceGenerator {
 public:
  virtual ~DeviceGenerator() = default;
  virtual const ModelConfig& config() const noexcept = 0;
  /// Continues each of 1 to 64 prompts as generate() does; text i draws with seed + i. With LongRoPE
  /// the longest text decides whether all take the long factors. Prompts are read one after the other, each in its
  /// prefill_seconds; decode_seconds go from the end of all prompts to the last token of the text, whatever others do
  /// after it. Tokens come in small groups. Throws like generate(), and InvalidArgument, with the numbers, if keys and values need more memory than is
  /// free.
  virtual std::vector<Generation> generate(std::span<const std::vector<TokenId>> prompts, std::int64_t count,
                                           const Sampling& sampling, const OnToken& on_token,
                                           std::span<const TokenId> more_ends = {}) = 0;
};

/// A model on the current GPU that writes texts. Loads and throws as open_device_network().
std::unique_ptr<DeviceGenerator> open_device_generator(const ModelSource& source,
                                                       const DeviceOptions& options,
                                                       Executor& executor = default_executor());

}  // namespace higgs::model
