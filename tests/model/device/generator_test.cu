// SPDX-License-Identifier: Apache-2.0
#include "device/generator.cuh"

#include "emulator/emulator.hpp"
#include "model/device/device_model.hpp"
#include "network/generate.hpp"
#include "quantize/quantize.hpp"
#include "tokenizer/tokenizer.hpp"

#include <higgs/core/error.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

using namespace higgs::model;
using Catch::Contains;
using higgs::BFloat16;
using higgs::Half;

namespace {

using Texts = std::vector<std::vector<TokenId>>;

std::unique_ptr<DeviceGenerator> on_device(const TinySource& source, DeviceOptions options = {}) {
  emulator::options().count = false;
  return open_device_generator(*source, options);
}

Texts tokens_of(const std::vector<Generation>& all) {
  Texts out;
  for (const Generation& each : all) out.push_back(each.tokens);
  return out;
}

}  // namespace

TEST_CASE("a GPU writes the greedy text of the CPU, for a model of each family", "[model][device]") {
  for (const auto& [name, config] : device_models()) {
    INFO(name);
    const TinySource source(config);
    const Transformer model = Transformer::load(*source);
    const Texts prompts{tiny_text(10)};
    std::vector<TokenId> seen;
    // Streams work when something waits for them, and no kernel may be new to a capture.
    emulator::options().late = emulator::options().refuse_cold = true;
    const auto result = on_device(source)->generate(prompts, 20, {}, [&](std::size_t text, TokenId token) {
      CHECK(text == 0);
      seen.push_back(token);
    });
    emulator::options().late = emulator::options().refuse_cold = false;
    CHECK(result.at(0).tokens == generate(model, prompts, 20, {}, {}).at(0).tokens);
    CHECK(result.at(0).prompt_tokens == 10);
    CHECK(seen == result.at(0).tokens);
  }
}

TEST_CASE("texts that grow together are what each would be alone, in fp16 and bf16", "[model][device]") {
  const TinySource source(tiny_config("qwen3"));
  const Texts prompts{tiny_text(3), tiny_text(17), tiny_text(9)};
  for (const DeviceType type : {DeviceType::Fp16, DeviceType::Bf16})
    for (const double temperature : {0.0, 1.5}) {
      const auto device = on_device(source, {.type = type, .chunk = 8});
      const Sampling sampling{.temperature = temperature, .top_k = 20, .top_p = 0.9, .seed = 5};
      const Texts together = tokens_of(device->generate(prompts, 11, sampling, {}));
      for (std::size_t text = 0; text < prompts.size(); ++text) {
        Sampling alone = sampling;
        alone.seed += text;
        CHECK(together[text].size() == 11);
        CHECK(tokens_of(device->generate({&prompts[text], 1}, 11, alone, {}))[0] == together[text]);
      }
      if (temperature > 0)
        CHECK(tokens_of(device->generate(prompts, 11, {.temperature = temperature, .seed = 6}, {})) !=
              together);
    }
}

// Logits differ by less than 0.5 %, so a few draws may fall between two tokens.
TEST_CASE("a GPU draws the texts that the CPU draws with the same seeds", "[model][device]") {
  const TinySource source(tiny_config("llama"));
  const Transformer model = Transformer::load(*source);
  const Texts prompts(16, tiny_text(4));
  const Sampling sampling{.temperature = 1, .top_k = 30, .top_p = 0.95, .seed = 3};
  const Texts texts = tokens_of(on_device(source)->generate(prompts, 5, sampling, {}));
  const Texts expected = tokens_of(generate(model, prompts, 5, sampling, {}));
  int equal = 0;
  for (std::size_t text = 0; text < texts.size(); ++text)
    if (texts[text] == expected[text]) ++equal;
  CHECK(equal >= 14);
}

TEST_CASE("a text ends with an end token, its limit, or the context, and others go on", "[model][device]") {
  ModelConfig config = tiny_config("llama");
  config.context = 40;
  const TinySource source(config);
  const auto device = on_device(source);
  const Texts prompts{tiny_text(10), tiny_text(25)};
  const Texts free = tokens_of(device->generate(prompts, 1000, {}, {}));
  CHECK(free[0].size() == 30);
  CHECK(free[1].size() == 15);
  CHECK(tokens_of(device->generate(prompts, 1, {}, {})) == Texts{{free[0][0]}, {free[1][0]}});
  const TokenId end = free[0][6];
  const Texts told = tokens_of(device->generate(prompts, 1000, {}, {}, std::vector<TokenId>{end}));
  for (std::size_t text = 0; text < 2; ++text) {
    auto stop = std::find(free[text].begin(), free[text].end(), end);
    if (stop != free[text].end()) ++stop;
    CHECK(told[text] == std::vector<TokenId>(free[text].begin(), stop));
  }
}

TEST_CASE("the time of a text ends with its last token, not with the steps behind it", "[model][device]") {
  if (!emulator::in_use) return;
  const TinySource source(tiny_config("llama"));
  const auto device = on_device(source);
  const Texts prompts{tiny_text(10), tiny_text(9)};
  const Sampling sampling{.temperature = 2, .seed = 4};
  emulator::options().launch_seconds = 1;
  const std::vector<Generation> free = device->generate(prompts, 24, sampling, {});
  REQUIRE(free[0].tokens.size() == 24);
  const double step = free[0].decode_seconds / 23;
  CHECK(step > 4);
  CHECK(step == std::floor(step));
  CHECK(free[0].prefill_seconds > 4);
  for (const std::size_t place : {2u, 7u, 8u, 11u, 17u}) {  // within a reading, and at its borders
    const std::vector<TokenId> end{free[0].tokens[place]};
    for (const Generation& text : device->generate(prompts, 24, sampling, {}, end))
      CHECK(text.decode_seconds == step * static_cast<double>(text.tokens.size() - 1));
  }
  emulator::options().launch_seconds = 0;
}

TEST_CASE("a step is one graph of the launches that it has without one, and no token allocates",
          "[model][device]") {
  const TinySource source(tiny_config("llama"));
  const auto weights = load_device_weights<Half>(*source, {}, higgs::default_executor());
  const Texts prompts{tiny_text(5), tiny_text(8)};
  const std::vector<TokenId> none;
  const Stream stream = make_stream();
  const auto run = [&](bool with_graph) {
    Generating<Half> texts((*source).require_config(), weights, prompts, 8, 512, {}, none);
    texts.read_prompts_async(stream.get());
    texts.step_async(stream.get());  // loads all kernels, which a capture must not do
    emulator::options().refuse_cold = true;
    const Graph graph = capture(stream.get(), [&] { texts.step_async(stream.get()); });
    emulator::options().refuse_cold = false;
    emulator::options().count = true;
    const std::uint64_t allocations = emulator::allocations();
    for (int step = 0; step < 6; ++step) {
      emulator::clear_launches();
      if (with_graph)
        REQUIRE(cudaGraphLaunch(graph.get(), stream.get()) == cudaSuccess);
      else
        texts.step_async(stream.get());
      REQUIRE(cudaStreamSynchronize(stream.get()) == cudaSuccess);
      // Embedding, last norm, output layer and choice; two norms, four products, turned heads and attention.
      if (emulator::in_use) CHECK(emulator::launches().size() == 4 + 2 * 8);
    }
    CHECK(emulator::allocations() == allocations);
    texts.read_async(0, stream.get());
    texts.wait(0);
    CHECK(texts.ended(0));
    Texts out(2);
    for (std::size_t text = 0; text < 2; ++text)
      for (std::int64_t i = 0; i < texts.count(0, text); ++i) out[text].push_back(texts.token(0, text, i));
    return out;
  };
  const Texts replayed = run(true);
  CHECK(replayed == run(false));
  CHECK(replayed[1].size() == 8);
  emulator::options().count = false;
}

// HIGGS_TEST_MODEL names a model; one that is not quantized is quantized to 4 bits first.
TEST_CASE("a model of real size writes the CPU's greedy text", "[model][device][.long]") {
  const char* const path = std::getenv("HIGGS_TEST_MODEL");
  if (!path) {
    std::puts("LEFT OUT: a model of real size; HIGGS_TEST_MODEL may name one");
    return;
  }
  const TemporaryFolder folder;
  std::filesystem::path file = path;
  if (!ModelSource(file).checkpoint()) {
    file = folder / "quantized";
    quantize_model(ModelSource(path), file, {.codebook = "w4"});
  }
  const ModelSource source(file);
  const Tokenizer tokenizer(source.vocabulary(), path);
  const Texts prompts{tokenizer.encode("The capital of France is")};
  emulator::options().count = false;
  const Texts found = tokens_of(open_device_generator(source, {})->generate(prompts, 6, {}, {}));
  CHECK(found == tokens_of(generate(Transformer::load(source), prompts, 6, {}, {})));
  CHECK(found[0].size() == 6);
}

TEST_CASE("a GPU that is too old is refused with its compute capability", "[model][device]") {
  if (!emulator::in_use) return;
  CHECK_NOTHROW(require_device());
  const int usual = std::exchange(emulator::options().compute_capability, 75);
  CHECK_THAT(message_of<higgs::InvalidArgument>([] { require_device(); }),
             Contains("7.5") && Contains("8.0"));
  emulator::options().compute_capability = usual;
}

TEST_CASE("bad prompts and samplings are refused", "[model][device]") {
  const TinySource source(tiny_config("llama"));
  const auto device = on_device(source);
  const Texts good{tiny_text(3)}, many(65, tiny_text(1)), long_one{tiny_text(64)};
  const auto refused = [&](const Texts& prompts, const Sampling& sampling = {}) {
    return message_of<higgs::InvalidArgument>([&] { device->generate(prompts, 2, sampling, {}); });
  };
  CHECK_THAT(refused({}), Contains("1 to 64 prompts"));
  CHECK_THAT(refused(many), Contains("1 to 64 prompts"));
  CHECK_THAT(refused({{}}), Contains("empty"));
  CHECK_THAT(refused(long_one), Contains("context"));
  CHECK_THAT(refused({{1, 40}}), Contains("token 40") && Contains("40 rows"));
  CHECK_THAT(refused(good, {.temperature = -1}), Contains("temperature"));
  CHECK_THAT(refused(good, {.top_p = 0}), Contains("top_p"));
  CHECK(refused(good).empty());

  // Prompts whose keys and values do not fit are refused before anything is allocated for them.
  const std::uint64_t usual = emulator::options().memory_bytes, before = emulator::allocations();
  std::size_t free = 0, total = 0;
  REQUIRE(cudaMemGetInfo(&free, &total) == cudaSuccess);
  emulator::options().memory_bytes = total - free + 4096;
  const std::string message = refused(good);
  emulator::options().memory_bytes = usual;
  if (!emulator::in_use) return;
  CHECK_THAT(message, Contains("keys and values") && Contains("are free"));
  CHECK(emulator::allocations() == before);
}

TEST_CASE("logits that are NaN or infinite end a text with a sentence", "[model][device]") {
  const ModelConfig config = tiny_config("llama");
  const TinySource source(config, tensors_beyond_fp16(config));
  const Texts prompts{tiny_text(5)};
  CHECK_THAT(message_of<higgs::FormatError>([&] { on_device(source)->generate(prompts, 4, {}, {}); }),
             Contains("logit") && Contains("--dtype bf16"));
  const auto bf16 = on_device(source, {.type = DeviceType::Bf16});
  CHECK(bf16->generate(prompts, 4, {}, {})[0].tokens.size() == 4);
}
