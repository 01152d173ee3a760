// SPDX-License-Identifier: Apache-2.0
#include "source/load.hpp"

#include "math/math.hpp"

#include <higgs/core/error.hpp>

#include <filesystem>
#include <set>
#include <string_view>
#include <utility>
#include <variant>

namespace higgs::model {
namespace {

std::string shape_text(const Shape& shape) {
  std::string out;
  for (const std::int64_t extent : shape) out += (out.empty() ? "" : " x ") + std::to_string(extent);
  return out.empty() ? "a scalar" : out;
}

const CheckpointLayer* layer_of(const ModelSource& source, std::string_view name) {
  return source.checkpoint() ? source.checkpoint()->find_layer(name) : nullptr;
}

// What is wrong with one tensor; empty if nothing is.
std::string problem_with(const ModelSource& source, const NeededTensor& needed) {
  const auto say = [&](const std::filesystem::path& file, const std::string& what) {
    return file.string() + ": tensor \"" + source.stored_name(needed.name) + "\" " + what;
  };
  const auto wrong_shape = [&](const Shape& shape) {
    return "is " + shape_text(shape) + " where the configuration asks for " + shape_text(needed.shape);
  };
  if (const CheckpointLayer* layer = layer_of(source, needed.name)) {
    const Shape shape{layer->layout.rows, layer->layout.cols};
    if (shape != needed.shape) return say(source.path(), wrong_shape(shape));
    return layer->shipped
               ? ""
               : say(source.path(), "has the codebook \"" + layer->codebook + "\", which is unknown");
  }
  const ModelTensor* tensor = source.find(needed.name);
  if (!tensor) return say(source.path(), "is missing");
  const std::filesystem::path& file = tensor->stored->owner->path();
  if (tensor->stored->shape != needed.shape) return say(file, wrong_shape(tensor->stored->shape));
  try {
    tensor->stored->require_readable();
    if (needed.shape.size() == 2) return "";
    std::vector<float> values(static_cast<std::size_t>(tensor->cols()));
    read_finite_rows(*tensor, 0, 1, values);
  } catch (const FormatError& error) {
    return error.what();
  }
  return "";
}

// Reads the tensors that visit_block() and its like describe.
class Loader {
 public:
  Loader(const ModelSource& source, Executor& executor) : source_(source), executor_(executor) {}

  void operator()(const std::string& name, const Shape&, std::vector<float>& place) const {
    place = read(name).values;
  }
  void operator()(const std::string& name, const Shape&,
                  std::variant<SharedMatrix, PackedMatrix>& place) const {
    if (layer_of(source_, name))
      place = PackedMatrix(source_.checkpoint()->load(name), executor_);
    else
      place = share(read(name));
  }
  void operator()(const std::string& name, const Shape&,
                  std::variant<SharedMatrix, AnyQuantizedMatrix>& place) const {
    if (layer_of(source_, name))
      place = source_.checkpoint()->load(name);
    else
      place = share(read(name));
  }

 private:
  Matrix read(const std::string& name) const {
    const ModelTensor& tensor = *source_.find(name);  // is there, or the source would have a problem
    Matrix out(tensor.rows(), tensor.cols());
    parallel_for(executor_, out.rows, 64, [&](std::int64_t begin, std::int64_t end) {
      read_finite_rows(tensor, begin, end - begin,
                       {out.row(begin), static_cast<std::size_t>((end - begin) * out.cols)});
    });
    return out;
  }

  const ModelSource& source_;
  Executor& executor_;
};

// The output layer of a model whose embedding is that too.
std::variant<SharedMatrix, PackedMatrix> output_of(const Embedding& embedding, Executor& executor) {
  if (const auto* dense = std::get_if<SharedMatrix>(&embedding.weight)) return *dense;
  return PackedMatrix(std::get<AnyQuantizedMatrix>(embedding.weight), executor);
}

}  // namespace

std::string problem_of(const ModelSource& source, const ModelConfig& config) {
  const std::vector<NeededTensor> all = needed_tensors(config);
  std::string first;
  std::size_t count = 0;
  for (const NeededTensor& needed : all) {
    const std::string problem = problem_with(source, needed);
    if (problem.empty()) continue;
    if (first.empty()) first = problem;
    ++count;
  }
  if (count <= 1) return first;
  return first + "; in all, " + std::to_string(count) + " of the " + std::to_string(all.size()) +
         " tensors of the model are missing or wrong";
}

std::vector<std::string> unused_tensors(const ModelSource& source) {
  if (!source.config()) return {};
  std::set<std::string, std::less<>> used;
  for (NeededTensor& needed : needed_tensors(*source.config())) used.insert(std::move(needed.name));
  if (source.config()->tied_embeddings) used.insert(std::string(output_name));  // equals the embedding
  std::vector<std::string> out;
  for (const ModelTensor& tensor : source.tensors()) {
    const bool repeats_config = tensor.name.ends_with(".rotary_emb.inv_freq");  // in Llama 2 and older
    if (!used.contains(tensor.name) && !repeats_config) out.push_back(tensor.stored->name);
  }
  if (source.checkpoint())
    for (const CheckpointLayer& layer : source.checkpoint()->layers())
      if (!used.contains(layer.name)) out.push_back(layer.name);
  return out;
}

void read_finite_rows(const ModelTensor& tensor, std::int64_t first, std::int64_t count,
                      std::span<float> out) {
  tensor.read_rows(first, count, out);
  const std::int64_t at = find_not_finite(out.data(), std::ssize(out));
  if (at < 0) return;
  const SourceTensor& stored = *tensor.stored;
  const std::int64_t cols = tensor.cols();
  throw FormatError(stored.owner->path().string() + ": tensor \"" + stored.name + "\" holds " +
                    std::to_string(out[static_cast<std::size_t>(at)]) + " in row " +
                    std::to_string(first + at / cols) + ", column " + std::to_string(at % cols));
}

Block load_block(const ModelSource& source, std::int64_t index, Executor& executor) {
  Block block;
  visit_block(source.require_config(), index, block, Loader(source, executor));
  return block;
}

std::vector<float> load_norm(const ModelSource& source, Executor& executor) {
  std::vector<float> norm;
  visit_norm(source.require_config(), norm, Loader(source, executor));
  return norm;
}

Linear load_output(const ModelSource& source, Executor& executor) {
  const ModelConfig& config = source.require_config();
  const Shape shape{config.vocabulary, config.width};
  Loader load(source, executor);
  Linear out;
  if (config.tied_embeddings) {
    Embedding embedding;
    load(std::string(embedding_name), shape, embedding.weight);
    out.weight = output_of(embedding, executor);
  } else {
    load(std::string(output_name), shape, out.weight);
  }
  return out;
}

Weights load_weights(const ModelSource& source, Executor& executor) {
  const ModelConfig& config = source.require_config();
  Weights out;
  visit_model(config, out, Loader(source, executor));
  if (config.tied_embeddings) out.output.weight = output_of(out.embedding, executor);
  return out;
}

}  // namespace higgs::model
