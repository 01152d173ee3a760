// SPDX-License-Identifier: Apache-2.0
// Layers of models that people run: their weights' (outputs, inputs).
#pragma once
#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

namespace bench {

struct Layer {
  std::string_view model, name;
  std::int64_t rows, cols;
};

inline constexpr std::array layers{
    Layer{"Llama-3.1-8B", "q, o", 4096, 4096},
    Layer{"Llama-3.1-8B", "k, v", 1024, 4096},
    Layer{"Llama-3.1-8B", "gate, up", 14336, 4096},
    Layer{"Llama-3.1-8B", "down", 4096, 14336},
    Layer{"Llama-3.1-70B", "q, o", 8192, 8192},
    Layer{"Llama-3.1-70B", "k, v", 1024, 8192},
    Layer{"Llama-3.1-70B", "gate, up", 28672, 8192},
    Layer{"Llama-3.1-70B", "down", 8192, 28672},
    Layer{"Qwen3-8B", "gate, up", 12288, 4096},
    Layer{"Qwen3-8B", "down", 4096, 12288},
    Layer{"Qwen3-32B", "q", 8192, 5120},
    Layer{"Qwen3-32B", "gate, up", 25600, 5120},
    Layer{"Qwen3-32B", "down", 5120, 25600},
};

inline constexpr std::array<std::int64_t, 9> batches{1, 2, 4, 8, 16, 32, 64, 128, 256};

/// The linear layers of one shape in a transformer block.
struct ModelLayer {
  std::string_view name;
  int count;
  std::int64_t rows, cols;
};

/// Experts of a block: the layers that each one has, and how many of them a token takes.
struct ModelExperts {
  int count = 0, active = 0;
  std::vector<ModelLayer> layers{};
};

/// A model as a list of linear layers, those of one input joined as an engine has them; the output head is left out.
struct Model {
  std::string_view name;
  int blocks;
  std::vector<ModelLayer> layers;  // layers of a block, in their order
  ModelExperts experts{};
};

inline const std::vector<Model>& models() {
  static const std::vector<Model> all{
      {"Llama-3.1-8B",
       32,
       {{"q, k, v", 1, 6144, 4096},
        {"o", 1, 4096, 4096},
        {"gate, up", 1, 28672, 4096},
        {"down", 1, 4096, 14336}}},
      {"Llama-3.1-70B",
       80,
       {{"q, k, v", 1, 10240, 8192},
        {"o", 1, 8192, 8192},
        {"gate, up", 1, 57344, 8192},
        {"down", 1, 8192, 28672}}},
      {"Qwen3-8B",
       36,
       {{"q, k, v", 1, 6144, 4096},
        {"o", 1, 4096, 4096},
        {"gate, up", 1, 24576, 4096},
        {"down", 1, 4096, 12288}}},
      {"Qwen3-30B-A3B",
       48,
       {{"q, k, v", 1, 5120, 2048}, {"o", 1, 2048, 4096}},
       {128, 8, {{"gate, up", 1, 1536, 2048}, {"down", 1, 2048, 768}}}},
  };
  return all;
}

}  // namespace bench
