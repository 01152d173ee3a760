// SPDX-License-Identifier: Apache-2.0
#include "quantize/outline.hpp"

#include "architecture/parts.hpp"
#include "quantize/sizes.hpp"
#include "source/load.hpp"
#include "source/model_files.hpp"
#include "source/pieces.hpp"
#include "terminal/output.hpp"

#include <higgs/codes/registry.hpp>
#include <higgs/core/error.hpp>
#include <higgs/store/checkpoint.hpp>
#include <higgs/store/mapped_file.hpp>
#include <higgs/store/safetensors.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <initializer_list>
#include <limits>
#include <system_error>
#include <type_traits>
#include <utility>

#if __has_include(<unistd.h>)
#  include <unistd.h>
#endif

namespace higgs::model {
namespace {

// A float beyond which F16 has only infinity.
constexpr float largest_half = 65504;

bool is_writable(const std::filesystem::path& folder) {
#if __has_include(<unistd.h>)
  return ::access(folder.c_str(), W_OK | X_OK) == 0;
#else
  return true;  // making the files will tell
#endif
}

// Whether it is an embedding that no output layer shares.
bool is_lookup_only(const ModelSource& source, Role role) {
  return role == Role::Embedding && source.config() && !source.config()->tied_embeddings;
}

bool is_checkpoint(const std::filesystem::path& file) {
  try {
    return Checkpoint::recognizes(Safetensors(file));
  } catch (const FormatError&) {
    return false;
  }
}

// Throws InvalidArgument if the folder holds weights that higgs did not write, which would be lost, or a companion that
// this model brings no other for: it would be read beside the new weights.
void require_replaceable(const ModelSource& source, const std::filesystem::path& folder) {
  for (const std::filesystem::path& file : model_files(folder)) {
    const std::string name = file.filename().string();
    if (name == "model.safetensors" && is_checkpoint(file)) continue;
    if (name.find(".safetensors") != name.npos)
      throw InvalidArgument(file.string() +
                            ": is of a model that higgs did not quantize; choose another folder");
    const bool brought = source.folder()
                             ? std::filesystem::exists(*source.folder() / name)
                             : source.config() && (name == "config.json" || name == "tokenizer.json");
    if (!brought)
      throw InvalidArgument(file.string() + ": is of another model and would be read beside " +
                            source.path().string() + ", which has none; remove it or choose another folder");
  }
}

std::string place_of(const ModelSource& source, const ModelTensor& tensor) {
  return source.path().string() + ": tensor \"" + tensor.name + "\"";
}

// The largest magnitude in a tensor. Throws FormatError if a weight is NaN or infinite.
float check_tensor(const ModelTensor& tensor, Executor& executor) {
  constexpr std::int64_t chunk = 1 << 14;
  float most = 0;
  for_pieces(tensor, [&](std::int64_t first, MatrixView<const float> piece) {
    std::vector<float> largest(static_cast<std::size_t>((piece.size() + chunk - 1) / chunk));
    parallel_for(executor, piece.size(), chunk, [&](std::int64_t begin, std::int64_t end) {
      float here = 0;
      for (std::int64_t i = begin; i < end; ++i)
        here = std::isfinite(piece.data[i]) ? std::max(here, std::fabs(piece.data[i]))
                                            : std::numeric_limits<float>::infinity();
      largest[static_cast<std::size_t>(begin / chunk)] = here;
    });
    for (const float each : largest) most = std::max(most, each);
    if (std::isfinite(most)) return;
    std::vector<float> again(static_cast<std::size_t>(piece.size()));
    read_finite_rows(tensor, first, piece.rows, again);  // says where
  });
  return most;
}

// The type that a tensor is kept in: its own where safetensors has it. GGUF's blocks of few bits and 8-bit floats with
// scales become F16, whose rounding is far below theirs, unless a weight is too large for it.
DType kept_dtype(const ModelTensor& tensor, Executor& executor) {
  const auto own = dtype_named(tensor.stored->dtype);
  if (own && tensor.stored->copyable()) return tensor.interleaved == 0 ? *own : DType::F32;
  tensor.stored->require_readable();
  return check_tensor(tensor, executor) <= largest_half ? DType::F16 : DType::F32;
}

// Whether its weights were rounded to few bits already.
bool is_coarse(const ModelTensor& tensor) {
  const std::string& dtype = tensor.stored->dtype;
  return tensor.stored->readable() && (!dtype_named(dtype) || dtype.starts_with("F8"));
}

// "3 tensors, 57 MB: first, ..."
class Listing {
 public:
  void add(const std::string& name, std::int64_t bytes) {
    if (count_++ == 0) first_ = name;
    bytes_ += bytes;
  }
  bool empty() const noexcept { return count_ == 0; }
  std::string text() const {
    return counted(count_, "tensor") + ", " + with_bytes(bytes_) + ": " + first_ +
           (count_ > 1 ? ", ..." : "");
  }

 private:
  std::int64_t count_ = 0, bytes_ = 0;
  std::string first_;
};

class Outliner {
 public:
  Outliner(const ModelSource& source, const QuantizeRequest& request) : source_(source), request_(request) {}

  Outline outline() {
    const std::string name = source_.path().string();
    if (source_.checkpoint()) throw InvalidArgument(name + ": is quantized already");
    source_.require_sound();
    for (const ModelTensor& tensor : source_.tensors()) {
      out_.weights += tensor.rows() * tensor.cols();
      if (source_.config() && source_.config()->tied_embeddings && tensor.name == output_name) {
        note("left out: " + tensor.name + ", which equals the embedding");
        continue;
      }
      const Role role = role_of(source_, tensor);
      const std::string codebook = codebook_of(tensor, role);
      if (codebook == keep_codebook)
        keep(tensor, role);
      else
        take(tensor, role, codebook);
    }
    if (out_.matrices.empty())
      throw InvalidArgument(name + ": has no matrix to quantize" + stacked_experts());
    find_sharing();
    for (Outline::Matrix& matrix : out_.matrices) lay_out(matrix);
    for (const auto& [layer, codebook] : request_.codebooks)
      if (std::none_of(out_.matrices.begin(), out_.matrices.end(),
                       [&](const Outline::Matrix& matrix) { return matrix.tensor->name == layer; }))
        throw InvalidArgument(name + ": has no matrix \"" + layer +
                              "\" to quantize, for which there is a codebook");
    out_.file_bytes = contents_of(out_, request_).file_bytes();
    note_source();
    note_unused();
    note_kept();
    note_layouts();
    return std::move(out_);
  }

 private:
  std::string codebook_of(const ModelTensor& tensor, Role role) const {
    const bool matrix = tensor.is_matrix() && tensor.rows() > 0 && tensor.cols() > 0;
    if (role == Role::Other || !matrix || (request_.skip && std::regex_search(tensor.name, *request_.skip)))
      return std::string(keep_codebook);
    const auto own = request_.codebooks.find(tensor.name);
    if (own != request_.codebooks.end()) return own->second;
    if (role == Role::Linear) return request_.codebook;
    const std::string& asked = role == Role::Embedding ? request_.embedding : request_.output;
    return asked.empty() ? default_code(source_, role, request_.codebook) : asked;
  }

  void take(const ModelTensor& tensor, Role role, const std::string& codebook) {
    tensor.stored->require_readable();
    out_.matrices.push_back({&tensor, role, codebook, {}, {}, 0});
  }

  void find_sharing() {
    std::map<std::string_view, const ModelTensor*> taken;
    for (const Outline::Matrix& matrix : out_.matrices) taken.emplace(matrix.tensor->name, matrix.tensor);
    for (Outline::Matrix& matrix : out_.matrices) {
      for (const BlockLinear& layer : sharing_layers(matrix.tensor->name, request_.sharing))
        if (const auto found = taken.find(layer.name);
            found != taken.end() && found->second->cols() == matrix.tensor->cols())
          matrix.sharing.push_back(found->second);
      if (matrix.sharing.empty()) matrix.sharing.push_back(matrix.tensor);
    }
  }

  void lay_out(Outline::Matrix& matrix) const {
    const ModelTensor& tensor = *matrix.tensor;
    const QuantizeOptions options = options_for(source_, matrix.role, request_.options, request_.calibrated);
    std::int64_t sharing_rows = 0;
    for (const ModelTensor* each : matrix.sharing) sharing_rows += each->rows();
    with_shipped_code(matrix.codebook, [&]<class Book>(std::type_identity<Book>) {
      try {
        matrix.layout = shared_layout(tensor.rows(), sharing_rows, tensor.cols(), Book::dim, options);
      } catch (const InvalidArgument& error) {
        throw InvalidArgument(place_of(source_, tensor) + ": " + error.what());
      }
      matrix.bytes = code_bytes<Book>(matrix.layout);
    });
  }

  void keep(const ModelTensor& tensor, Role role) {
    Outline::Kept kept{&tensor, role, kept_dtype(tensor, default_executor()), 0};
    kept.bytes = static_cast<std::int64_t>(
        TensorShape{tensor.name, kept.dtype, tensor.stored->shape}.bytes().value_or(0));
    out_.kept.push_back(kept);
  }

  void note(std::string text) { out_.notes.push_back(std::move(text)); }

  void note_source() {
    std::map<std::string, std::int64_t> coarse;  // weights by type
    for (const Outline::Matrix& matrix : out_.matrices)
      if (is_coarse(*matrix.tensor)) coarse[matrix.tensor->stored->dtype] += matrix.weights();
    if (!coarse.empty()) {
      const auto most = std::max_element(coarse.begin(), coarse.end(),
                                         [](const auto& a, const auto& b) { return a.second < b.second; });
      note("the weights are " + most->first +
           " already: the errors of both roundings add up; take the F16 or BF16 model where there is one");
    }
    if (source_.config()) return;
    std::int64_t by_role[4] = {};
    for (const Outline::Matrix& matrix : out_.matrices) ++by_role[static_cast<int>(matrix.role)];
    const auto of = [&](Role role) { return std::to_string(by_role[static_cast<int>(role)]); };
    note("there is no config.json, so names decide: " +
         counted(static_cast<std::int64_t>(out_.matrices.size()), "matrix", "matrices") + " from " +
         out_.matrices.front().tensor->name + " on are quantized, among them " + of(Role::Embedding) +
         " that look like embeddings and " + of(Role::Output) +
         " like output layers; neither a configuration nor a tokenizer is written");
  }

  // What to add where nothing can be quantized because matrices lie in stacks.
  std::string stacked_experts() const {
    std::int64_t stacks = 0, weights = 0;
    for (const ModelTensor& tensor : source_.tensors())
      if (tensor.stored->shape.size() > 2) ++stacks, weights += tensor.rows() * tensor.cols();
    return stacks == 0 ? ""
                       : "; " + counted(stacks, "tensor") +
                             " of more than two extents (stacked experts) hold " + std::to_string(weights) +
                             " of " + std::to_string(out_.weights) + " weights, and stacks are not supported";
  }

  void note_unused() {
    out_.unused = unused_tensors(source_);
    if (!out_.unused.empty())
      note("the model has no use for " + counted(std::ssize(out_.unused), "tensor") +
           ", kept as stored: " + out_.unused.front() + (out_.unused.size() > 1 ? ", ..." : ""));
  }

  void note_kept() {
    Listing listing;
    for (const Outline::Kept& kept : out_.kept)
      if (kept.tensor->stored->shape.size() >= 2) listing.add(kept.tensor->name, kept.bytes);
    if (!listing.empty()) note("left as they are: " + listing.text());
  }

  // Where a matrix is not cut as was asked, and what that costs.
  void note_layouts() {
    std::int64_t other_groups = 0, padded = 0, weights = 0, more = 0;
    const CodeLayout *regrouped = nullptr, *widest = nullptr;
    for (const Outline::Matrix& matrix : out_.matrices) {
      const CodeLayout& layout = matrix.layout;
      if (layout.group != request_.options.group && layout.block > request_.options.group) {
        ++other_groups;
        if (!regrouped) regrouped = &layout;
      }
      weights += matrix.weights();
      if (layout.padded_cols() == layout.cols) continue;
      ++padded;
      more += layout.rows * (layout.padded_cols() - layout.cols);
      if (!widest) widest = &layout;
    }
    if (regrouped)
      note("groups of " + std::to_string(request_.options.group) + " become groups of " +
           std::to_string(regrouped->group) + " in " + counted(other_groups, "matrix", "matrices") +
           ": a group divides its block, which is " + std::to_string(regrouped->block));
    if (widest) {
      char percent[32];
      std::snprintf(percent, sizeof percent, "%.1f",
                    100 * static_cast<double>(more) / static_cast<double>(weights));
      note("blocks of " + std::to_string(widest->block) + " pad " + std::to_string(widest->cols) +
           " columns to " + std::to_string(widest->padded_cols()) + " in " +
           counted(padded, "matrix", "matrices") + ": " + percent + " % more codes in all");
    }
  }

  const ModelSource& source_;
  const QuantizeRequest& request_;
  Outline out_;
};

}  // namespace

Role role_of(const ModelSource& source, const ModelTensor& tensor) {
  const bool may_be = source.config() || (tensor.is_matrix() && tensor.stored->readable());
  return may_be ? role_named(source, tensor.name) : Role::Other;
}

Role role_named(const ModelSource& source, std::string_view name) {
  if (source.config()) {
    if (name == embedding_name) return Role::Embedding;
    if (name == output_name) return source.config()->tied_embeddings ? Role::Other : Role::Output;
    return is_block_linear(name) ? Role::Linear : Role::Other;
  }
  const auto has = [&](std::initializer_list<std::string_view> words) {
    return std::any_of(words.begin(), words.end(),
                       [&](std::string_view word) { return name.find(word) != name.npos; });
  };
  if (has({"router", "mlp.gate.weight", "moe.gate.weight", "ffn_gate_inp"})) return Role::Other;
  if (has({"lm_head", "embed_out"}) || name == "output.weight") return Role::Output;
  if (has({"embed", "embd", "wte.", "wpe."})) return Role::Embedding;
  return Role::Linear;
}

std::string default_code(const ModelSource& source, Role role, std::string_view linear) {
  return best_code_of_bits(std::max(rate_of_code(linear).bits, is_lookup_only(source, role) ? 4.0 : 5.0));
}

QuantizeOptions options_for(const ModelSource& source, Role role, QuantizeOptions options, bool calibrated) {
  if (role == Role::Output || (role == Role::Embedding && !is_lookup_only(source, role)))
    options.input_scales = options.input_scales && calibrated;
  if (role != Role::Linear) options.shards = 1;  // ranks share the vocabulary, not the columns
  return options;
}

CodeLayout shared_layout(std::int64_t rows, std::int64_t sharing_rows, std::int64_t cols, int dim,
                         const QuantizeOptions& options) {
  CodeLayout layout = make_layout(sharing_rows, cols, dim, options);  // only the input scales depend on rows
  layout.rows = rows;
  return layout;
}

Outline outline_of(const ModelSource& source, const QuantizeRequest& request) {
  return Outliner(source, request).outline();
}

CheckpointContents contents_of(const Outline& outline, const QuantizeRequest& request) {
  CheckpointContents contents;
  for (const Outline::Matrix& matrix : outline.matrices)
    with_shipped_code(matrix.codebook, [&]<class Book>(std::type_identity<Book>) {
      contents.add_layer<Book>(matrix.tensor->name, matrix.layout, request.options.seed,
                               matrix.tensor->stored->dtype);
    });
  for (const Outline::Kept& kept : outline.kept)
    contents.add_tensor({kept.tensor->name, kept.dtype, kept.tensor->stored->shape});
  return contents;
}

void check_weights(const ModelSource& source, Executor& executor,
                   const std::function<void(std::int64_t, std::int64_t)>& progress) {
  std::int64_t done = 0, total = 0;
  for (const ModelTensor& tensor : source.tensors()) total += tensor.rows() * tensor.cols();
  for (const ModelTensor& tensor : source.tensors()) {
    if (tensor.stored->readable()) check_tensor(tensor, executor);
    done += tensor.rows() * tensor.cols();
    if (progress) progress(done, total);
  }
}

void check_folder(const ModelSource& source, const std::filesystem::path& folder, std::uint64_t file_bytes) {
  namespace fs = std::filesystem;
  auto source_folder = source.path();
  if (!fs::is_directory(source_folder)) source_folder = source_folder.parent_path();
  if (source_folder.empty()) source_folder = ".";
  std::error_code error;
  if (fs::exists(folder, error) && fs::equivalent(folder, source_folder, error))
    throw InvalidArgument(folder.string() + ": holds the model itself; choose another folder");
  if (fs::exists(folder, error) && !fs::is_directory(folder, error))
    throw IoError(folder.string() + ": is a file; the model is written to a folder");
  if (fs::exists(folder, error)) require_replaceable(source, folder);
  const fs::path there = nearest_folder(folder);
  if (!is_writable(there)) throw IoError(there.string() + ": cannot be written to");
  const std::optional<std::uint64_t> free = free_space(there);
  if (!free) return;
  // What a killed run left is the beginning of the same file.
  const auto partial = FileWriter::partial_path(folder / "model.safetensors");
  const std::uintmax_t begun = fs::exists(partial, error) ? fs::file_size(partial, error) : 0;
  check_room(folder, file_bytes - std::min<std::uint64_t>(file_bytes, error ? 0 : begun), *free);
}

void check_room(const std::filesystem::path& folder, std::uint64_t needed, std::uint64_t free) {
  if (needed > free)
    throw IoError(folder.string() + ": the model needs " + with_bytes(static_cast<std::int64_t>(needed)) +
                  ", but the disk has room for " + with_bytes(static_cast<std::int64_t>(free)));
}

}  // namespace higgs::model
