// SPDX-License-Identifier: Apache-2.0
#include "device/weights.cuh"

#include "device/decoder.cuh"
#include "source/load.hpp"

#include <higgs/core/error.hpp>
#include <higgs/core/half.hpp>

#include <algorithm>
#include <span>
#include <string>
#include <utility>
#include <variant>

namespace higgs::model {
namespace {

const CheckpointLayer* quantized_layer(const ModelSource& source, std::string_view name) {
  return source.checkpoint() ? source.checkpoint()->find_layer(name) : nullptr;
}

// Writes rows of an embedding in the order that upload_rows() asks for.
ReadRows rows_of(Embedding embedding, Executor& executor) {
  return [embedding = std::move(embedding), &executor](std::int64_t first, std::int64_t count,
                                                       std::span<float> out) {
    parallel_for(executor, count, 64, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row)
        embedding.read_row(first + row, out.data() + row * embedding.cols());
    });
  };
}

ReadRows rows_of(const ModelTensor& tensor, Executor& executor) {
  return [&tensor, &executor](std::int64_t first, std::int64_t count, std::span<float> out) {
    const auto cols = static_cast<std::size_t>(tensor.cols());
    parallel_for(executor, count, 64, [&](std::int64_t begin, std::int64_t end) {
      read_finite_rows(
          tensor, first + begin, end - begin,
          out.subspan(static_cast<std::size_t>(begin) * cols, static_cast<std::size_t>(end - begin) * cols));
    });
  };
}

// A matrix of floats in host memory, on the device.
template <class T>
std::shared_ptr<const gpu::DeviceBuffer<T>> upload(const std::string& name, const Matrix& matrix) {
  return std::make_shared<gpu::DeviceBuffer<T>>(upload_rows<T>(
      name, matrix.rows, matrix.cols, [&](std::int64_t first, std::int64_t count, std::span<float> out) {
        std::copy_n(matrix.row(first), count * matrix.cols, out.data());
      }));
}

template <class T>
DeviceLinear<T>& linear_of(DeviceBlock<T>& block, Linear Block::* place) {
  using Device = DeviceBlock<T>;
  const std::pair<Linear Block::*, DeviceLinear<T> Device::*> places[] = {
      {&Block::q, &Device::q},      {&Block::k, &Device::k},       {&Block::v, &Device::v},
      {&Block::o, &Device::o},      {&Block::gate, &Device::gate}, {&Block::up, &Device::up},
      {&Block::down, &Device::down}};
  for (const auto& [host, device] : places)
    if (host == place) return block.*device;
  throw InvalidArgument("higgs::model::linear_of: a GPU has no place for this linear layer of a block");
}

template <class T>
SharedFloats& floats_of(DeviceBlock<T>& block, std::vector<float> Block::* place) {
  using Device = DeviceBlock<T>;
  const std::pair<std::vector<float> Block::*, SharedFloats Device::*> places[] = {
      {&Block::attention_norm, &Device::attention_norm},
      {&Block::ffn_norm, &Device::ffn_norm},
      {&Block::q_norm, &Device::q_norm},
      {&Block::k_norm, &Device::k_norm}};
  for (const auto& [host, device] : places)
    if (host == place) return block.*device;
  throw InvalidArgument("higgs::model::floats_of: a GPU has no place for this norm of a block");
}

// Copies the tensors of a model by name.
template <class T>
class Loader {
 public:
  Loader(const ModelSource& source, Executor& executor) : source_(source), executor_(executor) {}

  SharedFloats floats(const std::string& name) const {
    const ModelTensor& tensor = *source_.find(name);  // is there, or the source would have a problem
    std::vector<float> values(static_cast<std::size_t>(tensor.cols()));
    read_finite_rows(tensor, 0, 1, values);
    return std::make_shared<gpu::DeviceBuffer<float>>(std::span<const float>(values));
  }

  std::shared_ptr<const gpu::DeviceBuffer<T>> dense(const std::string& name) const {
    if (quantized_layer(source_, name)) {
      const Embedding quantized{source_.checkpoint()->load(name)};
      return std::make_shared<gpu::DeviceBuffer<T>>(
          upload_rows<T>(name, quantized.rows(), quantized.cols(), rows_of(quantized, executor_)));
    }
    const ModelTensor& tensor = *source_.find(name);
    return std::make_shared<gpu::DeviceBuffer<T>>(
        upload_rows<T>(name, tensor.rows(), tensor.cols(), rows_of(tensor, executor_)));
  }

  SharedDeviceMatrix<T> matrix(const std::string& name, const Shape& shape) const {
    if (quantized_layer(source_, name)) return quantized_matrix<T>(source_.checkpoint()->load(name));
    return dense_matrix<T>(dense(name), shape[0], shape[1]);
  }

  DeviceBlock<T> block(std::int64_t index) const {
    const ModelConfig& config = source_.require_config();
    DeviceBlock<T> out;
    for (const Part& part : block_parts()) {
      const Shape shape = part.shape(config);
      if (shape.empty()) continue;
      std::string name = weight_name(index, part);
      if (!part.is_linear()) {
        floats_of(out, std::get<std::vector<float> Block::*>(part.place)) = floats(name);
        continue;
      }
      DeviceLinear<T>& linear = linear_of(out, std::get<Linear Block::*>(part.place));
      linear.weight = matrix(name, shape);
      if (!part.has_bias(config)) continue;
      linear.bias = floats(name.replace(name.size() - std::string_view("weight").size(), name.npos, "bias"));
    }
    return out;
  }

  // The output layer; `embedding` is it too where the two are tied.
  SharedDeviceMatrix<T> output(const std::shared_ptr<const gpu::DeviceBuffer<T>>& embedding,
                               const DeviceOptions& options) const {
    const ModelConfig& config = source_.require_config();
    const std::string name(config.tied_embeddings ? embedding_name : output_name);
    if (quantized_layer(source_, name)) return quantized_matrix<T>(source_.checkpoint()->load(name));
    if (options.round_output) {
      const ModelTensor& tensor = *source_.find(name);
      Matrix floats(tensor.rows(), tensor.cols());
      rows_of(tensor, executor_)(0, floats.rows, floats.values);
      return quantized_matrix<T>(options.round_output(std::as_const(floats).view()));
    }
    return dense_matrix<T>(config.tied_embeddings ? embedding : dense(name), config.vocabulary, config.width);
  }

 private:
  const ModelSource& source_;
  Executor& executor_;
};

}  // namespace

DeviceNeeds device_needs(const ModelSource& source, const DeviceOptions& options, const DecoderSize& size) {
  const ModelConfig& config = source.require_config();
  const std::int64_t table = config.vocabulary * config.width;
  const std::string_view output = config.tied_embeddings ? embedding_name : output_name;
  DeviceNeeds out = decoder_needs(config, size);
  std::int64_t product = 0;  // workspace of the largest product
  const auto add_packed = [&](const std::string& name) {
    const PackedNeeds packed =
        packed_needs(source.checkpoint()->load(name), name == output ? size.logit_rows : size.rows);
    out.weights += static_cast<std::int64_t>(packed.bytes);
    product = std::max(product, static_cast<std::int64_t>(packed.workspace));
  };
  for (const NeededTensor& needed : needed_tensors(config)) {
    const bool quantized = quantized_layer(source, needed.name) != nullptr;
    if (needed.shape.size() == 1) {
      out.weights += needed.shape[0] * static_cast<std::int64_t>(sizeof(float));
      continue;
    }
    if (needed.name == embedding_name) out.weights += 2 * table;
    if (needed.name == output || needed.name != embedding_name) {
      if (quantized)
        add_packed(needed.name);
      else if (needed.name == output && options.round_output)
        out.weights += table;  // 8 bits a weight at most
      else if (needed.name != embedding_name)
        out.weights += 2 * needed.shape[0] * needed.shape[1];
    }
  }
  out.workspace += product;
  return out;
}

template <class T>
DeviceWeights<T> load_device_weights(const ModelSource& source, const DeviceOptions& options,
                                     Executor& executor) {
  const ModelConfig& config = source.require_config();
  const Loader<T> loader(source, executor);
  DeviceWeights<T> out;
  out.embedding = loader.dense(std::string(embedding_name));
  for (std::int64_t index = 0; index < config.layers; ++index) out.blocks.push_back(loader.block(index));
  out.norm = loader.floats("model.norm.weight");
  out.output.weight = loader.output(out.embedding, options);
  return out;
}

template <class T>
void replace_matrix(DeviceWeights<T>& weights, const ModelConfig& config, std::string_view matrix,
                    const Replacement& replacement) {
  const std::string name(matrix);
  const auto* floats = std::get_if<SharedMatrix>(&replacement);
  const auto on_device = [&]() -> SharedDeviceMatrix<T> {
    if (!floats) return quantized_matrix<T>(std::get<AnyQuantizedMatrix>(replacement));
    return dense_matrix<T>(upload<T>(name, **floats), (*floats)->rows, (*floats)->cols);
  };
  if (matrix == embedding_name) {
    if (floats) {
      weights.embedding = upload<T>(name, **floats);
    } else {
      const Embedding quantized{std::get<AnyQuantizedMatrix>(replacement)};
      SerialExecutor here;
      weights.embedding = std::make_shared<gpu::DeviceBuffer<T>>(
          upload_rows<T>(name, quantized.rows(), quantized.cols(), rows_of(quantized, here)));
    }
    if (!config.tied_embeddings) return;
    weights.output.weight =
        floats ? dense_matrix<T>(weights.embedding, config.vocabulary, config.width) : on_device();
    return;
  }
  if (matrix == output_name && !config.tied_embeddings) {
    weights.output.weight = on_device();
    return;
  }
  for (const BlockLinear& each : block_linears(config)) {
    if (each.name != matrix) continue;
    linear_of(weights.blocks[each.block], std::get<Linear Block::*>(each.part->place)).weight = on_device();
    return;
  }
  throw InvalidArgument("the model has no matrix \"" + name + "\"");
}

template DeviceWeights<Half> load_device_weights(const ModelSource&, const DeviceOptions&, Executor&);
template DeviceWeights<BFloat16> load_device_weights(const ModelSource&, const DeviceOptions&, Executor&);
template void replace_matrix(DeviceWeights<Half>&, const ModelConfig&, std::string_view, const Replacement&);
template void replace_matrix(DeviceWeights<BFloat16>&, const ModelConfig&, std::string_view,
                             const Replacement&);

}  // namespace higgs::model
