// SPDX-License-Identifier: Apache-2.0
#include "quantize.hpp"

#include "weights.hpp"

#include <higgs/codebook/shipped.hpp>
#include <higgs/core/error.hpp>
#include <higgs/store/checkpoint_writer.hpp>

#include <algorithm>
#include <cmath>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

namespace higgs {
template AnyQuantizedMatrix quantize(MatrixView<const float>, std::string_view, const QuantizeOptions&,
                                     Executor&);
}  // namespace higgs

namespace higgs::model {
namespace {

// Weights in memory at once.
constexpr std::int64_t piece_weights = 1 << 22;

// Calls work(first, rows) for pieces of a matrix that fit in memory.
template <class Work>
void for_pieces(const ModelTensor& tensor, Work&& work) {
  const std::int64_t rows =
      std::max<std::int64_t>(1, piece_weights / std::max<std::int64_t>(1, tensor.cols()));
  std::vector<float> values;
  for (std::int64_t first = 0; first < tensor.rows(); first += rows) {
    const std::int64_t count = std::min(rows, tensor.rows() - first);
    values.resize(static_cast<std::size_t>(count * tensor.cols()));
    tensor.read_rows(first, count, values);
    work(first, MatrixView<const float>(values.data(), count, tensor.cols()));
    release_pages(tensor.stored->data);
  }
}

// The type that a tensor is kept in: its own where safetensors has it. GGUF's blocks of few bits and 8-bit floats with
// scales become F16, whose rounding is far below theirs, unless a weight is too large for it.
DType kept_dtype(const ModelTensor& tensor) {
  const auto own = dtype_named(tensor.stored->dtype);
  if (own && tensor.stored->copyable()) return tensor.interleaved == 0 ? *own : DType::F32;
  float most = 0;
  for_pieces(tensor, [&](std::int64_t, MatrixView<const float> piece) {
    for (std::int64_t i = 0; i < piece.size(); ++i) most = std::max(most, std::fabs(piece.data[i]));
  });
  return most <= 65504 ? DType::F16 : DType::F32;
}

void copy_tensor(const ModelTensor& tensor, DType dtype, CheckpointWriter& writer) {
  const auto write = [&](std::int64_t first_row, const auto* values, std::int64_t count) {
    const auto row_bytes = static_cast<std::uint64_t>(tensor.cols()) * sizeof(*values);
    writer.write_tensor(
        tensor.name, static_cast<std::uint64_t>(first_row) * row_bytes,
        {reinterpret_cast<const std::uint8_t*>(values), static_cast<std::size_t>(count) * sizeof(*values)});
  };
  if (dtype_name(dtype) == tensor.stored->dtype && tensor.interleaved == 0) {
    writer.write_tensor(tensor.name, 0, tensor.stored->data);
    release_pages(tensor.stored->data);
  } else {
    for_pieces(tensor, [&](std::int64_t first, MatrixView<const float> piece) {
      if (dtype == DType::F32) return write(first, piece.data, piece.size());
      std::vector<Half> narrow;
      for (std::int64_t i = 0; i < piece.size(); ++i) narrow.emplace_back(piece.data[i]);
      write(first, narrow.data(), piece.size());
    });
  }
  writer.finish_tensor(tensor.name);
}

// `advance` is called with the weights of each piece done.
template <class Book, class Advance>
void quantize_tensor(const ModelTensor& tensor, const std::string& source, const QuantizeOptions& options,
                     std::span<const double> input_squares, CheckpointWriter& writer, Executor& executor,
                     Advance&& advance) {
  const CodeLayout layout = make_layout(tensor.rows(), tensor.cols(), Book::dim, options);
  ColumnStatistics columns(tensor.cols());
  for_pieces(tensor, [&](std::int64_t, MatrixView<const float> piece) {
    try {
      columns.add(piece, executor);
    } catch (const InvalidArgument& error) {
      throw FormatError(source + ": tensor \"" + tensor.name + "\": " + error.what());
    }
  });
  const auto [input_scales, exponent] = make_normalization(columns, layout, Book{}.step(), input_squares);
  if (layout.input_scales) writer.write_input_scales(tensor.name, input_scales);
  const RowQuantizer<Book> quantizer(Book{}, layout, options.seed, exponent, input_scales,
                                     options.scale_search);
  typename RowQuantizer<Book>::Error error;
  std::vector<std::uint8_t> codes;
  std::vector<Half> scales;
  for_pieces(tensor, [&](std::int64_t first, MatrixView<const float> piece) {
    codes.resize(static_cast<std::size_t>(piece.rows * layout.row_bytes(Book::dim, code_bits<Book>)));
    scales.resize(static_cast<std::size_t>(piece.rows * layout.groups()));
    error += quantizer.quantize_rows(piece, codes, scales, executor);
    writer.write_rows(tensor.name, first, codes, scales);
    advance(piece.size());
  });
  writer.finish_layer(tensor.name, exponent, error.t2(), error.weight_error());
}

// What tells one attempt from another: files, dates, options.
std::string fingerprint(const ModelSource& source, const QuantizeRequest& request) {
  const QuantizeOptions& options = request.options;
  std::string out = request.codebook + " " + std::to_string(options.block) + " " +
                    std::to_string(options.group) + " " +
                    (options.seed ? std::to_string(*options.seed) : "none") +
                    (options.input_scales ? " input scales" : "") +
                    (options.scale_format == ScaleFormat::Log8 ? " log8" : "") +
                    (options.scale_search != 0 ? " search " + std::to_string(options.scale_search) : "");
  for (const auto& [name, squares] : request.input_squares) {
    out.append("\n").append(name);
    out.append(reinterpret_cast<const char*>(squares.data()), squares.size() * sizeof(double));
  }
  const auto add = [&](const std::filesystem::path& file) {
    const auto date = std::filesystem::last_write_time(file).time_since_epoch().count();
    out.append("\n")
        .append(std::filesystem::canonical(file).string())
        .append(" ")
        .append(std::to_string(date));
  };
  for (const auto& [name, codebook] : request.codebooks)
    out.append("\n").append(name).append(" ").append(codebook);
  if (!std::filesystem::is_directory(source.path())) {
    add(source.path());
    return out;
  }
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(source.path()))
    if (entry.path().extension() == ".safetensors" || entry.path().extension() == ".json")
      files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  for (const auto& file : files) add(file);
  return out;
}

// Brings configuration and tokenizer to `folder`.
std::string write_companions(const ModelSource& source, const std::filesystem::path& folder) {
  if (source.folder()) {
    for (const char* name : {"config.json", "generation_config.json", "tokenizer.json",
                             "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
                             "vocab.json", "merges.txt", "tokenizer.model", "chat_template.jinja"})
      if (const auto file = *source.folder() / name; std::filesystem::exists(file))
        write_text(folder / name, std::string_view(name) == "config.json" && source.config()
                                      ? config_for_checkpoint(read_text(file), file.string(),
                                                              source.config()->tied_embeddings)
                                      : read_text(file));
    return "";
  }
  if (!source.config()) return "";
  write_text(folder / "config.json", write_config(*source.config()));
  try {
    write_text(folder / "tokenizer.json", write_tokenizer_json(source.vocabulary()));
  } catch (const FormatError& error) {
    return std::string("the tokenizer was left out: ") + error.what();
  }
  return "";
}

}  // namespace

std::vector<const ModelTensor*> quantizable(const ModelSource& source,
                                            const std::optional<std::regex>& skip) {
  std::vector<const ModelTensor*> out;
  for (const ModelTensor& tensor : source.tensors()) {
    const bool wanted = source.config() ? is_block_linear(tensor.name) : tensor.stored->readable();
    if (wanted && tensor.is_matrix() && tensor.cols() > 0 && !(skip && std::regex_search(tensor.name, *skip)))
      out.push_back(&tensor);
  }
  return out;
}

std::string quantize_model(const ModelSource& source, const std::filesystem::path& folder,
                           const QuantizeRequest& request, Executor& executor) {
  const std::string name = source.path().string();
  if (source.checkpoint()) throw InvalidArgument(name + ": is quantized already");
  source.require_sound();
  const std::vector<const ModelTensor*> matrices = quantizable(source, request.skip);
  if (matrices.empty()) throw InvalidArgument(name + ": has no matrix to quantize");
  auto source_folder = source.path();
  if (!std::filesystem::is_directory(source_folder)) source_folder = source_folder.parent_path();
  if (source_folder.empty()) source_folder = ".";
  if (std::filesystem::exists(folder) && std::filesystem::equivalent(folder, source_folder))
    throw InvalidArgument(folder.string() + ": holds the model itself; choose another folder");

  const auto is_layer = [&](const ModelTensor& tensor) {
    return std::find(matrices.begin(), matrices.end(), &tensor) != matrices.end();
  };
  for (const auto& [layer, codebook] : request.codebooks) {
    const ModelTensor* tensor = source.find(layer);
    if (!tensor || !is_layer(*tensor))
      throw InvalidArgument(name + ": has no matrix \"" + layer +
                            "\" to quantize, for which there is a codebook");
  }
  const auto codebook_of = [&](const ModelTensor& tensor) -> const std::string& {
    const auto own = request.codebooks.find(tensor.name);
    return own == request.codebooks.end() ? request.codebook : own->second;
  };

  CheckpointContents contents;
  std::int64_t total = 0, done = 0;
  for (const ModelTensor* tensor : matrices) {
    with_shipped_codebook(codebook_of(*tensor), [&]<class Book>(std::type_identity<Book>) {
      contents.add_layer<Book>(tensor->name,
                               make_layout(tensor->rows(), tensor->cols(), Book::dim, request.options),
                               request.options.seed, tensor->stored->dtype);
    });
    total += tensor->rows() * tensor->cols();
  }
  std::vector<std::pair<const ModelTensor*, DType>> kept;
  for (const ModelTensor& tensor : source.tensors()) {
    if (is_layer(tensor)) continue;
    kept.emplace_back(&tensor, kept_dtype(tensor));
    contents.add_tensor({tensor.name, kept.back().second, tensor.stored->shape});
  }

  const auto squares_of = [&](const ModelTensor& tensor) {
    const auto found = request.input_squares.find(tensor.name);
    return found == request.input_squares.end() ? std::span<const double>() : std::span(found->second);
  };
  std::filesystem::create_directories(folder);
  CheckpointWriter writer(folder, std::move(contents), {.fingerprint = fingerprint(source, request)});
  for (const auto& [tensor, dtype] : kept)
    if (!writer.finished(tensor->name)) copy_tensor(*tensor, dtype, writer);
  for (const ModelTensor* tensor : matrices) {
    const auto advance = [&](std::int64_t weights) {
      done += weights;
      if (request.progress) request.progress(done, total, tensor->name);
    };
    if (writer.finished(tensor->name)) {
      advance(tensor->rows() * tensor->cols());
      continue;
    }
    with_shipped_codebook(codebook_of(*tensor), [&]<class Book>(std::type_identity<Book>) {
      quantize_tensor<Book>(*tensor, name, request.options, squares_of(*tensor), writer, executor, advance);
    });
  }
  std::string note = write_companions(source, folder);
  writer.commit();
  return note;
}

}  // namespace higgs::model
