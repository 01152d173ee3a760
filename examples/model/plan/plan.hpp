// SPDX-License-Identifier: Apache-2.0
// Plans for whole models: which linear layer gets which codebook.
#pragma once

#include "architecture/parts.hpp"
#include "measure/calibrate.hpp"
#include "measure/sensitivity.hpp"
#include "network/transformer.hpp"
#include "plan/rounding_report.hpp"
#include "quantize/outline.hpp"
#include "source/source.hpp"

#include <higgs/allocate/plan.hpp>
#include <higgs/core/executor.hpp>
#include <higgs/quantizer.hpp>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace higgs::model {

/// The best code of each rate from 1.5 bits on. Errors at 1 bit are far beyond the range of the linearity theorem.
std::vector<std::string> plan_codebooks();

/// What a plan may choose from, and how its choice is weighed.
struct PlanRequest {
  std::vector<std::string> codebooks = plan_codebooks();  ///< names of shipped codes
  QuantizeOptions options{};                              // input_scales is that of the sensitivities
  bool calibrated = true;  // whether the model will be quantized with measured inputs
  Metric metric = Metric::Kl;
  /// Whether layers that read the same, q, k and v or gate and up, share a format and input scales. Sensitivities are
  /// measured under Sharing::Alike whatever it is.
  bool fused = false;
  /// What rounding with feedback leaves of the losses of layers; none: layers will be rounded to the nearest.
  std::optional<RoundingReport> rounding{};

  Sharing sharing() const noexcept { return fused ? Sharing::Fused : Sharing::Alike; }
};

/// The measured layers as allocate() wants them, with the exact bytes of every format. An alpha is multiplied by what
/// `request.rounding` says that feedback leaves of the layer's loss. Throws FormatError, with the numbers, if layers are not
/// those of the model: one is missing, too many, of another shape, or quantized already, or the report is of other weights.
std::vector<PlanLayer> plan_layers(const ModelSource& source, const SensitivityFile& file,
                                   const PlanRequest& request);

/// What quantization with a plan will make of the model: the whole file.
Outline outline_of(const ModelSource& source, const PlanRequest& request, const Plan& plan);
/// The plan of least predicted loss whose whole file, with all that is not planned, has at most `bytes`; none if even the
/// smallest formats take more.
std::optional<Plan> allocate_file(const ModelSource& source, const std::vector<PlanLayer>& layers,
                                  const PlanRequest& request, std::int64_t bytes,
                                  const PlanOptions& options = {});
/// Every layer in its smallest format; none if `options` leave a layer without one.
std::optional<Plan> smallest_plan(const std::vector<PlanLayer>& layers, const PlanOptions& options = {});

/// What makes sensitivities doubtful for a model, in sentences: they were measured on another one.
std::vector<std::string> doubts_about(const SensitivityFile& file, const ModelSource& source);
/// Says how many layers, which plan_layers() returned, the report lacks; empty if it has all.
std::string layers_without_feedback(const RoundingReport& report, const std::vector<PlanLayer>& layers);

/// A plan as quantization needs it: a codebook for each weight's name, and how rows are cut.
struct StoredPlan {
  std::map<std::string, std::string, std::less<>> codebooks;
  std::map<std::string, std::pair<std::int64_t, std::int64_t>, std::less<>>
      shapes;  // (rows, cols), where known
  std::int64_t block = 0, group = 0;
  bool input_scales = true;
  Sharing sharing = Sharing::Alike;  // of input scales
  /// Whether the predicted loss is that of layers rounded with feedback.
  bool with_feedback = false;
  std::optional<double> loss{};  // the predicted change of the metric, where known
  std::string metric{};          // "kl", "nll" or "ppl"; empty: unknown
};
std::string write_plan(const Plan& plan, const PlanRequest& request, const SensitivityFile& file);
/// Throws FormatError, which names `source`, for anything else than such a file.
StoredPlan read_plan(std::string_view text, const std::string& source);

/// Throws FormatError, which names `path`, for a plan that is not for this model: it lacks a linear layer, or has a matrix
/// that the model lacks or has in another shape.
void check_plan(const StoredPlan& plan, const ModelSource& source, const std::string& path);

/// Runs plans without writing them: layers are rounded once for each format and kept as floats.
class PlanRunner {
 public:
  /// The model must be dense and outlive this. `input_squares` are those of the layers that have measured inputs. Layers
  /// that are alike share input scales.
  PlanRunner(const Transformer& model, const QuantizeOptions& options, InputSquares input_squares = {},
             Executor& executor = default_executor());

  /// The model with one format for each linear layer of its blocks, in the order of the model: a codebook's
  /// name, or "CODEBOOK/GROUP" for other groups than the options'. `t2` and `bytes` are filled in, layer by
  /// layer.
  Transformer with(const std::vector<std::string>& formats, std::vector<double>& t2,
                   std::vector<std::int64_t>& bytes);

 private:
  struct Rounded {
    SharedMatrix weight;
    double t2 = 0;
    std::int64_t bytes = 0;
  };
  const Rounded& rounded(const std::string& layer, const Matrix& dense, const std::string& format);

  const Transformer& model_;
  QuantizeOptions options_;
  InputSquares input_squares_;
  Executor& executor_;
  std::map<std::pair<std::string, std::string>, Rounded> kept_;  // by layer and format
};

/// A page with pictures: alpha by layer, bits by layer, the front of all budgets.
std::string allocation_page(const std::string& title, const SensitivityFile& file,
                            const std::vector<PlanLayer>& layers, const Plan& plan,
                            Metric metric = Metric::Kl);
/// The part of it about the layers' sensitivities.
std::string sensitivity_section(const SensitivityFile& file, Metric metric);

}  // namespace higgs::model
