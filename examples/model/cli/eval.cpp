// SPDX-License-Identifier: Apache-2.0
// higgs-model eval: perplexity on a text, and divergence from a reference model.
#include "cli/commands.hpp"
#include "measure/evaluate.hpp"
#include "source/source.hpp"

#include <higgs/core/error.hpp>

#include <cstdio>
#include <memory>
#include <optional>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

namespace higgs::model {
namespace {

struct Options : CommonOptions {
  std::string model, text_file, reference;
  std::int64_t window = 512, tokens = 0;
  bool half_kv = false;
  ProcessorOptions processor;
};

// Two models that one text is to be put to.
void require_same_vocabulary(const ModelSource& a, const ModelSource& b) {
  const std::int64_t ours = a.require_config().vocabulary, theirs = b.require_config().vocabulary;
  if (ours != theirs)
    throw InvalidArgument(a.path().string() + " has " + std::to_string(ours) + " tokens, the reference " +
                          b.path().string() + " has " + std::to_string(theirs));
}

// Both models read the tokens of the first one's tokenizer; a reference with another tokenizer would not know them.
void note_other_tokens(const Options& options, const ModelSource& reference,
                       const std::vector<TokenId>& tokens) {
  try {
    const Tokenizer tokenizer(reference.vocabulary(), options.reference);
    if (read_tokens(options.text_file, tokenizer, options.tokens) != tokens)
      tell(options.reference + ": reads the text as other tokens than " + options.model +
           ", whose tokens both models are given");
  } catch (const FormatError& error) {
    tell(std::string("whether the reference reads the text as the same tokens is unknown: ") + error.what());
  }
}

void print(std::ostream& out, const Evaluator& evaluator, const Evaluation& result,
           const std::optional<Evaluation>& reference) {
  const auto with_error = [](const Estimate& value) {
    char text[80];
    std::snprintf(text, sizeof text, "%.6g +- %.2g", value.mean, value.standard_error);
    return std::string(text);
  };
  out << evaluator.coverage() << "\nperplexity "
      << with_error({result.perplexity(), result.perplexity_error()});
  if (reference) {
    const Divergence& away = result.divergence.value();
    char text[160];
    std::snprintf(text, sizeof text,
                  "; 99 %% of tokens within %.4g, largest %.4g\ntop token as the reference's: %.2f %%\n",
                  away.quantile_99, away.most, 100 * away.top_agreement);
    out << ", reference " << with_error({reference->perplexity(), reference->perplexity_error()}) << "\nKL "
        << with_error(away.kl) << " nats a token" << text;
  } else {
    out << "\n";
  }
  out << describe_errors(result) << "\n";
}

void eval(const Options& options) {
  options.processor.require();
  const auto executor = options.executor();
  const ModelSource source(options.model);
  note_unused(source);
  std::optional<ModelSource> reference_source;
  if (!options.reference.empty()) {
    reference_source.emplace(options.reference);
    require_same_vocabulary(source, *reference_source);
    require_context(*reference_source, options.window);
  }
  require_context(source, options.window);
  const Tokenizer tokenizer(source.vocabulary(), options.model);
  std::vector<TokenId> tokens = text_tokens(options.text_file, tokenizer, options.tokens, options.window);
  if (reference_source) note_other_tokens(options, *reference_source, tokens);
  Evaluator evaluator(std::move(tokens), options.window, *executor);
  std::optional<Evaluation> reference;
  if (reference_source) {
    const auto model = options.processor.open(*reference_source, options.window, *executor);
    ProgressBar bar("reference", "tokens");
    reference = evaluator.set_reference(*model, show_means(bar));
  }
  const auto model = options.processor.open(source, options.window, *executor,
                                            options.half_kv ? KvType::Half : KvType::Float);
  const Evaluation result = [&] {
    ProgressBar bar("eval", "tokens");
    return evaluator.evaluate(*model, show_means(bar));
  }();

  nlohmann::ordered_json results = describe(result);
  results["text_tokens"] = evaluator.text_tokens();
  results["tokens_left_out"] = evaluator.text_tokens() - evaluator.tokens();
  results["window"] = options.window;
  results["device"] = options.processor.device;
  results["dtype"] = options.processor.measuring_type();
  if (reference) {
    results["reference_ppl"] = reference->perplexity();
    results["reference_ppl_standard_error"] = describe(*reference)["ppl_standard_error"];
  }
  options.text() << "measured on " << options.processor.describe() << "\n";
  print(options.text(), evaluator, result, reference);
  options.write(results);
}

}  // namespace

void add_eval(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("eval", "Measures perplexity, and KL from a reference, on a text");
  add_model_option(*command, *options, options->model, "model to evaluate");
  add_text_options(*command, *options, options->text_file, options->window, options->tokens);
  options->reads(command->add_option("--reference", options->reference, "model to compare with"))
      ->type_name("MODEL");
  command->add_flag("--half-kv", options->half_kv,
                    "keep keys and values in 16 bits, as generate does; those of the reference stay floats "
                    "(on a GPU all have 16 bits)");
  options->processor.add_to(*command);
  options->add_to(*command);
  command->callback([options] { eval(*options); });
}

}  // namespace higgs::model
