// SPDX-License-Identifier: Apache-2.0
// higgs-model eval: perplexity on a text, and divergence from a reference model.
#include "commands.hpp"
#include "evaluate.hpp"
#include "source.hpp"

#include <iomanip>
#include <memory>
#include <optional>
#include <ostream>

namespace higgs::model {
namespace {

struct Options : CommonOptions {
  std::string model, text_file, reference;
  std::int64_t window = 512, tokens = 0;
  bool half_kv = false;
};

void eval(const Options& options) {
  const auto executor = options.executor();
  const ModelSource source(options.model);
  const Tokenizer tokenizer(source.vocabulary(), options.model);
  Evaluator evaluator(read_tokens(options.text_file, tokenizer, options.tokens), options.window, *executor);
  const auto run = [&](const char* label, const auto& work) {
    ProgressBar bar(label, "tokens");
    return work([&](std::int64_t done, std::int64_t total) { bar.update(done, total); });
  };
  std::optional<Evaluation> reference;
  if (!options.reference.empty()) {
    const Transformer model = Transformer::load(ModelSource(options.reference), *executor);
    reference =
        run("reference", [&](const auto& progress) { return evaluator.set_reference(model, progress); });
  }
  const Transformer model = Transformer::load(source, *executor);
  const Evaluation result = run("eval", [&](const auto& progress) {
    return evaluator.evaluate(model, progress, options.half_kv ? KvType::Half : KvType::Float);
  });

  nlohmann::ordered_json results{{"tokens", result.tokens}, {"ppl", result.perplexity()}, {"kl", nullptr}};
  std::ostream& out = options.text();
  out << std::setprecision(6) << result.tokens << " tokens predicted, perplexity " << result.perplexity();
  if (reference) {
    results["kl"] = *result.kl;
    results["reference_ppl"] = reference->perplexity();
    out << " (reference " << reference->perplexity() << "), KL " << *result.kl << " nats a token";
  }
  out << "\n";
  options.write(results);
}

}  // namespace

void add_eval(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("eval", "Measures perplexity, and KL from a reference, on a text");
  command->add_option("model", options->model, "model to evaluate")->required()->type_name("MODEL");
  add_text_options(*command, options->text_file, options->window, options->tokens);
  command->add_option("--reference", options->reference, "model to compare with")->type_name("MODEL");
  command->add_flag("--half-kv", options->half_kv,
                    "keep keys and values in 16 bits, as generate does; those of the reference stay floats");
  options->add_to(*command);
  command->callback([options] { eval(*options); });
}

}  // namespace higgs::model
