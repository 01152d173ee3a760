// SPDX-License-Identifier: Apache-2.0
#include "quantize/block_rounder.hpp"

#include "architecture/parts.hpp"
#include "math/math.hpp"
#include "quantize/round_matrix.hpp"
#include "quantize/sizes.hpp"

#include <higgs/core/error.hpp>
#include <higgs/matmul/decode.hpp>
#include <higgs/scale/input_scale.hpp>
#include <higgs/store/mapped_file.hpp>

#include <algorithm>
#include <chrono>
#include <span>
#include <utility>

namespace higgs::model {
namespace {

// Adds the seconds of its life to a sum.
class Timer {
 public:
  explicit Timer(double& seconds) : seconds_(seconds) {}
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;
  ~Timer() { seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }

 private:
  double& seconds_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

// The linear layer of a block that has that weight, which is one.
const Part& part_of(std::string_view weight_name) { return *linear_part(weight_name); }

MatrixView<const float> weights_of(const ModelTensor& tensor, const Block& block) {
  return require_dense(part_of(tensor.name).in(block), "BlockRounder")->view();
}

}  // namespace

RoundingStart find_start(const Outline& outline, const SecondMomentOptions& options, StatesFile file) {
  std::optional<SavedStates> saved = file.load();
  const std::int64_t memory = options.memory ? *options.memory
                              : saved        ? saved->memory
                                             : default_moment_memory();
  MomentParts moments = divide_moments(outline, memory, options.gradient_tokens > 0);
  return {std::move(file), std::move(saved), memory, std::move(moments)};
}

BlockRounder::BlockRounder(const ModelSource& source, const Outline& outline, const QuantizeRequest& request,
                           CheckpointWriter& writer, Executor& executor)
    : source_(source), request_(request), writer_(writer), executor_(executor) {
  matrices_.resize(static_cast<std::size_t>(source.require_config().layers));
  for (const Outline::Matrix& matrix : outline.matrices) {
    const std::int64_t block = split_name(matrix.tensor->name).first;
    if (linear_part(matrix.tensor->name) && block < std::ssize(matrices_))
      matrices_[static_cast<std::size_t>(block)].push_back(&matrix);
  }
  for (auto& block : matrices_)  // in the order of the data, so that layers of one input follow one another
    std::ranges::sort(block, {}, [](const auto* matrix) { return &part_of(matrix->tensor->name); });
}

bool BlockRounder::all_finished(std::int64_t blocks) const {
  return std::ranges::all_of(
      std::span(matrices_).first(static_cast<std::size_t>(blocks)), [&](const auto& block) {
        return std::ranges::all_of(
            block, [&](const auto* matrix) { return writer_.finished(matrix->tensor->name); });
      });
}

std::int64_t BlockRounder::count_matrices(std::int64_t blocks) const {
  std::int64_t count = 0;
  for (const auto& block : std::span(matrices_).first(static_cast<std::size_t>(blocks)))
    count += std::ssize(block);
  return count;
}

// Says in the report what rounding left, by the names of the weights.
void BlockRounder::name_layers() {
  auto layer = layers_.begin();
  for (const auto& block : matrices_)
    for (const Outline::Matrix* matrix : block) {
      if (layer->silent != 0) report_.silent.push_back(matrix->tensor->name);
      report_.layers.emplace(matrix->tensor->name, *layer++);
    }
}

RoundReport BlockRounder::run(RoundingStart start) {
  report_ = {.gradient_tokens = request_.second_moments->gradient_tokens,
             .memory = start.memory,
             .moments = std::move(start.moments)};
  const SecondMomentOptions& options = *request_.second_moments;
  const std::int64_t blocks = std::ssize(matrices_);
  BlockRunner runner(source_, options.tokens, options.window, executor_);
  const auto save = [&] {
    const Timer timer(report_.file_seconds);
    start.file.save(runner.block(), start.memory, layers_, runner.states());
  };
  if (start.saved && all_finished(start.saved->block) &&
      std::ssize(start.saved->layers) == count_matrices(start.saved->block)) {
    const std::int64_t first = start.saved->block;
    if (request_.say && first > 0)
      request_.say("goes on after block " + std::to_string(first) + " of " + std::to_string(blocks));
    runner.go_to(first, std::move(start.saved->states));
    layers_ = std::move(start.saved->layers);
  } else {
    save();
  }
  report_.blocks = blocks - runner.block();
  if (report_.blocks > 0) start_gradients();
  const auto advance = [&] {
    if (options.progress) options.progress(runner.block(), blocks);
  };
  for (advance(); runner.block() < blocks; advance()) {
    round_block(runner);
    save();
  }
  name_layers();
  if (!report_.silent.empty() && request_.say)
    request_.say(counted(std::ssize(report_.silent), "matrix reads", "matrices read") +
                 " only zeros and is rounded to the nearest: " + report_.silent.front() +
                 (report_.silent.size() > 1 ? ", ..." : ""));
  if (request_.calibrated)
    report_.input_squares.emplace(source_.require_config().tied_embeddings ? embedding_name : output_name,
                                  runner.output_squares());
  return std::move(report_);
}

void BlockRounder::start_gradients() {
  const SecondMomentOptions& options = *request_.second_moments;
  if (options.gradient_tokens == 0) return;
  const Timer timer(report_.gradient_seconds);
  gradients_.emplace(source_,
                     std::span(options.tokens).first(static_cast<std::size_t>(options.gradient_tokens)),
                     options.window, executor_, options.gradient_progress);
}

void BlockRounder::round_block(BlockRunner& runner) {
  const auto& matrices = matrices_[static_cast<std::size_t>(runner.block())];
  Block& block = runner.load();
  for (const Outline::Matrix* matrix : matrices) release_pages(matrix->tensor->stored->data);
  if (!matrices.empty()) {
    const Moments moments = measure(runner, block);
    std::map<std::string_view, Matrix> gradients;
    if (gradients_) {
      const Timer timer(report_.gradient_seconds);
      gradients = gradients_->of_block(runner.block(), block);
    }
    std::vector<SharedMatrix> rounded;  // layers that share input scales ask for the weights of one another
    for (const Outline::Matrix* matrix : matrices) {
      std::optional<Feedback> outputs;
      if (gradients_)
        outputs = feedback_of_outputs(*matrix, gradients.at(part_of(matrix->tensor->name).name));
      rounded.push_back(round(*matrix, block, moments, outputs ? &*outputs : nullptr));
    }
    factor_.reset();
    for (std::size_t i = 0; i < matrices.size(); ++i)
      part_of(matrices[i]->tensor->name).in(block).weight = std::move(rounded[i]);
  }
  const Timer timer(report_.forward_seconds);
  runner.step();
}

BlockRounder::Moments BlockRounder::measure(BlockRunner& runner, const Block& block) {
  Moments moments;
  for (const Outline::Matrix* matrix : matrices_[static_cast<std::size_t>(runner.block())]) {
    const std::string_view input = part_of(matrix->tensor->name).input;
    moments.try_emplace(input, matrix->layout.cols, report_.moments.parts.at(input));
  }
  double adding = 0;
  {
    const Timer timer(report_.forward_seconds);
    runner.observe([&](std::span<const Linear* const> layers, MatrixView<const float> x) {
      const auto part = std::ranges::find_if(block_parts(), [&](const Part& each) {
        return each.is_linear() && &each.in(block) == layers.front();
      });
      const auto moment = moments.find(part->input);
      // The forward pass refuses what is not finite, and says where.
      if (moment == moments.end() || find_not_finite(x.data, x.size()) >= 0) return;
      const Timer own(adding);
      try {
        moment->second.add(x, executor_);
      } catch (const InvalidArgument& error) {
        throw FormatError(source_.path().string() + ": inputs of " + weight_name(runner.block(), *part) +
                          ": " + error.what());
      }
    });
  }
  report_.forward_seconds -= adding;
  report_.moment_seconds += adding;
  return moments;
}

const Feedback& BlockRounder::feedback_for(const Outline::Matrix& matrix, std::vector<Half> input_scales,
                                           const Moments& moments) {
  const std::string& name = matrix.tensor->name;
  const std::string_view input = part_of(name).input;
  if (factor_ && factor_->input == input && factor_->input_scales == input_scales) return factor_->feedback;
  factor_.reset();  // memory is counted for one
  const Timer timer(report_.factor_seconds);
  try {
    Feedback feedback(moments.at(input), matrix.layout, request_.options.seed, input_scales,
                      request_.second_moments->damping, executor_);
    return factor_.emplace(input, std::move(input_scales), std::move(feedback)).feedback;
  } catch (const InvalidArgument& error) {
    throw FormatError(source_.path().string() + ": inputs of " + name + ": " + error.what());
  }
}

std::optional<Feedback> BlockRounder::feedback_of_outputs(const Outline::Matrix& matrix,
                                                          const Matrix& gradients) {
  const std::string& name = matrix.tensor->name;
  try {
    SecondMoment moment(matrix.layout.rows, report_.moments.outputs.at(part_of(name).name));
    {
      const Timer timer(report_.moment_seconds);
      moment.add(gradients.view(), executor_);
    }
    const Timer timer(report_.factor_seconds);
    return Feedback(moment, Feedback::default_output_damping, executor_);
  } catch (const InvalidArgument& error) {
    throw FormatError(source_.path().string() + ": gradients of the outputs of " + name + ": " +
                      error.what());
  }
}

SharedMatrix BlockRounder::round(const Outline::Matrix& matrix, const Block& block, const Moments& moments,
                                 const Feedback* outputs) {
  const std::string& name = matrix.tensor->name;
  ColumnStatistics columns(matrix.layout.cols);
  for (const ModelTensor* tensor : matrix.sharing) columns.add(weights_of(*tensor, block), executor_);
  std::vector<Half> scales;
  if (matrix.layout.input_scales)
    scales = columns.input_scales(request_.calibrated ? moments.at(part_of(name).input).mean_squares()
                                                      : std::vector<double>());
  const Feedback& feedback = feedback_for(matrix, scales, moments);
  const Timer timer(report_.rounding_seconds);
  const RoundedMatrix rounded =
      round_matrix(weights_of(*matrix.tensor, block), matrix.codebook, matrix.layout, request_.options.seed,
                   columns, scales, feedback, outputs, executor_);
  layers_.push_back({rounded.loss, rounded.expected_nearest_loss, feedback.damping(), rounded.nearest_rows,
                     feedback.empty() ? 1 : 0});
  if (!writer_.finished(name)) writer_.write_layer(name, rounded.matrix);
  Matrix decoded(matrix.layout.rows, matrix.layout.cols);
  dequantize(rounded.matrix, decoded.view(), executor_);
  return share(std::move(decoded));
}

}  // namespace higgs::model
