// SPDX-License-Identifier: Apache-2.0
// higgs-model generate: writes on from prompts.
#include "network/generate.hpp"
#include "architecture/parts.hpp"
#include "chat/chat.hpp"
#include "cli/commands.hpp"
#include "quantize/quantize.hpp"
#include "source/source.hpp"
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
#include <sstream>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace higgs::model {
namespace {

struct Options : CommonOptions {
  std::string model, prompts_file, system, output_codebook;
  std::vector<std::string> prompts;
  bool chat = false;
  std::int64_t tokens = 64, batch = 1;
  Sampling sampling;
  ProcessorOptions processor;
};

double rate(std::int64_t count, double seconds) {
  return seconds > 0 ? static_cast<double>(count) / seconds : 0;
}

// Throws InvalidArgument if the output layer that the options would round has codes of its own already.
void require_dense_output(const Options& options, const ModelSource& source) {
  if (options.output_codebook.empty() || !source.checkpoint()) return;
  const bool tied = source.require_config().tied_embeddings;
  if (const CheckpointLayer* layer = source.checkpoint()->find_layer(tied ? embedding_name : output_name))
    throw InvalidArgument(options.model + ": the output layer is quantized already, to " + layer->codebook +
                          ", so --output-codebook must not be given");
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

// Continues texts together on the processor that the options ask for.
class Writer {
 public:
  // There must be room for texts of `tokens`, prompts and all.
  Writer(const Options& options, const ModelSource& source, std::int64_t texts, std::int64_t tokens,
         Executor& executor)
      : options_(options), executor_(executor) {
    if (!options.processor.on_gpu()) {
      host_.emplace(load_on_cpu(options, source, executor));
      return;
    }
    DeviceOptions how = options.processor.gpu(tokens);
    how.texts = texts;
    if (!options.output_codebook.empty())
      how.round_output = [&](MatrixView<const float> weights) {
        return quantize(weights, options.output_codebook, {}, executor);
      };
    device_ = open_device_generator(source, how, executor);
  }

  std::vector<Generation> write(const std::vector<std::vector<TokenId>>& prompts, const OnToken& on_token,
                                std::span<const TokenId> more_ends) {
    if (device_) return device_->generate(prompts, options_.tokens, options_.sampling, on_token, more_ends);
    return generate(*host_, prompts, options_.tokens, options_.sampling, on_token, executor_, more_ends);
  }

 private:
  const Options& options_;
  Executor& executor_;
  std::optional<Transformer> host_;
  std::unique_ptr<DeviceGenerator> device_;
};

// Shows texts in their order: the first that has not ended while it grows, later ones when their turn comes.
class Display {
 public:
  // `leads` stand before the texts. `strips`: a space at the beginning of a text goes.
  Display(std::ostream& out, const Tokenizer& tokenizer, std::vector<std::string> leads, bool strips)
      : out_(out), tokenizer_(tokenizer), leads_(std::move(leads)), strips_(strips), shown_(leads_.size()) {
    out_ << leads_.front() << std::flush;
  }

  void take(std::size_t text, TokenId token) {
    if (!tokenizer_.is_special(token)) show(text, shown_[text].characters.push(tokenizer_.bytes(token)));
  }
  void end(std::size_t text) {
    show(text, shown_[text].characters.finish());
    shown_[text].ended = true;
    while (turn_ < shown_.size() && shown_[turn_].ended) {
      out_ << "\n";
      if (++turn_ < shown_.size()) out_ << leads_[turn_] << shown_[turn_].text << std::flush;
    }
  }
  const std::string& text(std::size_t text) const { return shown_[text].text; }

 private:
  struct Shown {
    Utf8Stream characters;
    std::string text;
    bool ended = false;
  };
  void show(std::size_t text, std::string more) {
    if (strips_ && shown_[text].text.empty() && more.starts_with(' ')) more.erase(0, 1);
    shown_[text].text += more;
    if (text == turn_) out_ << more << std::flush;
  }

  std::ostream& out_;
  const Tokenizer& tokenizer_;
  std::vector<std::string> leads_;
  bool strips_;
  std::vector<Shown> shown_;
  std::size_t turn_ = 0;
};

// Each prompt of the options, --batch times. Throws InvalidArgument for none and for too many, IoError for a file.
std::vector<std::string> texts_of(const Options& options) {
  std::vector<std::string> prompts = options.prompts;
  if (!options.prompts_file.empty()) {
    std::string file = read_text(options.prompts_file);
    if (file.starts_with("\xff\xfe") || file.starts_with("\xfe\xff"))
      throw InvalidArgument(options.prompts_file + ": is UTF-16, but must be UTF-8");
    if (file.starts_with("\xef\xbb\xbf")) file.erase(0, 3);  // editors mark UTF-8 so; it is no text
    std::istringstream lines(file);
    for (std::string line; std::getline(lines, line);) {
      if (line.ends_with('\r')) line.pop_back();
      if (!line.empty()) prompts.push_back(line);
    }
    if (prompts.empty()) throw InvalidArgument(options.prompts_file + ": has no prompt, which is a line");
  }
  const std::int64_t texts = std::ssize(prompts) * options.batch;
  if (texts > most_texts)
    throw InvalidArgument("there are " + std::to_string(prompts.size()) + " prompts, and --batch " +
                          std::to_string(options.batch) + " makes " + std::to_string(texts) +
                          " texts of them; there may be " + std::to_string(most_texts));
  std::vector<std::string> out;
  for (const std::string& prompt : prompts)
    for (std::int64_t i = 0; i < options.batch; ++i) out.push_back(prompt);
  return out;
}

// Throws InvalidArgument for the prompt of text `number`, counted from 1, if it leaves nothing to continue or no room.
void check_prompt(const std::vector<TokenId>& prompt, std::size_t number, const ModelConfig& config) {
  const std::string which = "the prompt of text " + std::to_string(number);
  if (prompt.empty())
    throw InvalidArgument(which + " is empty, and the model has no token that texts begin with");
  if (std::ssize(prompt) >= config.context)
    throw InvalidArgument(which + " has " + std::to_string(prompt.size()) +
                          " tokens, which leave no room in the model's context of " +
                          std::to_string(config.context));
}

// How many tokens came in what time.
struct Rates {
  std::int64_t prompt_tokens = 0, tokens = 0, decoded = 0;  // the prompt predicts the first token
  double prefill_seconds = 0, decode_seconds = 0;

  explicit Rates(const Generation& text)
      : prompt_tokens(text.prompt_tokens),
        tokens(std::ssize(text.tokens)),
        decoded(std::max<std::int64_t>(0, tokens - 1)),
        prefill_seconds(text.prefill_seconds),
        decode_seconds(text.decode_seconds) {}
  // Those of all texts, which grew together.
  explicit Rates(const std::vector<Generation>& texts) {
    for (const Generation& each : texts) {
      const Rates one(each);
      prompt_tokens += one.prompt_tokens;
      tokens += one.tokens;
      decoded += one.decoded;
      prefill_seconds += one.prefill_seconds;
      decode_seconds = std::max(decode_seconds, one.decode_seconds);
    }
  }
  double prefill() const { return rate(prompt_tokens, prefill_seconds); }
  double decode() const { return rate(decoded, decode_seconds); }
  nlohmann::ordered_json describe() const {
    return {{"tokens", tokens},
            {"prompt_tokens", prompt_tokens},
            {"prefill_tokens_per_second", prefill()},
            {"decode_tokens_per_second", decode()}};
  }
};

void report(const Options& options, const ModelSource& source, const std::vector<std::string>& texts,
            const Display& display, const std::vector<Generation>& results) {
  const Rates all(results);
  std::cerr << std::setprecision(4) << "prefill: " << all.prompt_tokens << " tokens at " << all.prefill()
            << " tokens/s; decode: " << all.tokens << " tokens at " << all.decode() << " tokens/s";
  if (texts.size() > 1)
    std::cerr << " in " << texts.size() << " texts, the first at " << Rates(results[0]).decode();
  if (options.processor.on_gpu()) {
    const DeviceType asked = options.processor.gpu(0).type;
    std::cerr << "; activations in " << name_of(asked == DeviceType::OfModel ? type_of(source) : asked);
  }
  std::cerr << "\n";
  nlohmann::ordered_json json, each_text = nlohmann::ordered_json::array();
  if (texts.size() == 1) json["text"] = display.text(0);
  json.update(all.describe());
  for (std::size_t i = 0; i < texts.size(); ++i) {
    nlohmann::ordered_json each{{"number", i + 1},
                                {"prompt", texts[i]},
                                {"seed", options.sampling.seed + i},
                                {"text", display.text(i)}};
    each.update(Rates(results[i]).describe());
    each_text.push_back(std::move(each));
  }
  json["texts"] = std::move(each_text);
  options.write(json);
}

void generate_texts(const Options& options) {
  options.processor.require();
  const std::vector<std::string> texts = texts_of(options);
  const auto executor = options.executor();
  const ModelSource source(options.model);
  note_unused(source);
  require_dense_output(options, source);
  const Tokenizer tokenizer(source.vocabulary(), options.model);
  std::optional<ChatFormat> chat;
  if (options.chat) chat.emplace(tokenizer.vocabulary(), options.model);
  std::vector<std::vector<TokenId>> prompts;
  std::vector<std::string> leads;
  std::int64_t longest = 0;
  for (const std::string& text : texts) {
    // A chat template says by itself what stands before the text.
    std::vector<TokenId> ids =
        chat ? tokenizer.encode_bare(chat->prompt(text, options.system)) : tokenizer.encode(text);
    if (const auto begin = source.require_config().begin_token; ids.empty() && begin) ids.push_back(*begin);
    check_prompt(ids, prompts.size() + 1, source.require_config());
    longest = std::max<std::int64_t>(longest, std::ssize(ids));
    leads.push_back(texts.size() > 1 ? "[" + std::to_string(leads.size() + 1) + "] " : "");
    if (!chat) leads.back() += text;
    prompts.push_back(std::move(ids));
  }
  Writer writer(options, source, std::ssize(texts), longest + options.tokens, *executor);

  on_interrupt(Interrupted::PartWritten);  // text that has come is seen
  // An answer is a text of its own; what goes on from a prompt keeps the space between the two.
  const bool strips = chat && tokenizer.vocabulary().lead != Vocabulary::Lead::Kept;
  Display display(options.text(), tokenizer, std::move(leads), strips);
  const std::vector<Generation> results = writer.write(
      prompts, [&](std::size_t text, TokenId id) { display.take(text, id); },
      chat ? std::span(chat->end_tokens()) : std::span<const TokenId>());
  for (std::size_t text = 0; text < results.size(); ++text) display.end(text);
  report(options, source, texts, display, results);
}

}  // namespace

void add_generate(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("generate", "Continues prompts");
  add_model_option(*command, *options, options->model, "model to run");
  command->add_option("--prompt", options->prompts, "text to continue; may be given several times")
      ->allow_extra_args(false)
      ->type_name("TEXT");
  options
      ->reads(command->add_option("--prompts", options->prompts_file, "continue each line of this file, too"))
      ->type_name("FILE");
  command
      ->add_option("--batch", options->batch, "write so many texts from each prompt; all texts grow together")
      ->capture_default_str()
      ->check(CLI::Range(std::int64_t{1}, most_texts));
  command->add_option("--tokens", options->tokens, "write at most so many tokens")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 30));
  command->add_option("--temperature", options->sampling.temperature, "0: always the likeliest token")
      ->capture_default_str()
      ->check(not_negative())
      ->check(CLI::Range(0.0, 1000.0));
  command->add_option("--top-k", options->sampling.top_k, "choose among so many tokens (0: all)")
      ->capture_default_str()
      ->check(CLI::Range(0, 1 << 30));
  command
      ->add_option("--top-p", options->sampling.top_p,
                   "choose among tokens that together have this probability")
      ->capture_default_str()
      ->check(positive())
      ->check(CLI::Range(0.0, 1.0));
  command
      ->add_option("--seed", options->sampling.seed,
                   "of the choices of the first text; text i takes seed + i")
      ->capture_default_str()
      ->check(seed_number());
  command
      ->add_option(
          "--output-codebook", options->output_codebook,
          "round a dense output layer, which small models spend most of their time in, to a codebook or to "
          "bits")
      ->type_name("CODEBOOK|BITS")
      ->transform(as_code());
  auto* chat = command->add_flag("--chat", options->chat,
                                 "the prompt is a question to a chat model, written as its template says");
  command->add_option("--system", options->system, "what the chat model is told first")
      ->type_name("TEXT")
      ->needs(chat);
  options->processor.add_to(*command);
  options->add_to(*command);
  command->callback([options] {
    if (options->prompts.empty() && options->prompts_file.empty())
      throw CLI::RequiredError("--prompt or --prompts");
    generate_texts(*options);
  });
}

}  // namespace higgs::model
