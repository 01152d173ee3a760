// SPDX-License-Identifier: Apache-2.0
// A model on disk: a GGUF file, a safetensors file, a Hugging Face folder, or a higgs checkpoint of one of
// them.
#pragma once

#include "architecture/config.hpp"
#include "tokenizer/tokenizer.hpp"

#include <higgs/store/checkpoint.hpp>
#include <higgs/store/gguf.hpp>
#include <higgs/store/tensor_source.hpp>

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace higgs::model {

/// A tensor under the name that Hugging Face gives it, with rows in Hugging Face's order.
struct ModelTensor {
  std::string name;  // "model.layers.0.self_attn.q_proj.weight"
  const SourceTensor* stored = nullptr;
  /// GGUF keeps the two halves of each Llama head interleaved: row 2 j + s of a head is row s * width / 2 +
  /// j here. The width of a head then, 0 otherwise.
  std::int64_t interleaved = 0;

  std::int64_t rows() const noexcept { return stored->rows(); }
  std::int64_t cols() const noexcept { return stored->cols(); }
  bool is_matrix() const noexcept { return stored->shape.size() == 2; }
  /// Writes rows [first, first + count) as floats. Throws FormatError for a type that has no decoder.
  void read_rows(std::int64_t first, std::int64_t count, std::span<float> out) const;
};

/// Opens a model and says what is in it. Throws FormatError or IoError, which name the file and what is
/// wrong.
class ModelSource {
 public:
  explicit ModelSource(const std::filesystem::path& path);

  const std::filesystem::path& path() const noexcept { return path_; }
  /// None for a lone safetensors file, and for an architecture that is not supported.
  const std::optional<ModelConfig>& config() const noexcept { return config_; }
  /// Why the model cannot run as its configuration says, in a sentence that names file and tensor: an architecture
  /// that is not supported, a tensor that is missing, of another shape, of a type that cannot be read, or of numbers
  /// that are not finite. Empty if it can, or if there is no configuration. The tensors can be listed all the same.
  const std::string& problem() const noexcept { return problem_; }
  /// Throws FormatError if there is a problem(). Everything that works on the tensors of a model asks this first;
  void require_sound() const;
  /// what runs the model asks this: throws FormatError if there is a problem or no configuration.
  const ModelConfig& require_config() const;
  /// Throws FormatError if the model brings no tokenizer, or one of a kind that is not supported.
  Vocabulary vocabulary() const;
  /// The folder of config.json and its companions; none for GGUF and lone files.
  const std::optional<std::filesystem::path>& folder() const noexcept { return folder_; }

  /// All tensors that are stored as they are, in the order of the file; tensors of quantized layers are not
  /// among them, nor divisors of rotary frequencies, which config() holds.
  const std::vector<ModelTensor>& tensors() const noexcept { return tensors_; }
  /// Null if there is no tensor of that name.
  const ModelTensor* find(std::string_view name) const noexcept;
  /// What the file calls a tensor: in GGUF the name is another.
  std::string stored_name(std::string_view name) const;
  /// The quantized layers, if this is a higgs checkpoint.
  const Checkpoint* checkpoint() const noexcept { return checkpoint_ ? &*checkpoint_ : nullptr; }

 private:
  void open_gguf(std::shared_ptr<const MappedFile> file);
  void open_safetensors();
  void read_folder(const std::filesystem::path& folder);
  void add(std::string name, const SourceTensor& stored, std::int64_t interleaved);
  void settle_embeddings();

  std::filesystem::path path_;
  std::optional<std::filesystem::path> folder_;
  std::optional<ModelConfig> config_;
  std::string problem_;
  std::vector<GgufFile> gguf_;  // the parts
  std::optional<Checkpoint> checkpoint_;
  std::unique_ptr<TensorSource> source_;
  std::vector<ModelTensor> tensors_;
  std::map<std::string, std::size_t, std::less<>> index_;
};

/// The whole of a file. Throws IoError if it cannot be read.
std::string read_text(const std::filesystem::path& path);
/// Replaces a file, as a whole or not at all. Throws IoError if it cannot be written.
void write_text(const std::filesystem::path& path, const std::string& text);

}  // namespace higgs::model
