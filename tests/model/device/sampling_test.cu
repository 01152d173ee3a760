// SPDX-License-Identifier: Apache-2.0
#include "device/sampling.cuh"

#include "model/device/device_numbers.cuh"

#include <catch2/catch.hpp>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "emulator/emulator.hpp"

namespace gpu = higgs::gpu;
using namespace higgs::model;

namespace {

// Texts that grow on the device: each has its seed, limit and ring of two tokens.
class Texts {
 public:
  Texts(const std::vector<std::int32_t>& positions, const std::vector<std::int32_t>& limits,
        const std::vector<std::int32_t>& ends)
      : seeds_(positions.size()) {
    for (std::size_t s = 0; s < seeds_.size(); ++s) seeds_[s] = 100 + s;
    const std::vector<std::int32_t> zeros(positions.size());
    tokens = on_device(std::vector<std::int32_t>(positions.size(), -7));
    places = on_device(positions);
    counts = on_device(zeros);
    damage = on_device(zeros);
    limits_ = on_device(limits);
    seeds_device_ = on_device(seeds_);
    ends_ = on_device(ends);
    output = on_device(std::vector<std::int32_t>(2 * positions.size(), -7));
    states = {.tokens = tokens.data(),
              .positions = places.data(),
              .counts = counts.data(),
              .limits = limits_.data(),
              .seeds = seeds_device_.data(),
              .output = output.data(),
              .ring = 2,
              .damage = damage.data(),
              .ends = ends_.data(),
              .end_count = static_cast<std::int32_t>(ends.size())};
  }
  void choose(const std::vector<float>& logits, const TokenChoice& choice, std::int64_t first,
              std::int64_t rows) const {
    const auto device = on_device(logits);
    const std::int64_t cols = static_cast<std::int64_t>(logits.size()) / rows;
    choose_tokens_async(gpu::DenseView<const float>(device.data(), rows, cols), choice, states.from(first),
                        nullptr);
  }
  std::uint64_t seed(std::int64_t s) const { return seeds_[static_cast<std::size_t>(s)]; }

  TextStates states;
  gpu::DeviceBuffer<std::int32_t> tokens, places, counts, damage, output;

 private:
  std::vector<std::uint64_t> seeds_;
  gpu::DeviceBuffer<std::int32_t> limits_, ends_;
  gpu::DeviceBuffer<std::uint64_t> seeds_device_;
};

TokenChoice choice_of(float slope, std::int32_t top_k, double top_p) {
  TokenChoice out;
  out.slope = slope;
  out.top_k = top_k;
  out.top_p = top_p;
  return out;
}

// The choices of one block by given random bits.
__global__ void choose_by_bits(const float* logits, int count, TokenChoice choice,
                               const std::uint64_t* random, int draws, std::int32_t* tokens) {
  __shared__ detail::ChoiceMemory memory;
  detail::RowChoice row(logits, count, choice, memory);
  for (int i = 0; i < draws; ++i) {
    const int token = row.choose(random[i]);
    if (threadIdx.x == 0) tokens[i] = token;
    __syncthreads();
  }
}

}  // namespace

TEST_CASE("random bits at the borders between tokens choose the host's tokens", "[model][device][gpu]") {
  std::vector<std::uint64_t> random{0, 1, ~std::uint64_t{0}};
  for (std::uint64_t quarter = 1; quarter < 4; ++quarter)
    for (const std::uint64_t near : {~std::uint64_t{0}, std::uint64_t{0}, std::uint64_t{1}})
      random.push_back((quarter << 62) + near);
  const auto random_device = on_device(random);
  for (const std::vector<float>& logits :
       {std::vector<float>{2, 2, 2, 2}, {2, -0.0f, 2, 0, 2, 2}, {1, 1, 1, 2, 1, 1}})
    for (const std::int32_t top_k : {0, 4}) {
      const auto logits_device = on_device(logits);
      const gpu::DeviceBuffer<std::int32_t> tokens(random.size());
      const TokenChoice choice = choice_of(1.0f, top_k, 1.0);
      gpu::launch(choose_by_bits, dim3(1), detail::choice_threads, 0, nullptr, logits_device.data(),
                  static_cast<int>(logits.size()), choice, random_device.data(),
                  static_cast<int>(random.size()), tokens.data());
      const std::vector<std::int32_t> found = tokens.to_host();
      for (std::size_t i = 0; i < random.size(); ++i)
        CHECK(found[i] == choose_token(logits, choice, random[i]));
    }
}

// Logits of many shapes: normal ones; few different ones, so that whole bins and orders are equal; all equal; one that is
// far likelier; minus infinity.
TEST_CASE("the device chooses the host's tokens", "[model][device][gpu]") {
  const std::int64_t count = 3000, shapes = 6;
  const float slope = 1.7f;
  std::vector<float> logits = random_numbers<float>(11, shapes * count, 3);
  for (std::int64_t i = 0; i < count; ++i) {
    const auto at = [&](std::int64_t shape) -> float& {
      return logits[static_cast<std::size_t>(shape * count + i)];
    };
    at(1) = std::round(at(1));
    at(2) = 0.5f;
    at(3) = i == 1234 ? 90.0f : at(3);
    at(4) = i % 3 == 0 ? -INFINITY : -100 - std::abs(at(4));
    at(5) = at(5) * 1e-4f + 20;  // one bin of odds
  }
  for (const auto& [top_k, top_p] :
       {std::pair{0, 1.0}, {1, 1.0}, {7, 1.0}, {2999, 1.0}, {0, 0.9}, {40, 0.3}, {0, 1e-9}}) {
    Texts texts(std::vector<std::int32_t>(shapes, 5), std::vector<std::int32_t>(shapes, 100), {});
    const TokenChoice choice = choice_of(slope, top_k, top_p);
    for (std::uint64_t step = 0; step < 2; ++step) {
      texts.choose(logits, choice, 0, shapes);
      const std::vector<std::int32_t> found = texts.tokens.to_host();
      for (std::int64_t s = 0; s < shapes; ++s) {
        INFO("shape " << s << ", top_k " << top_k << ", top_p " << top_p << ", step " << step);
        const std::span<const float> row(logits.data() + s * count, static_cast<std::size_t>(count));
        CHECK(found[static_cast<std::size_t>(s)] ==
              choose_token(row, choice, higgs::random_bits(texts.seed(s), step)));
      }
    }
  }
}

TEST_CASE("without a temperature the likeliest token of the lowest id is chosen", "[model][device][gpu]") {
  for (const std::int64_t count : {1, 31, 1500}) {
    std::vector<float> logits = random_numbers<float>(12, count);
    for (const std::int64_t at : {count / 3, count / 2, count - 1}) logits[static_cast<std::size_t>(at)] = 50;
    Texts texts({0}, {9}, {});
    texts.choose(logits, {}, 0, 1);
    CHECK(texts.tokens.to_host()[0] == count / 3);
  }
}

TEST_CASE("a token joins its text, and texts end", "[model][device][gpu]") {
  // Text 0 goes on, 1 ends with a token, 2 by its limit, 3 has ended, 4 and 5 are damaged.
  Texts texts({10, 20, 30, -1, 40, 50}, {9, 9, 1, 9, 9, 9}, {8, 3});
  std::vector<float> logits(6 * 10);
  const auto likeliest = [&](std::int64_t s) -> float* { return logits.data() + s * 10; };
  likeliest(0)[4] = likeliest(1)[3] = likeliest(2)[5] = likeliest(3)[6] = 1;
  likeliest(4)[7] = NAN;
  likeliest(5)[2] = INFINITY;
  likeliest(5)[9] = NAN;
  texts.choose(logits, {}, 0, 6);
  using Numbers = std::vector<std::int32_t>;
  CHECK(texts.tokens.to_host() == Numbers{4, 3, 5, -7, -7, -7});
  CHECK(texts.places.to_host() == Numbers{11, -1, -1, -1, -1, -1});
  CHECK(texts.counts.to_host() == Numbers{1, 1, 1, 0, 0, 0});
  CHECK(texts.damage.to_host() == Numbers{0, 0, 0, 0, 8, 3});
  // Two more tokens of text 0: the second takes the place of the first in the ring.
  logits.resize(10);
  logits[4] = 0;
  for (const std::size_t token : {6u, 7u}) {
    logits[token] = static_cast<float>(token);
    texts.choose(logits, {}, 0, 1);
  }
  CHECK(texts.output.to_host() == Numbers{7, 6, 3, -7, 5, -7, -7, -7, -7, -7, -7, -7});
  CHECK(texts.places.to_host()[0] == 13);
}

TEST_CASE("a text of a batch grows as it does alone", "[model][device][gpu]") {
  const std::vector<float> logits = random_numbers<float>(13, 3 * 200, 2);
  const Texts all({1, 1, 1}, {9, 9, 9}, {}), each({1, 1, 1}, {9, 9, 9}, {});
  all.choose(logits, choice_of(1.0f, 50, 0.95), 0, 3);
  for (const std::int64_t s : {2, 0, 1})
    each.choose(std::vector<float>(logits.begin() + s * 200, logits.begin() + (s + 1) * 200),
                choice_of(1.0f, 50, 0.95), s, 1);
  CHECK(each.tokens.to_host() == all.tokens.to_host());
  CHECK(each.output.to_host() == all.output.to_host());
}

TEST_CASE("a choice reads the logits once, three times to draw, and once more for each cut",
          "[model][device][gpu]") {
  if (!emulator::in_use) return;
  emulator::options().count = true;  // in one process with cases that need no counts
  const std::int64_t count = 16384;
  const auto logits = on_device(random_numbers<float>(15, count, 3));
  const Texts texts({0}, {9}, {});
  const auto reads = [&](const TokenChoice& choice) {
    emulator::clear_launches();
    choose_tokens_async(gpu::DenseView<const float>(logits.data(), 1, count), choice, texts.states, nullptr);
    return static_cast<double>(emulator::launches().back().sectors_read(logits.data())) / (count * 4 / 32);
  };
  CHECK(reads({}) == 1);
  CHECK(reads(choice_of(1.4f, 0, 1.0)) == 3);
  CHECK(reads(choice_of(1.4f, 0, 0.9)) == 4);
  CHECK(reads(choice_of(1.4f, 40, 0.9)) == 5);
}

TEST_CASE("choosing has no races", "[model][device][gpu]") {
  if (!emulator::in_use) return;
  const std::vector<float> logits = random_numbers<float>(14, 1100, 2);
  std::vector<std::int32_t> chosen;
  for (const std::uint32_t seed : {0u, 1u, 2u}) {
    emulator::options().check_races = seed != 0;
    emulator::options().seed = seed;
    const Texts texts({0}, {9}, {});
    texts.choose(logits, choice_of(1.0f, 100, 0.9), 0, 1);
    chosen.push_back(texts.tokens.to_host()[0]);
  }
  emulator::options() = {};
  CHECK(chosen == std::vector<std::int32_t>(3, chosen[0]));
}
