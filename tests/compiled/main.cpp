// SPDX-License-Identifier: Apache-2.0
// Prints a digest of results of each part of the library: same_bytes.cmake compares two builds of it.
#include "engine.hpp"

#include <higgs/higgs.hpp>
#include <higgs/models.hpp>
#include <higgs/tools.hpp>

#include <cstdio>
#include <fstream>
#include <iterator>
#include <span>
#include <string>

namespace {

template <class T>
void print(const char* name, std::span<const T> values) {
  std::uint64_t digest = 0xcbf29ce484222325u;  // FNV-1a
  for (const std::uint8_t byte :
       std::span(reinterpret_cast<const std::uint8_t*>(values.data()), values.size_bytes()))
    digest = (digest ^ byte) * 0x100000001b3u;
  std::printf("%s %016llx\n", name, static_cast<unsigned long long>(digest));
}

}  // namespace

int main(int, char** argv) {
  const std::filesystem::path file = std::string(argv[0]) + ".safetensors";
  const std::vector<float> x = normal(768, 2);
  print<float>("product", run_engine(file, x));
  std::ifstream in(file, std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(in)), {});
  print<char>("checkpoint", bytes);
  in.close();
  std::filesystem::remove(file);

  std::vector<float> rotated = x;
  higgs::rotate_row(std::span<float>(rotated), 768, 3);
  print<float>("rotation", rotated);

  std::vector<higgs::PlanLayer> layers;
  for (int i = 0; i < 9; ++i) {
    higgs::PlanLayer layer{"layer." + std::to_string(i), 4096, 1.0 / (i + 1)};
    for (int bits = 2; bits <= 4; ++bits)
      layer.formats.push_back({std::to_string(bits), 0.1 / (bits * bits), 512 * bits, 0});
    layers.push_back(layer);
  }
  const auto plan = higgs::allocate(layers, higgs::Budget::bits(3.1));
  std::string formats;
  for (const higgs::PlannedLayer& layer : plan->layers) formats += layer.format;
  std::printf("plan %s %.17g %s\n", formats.c_str(), plan->loss, plan->proven ? "proven" : "");

  const higgs::Json json = higgs::Json::parse(R"({"a": [1, 2.5, "\u00e9"]})", "test");
  std::printf("json %zu\n", json.find("a")->array()->size());
}
