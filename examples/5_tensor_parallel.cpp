// SPDX-License-Identifier: Apache-2.0
// Tensor parallelism: two ranks, here two threads, share the two layers of a feed-forward block.
//
// The first layer is cut by rows: each rank computes its own part of the hidden activations from all of x.
// The second is cut by columns: each rank multiplies its part of them, and the products add up. Nothing else
// is exchanged.
#include <higgs/higgs.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <span>
#include <thread>
#include <vector>

namespace {

constexpr std::int64_t tokens = 4, width = 512, hidden = 1024, ranks = 2;

std::vector<float> normals(std::int64_t count, std::uint64_t seed) {
  std::vector<float> out;
  for (std::int64_t i = 0; i < count; ++i)
    out.push_back(static_cast<float>(higgs::random_normal(seed, static_cast<std::uint64_t>(i))));
  return out;
}

// The feed-forward block, or a rank's share of it: y (tokens, width).
std::vector<float> feed_forward(std::span<const float> x, const higgs::PackedMatrix& up,
                                const higgs::PackedMatrix& down) {
  std::vector<float> h(static_cast<std::size_t>(tokens * up.rows())), y(tokens * width);
  const higgs::MatrixView<float> activations(h.data(), tokens, up.rows());
  higgs::matmul(higgs::MatrixView<const float>(x.data(), tokens, width), up, activations);
  for (float& value : h) value = std::max(value, 0.0f);
  higgs::matmul(activations, down, higgs::MatrixView<float>(y.data(), tokens, width));
  return y;
}

}  // namespace

int main() {
  const std::vector<float> x = normals(tokens * width, 1), up_weights = normals(hidden * width, 2),
                           down_weights = normals(width * hidden, 3);
  const higgs::AnyQuantizedMatrix up =
      higgs::quantize(higgs::MatrixView<const float>(up_weights.data(), hidden, width), "2x256");
  // Column shards must be whole blocks of the rotation: without `shards` the block would be 1024, all columns.
  const higgs::AnyQuantizedMatrix down = higgs::quantize(
      higgs::MatrixView<const float>(down_weights.data(), width, hidden), "2x256", {.shards = ranks});

  std::vector<std::vector<float>> parts(ranks);
  std::vector<std::thread> threads;
  for (std::int64_t rank = 0; rank < ranks; ++rank)
    threads.emplace_back([&, rank] {
      constexpr std::int64_t mine = hidden / ranks;
      const higgs::PackedMatrix my_up(up, higgs::Shard{rank * mine, mine, 0, width});
      const higgs::PackedMatrix my_down(down, higgs::Shard{0, width, rank * mine, mine});
      parts[static_cast<std::size_t>(rank)] = feed_forward(x, my_up, my_down);
    });
  for (std::thread& thread : threads) thread.join();

  const std::vector<float> whole = feed_forward(x, higgs::PackedMatrix(up), higgs::PackedMatrix(down));
  double error = 0, norm = 0;
  for (std::size_t i = 0; i < whole.size(); ++i) {
    const double sum = double{parts[0][i]} + double{parts[1][i]};  // the all-reduce
    error += (sum - double{whole[i]}) * (sum - double{whole[i]});
    norm += double{whole[i]} * double{whole[i]};
  }
  std::printf("blocks of %d of %d columns; %d ranks add up to the whole within %.1e of it\n",
              static_cast<int>(down.layout().block), static_cast<int>(hidden), static_cast<int>(ranks),
              std::sqrt(error / norm));
  return error <= 1e-8 * norm ? 0 : 1;
}
