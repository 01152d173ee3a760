// SPDX-License-Identifier: Apache-2.0
#include "source/source.hpp"

#include "architecture/config_reading.hpp"
#include "architecture/families.hpp"
#include "architecture/parts.hpp"
#include "source/load.hpp"

#include <higgs/core/error.hpp>

#include <algorithm>
#include <system_error>
#include <utility>

namespace higgs::model {
namespace {

std::string text_of(const GgufFile& file, std::string_view key) {
  const GgufValue* value = file.value(key);
  const auto* text = value ? std::get_if<std::string_view>(value) : nullptr;
  return text ? std::string(*text) : std::string();
}

// Whether a folder lists that file. A link to nothing counts: reading it is an error, not a default.
bool is_listed(const std::filesystem::path& file) {
  std::error_code ignored;
  return std::filesystem::exists(std::filesystem::symlink_status(file, ignored));
}

// Whether the rows of a tensor, or the numbers of a bias, belong to heads that rotary positions turn.
bool is_rotary(std::string_view name) {
  return std::ranges::any_of(block_parts(), [&](const Part& part) {
    return part.rotary && name.find("." + std::string(part.name) + ".") != name.npos;
  });
}

// Whether two tensors hold the same numbers.
bool equal(const SourceTensor& a, const SourceTensor& b) {
  if (a.shape != b.shape) return false;
  if (a.dtype == b.dtype && a.copyable() && b.copyable())
    return std::equal(a.data.begin(), a.data.end(), b.data.begin(), b.data.end());
  if (!a.readable() || !b.readable()) return false;
  std::vector<float> x(static_cast<std::size_t>(a.cols())), y(x.size());
  for (std::int64_t row = 0; row < a.rows(); ++row) {
    a.read_rows(row, 1, x);
    b.read_rows(row, 1, y);
    if (x != y) return false;
  }
  return true;
}

// Whether scales of 8-bit floats lie over a tensor in blocks of these rows and columns.
bool lie_in_blocks(const SourceTensor& tensor, const std::vector<std::int64_t>& block) {
  const BlockScales& scales = *tensor.scales;
  const auto fits = [](std::int64_t extent, std::int64_t wanted, std::int64_t count, std::int64_t length) {
    return count == (extent + wanted - 1) / wanted && (count <= 1 || length == wanted);
  };
  return fits(scales.matrix_rows, block[0], scales.rows, scales.block_rows) &&
         fits(tensor.cols(), block[1], scales.cols, scales.block_cols);
}

// What is wrong with the scales of 8-bit floats; empty if nothing is. A model has them for all its matrices or for none,
// in the blocks that config.json names, if it does.
std::string problem_of_scales(const std::vector<ModelTensor>& tensors,
                              const std::optional<ModelConfig>& config,
                              const std::optional<std::filesystem::path>& folder) {
  std::string reason;  // why there must be scales
  for (const ModelTensor& tensor : tensors)
    if (tensor.stored->scales) reason = "those of \"" + tensor.stored->name + "\" are there";
  if (config && !config->quantization.empty()) reason = "quantization_config is " + config->quantization;
  if (reason.empty()) return "";
  std::vector<std::int64_t> block;
  if (config && folder)
    block = read_scale_block(read_text(*folder / "config.json"), (*folder / "config.json").string());
  for (const ModelTensor& tensor : tensors) {
    const SourceTensor& stored = *tensor.stored;
    const std::string place = stored.owner->path().string() + ": tensor \"" + stored.name + "\"";
    if (!stored.scales && tensor.is_matrix() && stored.readable() && stored.dtype.starts_with("F8"))
      return place + " is " + stored.dtype + ", but its scales are missing, and " + reason;
    if (stored.scales && !block.empty() && !lie_in_blocks(stored, block))
      return place + " has " + std::to_string(stored.scales->rows) + " x " +
             std::to_string(stored.scales->cols) + " scales, which are not those of blocks of " +
             std::to_string(block[0]) + " x " + std::to_string(block[1]) +
             ", which weight_block_size of config.json asks for";
  }
  return "";
}

}  // namespace

std::string read_text(const std::filesystem::path& path) {
  const auto file = MappedFile::open(path);
  return {reinterpret_cast<const char*>(file->bytes().data()), file->bytes().size()};
}

void write_text(const std::filesystem::path& path, const std::string& text) {
  FileWriter file(path, text.size());
  file.write(0, {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()});
  file.commit();
}

void ModelTensor::read_rows(std::int64_t first, std::int64_t count, std::span<float> out) const {
  if (interleaved == 0) return stored->read_rows(first, count, out);
  const auto stored_index = [&](std::int64_t i) {
    const std::int64_t head = i / interleaved, within = i % interleaved, half = interleaved / 2;
    return head * interleaved + within % half * 2 + within / half;
  };
  if (stored->shape.size() == 1) {  // a bias, which read_rows() sees as one row
    std::vector<float> values(out.size());
    stored->read_rows(first, count, values);
    for (std::size_t i = 0; i < values.size(); ++i)
      out[i] = values[static_cast<std::size_t>(stored_index(static_cast<std::int64_t>(i)))];
    return;
  }
  const auto width = static_cast<std::size_t>(cols());
  for (std::int64_t i = 0; i < count; ++i)
    stored->read_rows(stored_index(first + i), 1, out.subspan(static_cast<std::size_t>(i) * width, width));
}

ModelSource::ModelSource(const std::filesystem::path& path) : path_(path) {
  std::shared_ptr<const MappedFile> file;
  if (std::filesystem::is_regular_file(path) && path.extension() != ".json") file = MappedFile::open(path);
  if (file && GgufFile::has_magic(file->bytes()))
    open_gguf(std::move(file));
  else
    open_safetensors();
  if (problem_.empty()) problem_ = problem_of_scales(tensors_, config_, folder_);
  if (!config_) return;
  settle_embeddings();
  if (problem_.empty()) problem_ = problem_of(*this, *config_);
}

void ModelSource::open_gguf(std::shared_ptr<const MappedFile> file) {
  gguf_ = GgufFile::open_parts(std::move(file));
  source_ = std::make_unique<TensorSource>(gguf_);
  try {
    config_ = read_config(gguf_.front(), *source_, gguf_.front().path().string());
  } catch (const UnsupportedArchitecture& error) {
    problem_ = error.what();
  }
  const Family* family = find_family(&Family::gguf, text_of(gguf_.front(), "general.architecture"));
  const bool interleaves = config_ && family && family->interleaved;
  for (const SourceTensor& each : source_->tensors()) {
    const bool in_config = each.name == "rope_freqs.weight" || each.name == "rope_factors_short.weight" ||
                           each.name == "rope_factors_long.weight";
    if (config_ && in_config) continue;
    const std::string name = hugging_face_name(each.name);
    const std::int64_t length = each.shape.size() == 1 ? each.cols() : each.rows();
    const bool interleaved = interleaves && is_rotary(name) && length % config_->head_width == 0;
    add(name, each, interleaved ? config_->head_width : 0);
  }
}

void ModelSource::open_safetensors() {
  Safetensors file(path_);
  source_ = std::make_unique<TensorSource>(file);
  const auto folder = std::filesystem::is_directory(path_) ? path_ : path_.parent_path();
  if (is_listed(folder / "config.json")) read_folder(folder);
  if (Checkpoint::recognizes(file)) {
    checkpoint_.emplace(std::move(file), path_.string());
    for (const StoredTensor& each : checkpoint_->tensors()) {
      const SourceTensor& stored = source_->at(each.name);
      // What a GGUF file said of rotary positions.
      if (config_ && each.name == "rope_freqs.weight")
        divide_frequencies(*config_, stored);
      else
        add(each.name, stored, 0);
    }
    return;
  }
  // A decoder that was saved without its output layer has names without the part "model.".
  const auto starts = [](std::string_view begin) {
    return [begin](const SourceTensor& each) { return each.name.starts_with(begin); };
  };
  const std::vector<SourceTensor>& all = source_->tensors();
  const bool bare = config_ && std::any_of(all.begin(), all.end(), starts("layers.")) &&
                    std::none_of(all.begin(), all.end(), starts("model."));
  for (const SourceTensor& each : all)
    add(bare && !each.name.starts_with("lm_head.") ? "model." + each.name : each.name, each, 0);
}

void ModelSource::read_folder(const std::filesystem::path& folder) {
  folder_ = folder;
  const auto file = folder / "config.json";
  try {
    config_ = read_config(read_text(file), file.string());
  } catch (const UnsupportedArchitecture& error) {
    problem_ = error.what();
    return;
  }
  if (const auto more = folder / "generation_config.json"; is_listed(more))
    add_end_tokens(*config_, read_text(more), more.string());
  const std::string& how = config_->quantization;
  if (!how.empty() && how != "fp8" && how != "compressed-tensors float-quantized")
    problem_ = file.string() + ": quantization_config says that the weights are quantized already (" + how +
               "), in a way that cannot be read here; start from the original model";
}

void ModelSource::add(std::string name, const SourceTensor& stored, std::int64_t interleaved) {
  if (!index_.emplace(name, tensors_.size()).second)
    throw FormatError(path_.string() + ": two tensors are called \"" + name + "\"");
  tensors_.push_back({std::move(name), &stored, interleaved});
}

// Embeddings are tied as transformers ties them: by the configuration, unless the file holds an output layer that
// differs; and the one that is there stands for both.
void ModelSource::settle_embeddings() {
  if (!config_->tied_embeddings) return;
  const auto is_layer = [&](std::string_view name) { return checkpoint_ && checkpoint_->find_layer(name); };
  if (is_layer(output_name)) config_->tied_embeddings = false;
  const auto output = index_.find(output_name);
  if (output == index_.end()) return;
  if (is_layer(embedding_name)) {
    config_->tied_embeddings = false;
  } else if (const ModelTensor* embedding = find(embedding_name)) {
    config_->tied_embeddings = equal(*embedding->stored, *tensors_[output->second].stored);
  } else {
    tensors_[output->second].name = embedding_name;
    index_.emplace(embedding_name, output->second);
    index_.erase(output);
  }
}

const ModelTensor* ModelSource::find(std::string_view name) const noexcept {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &tensors_[found->second];
}

std::string ModelSource::stored_name(std::string_view name) const {
  if (const ModelTensor* tensor = find(name)) return tensor->stored->name;
  return gguf_.empty() ? std::string(name) : gguf_name(name);
}

void ModelSource::require_sound() const {
  if (!problem_.empty()) throw FormatError(problem_);
}

const ModelConfig& ModelSource::require_config() const {
  require_sound();
  if (!config_)
    throw FormatError(path_.string() + ": has no config.json beside it, so it is no model that can run");
  return *config_;
}

Vocabulary ModelSource::vocabulary() const {
  if (!gguf_.empty()) return read_vocabulary(gguf_.front(), path_.string());
  if (folder_)
    if (const auto file = *folder_ / "tokenizer.json"; is_listed(file))
      return read_tokenizer_folder(*folder_);
  throw FormatError(path_.string() + ": has no tokenizer.json beside it");
}

}  // namespace higgs::model
