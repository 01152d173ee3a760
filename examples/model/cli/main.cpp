// SPDX-License-Identifier: Apache-2.0
// higgs-model: inspects, quantizes, evaluates and runs whole language models. It returns 0 if all went well, 1 if the
// work failed, 2 if the command line is wrong; a signal ends it as signals do.
#include "cli/commands.hpp"
#include "terminal/suggest.hpp"

#include <algorithm>
#include <exception>
#include <iostream>
#include <new>
#include <string>
#include <vector>

namespace higgs::model {
namespace {

constexpr int wrong_usage = 2;

std::vector<std::string> command_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::App* each : app.get_subcommands([](const CLI::App*) { return true; }))
    names.push_back(each->get_name());
  return names;
}

// What is wrong with the first word, which should be a command; empty if nothing is.
std::string check_first_word(const CLI::App& app, const std::string& word) {
  const std::vector<std::string> names = command_names(app);
  std::string known;
  for (const std::string& name : names) known += (known.empty() ? "" : ", ") + name;
  if (word.starts_with("-")) {
    const std::string option = word.substr(0, word.find('='));
    if (app.get_option_no_throw(option)) return {};
    return "the option \"" + option + "\" stands before the command; write higgs-model COMMAND ... " +
           option + ". The commands are: " + known;
  }
  if (std::find(names.begin(), names.end(), word) != names.end()) return {};
  const std::string nearest = nearest_name(word, names);
  return "unknown command \"" + word + "\"" + (nearest.empty() ? "." : "; did you mean " + nearest + "?") +
         " The commands are: " + known;
}

int run(CLI::App& app, const std::vector<std::string>& words) {
  if (words.empty()) {
    std::cerr << app.help();
    return wrong_usage;
  }
  std::vector<std::string> reversed(words.rbegin(), words.rend());  // as CLI11 takes them
  if (words[0] == "help") {                                         // "help COMMAND" is "COMMAND --help"
    reversed =
        words.size() > 1 ? std::vector<std::string>{"--help", words[1]} : std::vector<std::string>{"--help"};
  }
  if (const std::string problem = check_first_word(app, reversed.back()); !problem.empty()) {
    std::cerr << "higgs-model: " << problem << "\n";
    return wrong_usage;
  }
  try {
    app.parse(reversed);
    return 0;
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : wrong_usage;
  } catch (const std::bad_alloc&) {
    std::cerr << "higgs-model: out of memory\n";
  } catch (const std::exception& error) {
    std::cerr << "higgs-model: " << error.what() << "\n";
  }
  return 1;
}

}  // namespace
}  // namespace higgs::model

int main(int argc, char** argv) {
  using namespace higgs::model;
  explain_interrupts();
  CLI::App app(
      "Quantizes language models with HIGGS and runs them from their packed weights.\n"
      "MODEL is a GGUF file, a safetensors file, a Hugging Face folder, or what quantize wrote.",
      "higgs-model");
  app.require_subcommand(1);
  app.set_version_flag("--version", version());
  add_inspect(app);
  add_quantize(app);
  add_eval(app);
  add_compare(app);
  add_sensitivity(app);
  add_allocate(app);
  add_linearity(app);
  add_generate(app);
  const std::vector<std::string> words(argv + 1, argv + argc);
  command_line() = "higgs-model";
  for (const std::string& word : words) command_line() += " " + shell_quoted(word);
  return run(app, words);
}
