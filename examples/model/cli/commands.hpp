// SPDX-License-Identifier: Apache-2.0
// What the commands of higgs-model share. Each command is one file, NAME.cpp.
#pragma once

#include <higgs/core/executor.hpp>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <cstdint>
#include <iosfwd>
#include <memory>
#include <string>
#include <vector>

#include "device/device.hpp"
#include "measure/calibrate.hpp"
#include "measure/evaluate.hpp"
#include "network/network.hpp"
#include "source/source.hpp"
#include "terminal/interrupt.hpp"
#include "terminal/output.hpp"
#include "terminal/progress.hpp"

namespace higgs::model {

/// Options that every command has.
struct CommonOptions {
  std::string json;  // file for results, "-": standard output
  int threads = 0;   // 0: one for each core

  /// The file for results is opened before the command's work begins, and this must not move after that.
  void add_to(CLI::App& command);
  /// Keeps results from replacing the files that the option's words name. Returns the option.
  CLI::Option* reads(CLI::Option* option);
  /// Where text for people goes: not where JSON goes.
  std::ostream& text() const;
  /// Writes the results, if they are asked for. Throws IoError; InvalidArgument, which names the entry, if a number of
  /// them is NaN or infinite: JSON would turn it into null.
  void write(const nlohmann::ordered_json& results) const;
  std::unique_ptr<Executor> executor() const { return std::make_unique<ThreadPool>(threads); }

 private:
  std::shared_ptr<Output> results_ = std::make_shared<Output>();
  std::vector<const CLI::Option*> inputs_;
};

/// --device and --dtype of a command that runs models.
struct ProcessorOptions {
  std::string device = "cpu", dtype;

  void add_to(CLI::App& command);
  bool on_gpu() const { return device == "cuda"; }
  /// Throws InvalidArgument for a dtype without a GPU and for a GPU in a build without CUDA, CudaError where there is no
  /// GPU. Commands ask it before any work.
  void require() const;
  /// What generates: --dtype as it is, with room for a text of `tokens`.
  DeviceOptions gpu(std::int64_t tokens) const;
  /// The type of activations where a model is measured: "float" on the CPU; on a GPU "bf16" if --dtype asks for it, and
  /// "fp16", which rounds eight times as finely, where it is auto.
  std::string measuring_type() const;
  /// "cuda, activations in fp16", for results that name how they came about.
  std::string describe() const;
  /// The model on that processor, in measuring_type(), for texts of `tokens`. `kv` counts on the CPU; a GPU keeps keys and
  /// values in 16 bits, and must have room for copies.
  std::unique_ptr<Network> open(const ModelSource& source, std::int64_t tokens, Executor& executor,
                                KvType kv = KvType::Float, Copies copies = Copies::None) const;
};

/// A word as a shell reads it.
std::string shell_quoted(const std::string& word);
/// The command line as a shell would read it; main() sets it.
std::string& command_line();
/// The version of higgs, "0.1.0".
std::string version();

/// MODEL, the first word of a command.
void add_model_option(CLI::App& command, CommonOptions& options, std::string& model, const char* what);
/// --text, --window and --tokens of a command that predicts a text; 0 tokens: all.
void add_text_options(CLI::App& command, CommonOptions& options, std::string& text_file, std::int64_t& window,
                      std::int64_t& tokens);
/// The first `most` tokens of a text file, or all (0), for windows of `window`. Throws InvalidArgument, which names the file,
/// if they fill none.
std::vector<TokenId> text_tokens(const std::string& file, const Tokenizer& tokenizer, std::int64_t most,
                                 std::int64_t window);
/// Throws InvalidArgument if the option, which says how to calibrate input scales, asks for that where `what` leaves out
/// input scales.
void require_no_calibration(const CLI::Option& calibrate, const std::string& what);

/// For an option that takes a list: each use takes one word, which may be parts between commas. A word behind it is
/// another argument.
CLI::Option* as_list(CLI::Option* option);

/// For CLI::Option::check: a finite number above 0; at least 0.
CLI::Validator positive();
CLI::Validator not_negative();
/// For CLI::Option::check: an integer without a sign, of 64 bits.
CLI::Validator seed_number();

/// The code that a word of the command line stands for: its name, a word of `others`, or bits a weight, which stand for
/// the best code of that rate. Throws InvalidArgument, which lists all of them.
std::string code_named(const std::string& word, const std::vector<std::string>& others = {});
/// For CLI::Option::transform of an option that takes such a word.
CLI::Validator as_code(const std::vector<std::string>& others = {});
/// For CLI::Option::transform of an option that takes bits alone: they become the name of the best code.
CLI::Validator as_code_of_bits();

/// For Evaluator: draws `bar` with the means so far. The bar must outlive the function.
Evaluator::Progress show_means(ProgressBar& bar);
/// An evaluation as JSON; null stands for a standard error that one token cannot tell.
nlohmann::ordered_json describe(const Evaluation& result);
/// What the standard errors of an evaluation are, in a sentence.
std::string describe_errors(const Evaluation& result);
/// The calibration_tokens() that a command's --calibrate asks for. It draws a bar while the model writes them.
std::vector<TokenId> tokens_to_calibrate(const ModelSource& source, const std::string& calibrate,
                                         std::int64_t count, Executor& executor,
                                         const WrittenTokens& written = {});
/// Throws InvalidArgument, which names the model, if its context is shorter than a window.
void require_context(const ModelSource& source, std::int64_t window);
/// Says it to the user on standard error, where it mixes with no result.
void tell(const std::string& note);
/// Says which tensors of a model that will run it has no use for, if there are any.
void note_unused(const ModelSource& source);
/// Throws InvalidArgument, which names the model, if higgs quantized it.
void require_original(const ModelSource& source);

void add_inspect(CLI::App& app);
void add_quantize(CLI::App& app);
void add_eval(CLI::App& app);
void add_compare(CLI::App& app);
void add_sensitivity(CLI::App& app);
void add_allocate(CLI::App& app);
void add_linearity(CLI::App& app);
void add_generate(CLI::App& app);

}  // namespace higgs::model
