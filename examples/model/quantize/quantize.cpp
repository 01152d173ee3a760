// SPDX-License-Identifier: Apache-2.0
#include "quantize/quantize.hpp"

#include "architecture/parts.hpp"
#include "quantize/sizes.hpp"
#include "quantize/tokens_file.hpp"
#include "source/load.hpp"
#include "source/model_files.hpp"
#include "source/pieces.hpp"

#include <higgs/codes/registry.hpp>
#include <higgs/core/error.hpp>
#include <higgs/store/checkpoint_writer.hpp>

#include <algorithm>
#include <cmath>
#include <map>
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

// The statistics of matrices that share input scales, from the first of them to be quantized until the last is.
class SharedColumns {
 public:
  explicit SharedColumns(Executor& executor) : executor_(executor) {}

  // Calls use(statistics) with those that a matrix shares. `remaining`: the sharing matrices still to be quantized, this
  // one among them; the last one's call frees the statistics.
  template <class Use>
  void with(const Outline::Matrix& matrix, std::int64_t remaining, Use&& use) {
    const ModelTensor* first = matrix.sharing.front();
    auto found = columns_.find(first);
    if (found == columns_.end()) found = columns_.emplace(first, read(matrix)).first;
    use(std::as_const(found->second));
    if (remaining == 1) columns_.erase(found);
  }

 private:
  ColumnStatistics read(const Outline::Matrix& matrix) const {
    ColumnStatistics columns(matrix.layout.cols);
    for (const ModelTensor* tensor : matrix.sharing)
      for_pieces(*tensor, [&](std::int64_t first_row, MatrixView<const float> piece) {
        try {
          columns.add(piece, executor_);
        } catch (const InvalidArgument&) {
          std::vector<float> again(static_cast<std::size_t>(piece.size()));
          read_finite_rows(*tensor, first_row, piece.rows, again);  // says where in this tensor
          throw;
        }
      });
    return columns;
  }

  Executor& executor_;
  std::map<const ModelTensor*, ColumnStatistics> columns_;  // by the first that shares them
};

// `columns` are those that share input scales. `advance` is called with the weights of each piece done.
template <class Book, class Advance>
void quantize_tensor(const Outline::Matrix& matrix, const ColumnStatistics& columns,
                     const QuantizeOptions& options, std::span<const double> input_squares,
                     CheckpointWriter& writer, Executor& executor, Advance&& advance) {
  const ModelTensor& tensor = *matrix.tensor;
  const CodeLayout& layout = matrix.layout;
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
                    (request.sharing == Sharing::Fused ? " of fused layers" : " of layers alike") +
                    (options.scale_format == ScaleFormat::Log8 ? " log8" : "") +
                    (options.scale_search != 0 ? " search " + std::to_string(options.scale_search) : "");
  out.append(" ").append(request.embedding).append(" ").append(request.output);
  for (const auto& [name, squares] : request.input_squares) {
    out.append("\n").append(name);
    out.append(reinterpret_cast<const char*>(squares.data()), squares.size() * sizeof(double));
  }
  for (const auto& [name, codebook] : request.codebooks)
    out.append("\n").append(name).append(" ").append(codebook);
  return out + files_fingerprint(source);
}

// The same for rounding by second moments, but for how these are divided.
std::string fingerprint(const ModelSource& source, const Outline& outline, const QuantizeRequest& request) {
  std::string out = fingerprint(source, request);
  const SecondMomentOptions& moments = *request.second_moments;
  out.append("\nsecond moments ").append(std::to_string(moments.window));
  out.append(" ").append(std::to_string(moments.gradient_tokens));
  out.append(reinterpret_cast<const char*>(&moments.damping), sizeof moments.damping);
  out.append(request.calibrated ? " calibrated " : " ");
  out.append(reinterpret_cast<const char*>(moments.tokens.data()), moments.tokens.size() * sizeof(TokenId));
  for (const Outline::Matrix& matrix : outline.matrices)  // the others stay as they are
    out.append("\n").append(matrix.tensor->name).append(" ").append(matrix.codebook);
  return out;
}

// Brings configuration and tokenizer to `folder`.
std::string write_companions(const ModelSource& source, const std::filesystem::path& folder) {
  if (source.folder()) {
    for (const char* name : companion_names())
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
    std::filesystem::remove(folder / "tokenizer.json");  // of the model that was here
    return std::string("the tokenizer was left out: ") + error.what();
  }
  return "";
}

// What input scales of a matrix are balanced against. The rows of an embedding that is only looked up go on as they
// are: an error in one column counts as much as in another.
std::vector<double> squares_of(const ModelSource& source, const Outline::Matrix& matrix,
                               const QuantizeRequest& request) {
  const auto found = request.input_squares.find(matrix.tensor->name);
  if (found != request.input_squares.end()) return found->second;
  const bool lookup_only =
      matrix.role == Role::Embedding && source.config() && !source.config()->tied_embeddings;
  return std::vector<double>(lookup_only ? static_cast<std::size_t>(matrix.layout.cols) : 0, 1.0);
}

// Rounds every matrix that is not finished to the nearest codes.
void round_to_nearest(const ModelSource& source, const Outline& outline, const QuantizeRequest& request,
                      CheckpointWriter& writer, Executor& executor) {
  std::int64_t total = 0, done = 0;
  for (const Outline::Matrix& matrix : outline.matrices) total += matrix.weights();
  SharedColumns shared(executor);
  for (const Outline::Matrix& matrix : outline.matrices) {
    const auto advance = [&](std::int64_t weights) {
      done += weights;
      if (request.progress) request.progress(done, total, matrix.tensor->name);
    };
    if (writer.finished(matrix.tensor->name)) {
      advance(matrix.weights());
      continue;
    }
    const auto remaining = std::ranges::count_if(
        matrix.sharing, [&](const ModelTensor* each) { return !writer.finished(each->name); });
    shared.with(matrix, remaining, [&](const ColumnStatistics& columns) {
      with_shipped_code(matrix.codebook, [&]<class Book>(std::type_identity<Book>) {
        quantize_tensor<Book>(matrix, columns, request.options, squares_of(source, matrix, request), writer,
                              executor, advance);
      });
    });
  }
}

std::int64_t count_finished(const Outline& outline, const CheckpointWriter& writer) {
  return std::ranges::count_if(outline.matrices,
                               [&](const auto& matrix) { return writer.finished(matrix.tensor->name); });
}

}  // namespace

std::filesystem::path checkpoint_in(const std::filesystem::path& folder) {
  return folder / "model.safetensors";
}

std::string files_fingerprint(const ModelSource& source) {
  std::vector<std::filesystem::path> files;
  if (!std::filesystem::is_directory(source.path())) {
    files.push_back(source.path());
  } else {
    for (const auto& entry : std::filesystem::directory_iterator(source.path()))
      if (entry.path().extension() == ".safetensors" || entry.path().extension() == ".json")
        files.push_back(entry.path());
    std::sort(files.begin(), files.end());
  }
  std::string out;
  for (const std::filesystem::path& file : files) {
    const auto date = std::filesystem::last_write_time(file).time_since_epoch().count();
    out.append("\n")
        .append(std::filesystem::canonical(file).string())
        .append(" ")
        .append(std::to_string(date));
  }
  return out;
}

std::uint64_t bytes_to_write(const ModelSource& source, const Outline& outline,
                             const std::filesystem::path& folder, std::int64_t tokens) {
  if (tokens == 0) return outline.file_bytes;
  return outline.file_bytes + StatesFile::room(checkpoint_in(folder), tokens, source.require_config().width,
                                               std::ssize(outline.matrices));
}

std::optional<RoundReport> quantize_model(const ModelSource& source, const Outline& outline,
                                          const std::filesystem::path& folder, const QuantizeRequest& request,
                                          Executor& executor) {
  const auto& moments = request.second_moments;
  check_folder(source, folder,
               bytes_to_write(source, outline, folder, moments ? std::ssize(moments->tokens) : 0));
  const auto say = [&](const std::string& note) {
    if (request.say && !note.empty()) request.say(note);
  };
  const auto file = checkpoint_in(folder);
  if (std::filesystem::exists(file)) say(file.string() + ": is there already and will be replaced");
  std::string decided = moments ? fingerprint(source, outline, request) : fingerprint(source, request);
  std::optional<RoundingStart> start;
  if (moments) {
    start = find_start(outline, *moments, StatesFile(file, decided));
    decided += start->moments.text();
    for (const std::string& note : start->moments.notes) say(note);
  }

  std::filesystem::create_directories(folder);
  CheckpointWriter writer(folder, contents_of(outline, request), {.fingerprint = decided});
  const std::int64_t finished = count_finished(outline, writer), count = std::ssize(outline.matrices);
  if (finished > 0)
    say("goes on: " + std::to_string(finished) + " of " + counted(count, "matrix is", "matrices are") +
        " done");
  for (const Outline::Kept& kept : outline.kept)
    if (!writer.finished(kept.tensor->name)) copy_tensor(*kept.tensor, kept.dtype, writer);
  std::optional<RoundReport> report;
  QuantizeRequest rest = request;
  if (start && (finished < count || start->saved)) {
    report = BlockRounder(source, outline, request, writer, executor).run(std::move(*start));
    rest.input_squares.insert(report->input_squares.begin(), report->input_squares.end());
  }
  round_to_nearest(source, outline, rest, writer, executor);
  say(write_companions(source, folder));
  writer.commit();
  StatesFile::remove(file);
  TokensFile::remove(file);
  return report;
}

}  // namespace higgs::model
