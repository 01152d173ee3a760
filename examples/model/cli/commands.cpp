// SPDX-License-Identifier: Apache-2.0
#include "cli/commands.hpp"

#include "quantize/sizes.hpp"
#include "source/load.hpp"
#include "source/model_files.hpp"

#include <higgs/codes/rates.hpp>
#include <higgs/config.hpp>
#include <higgs/core/error.hpp>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <iostream>
#include <optional>
#include <string>
#include <vector>

namespace higgs::model {
namespace {

// Throws for the first number that JSON cannot hold; `where` leads to it.
void require_finite(const nlohmann::ordered_json& value, const std::string& where) {
  if (value.is_number_float() && !std::isfinite(value.get<double>()))
    throw InvalidArgument("the result \"" + where + "\" is " + std::to_string(value.get<double>()));
  if (!value.is_structured()) return;
  for (const auto& [key, each] : value.items()) require_finite(each, where.empty() ? key : where + "." + key);
}

// Nothing if the word is no number.
std::optional<double> number_of(const std::string& word) {
  double value = 0;
  const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), value);
  if (error != std::errc{} || end != word.data() + word.size()) return std::nullopt;
  return value;
}

// What an option accepts, as help shows it.
std::string joined_words(const std::vector<std::string>& words) {
  std::string out;
  for (const std::string& word : words) out += (out.empty() ? "" : ", ") + word;
  return out;
}
std::vector<std::string> all_rates() {
  std::vector<std::string> out;
  for (const RatedCode& code : best_codes()) out.push_back(higgs::detail::sentence(code.bits));
  return out;
}

// A finite number for which `accepts` holds; `kind` names such numbers.
template <class Accepts>
CLI::Validator number_check(const std::string& kind, Accepts&& accepts) {
  return CLI::Validator(
      [kind, accepts](std::string& text) {
        const auto value = number_of(text);
        return value && std::isfinite(*value) && accepts(*value)
                   ? std::string()
                   : text + " is no finite number that is " + kind;
      },
      "");
}

// The text that `convert` makes of an option's, or what is wrong with it.
template <class Convert>
CLI::Validator transformer(const std::string& choices, Convert&& convert) {
  return CLI::Validator(
      [convert](std::string& text) {
        try {
          text = convert(text);
          return std::string();
        } catch (const InvalidArgument& error) {
          return std::string(error.what());
        }
      },
      choices);
}

}  // namespace

std::string shell_quoted(const std::string& word) {
  constexpr const char* plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+=.,:/@%";
  if (!word.empty() && word.find_first_not_of(plain) == word.npos) return word;
  std::string out = "'";
  for (const char c : word) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

void CommonOptions::add_to(CLI::App& command) {
  command.add_option("--json", json, "write the results as JSON to this file (-: standard output)")
      ->type_name("FILE");
  command.add_option("--threads", threads, "threads to use (0: one for each core)")
      ->check(CLI::Range(0, 4096));
  command.parse_complete_callback([this] {
    for (const CLI::Option* input : inputs_)
      for (const std::string& word : input->results())
        for (const auto& file : model_files(word)) keep_input(file);
    *results_ = Output(json);
  });
}

CLI::Option* CommonOptions::reads(CLI::Option* option) {
  inputs_.push_back(option);
  return option;
}

void ProcessorOptions::add_to(CLI::App& command) {
  command.add_option("--device", device, "what runs the model: cpu or cuda, a GPU")
      ->capture_default_str()
      ->check(CLI::IsMember({"cpu", "cuda"}));
  command
      .add_option(
          "--dtype", dtype,
          "activations on a GPU: fp16, bf16, or auto (default): fp16 where a model is measured; generate "
          "takes bf16 for a model stored in bf16")
      ->check(CLI::IsMember({"auto", "fp16", "bf16"}));
}

void ProcessorOptions::require() const {
  if (on_gpu()) {
    require_device();
  } else if (!dtype.empty()) {
    throw InvalidArgument("--dtype " + dtype + " needs --device cuda: the CPU computes in floats");
  }
}

DeviceOptions ProcessorOptions::gpu(std::int64_t tokens) const {
  return {.type = dtype.empty() ? DeviceType::OfModel : device_type_named(dtype), .tokens = tokens};
}

std::string ProcessorOptions::measuring_type() const {
  if (!on_gpu()) return "float";
  return dtype == "bf16" ? "bf16" : "fp16";
}

std::string ProcessorOptions::describe() const { return device + ", activations in " + measuring_type(); }

std::unique_ptr<Network> ProcessorOptions::open(const ModelSource& source, std::int64_t tokens,
                                                Executor& executor, KvType kv, Copies copies) const {
  if (on_gpu()) {
    DeviceOptions options = gpu(tokens);
    options.type = device_type_named(measuring_type());
    options.copies = copies;
    return open_device_network(source, options, executor);
  }
  return std::make_unique<HostNetwork>(Transformer::load(source, executor), executor, kv);
}

void add_model_option(CLI::App& command, CommonOptions& options, std::string& model, const char* what) {
  options.reads(command.add_option("model", model, what))->required()->type_name("MODEL");
}

void add_text_options(CLI::App& command, CommonOptions& options, std::string& text_file, std::int64_t& window,
                      std::int64_t& tokens) {
  options.reads(command.add_option("--text", text_file, "text to predict"))->required()->type_name("FILE");
  command.add_option("--window", window, "tokens in a window")
      ->capture_default_str()
      ->check(CLI::Range(std::int64_t{2}, std::int64_t{1} << 30));
  command.add_option("--tokens", tokens, "use the first so many tokens of the text (0: all)")
      ->capture_default_str()
      ->check(CLI::Range(std::int64_t{0}, std::int64_t{1} << 40));
}

std::vector<TokenId> text_tokens(const std::string& file, const Tokenizer& tokenizer, std::int64_t most,
                                 std::int64_t window) {
  std::vector<TokenId> tokens = read_tokens(file, tokenizer, most);
  if (std::ssize(tokens) < window)
    throw InvalidArgument(file + ": " + counted(std::ssize(tokens), "token is", "tokens are") +
                          " taken, fewer than one window of " + std::to_string(window));
  return tokens;
}

void require_no_calibration(const CLI::Option& calibrate, const std::string& what) {
  for (const std::string& word : calibrate.results())
    if (word != "none")
      throw InvalidArgument(calibrate.get_name() + " " + word + " is for input scales, which " + what +
                            " leaves out");
}

CLI::Option* as_list(CLI::Option* option) { return option->delimiter(',')->allow_extra_args(false); }

CLI::Validator positive() {
  return number_check("positive", [](double value) { return value > 0; });
}
CLI::Validator not_negative() {
  return number_check("0 or positive", [](double value) { return value >= 0; });
}
CLI::Validator seed_number() {
  return CLI::Validator(
      [](std::string& text) {
        std::uint64_t value = 0;
        const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
        const bool whole = error == std::errc{} && end == text.data() + text.size();
        return whole ? std::string() : text + " is no integer from 0 to 18446744073709551615";
      },
      "");
}

std::string code_named(const std::string& word, const std::vector<std::string>& others) {
  if (const auto bits = number_of(word)) return best_code_of_bits(*bits);
  std::vector<std::string> names = shipped_code_names();
  names.insert(names.end(), others.begin(), others.end());
  if (std::find(names.begin(), names.end(), word) != names.end()) return word;
  throw InvalidArgument("no codebook is named \"" + word + "\"; there are " + joined_words(names) +
                        ", or bits a weight for the best of that rate: " + joined_words(all_rates()));
}

CLI::Validator as_code(const std::vector<std::string>& others) {
  return transformer("", [others](const std::string& word) { return code_named(word, others); });
}

CLI::Validator as_code_of_bits() {
  return transformer("{" + joined_words(all_rates()) + "}", [](const std::string& word) {
    const auto bits = number_of(word);
    if (!bits)
      throw InvalidArgument("\"" + word + "\" is no number of bits; there are " + joined_words(all_rates()));
    return best_code_of_bits(*bits);
  });
}

Evaluator::Progress show_means(ProgressBar& bar) {
  return [&bar](std::int64_t done, std::int64_t total, const Evaluation& so_far) {
    bar.update(done, total, describe_means(so_far));
  };
}

nlohmann::ordered_json describe(const Evaluation& result) {
  const auto error = [](double value) {
    return std::isfinite(value) ? nlohmann::ordered_json(value) : nlohmann::ordered_json(nullptr);
  };
  nlohmann::ordered_json out{{"tokens", result.tokens},
                             {"windows", result.windows},
                             {"ppl", result.perplexity()},
                             {"ppl_standard_error", error(result.perplexity_error())},
                             {"cross_entropy", result.cross_entropy.mean},
                             {"cross_entropy_standard_error", error(result.cross_entropy.standard_error)},
                             {"standard_error_of", result.by_windows() ? "windows" : "tokens"}};
  if (const auto& away = result.divergence) {
    out["kl"] = away->kl.mean;
    out["kl_standard_error"] = error(away->kl.standard_error);
    out["kl_99"] = away->quantile_99;
    out["kl_max"] = away->most;
    out["top_agreement"] = away->top_agreement;
  }
  return out;
}

std::string describe_errors(const Evaluation& result) {
  return result.by_windows()
             ? "+- is the standard error of the mean of " + std::to_string(result.windows) + " windows"
             : "+- is the standard error as if tokens were independent: less than 8 windows tell no better";
}

std::vector<TokenId> tokens_to_calibrate(const ModelSource& source, const std::string& calibrate,
                                         std::int64_t count, Executor& executor,
                                         const WrittenTokens& written) {
  ProgressBar bar("write", "tokens");
  return calibration_tokens(
      source, calibrate, count, executor,
      [&](std::int64_t done, std::int64_t total) { bar.update(done, total); }, written);
}

void require_context(const ModelSource& source, std::int64_t window) {
  const std::int64_t context = source.require_config().context;
  if (window > context)
    throw InvalidArgument(source.path().string() + ": a window of " + std::to_string(window) +
                          " tokens exceeds the model's context of " + std::to_string(context));
}

void tell(const std::string& note) { std::cerr << "note: " << note << "\n"; }

void note_unused(const ModelSource& source) {
  const std::vector<std::string> unused = unused_tensors(source);
  if (unused.empty()) return;
  tell(source.path().string() + ": " + counted(std::ssize(unused), "tensor is", "tensors are") +
       " not used: " + unused.front() + (unused.size() > 1 ? ", ..." : ""));
}

void require_original(const ModelSource& source) {
  if (source.checkpoint())
    throw InvalidArgument(source.path().string() +
                          ": is quantized by higgs already; the model in its original form is wanted");
}

std::string& command_line() {
  static std::string line;
  return line;
}

std::string version() {
  return std::to_string(HIGGS_VERSION_MAJOR) + "." + std::to_string(HIGGS_VERSION_MINOR) + "." +
         std::to_string(HIGGS_VERSION_PATCH);
}

std::ostream& CommonOptions::text() const { return json == "-" ? std::cerr : std::cout; }

void CommonOptions::write(const nlohmann::ordered_json& results) const {
  require_finite(results, "");
  // Tokens of a model need not be whole characters; JSON must be.
  results_->commit(results.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n");
}

}  // namespace higgs::model
