// SPDX-License-Identifier: Apache-2.0
// Layers of models that people run: their weights' (outputs, inputs).
#pragma once
#include <array>
#include <cstdint>
#include <string_view>

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

}  // namespace bench
