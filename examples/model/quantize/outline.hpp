// SPDX-License-Identifier: Apache-2.0
// What quantization will make of a model: which matrices, in which codebooks, and how large the file will be. Known
// before the first weight is quantized.
#pragma once

#include "architecture/parts.hpp"
#include "measure/calibrate.hpp"
#include "source/source.hpp"

#include <higgs/codes/rates.hpp>
#include <higgs/core/code.hpp>
#include <higgs/core/executor.hpp>
#include <higgs/quantizer.hpp>
#include <higgs/store/checkpoint_writer.hpp>
#include <higgs/store/quantized_matrix.hpp>
#include <higgs/store/safetensors.hpp>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <regex>
#include <string>
#include <string_view>
#include <vector>

namespace higgs::model {

/// What a tensor is to the model: a linear layer of a block, the embedding (of a tied model the output layer too), the
/// output layer, or something else.
enum class Role { Linear, Embedding, Output, Other };
/// The role of a tensor. Without a configuration it is guessed from the name and the shape: a matrix that is neither an
/// embedding, an output layer nor a router of experts counts as linear.
Role role_of(const ModelSource& source, const ModelTensor& tensor);
/// The role that a matrix of that name has.
Role role_named(const ModelSource& source, std::string_view name);

/// Bytes of the codes and scales of a matrix.
template <Code Book>
std::int64_t code_bytes(const CodeLayout& layout) noexcept {
  return layout.rows *
             (layout.row_bytes(Book::dim, code_bits<Book>) + layout.groups() * layout.scale_bytes()) +
         (layout.input_scales ? layout.cols * std::int64_t{sizeof(Half)} : 0);
}

/// Stands for a codebook where a matrix is kept as it is.
inline constexpr std::string_view keep_codebook = "none";

/// Bits of the linear layers where nothing else is asked for.
inline constexpr double default_bits = 4;

/// Rounding by the second moments of inputs, block by block.
struct SecondMomentOptions {
  std::vector<TokenId> tokens{};  ///< the text that runs through the model
  std::int64_t window = calibration_window;
  std::optional<std::int64_t> memory{};  ///< bytes that second moments may take; none: half of what is free
  /// What is added to the diagonal of second moments, relative to its mean. More than Feedback::default_damping, as the model
  /// will read other text than this; docs/notes/round.md has what was measured.
  double damping = 0.05;
  /// The first tokens of the text, which go back through the model, so that errors are weighed by what depends on the outputs,
  /// too; 0: all outputs count alike.
  std::int64_t gradient_tokens = 0;
  /// Called before and after each block with the blocks done and to do.
  std::function<void(std::int64_t done, std::int64_t total)> progress{};
  /// Called as gradients are found, see OutputGradients.
  std::function<void(std::int64_t done, std::int64_t total)> gradient_progress{};
};

struct QuantizeRequest {
  std::string codebook =
      best_code_of_bits(default_bits);  ///< code of the linear layers; one of shipped_code_names()
  std::string embedding{};              ///< code of the embedding, or keep_codebook; empty: default_code()
  std::string output{};                 ///< likewise of an output layer that is a matrix of its own
  std::map<std::string, std::string, std::less<>> codebooks{};  ///< by tensor name, in place of these
  QuantizeOptions options{};
  /// Which linear layers share input scales: all that read the same in a model for kernels that fuse them.
  Sharing sharing = Sharing::Alike;
  bool calibrated = false;       ///< input_squares are measured, or will be
  InputSquares input_squares{};  ///< for better input scales; see measure_inputs()
  /// None: every weight is rounded to the nearest. Else linear layers of blocks are rounded by the second moments of their
  /// inputs, which give input_squares too.
  std::optional<SecondMomentOptions> second_moments{};
  std::optional<std::regex> skip{};  ///< matrices whose name it finds a match in stay as they are
  /// Called as work proceeds with the weights done, those to do, and the matrix in work.
  std::function<void(std::int64_t done, std::int64_t total, const std::string& name)> progress{};
  /// Called with sentences for the user.
  std::function<void(const std::string& note)> say{};
};

/// What quantize_model() will write: known, to the byte, before the first weight is quantized.
struct Outline {
  /// A matrix that will be quantized.
  struct Matrix {
    const ModelTensor* tensor;
    Role role;
    std::string codebook;
    /// The matrices to be quantized that share input scales with this one, itself among them, in the order of the data.
    std::vector<const ModelTensor*> sharing;
    CodeLayout layout;
    std::int64_t bytes;  // bytes of codes and scales

    std::int64_t weights() const noexcept { return layout.rows * layout.cols; }
  };
  /// A tensor that will be kept.
  struct Kept {
    const ModelTensor* tensor;
    Role role;
    DType dtype;
    std::int64_t bytes;
  };
  std::vector<Matrix> matrices;
  std::vector<Kept> kept;
  std::int64_t weights = 0;         // weights of all tensors
  std::uint64_t file_bytes = 0;     // bytes of the model.safetensors to be written, header included
  std::vector<std::string> unused;  // tensors that the model has no use for; they are kept
  std::vector<std::string> notes;   // remarks for the user
};

/// The code of an embedding or an output layer where nothing else is asked for, beside linear layers in the code `linear`:
/// the best of 5 bits, or of 4 for an embedding that is only looked up, but of no fewer bits than `linear` has. With these
/// a byte of them loses about as much as a byte of the linear layers; docs/results.md has what was measured.
std::string default_code(const ModelSource& source, Role role, std::string_view linear);

/// Decides it. Reads no weights but those of kept tensors in formats of GGUF's own, whose type in the checkpoint depends
/// on them. Throws InvalidArgument for a model that is quantized already, without a matrix to quantize, or without one that
/// `request.codebooks` names, and FormatError for a model with a problem() or a tensor that cannot be read.
Outline outline_of(const ModelSource& source, const QuantizeRequest& request);

/// `options` as a matrix of that role takes them. Input scales help an output layer only where its inputs are known, and
/// a tied embedding is one. Shards are of linear layers.
QuantizeOptions options_for(const ModelSource& source, Role role, QuantizeOptions options, bool calibrated);

/// The layout of a rows x cols matrix that shares input scales with others: all have `sharing_rows` rows, this one's
/// among them. Throws InvalidArgument as make_layout() does.
CodeLayout shared_layout(std::int64_t rows, std::int64_t sharing_rows, std::int64_t cols, int dim,
                         const QuantizeOptions& options);

/// What a checkpoint writer must know of it.
CheckpointContents contents_of(const Outline& outline, const QuantizeRequest& request);

/// Throws FormatError for a weight that is NaN or infinite: it names file, tensor, row and column. Reads every tensor
/// that holds floats. `progress` is called with the weights done and to do.
void check_weights(const ModelSource& source, Executor& executor = default_executor(),
                   const std::function<void(std::int64_t done, std::int64_t total)>& progress = {});

/// Throws unless a checkpoint of that size can be written to `folder`: InvalidArgument if that holds the model itself,
/// weights that higgs did not write, or companions of another model; IoError if it cannot be made or the disk lacks room.
/// Makes no folder that is not there.
void check_folder(const ModelSource& source, const std::filesystem::path& folder, std::uint64_t file_bytes);
/// Throws IoError, with both numbers, if a file of `needed` bytes does not fit into `free`.
void check_room(const std::filesystem::path& folder, std::uint64_t needed, std::uint64_t free);

}  // namespace higgs::model
