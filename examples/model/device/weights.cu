// SPDX-License-Identifier: Apache-2.0
#include "device/weights.cuh"

#include "device/decoder.cuh"
#include "device/dense.cuh"
#include "source/load.hpp"

#include <higgs/core/error.hpp>
#include <higgs/core/half.hpp>
#include <higgs/store/stacked_rows.hpp>

#include <algorithm>
#include <optional>
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
  const auto out = std::make_shared<gpu::DeviceBuffer<T>>(matrix.values.size());
  upload_rows<T>(name,
                 [&](std::int64_t first, std::int64_t count, std::span<float> to) {
                   std::copy_n(matrix.row(first), count * matrix.cols, to.data());
                 },
                 {out->data(), matrix.rows, matrix.cols});
  return out;
}

// The layers of a block that multiply the same inputs, in the order of their rows.
struct GroupParts {
  std::vector<Linear Block::*> places;
  bool in_turn;  // whether one matrix of them has their rows in turn
};
const GroupParts& qkv_parts() {
  static const GroupParts parts{{&Block::q, &Block::k, &Block::v}, false};
  return parts;
}
const GroupParts& gate_up_parts() {
  static const GroupParts parts{{&Block::gate, &Block::up}, true};
  return parts;
}

// What becomes of the layers of a group on the device.
struct Joining {
  enum { Apart, Dense, Quantized } as = Apart;  // several matrices, or one
  bool rotate_alike = false;
};

Joining joining_of(const ModelSource& source, std::int64_t block, const GroupParts& parts) {
  std::vector<AnyQuantizedMatrix> layers;
  for (const auto place : parts.places) {
    const std::string name = weight_name(block, place);
    if (quantized_layer(source, name)) layers.push_back(source.checkpoint()->load(name));
  }
  if (layers.empty()) return {Joining::Dense};
  if (layers.size() < parts.places.size()) return {};
  const auto all = [&](auto&& like) {
    return std::all_of(layers.begin(), layers.end(),
                       [&](const auto& layer) { return like(layers[0], layer); });
  };
  const bool alike = all([](const auto& a, const auto& b) { return rotates_alike(a, b); });
  const bool same_code = all([](const auto& a, const auto& b) { return a.codebook() == b.codebook(); });
  return {alike && same_code ? Joining::Quantized : Joining::Apart, alike};
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

  std::shared_ptr<const gpu::DeviceBuffer<T>> dense(const std::string& name, std::int64_t rows,
                                                    std::int64_t cols) const {
    const auto out = std::make_shared<gpu::DeviceBuffer<T>>(static_cast<std::size_t>(rows * cols));
    const auto read = quantized_layer(source_, name)
                          ? rows_of(Embedding{source_.checkpoint()->load(name)}, executor_)
                          : rows_of(*source_.find(name), executor_);
    upload_rows<T>(name, read, {out->data(), rows, cols});
    return out;
  }

  SharedDeviceMatrix<T> matrix(const std::string& name, const Shape& shape) const {
    if (quantized_layer(source_, name)) return quantized_matrix<T>(source_.checkpoint()->load(name));
    return dense_matrix<T>(dense(name, shape[0], shape[1]), shape[0], shape[1]);
  }

  DeviceLinear<T> linear(std::int64_t block, Linear Block::* place) const {
    const ModelConfig& config = source_.require_config();
    const Part& part = part_at(place);
    const std::string name = weight_name(block, part);
    return {matrix(name, part.shape(config)), part.has_bias(config) ? floats(bias_name(name)) : nullptr};
  }

  // Each layer of a group as a matrix of its own.
  std::vector<DeviceLinear<T>> parts(std::int64_t block, const GroupParts& group) const {
    std::vector<DeviceLinear<T>> out;
    for (const auto place : group.places) out.push_back(linear(block, place));
    return out;
  }

  DeviceGroup<T> group(std::int64_t block, const GroupParts& group) const {
    const Joining joining = joining_of(source_, block, group);
    if (joining.as == Joining::Dense) return dense_group(block, group);
    DeviceGroup<T> out{.joined = {}, .parts = {}, .rotate_alike = joining.rotate_alike};
    if (joining.as == Joining::Quantized) out.joined.weight = joined(block, group);
    if (out.is_joined())
      out.joined.bias = joined_bias(block, group);
    else
      out.parts = parts(block, group);
    return out;
  }

  DeviceBlock<T> block(std::int64_t index) const {
    const ModelConfig& config = source_.require_config();
    DeviceBlock<T> out;
    for (const Part& part : block_parts())
      if (!part.is_linear() && !part.shape(config).empty())
        floats_of(out, std::get<std::vector<float> Block::*>(part.place)) = floats(weight_name(index, part));
    out.qkv = group(index, qkv_parts());
    out.o = linear(index, &Block::o);
    out.gate_up = group(index, gate_up_parts());
    out.down = linear(index, &Block::down);
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
    return dense_matrix<T>(config.tied_embeddings ? embedding : dense(name, config.vocabulary, config.width),
                           config.vocabulary, config.width);
  }

 private:
  static std::string bias_name(std::string weight) {
    return weight.replace(weight.size() - std::string_view("weight").size(), weight.npos, "bias");
  }

  // Row r of part i of a group is this row of them all.
  static std::int64_t joined_row(const GroupParts& group, std::int64_t begin, std::int64_t i,
                                 std::int64_t r) {
    return group.in_turn ? r * std::ssize(group.places) + i : begin + r;
  }

  // Dense layers in one buffer, which the matrices of each and of all share.
  DeviceGroup<T> dense_group(std::int64_t block, const GroupParts& group) const {
    const ModelConfig& config = source_.require_config();
    std::int64_t rows = 0, begin = 0, i = 0;
    for (const auto place : group.places) rows += part_at(place).shape(config)[0];
    const std::int64_t cols = part_at(group.places[0]).shape(config)[1],
                       step = group.in_turn ? cols * std::ssize(group.places) : cols;
    const auto buffer = std::make_shared<gpu::DeviceBuffer<T>>(static_cast<std::size_t>(rows * cols));
    DeviceGroup<T> out;
    for (const auto place : group.places) {
      const Part& part = part_at(place);
      const std::string name = weight_name(block, part);
      const gpu::DenseView<T> view(buffer->data() + joined_row(group, begin, i++, 0) * cols,
                                   part.shape(config)[0], cols, step);
      upload_rows<T>(name, rows_of(*source_.find(name), executor_), view);
      out.parts.push_back({dense_matrix<T>(buffer, gpu::DenseView<const T>(view)),
                           part.has_bias(config) ? floats(bias_name(name)) : nullptr});
      begin += view.rows;
    }
    out.joined = {dense_matrix<T>(buffer, rows, cols), joined_bias(block, group)};
    return out;
  }

  // Quantized layers of one code and rotation as one matrix; null where their scales are too far apart for that.
  SharedDeviceMatrix<T> joined(std::int64_t block, const GroupParts& group) const {
    std::vector<AnyQuantizedMatrix> layers;
    for (const auto place : group.places)
      layers.push_back(source_.checkpoint()->load(weight_name(block, place)));
    std::optional<AnyQuantizedMatrix> all;
    try {
      all = group.in_turn ? interleave_rows(layers[0], layers[1]) : concatenate_rows(layers);
    } catch (const InvalidArgument&) {
      return nullptr;
    }
    return quantized_matrix<T>(*all);
  }

  // The biases of all layers of a group in the order of their rows; null if none has one.
  SharedFloats joined_bias(std::int64_t block, const GroupParts& group) const {
    const ModelConfig& config = source_.require_config();
    std::int64_t rows = 0, begin = 0, i = 0;
    bool any = false;
    for (const auto place : group.places) {
      rows += part_at(place).shape(config)[0];
      any = any || part_at(place).has_bias(config);
    }
    if (!any) return nullptr;
    std::vector<float> all(static_cast<std::size_t>(rows));
    for (const auto place : group.places) {
      const Part& part = part_at(place);
      const std::int64_t count = part.shape(config)[0];
      std::vector<float> values(static_cast<std::size_t>(count));
      if (part.has_bias(config))
        read_finite_rows(*source_.find(bias_name(weight_name(block, part))), 0, 1, values);
      for (std::int64_t r = 0; r < count; ++r)
        all[static_cast<std::size_t>(joined_row(group, begin, i, r))] = values[static_cast<std::size_t>(r)];
      begin += count;
      ++i;
    }
    return std::make_shared<gpu::DeviceBuffer<float>>(std::span<const float>(all));
  }

  const ModelSource& source_;
  Executor& executor_;
};

}  // namespace

DeviceNeeds device_needs(const ModelSource& source, const DeviceOptions& options, const DecoderSize& size) {
  const ModelConfig& config = source.require_config();
  const std::int64_t table = config.vocabulary * config.width;
  const std::string output(config.tied_embeddings ? embedding_name : output_name);
  DeviceNeeds needs;
  LayerNeeds layers;
  const auto add = [&](std::int64_t bytes) {
    needs.weights += bytes;
    needs.rounding += rounding_of(bytes);
  };
  const auto add_rounded = [&](std::int64_t bytes) {
    add(bytes);
    needs.loading = std::max(needs.loading, bytes + rounding_of(bytes));
  };
  add(2 * table);  // the embedding
  const auto add_packed = [&](const std::string& name, std::int64_t rows, std::int64_t batch) {
    const PackedNeeds packed = packed_needs(source.checkpoint()->load(name), rows, batch);
    needs.weights += static_cast<std::int64_t>(packed.bytes);
    needs.rounding += packed.rounding;
    needs.loading = std::max(needs.loading, packed.loading);
    layers.products = largest(layers.products, {packed.workspace});
    return packed;
  };
  const auto add_layer = [&](std::int64_t block, Linear Block::* place) {
    const Part& part = part_at(place);
    const Shape shape = part.shape(config);
    const std::string name = weight_name(block, part);
    if (quantized_layer(source, name))
      add_packed(name, shape[0], size.rows);
    else
      add(2 * shape[0] * shape[1]);
  };
  const auto add_group = [&](std::int64_t block, const GroupParts& group) {
    const Joining joining = joining_of(source, block, group);
    std::int64_t rows = 0, biased_rows = 0;
    for (const auto place : group.places) {
      rows += part_at(place).shape(config)[0];
      if (part_at(place).has_bias(config)) biased_rows += part_at(place).shape(config)[0];
    }
    // Biases of dense layers are there twice, joined and apart.
    if (joining.as == Joining::Dense && biased_rows > 0) add(rows * static_cast<std::int64_t>(sizeof(float)));
    if (joining.as == Joining::Quantized) {
      add_packed(weight_name(block, group.places[0]), rows, size.rows);
      return joining;
    }
    for (const auto place : group.places) add_layer(block, place);
    if (joining.rotate_alike) {
      const PackedNeeds first =
          packed_needs(source.checkpoint()->load(weight_name(block, group.places[0])), 1, 1);
      layers.products =
          largest(layers.products, {0, 2 * static_cast<std::size_t>(size.rows * first.rotated_cols)});
    }
    return joining;
  };
  for (const NeededTensor& needed : needed_tensors(config))  // norms and biases
    if (needed.shape.size() == 1) add(needed.shape[0] * static_cast<std::int64_t>(sizeof(float)));
  for (std::int64_t block = 0; block < config.layers; ++block) {
    add_group(block, qkv_parts());
    add_layer(block, &Block::o);
    // A GEMM multiplies no gated product: many rows of the joined matrix take room for pairs.
    const bool apart = add_group(block, gate_up_parts()).as == Joining::Apart;
    const std::int64_t parts = apart ? 2 : has_gemm && size.rows >= gemm_from ? 3 : 1;
    layers.feed_parts = std::max(parts, layers.feed_parts);
    add_layer(block, &Block::down);
  }
  if (quantized_layer(source, output))
    add_packed(output, config.vocabulary, size.logit_rows);
  else if (options.round_output)
    add_rounded(table + table / 16);  // 8 bits a weight at most, and scales
  else if (!config.tied_embeddings)
    add(2 * table);
  const DeviceNeeds decoder = decoder_needs(config, size, layers);
  needs.cache = decoder.cache;
  needs.workspace = decoder.workspace;
  return needs;
}

template <class T>
DeviceWeights<T> load_device_weights(const ModelSource& source, const DeviceOptions& options,
                                     Executor& executor) {
  const ModelConfig& config = source.require_config();
  const Loader<T> loader(source, executor);
  DeviceWeights<T> out;
  out.overlap = options.overlap;
  if (out.overlap && !launches_can_overlap(gpu::current_device()))
    throw InvalidArgument(
        "launches can overlap on a GPU of compute capability 9.0 or later with code for it alone; "
        "-DCMAKE_CUDA_ARCHITECTURES=native builds for the GPU at hand");
  out.embedding = loader.dense(std::string(embedding_name), config.vocabulary, config.width);
  for (std::int64_t index = 0; index < config.layers; ++index) out.blocks.push_back(loader.block(index));
  out.norm = loader.floats("model.norm.weight");
  out.output.weight = loader.output(out.embedding, options);
  return out;
}

namespace {

// The matrix of a layer of a block, for it to be replaced. The layers of a group come apart.
template <class T>
SharedDeviceMatrix<T>& replaceable(DeviceBlock<T>& block, std::int64_t index, Linear Block::* place,
                                   const Loader<T>& loader) {
  if (place == &Block::o) return block.o.weight;
  if (place == &Block::down) return block.down.weight;
  const bool in_qkv = place != &Block::gate && place != &Block::up;
  const GroupParts& parts = in_qkv ? qkv_parts() : gate_up_parts();
  DeviceGroup<T>& group = in_qkv ? block.qkv : block.gate_up;
  if (group.parts.empty()) group.parts = loader.parts(index, parts);
  group.joined = {};
  group.rotate_alike = false;
  const auto at = std::find(parts.places.begin(), parts.places.end(), place);
  if (at == parts.places.end())
    throw InvalidArgument(
        "higgs::model::replace_matrix: a GPU has no place for this linear layer of a block");
  return group.parts[static_cast<std::size_t>(at - parts.places.begin())].weight;
}

}  // namespace

template <class T>
void replace_matrix(DeviceWeights<T>& weights, const ModelSource& source, Executor& executor,
                    std::string_view matrix, const Replacement& replacement) {
  const ModelConfig& config = source.require_config();
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
      const auto table =
          std::make_shared<gpu::DeviceBuffer<T>>(static_cast<std::size_t>(config.vocabulary * config.width));
      const Embedding quantized{std::get<AnyQuantizedMatrix>(replacement)};
      upload_rows<T>(name, rows_of(quantized, executor), {table->data(), config.vocabulary, config.width});
      weights.embedding = table;
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
    const Loader<T> loader(source, executor);
    replaceable(weights.blocks[each.block], static_cast<std::int64_t>(each.block),
                std::get<Linear Block::*>(each.part->place), loader) = on_device();
    return;
  }
  throw InvalidArgument("the model has no matrix \"" + name + "\"");
}

template DeviceWeights<Half> load_device_weights(const ModelSource&, const DeviceOptions&, Executor&);
template DeviceWeights<BFloat16> load_device_weights(const ModelSource&, const DeviceOptions&, Executor&);
template void replace_matrix(DeviceWeights<Half>&, const ModelSource&, Executor&, std::string_view,
                             const Replacement&);
template void replace_matrix(DeviceWeights<BFloat16>&, const ModelSource&, Executor&, std::string_view,
                             const Replacement&);

}  // namespace higgs::model
