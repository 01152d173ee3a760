// SPDX-License-Identifier: Apache-2.0
#include "source/model_files.hpp"

#include "store/temporary_folder.hpp"

#include <catch2/catch.hpp>

#include <filesystem>
#include <set>
#include <string>

using namespace higgs::model;

TEST_CASE("the files of a model are its weights and all that is read beside them", "[model][model_files]") {
  const TemporaryFolder folder;
  const auto names = [&](const std::filesystem::path& model) {
    std::set<std::string> out;
    for (const auto& file : model_files(model)) out.insert(file.filename().string());
    return out;
  };
  for (const char* name :
       {"a.gguf", "b.gguf", "m.safetensors", "model.safetensors.index.json", "notes.json", "x.txt"})
    write_file(folder / name, "x");
  std::set<std::string> all{"m.safetensors", "model.safetensors.index.json"};
  for (const char* name : companion_names()) {
    write_file(folder / name, "x");
    all.insert(name);
  }
  CHECK(names(folder.path()) == all);
  CHECK(names(folder / "m.safetensors") == all);
  CHECK(names(folder / "a.gguf") == std::set<std::string>{"a.gguf", "b.gguf"});
  CHECK(names(folder / "x.txt") == std::set<std::string>{"x.txt"});
  CHECK(names(folder / "missing") == std::set<std::string>{"missing"});
}
