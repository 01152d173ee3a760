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
#include <functional>
#include <iomanip>
#include <iostream>
#include <memory>
#include <optional>
#include <ostream>
#include <span>
#include <variant>
#include <vector>

namespace higgs::model {
namespace {

struct Options : CommonOptions {
  std::string model, prompt, system, output_codebook;
  bool chat = false;
  std::int64_t tokens = 64;
  Sampling sampling;
  ProcessorOptions processor;
};

double rate(std::int64_t count, double seconds) {
  return seconds > 0 ? static_cast<double>(count) / seconds : 0;
}

// The model on the CPU, with the output layer that the options ask for.
Transformer load_on_cpu(const Options& options, const ModelSource& source, Executor& executor) {
  Transformer model = Transformer::load(source, executor);
  Linear& output = model.weights.output;
  if (const auto* dense = std::get_if<SharedMatrix>(&output.weight);
      dense && !options.output_codebook.empty())
    output.weight = PackedMatrix(quantize((*dense)->view(), options.output_codebook, {}, executor), executor);
  return model;
}

// Continues a text on the processor that the options ask for.
class Writer {
 public:
  // `tokens`: those of the text, prompt and all, that there must be room for.
  Writer(const Options& options, const ModelSource& source, std::int64_t tokens, Executor& executor)
      : options_(options), executor_(executor) {
    if (!options.processor.on_gpu()) {
      host_.emplace(load_on_cpu(options, source, executor));
      return;
    }
    DeviceOptions how = options.processor.gpu(tokens);
    if (!options.output_codebook.empty())
      how.round_output = [&](MatrixView<const float> weights) {
        return quantize(weights, options.output_codebook, {}, executor);
      };
    device_ = open_device_generator(source, how, executor);
  }

  Generation write(const std::vector<TokenId>& prompt, const std::function<void(TokenId)>& on_token,
                   std::span<const TokenId> more_ends) {
    if (host_)
      return generate(*host_, prompt, options_.tokens, options_.sampling, on_token, executor_, more_ends);
    return device_
        ->generate(
            {&prompt, 1}, options_.tokens, options_.sampling,
            [&](std::size_t, TokenId token) { on_token(token); }, more_ends)
        .front();
  }

 private:
  const Options& options_;
  Executor& executor_;
  std::optional<Transformer> host_;
  std::unique_ptr<DeviceGenerator> device_;
};

void generate_text(const Options& options) {
  options.processor.require();
  const auto executor = options.executor();
  const ModelSource source(options.model);
  note_unused(source);
  const Tokenizer tokenizer(source.vocabulary(), options.model);
  std::optional<ChatFormat> chat;
  if (options.chat) chat.emplace(tokenizer.vocabulary(), options.model);
  const std::string prompt = chat ? chat->prompt(options.prompt, options.system) : options.prompt;
  // A chat template says by itself what stands before the text.
  std::vector<TokenId> ids = chat ? tokenizer.encode_bare(prompt) : tokenizer.encode(prompt);
  if (const auto begin = source.require_config().begin_token; ids.empty() && begin) ids.push_back(*begin);
  Writer writer(options, source, std::ssize(ids) + options.tokens, *executor);

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
  const Generation result = writer.write(
      ids,
      [&](TokenId id) {
        if (!tokenizer.is_special(id)) show(characters.push(tokenizer.bytes(id)));
      },
      chat ? std::span(chat->end_tokens()) : std::span<const TokenId>());
  show(characters.finish());
  out << "\n";

  const auto count = static_cast<std::int64_t>(result.tokens.size());
  const double prefill = rate(result.prompt_tokens, result.prefill_seconds);
  const double decode = rate(std::max<std::int64_t>(0, count - 1), result.decode_seconds);
  std::cerr << std::setprecision(4) << "prefill: " << result.prompt_tokens << " tokens at " << prefill
            << " tokens/s; decode: " << count << " tokens at " << decode << " tokens/s";
  if (options.processor.on_gpu()) {
    const DeviceType asked = options.processor.gpu(0).type;
    std::cerr << "; activations in " << name_of(asked == DeviceType::OfModel ? type_of(source) : asked);
  }
  std::cerr << "\n";
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
  options->processor.add_to(*command);
  options->add_to(*command);
  command->callback([options] { generate_text(*options); });
}

}  // namespace higgs::model
