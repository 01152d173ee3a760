// SPDX-License-Identifier: Apache-2.0
#include "source/model_files.hpp"

#include <system_error>

namespace higgs::model {

std::span<const char* const> companion_names() noexcept {
  static constexpr const char* names[] = {"config.json",
                                          "generation_config.json",
                                          "tokenizer.json",
                                          "tokenizer_config.json",
                                          "special_tokens_map.json",
                                          "added_tokens.json",
                                          "vocab.json",
                                          "merges.txt",
                                          "tokenizer.model",
                                          "chat_template.jinja"};
  return names;
}

std::vector<std::filesystem::path> model_files(const std::filesystem::path& path) {
  namespace fs = std::filesystem;
  const bool is_folder = fs::is_directory(path);
  const fs::path kind = is_folder ? fs::path(".safetensors") : path.extension();
  std::vector<fs::path> files;
  if (!is_folder) files.push_back(path);
  if (kind != ".safetensors" && kind != ".gguf") return files;
  const fs::path folder = is_folder ? path : path.has_parent_path() ? path.parent_path() : fs::path(".");
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error))
    if (entry.path().extension() == kind) files.push_back(entry.path());
  if (kind == ".gguf") return files;
  files.push_back(folder / "model.safetensors.index.json");
  for (const char* name : companion_names()) files.push_back(folder / name);
  std::erase_if(files, [&](const fs::path& file) { return !fs::exists(file, error); });
  return files;
}

}  // namespace higgs::model
