// SPDX-License-Identifier: Apache-2.0
// higgs-model generate: writes on from a prompt.
#include "network/generate.hpp"
#include "cli/commands.hpp"
#include "quantize/quantize.hpp"
#include "source/source.hpp"
#include "tokenizer/chat.hpp"
#include "tokenizer/unicode.hpp"

#include <higgs/core/error.hpp>
#include <higgs/quantizer.hpp>

#include <algorithm>
#include <iomanip>
#include <iostream>
#include <memory>
#include <optional>
#include <ostream>
#include <span>
#include <variant>

namespace higgs::model {
namespace {

struct Options : CommonOptions {
  std::string model, prompt, system, output_codebook;
  bool chat = false;
  std::int64_t tokens = 64;
  Sampling sampling;
};

double rate(std::int64_t count, double seconds) {
  return seconds > 0 ? static_cast<double>(count) / seconds : 0;
}

void generate_text(const Options& options) {
  const auto executor = options.executor();
  const ModelSource source(options.model);
  note_unused(source);
  const Tokenizer tokenizer(source.vocabulary(), options.model);
  std::optional<ChatFormat> chat;
  if (options.chat) chat.emplace(tokenizer.vocabulary(), options.model);
  Transformer model = Transformer::load(source, *executor);
  Linear& output = model.weights.output;
  if (const auto* dense = std::get_if<SharedMatrix>(&output.weight);
      dense && !options.output_codebook.empty())
    output.weight =
        PackedMatrix(quantize((*dense)->view(), options.output_codebook, {}, *executor), *executor);
  const std::string prompt = chat ? chat->prompt(options.prompt, options.system) : options.prompt;
  // A chat template says by itself what stands before the text.
  std::vector<TokenId> ids = chat ? tokenizer.encode_bare(prompt) : tokenizer.encode(prompt);
  if (ids.empty() && model.config().begin_token) ids.push_back(*model.config().begin_token);

  std::ostream& out = options.text();
  on_interrupt(Interrupted::PartWritten);  // text that has come is seen
  if (!options.chat) out << prompt << std::flush;
  Utf8Stream characters;
  std::string text;
  // An answer is a text of its own; what goes on from a prompt keeps the space between the two.
  const bool strips = chat && tokenizer.vocabulary().lead != Vocabulary::Lead::Kept;
  const auto show = [&](std::string more) {
    if (strips && text.empty() && more.starts_with(' ')) more.erase(0, 1);
    text += more;
    out << more << std::flush;
  };
  const Generation result = generate(
      model, ids, options.tokens, options.sampling,
      [&](TokenId id) {
        if (!tokenizer.is_special(id)) show(characters.push(tokenizer.bytes(id)));
      },
      *executor, chat ? std::span(chat->end_tokens()) : std::span<const TokenId>());
  show(characters.finish());
  out << "\n";

  const auto count = static_cast<std::int64_t>(result.tokens.size());
  const double prefill = rate(result.prompt_tokens, result.prefill_seconds);
  const double decode = rate(std::max<std::int64_t>(0, count - 1), result.decode_seconds);
  std::cerr << std::setprecision(4) << "prefill: " << result.prompt_tokens << " tokens at " << prefill
            << " tokens/s; decode: " << count << " tokens at " << decode << " tokens/s\n";
  options.write({{"text", text},
                 {"tokens", count},
                 {"prompt_tokens", result.prompt_tokens},
                 {"prefill_tokens_per_second", prefill},
                 {"decode_tokens_per_second", decode}});
}

}  // namespace

void add_generate(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("generate", "Continues a prompt");
  command->add_option("model", options->model, "model to run")->required()->type_name("MODEL");
  command->add_option("--prompt", options->prompt, "text to continue")->required()->type_name("TEXT");
  command->add_option("--tokens", options->tokens, "write at most so many tokens")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 30));
  command->add_option("--temperature", options->sampling.temperature, "0: always the likeliest token")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 1000.0));
  command->add_option("--top-k", options->sampling.top_k, "choose among so many tokens (0: all)")
      ->capture_default_str()
      ->check(CLI::Range(0, 1 << 30));
  command
      ->add_option("--top-p", options->sampling.top_p,
                   "choose among tokens that together have this probability")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 1.0));
  command->add_option("--seed", options->sampling.seed, "of the choices")->capture_default_str();
  command
      ->add_option(
          "--output-codebook", options->output_codebook,
          "round a dense output layer, which small models spend most of their time in, to a codebook or to "
          "bits")
      ->type_name("CODEBOOK|BITS")
      ->transform(as_code());
  command->add_flag("--chat", options->chat,
                    "the prompt is a question to a chat model, written as its template says");
  command->add_option("--system", options->system, "what the chat model is told first")->type_name("TEXT");
  options->add_to(*command);
  command->callback([options] { generate_text(*options); });
}

}  // namespace higgs::model
