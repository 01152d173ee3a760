// SPDX-License-Identifier: Apache-2.0
// higgs-model: inspects, quantizes, evaluates and runs whole language models.
#include "commands.hpp"

#include <higgs/config.hpp>

#include <exception>
#include <iostream>
#include <new>
#include <string>

int main(int argc, char** argv) {
  CLI::App app(
      "Quantizes language models with HIGGS and runs them from their packed weights.\n"
      "MODEL is a GGUF file, a safetensors file, a Hugging Face folder, or what quantize wrote.",
      "higgs-model");
  app.require_subcommand(1);
  app.set_version_flag("--version", std::to_string(HIGGS_VERSION_MAJOR) + "." +
                                        std::to_string(HIGGS_VERSION_MINOR) + "." +
                                        std::to_string(HIGGS_VERSION_PATCH));
  higgs::model::add_inspect(app);
  higgs::model::add_quantize(app);
  higgs::model::add_eval(app);
  higgs::model::add_compare(app);
  higgs::model::add_sensitivity(app);
  higgs::model::add_allocate(app);
  higgs::model::add_linearity(app);
  higgs::model::add_generate(app);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;  // 2: wrong usage
  } catch (const std::bad_alloc&) {
    std::cerr << "higgs-model: out of memory\n";
    return 1;
  } catch (const std::exception& error) {
    std::cerr << "higgs-model: " << error.what() << "\n";
    return 1;
  }
}
