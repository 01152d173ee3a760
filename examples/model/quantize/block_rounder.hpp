// SPDX-License-Identifier: Apache-2.0
// Rounds the linear layers of a model by the second moments of their inputs, block by block.
#pragma once

#include "measure/block_runner.hpp"
#include "measure/calibrate.hpp"
#include "measure/output_gradients.hpp"
#include "quantize/moment_parts.hpp"
#include "quantize/outline.hpp"
#include "quantize/states_file.hpp"
#include "source/source.hpp"

#include <higgs/core/executor.hpp>
#include <higgs/core/half.hpp>
#include <higgs/round/feedback.hpp>
#include <higgs/round/second_moment.hpp>
#include <higgs/store/checkpoint_writer.hpp>

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace higgs::model {

/// What a run begins with.
struct RoundingStart {
  StatesFile file;                   // takes the states before each block
  std::optional<SavedStates> saved;  // what a killed run left in it
  std::int64_t memory;               // bytes that second moments may take
  MomentParts moments;               // how they are divided for that
};
/// Finds what a killed run left. Where the options name no memory, that run's is taken, so that the bytes come out equal.
/// Throws as divide_moments().
RoundingStart find_start(const Outline& outline, const SecondMomentOptions& options, StatesFile file);

/// What rounding by second moments took and left. Seconds count this run alone, layers also what a killed run
/// rounded before.
struct RoundReport {
  std::int64_t blocks = 0;                                    // blocks that this run rounded
  std::int64_t gradient_tokens = 0;                           // tokens that went back through the model
  std::int64_t memory = 0;                                    // bytes that second moments might take
  MomentParts moments{};                                      // how they were divided
  double gradient_seconds = 0;                                // gradients of outputs
  double forward_seconds = 0;                                 // running blocks
  double moment_seconds = 0;                                  // summing second moments
  double factor_seconds = 0;                                  // factors of second moments
  double rounding_seconds = 0;                                // rounding and decoding
  double file_seconds = 0;                                    // states on the disk
  std::map<std::string, RoundedLayer, std::less<>> layers{};  // by the names of their weights
  std::vector<std::string> silent{};  // matrices whose inputs are all zero: rounded to the nearest
  InputSquares input_squares{};       // of the output layer, where its input scales ask for them
};

/// Runs the text of `request.second_moments` through a model. The inputs of a block's layers are measured with the block as
/// it is, but all blocks before it as they were rounded.
class BlockRounder {
 public:
  /// All arguments must outlive this. The request has second_moments.
  BlockRounder(const ModelSource& source, const Outline& outline, const QuantizeRequest& request,
               CheckpointWriter& writer, Executor& executor);

  /// Writes every matrix of `outline` that belongs to a block of the model and is not finished. Goes on from the saved states
  /// unless the writer lacks matrices before them.
  RoundReport run(RoundingStart start);

 private:
  using Moments = std::map<std::string_view, SecondMoment>;  // by Part::input

  bool all_finished(std::int64_t blocks) const;
  std::int64_t count_matrices(std::int64_t blocks) const;
  void round_block(BlockRunner& runner);
  Moments measure(BlockRunner& runner, const Block& block);
  SharedMatrix round(const Outline::Matrix& matrix, const Block& block, const Moments& moments,
                     const Feedback* outputs);
  void start_gradients();
  std::optional<Feedback> feedback_of_outputs(const Outline::Matrix& matrix, const Matrix& gradients);
  const Feedback& feedback_for(const Outline::Matrix& matrix, std::vector<Half> input_scales,
                               const Moments& moments);
  void name_layers();

  const ModelSource& source_;
  const QuantizeRequest& request_;
  CheckpointWriter& writer_;
  Executor& executor_;
  std::vector<std::vector<const Outline::Matrix*>> matrices_;  // by block
  // Layers that read the same through the same input scales share a factor; one is kept at a time.
  struct Factor {
    std::string_view input;
    std::vector<Half> input_scales;
    Feedback feedback;
  };
  std::optional<Factor> factor_;
  std::optional<OutputGradients> gradients_;
  std::vector<RoundedLayer> layers_;  // matrices_ that are rounded, one block after the other
  RoundReport report_;
};

}  // namespace higgs::model
