// SPDX-License-Identifier: Apache-2.0
#include "plan/plan.hpp"

#include "measure/evaluate.hpp"
#include "model/tiny_model.hpp"
#include "quantize/quantize.hpp"
#include "quantize/sizes.hpp"

#include <higgs/codes/rates.hpp>
#include <higgs/core/error.hpp>
#include <higgs/store/checkpoint.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <numeric>
#include <set>
#include <string>
#include <variant>
#include <vector>

using namespace higgs::model;

namespace {

// Sensitivities that make different layers dear.
SensitivityFile some_sensitivities(const Transformer& model) {
  SensitivityFile file;
  file.protocol = {.model = "tiny", .text = "none", .levels = {0.01}};
  for (const BlockLinear& each : block_linears(model.config())) {
    const double alpha = 1.0 / static_cast<double>(1 + (5 * file.layers.size()) % 14);
    file.layers.push_back(
        {each.name, {{0.01, 0.01 * alpha, 0.01 * alpha}, {0.02, 0.02 * alpha, 0.02 * alpha}}});
  }
  return file;
}

}  // namespace

TEST_CASE("a plan becomes a checkpoint of mixed widths that loads, runs and has its bytes", "[model][plan]") {
  const TemporaryFolder folder;
  write_folder(folder / "model", tiny_config("llama"));
  const ModelSource source(folder / "model");
  const Transformer model = Transformer::load(source);
  const SensitivityFile file = some_sensitivities(model);
  PlanRequest request;
  request.options.group = 8;
  const std::vector<higgs::PlanLayer> layers = plan_layers(source, file, request);
  REQUIRE(layers.size() == 14);
  CHECK(layers[3].alpha == Approx(1.0 / 2));
  CHECK(layers[3].formats.size() == request.codebooks.size());
  const auto plan = higgs::allocate(layers, higgs::Budget::bits(6.5));
  REQUIRE(plan);
  std::set<std::string> used;
  for (const auto& layer : plan->layers) used.insert(layer.format);
  CHECK(used.size() >= 2);

  const StoredPlan stored = read_plan(write_plan(*plan, request, file), "plan");
  CHECK(stored.group == 8);
  CHECK_NOTHROW(check_plan(stored, source, "plan"));
  QuantizeRequest quantize_request{.codebook = "1x4", .embedding = "none", .codebooks = stored.codebooks};
  quantize_request.options.group = stored.group;
  quantize_request.options.block = stored.block;
  quantize_model(source, folder / "mixed", quantize_request);

  const ModelSource mixed(folder / "mixed");
  std::int64_t bytes = 0;
  for (const auto& layer : plan->layers) {
    CHECK(mixed.checkpoint()->find_layer(layer.name)->codebook == layer.format);
    bytes += std::visit(
        [](const auto& m) {
          return static_cast<std::int64_t>(m.codes.size_bytes() + m.scales.size_bytes() +
                                           m.input_scales.size_bytes());
        },
        mixed.checkpoint()->load(layer.name));
  }
  CHECK(bytes == plan->bytes);

  // The runner, which does not write, makes of the plan the same model.
  PlanRunner runner(model, request.options);
  std::vector<std::string> formats;
  for (const auto& layer : plan->layers) formats.push_back(layer.format);
  std::vector<double> t2;
  std::vector<std::int64_t> sizes;
  const Transformer rounded = runner.with(formats, t2, sizes);
  CHECK(std::accumulate(sizes.begin(), sizes.end(), std::int64_t{0}) == plan->bytes);
  Evaluator evaluator(tiny_text(48), 12);
  evaluator.set_reference(model);
  CHECK(evaluator.evaluate(rounded).divergence->kl.mean ==
        Approx(evaluator.evaluate(Transformer::load(mixed)).divergence->kl.mean).epsilon(1e-3));

  quantize_request.codebooks = {{"model.layers.9.mlp.up_proj.weight", "2x16"}};
  CHECK_THROWS_AS(quantize_model(source, folder / "other", quantize_request), higgs::InvalidArgument);
}

TEST_CASE("a budget of bytes is kept by the whole file, and what it leaves is less than the next step",
          "[model][plan]") {
  for (const std::string family : {"llama", "qwen3"})
    for (const bool with_outer : {false, true}) {
      const TemporaryFolder folder;
      const ModelConfig config = tiny_config(family);
      write_folder(folder / "model", config);
      const ModelSource source(folder / "model");
      SensitivityFile file = some_sensitivities(Transformer::load(source));
      if (with_outer)
        for (const std::string& name : probed_layers(config))
          if (!is_block_linear(name)) file.layers.push_back({name, {{0.01, 0.02, 0.02}, {0.02, 0.04, 0.04}}});
      const PlanRequest request;
      const auto layers = plan_layers(source, file, request);
      const auto smallest = smallest_plan(layers);
      REQUIRE(smallest);
      const auto least = static_cast<std::int64_t>(outline_of(source, request, *smallest).file_bytes);
      CHECK_FALSE(allocate_file(source, layers, request, least - 1));
      CHECK_FALSE(allocate_file(source, layers, request, 0));
      double loss = 1e300;
      for (const std::int64_t more : {0, 100, 500, 1000, 2000, 5000, 100000}) {
        INFO(with_outer << " " << more);
        const auto plan = allocate_file(source, layers, request, least + more);
        REQUIRE(plan);
        CHECK(plan->loss <= loss);
        loss = plan->loss;
        const StoredPlan stored = read_plan(write_plan(*plan, request, file), "plan");
        CHECK_NOTHROW(check_plan(stored, source, "plan"));
        QuantizeRequest wanted{.codebooks = stored.codebooks, .calibrated = true};
        wanted.options.block = stored.block;
        wanted.options.group = stored.group;
        wanted.input_squares = measure_inputs(source, tiny_text(24), 12);
        quantize_model(source, folder / "out", wanted);
        CHECK(static_cast<std::int64_t>(std::filesystem::file_size(folder / "out" / "model.safetensors")) <=
              least + more);
        if (with_outer)
          CHECK(ModelSource(folder / "out").checkpoint()->find_layer("model.embed_tokens.weight")->codebook ==
                stored.codebooks.at("model.embed_tokens.weight"));
      }
    }
}

TEST_CASE("sensitivities and plans of another model are refused with the numbers, or doubted",
          "[model][plan]") {
  const TemporaryFolder folder;
  write_folder(folder / "model", tiny_config("llama"));
  const ModelSource source(folder / "model");
  SensitivityFile good = some_sensitivities(Transformer::load(source));
  good.path = "alpha.json";
  for (LayerProbe& layer : good.layers) {
    layer.rows = source.find(layer.name)->rows();
    layer.cols = source.find(layer.name)->cols();
  }
  const PlanRequest request;
  const auto refusal = [&](const SensitivityFile& file) {
    return message_of<higgs::FormatError>([&] { plan_layers(source, file, request); });
  };
  const auto plan_of = [&](const SensitivityFile& file) {
    return read_plan(write_plan(*smallest_plan(plan_layers(source, good, request)), request, file),
                     "plan.json");
  };
  CHECK_NOTHROW(plan_layers(source, good, request));
  CHECK_NOTHROW(check_plan(plan_of(good), source, "plan.json"));
  const auto plan_refusal = [&](const StoredPlan& plan) {
    return message_of<higgs::FormatError>([&] { check_plan(plan, source, "plan.json"); });
  };
  for (std::size_t i = 0; i < good.layers.size(); ++i) {
    SensitivityFile other = good;
    ++other.layers[i].cols;
    const std::string rows = std::to_string(good.layers[i].rows) + " x ";
    for (const std::string& message : {refusal(other), plan_refusal(plan_of(other))})
      CHECK_THAT(message, Catch::Contains(".json") && Catch::Contains(good.layers[i].name) &&
                              Catch::Contains(rows + std::to_string(good.layers[i].cols)) &&
                              Catch::Contains(rows + std::to_string(good.layers[i].cols + 1)));
    other = good;
    other.layers.erase(other.layers.begin() + static_cast<std::ptrdiff_t>(i));
    StoredPlan shorter = plan_of(good);
    shorter.codebooks.erase(good.layers[i].name);
    for (const std::string& message : {refusal(other), plan_refusal(shorter)})
      CHECK_THAT(message, Catch::Contains(".json") && Catch::Contains("1 of the 14") &&
                              Catch::Contains(good.layers[i].name));
  }
  SensitivityFile other = good;
  other.layers.push_back({"model.layers.7.mlp.up_proj.weight", good.layers[0].results});
  CHECK_THAT(refusal(other), Catch::Contains("model.layers.7.mlp.up_proj.weight"));

  quantize_model(source, folder / "out", {});
  CHECK_THAT(message_of<higgs::FormatError>([&] { plan_layers(ModelSource(folder / "out"), good, request); }),
             Catch::Contains("quantized already"));

  good.protocol.model = "model";
  CHECK(doubts_about(good, source).empty());
  good.protocol.weights = weights_fingerprint(source);
  good.protocol.model = "the same under another name";
  CHECK(doubts_about(good, source).empty());
  ++good.protocol.weights;
  good.protocol.model = "model";
  CHECK(doubts_about(good, source).size() == 1);
  good.protocol.weights = 0;
  good.protocol.model = "other";
  REQUIRE(doubts_about(good, source).size() == 1);
  CHECK_THAT(doubts_about(good, source)[0], Catch::Contains("other") && Catch::Contains("alpha.json"));
}

TEST_CASE("losses are predicted for layers rounded with feedback", "[model][plan]") {
  const TemporaryFolder folder;
  write_folder(folder / "model", tiny_config("llama"));
  const ModelSource source(folder / "model");
  SensitivityFile file = some_sensitivities(Transformer::load(source));
  for (LayerProbe& layer : file.layers) layer.results[1].kl *= 1.1;  // so that alphas are uncertain
  PlanRequest request;
  const std::vector<higgs::PlanLayer> plain = plan_layers(source, file, request);
  RoundingReport report{.path = "report.json", .model = "tiny", .weights = weights_fingerprint(source)};
  for (std::size_t i = 0; i + 2 < plain.size(); ++i) {
    const ModelTensor& tensor = *source.find(plain[i].name);
    report.layers.emplace(plain[i].name,
                          RoundingReport::Layer{tensor.rows(), tensor.cols(), 0.25 * static_cast<double>(i)});
  }
  request.rounding = report;
  const std::vector<higgs::PlanLayer> layers = plan_layers(source, file, request);
  REQUIRE(layers.size() == plain.size());
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const double left = i + 2 < layers.size() ? 0.25 * static_cast<double>(i) : 1;
    INFO(layers[i].name);
    CHECK(layers[i].alpha == Approx(left * plain[i].alpha));
    CHECK(plain[i].margin > 0);
    CHECK(layers[i].margin == Approx(left * plain[i].margin));
    CHECK(layers[i].formats.size() == plain[i].formats.size());
  }
  CHECK_THAT(layers_without_feedback(report, layers),
             Catch::Contains("report.json: lacks 2 of the 14") && Catch::Contains(layers[12].name + ", ..."));
  CHECK(layers_without_feedback(report, {layers.begin(), layers.end() - 2}).empty());

  const auto stored = [&](const std::vector<higgs::PlanLayer>& from) {
    return read_plan(write_plan(*higgs::allocate(from, higgs::Budget::bits(6.5)), request, file), "plan");
  };
  CHECK(stored(layers).with_feedback);
  CHECK(stored(layers).metric == "kl");
  CHECK(stored(layers).loss == higgs::allocate(layers, higgs::Budget::bits(6.5))->loss);
  CHECK(stored(layers).codebooks != stored(plain).codebooks);  // bits go where feedback leaves the most
  request.rounding.reset();
  CHECK_FALSE(stored(plain).with_feedback);

  const auto refusal = [&](const RoundingReport& other) {
    request.rounding = other;
    return message_of<higgs::FormatError>([&] { plan_layers(source, file, request); });
  };
  RoundingReport other = report;
  ++other.weights;
  CHECK_THAT(refusal(other),
             Catch::Contains("report.json: is of tiny") && Catch::Contains((folder / "model").string()));
  other = report;
  ++other.layers.at(layers[3].name).cols;
  CHECK_THAT(refusal(other), Catch::Contains("report.json") && Catch::Contains(layers[3].name) &&
                                 Catch::Contains("24 x 25") && Catch::Contains("24 x 24"));
  other = report;
  other.layers.emplace("model.layers.7.mlp.up_proj.weight", RoundingReport::Layer{1, 1, 1});
  CHECK_THAT(refusal(other), Catch::Contains("model.layers.7.mlp.up_proj.weight"));
}

TEST_CASE("fused layers share their format", "[model][plan]") {
  const TemporaryFolder folder;
  write_folder(folder.path(), tiny_config("qwen3"));
  const ModelSource source(folder.path());
  PlanRequest request;
  request.fused = true;
  const auto layers = plan_layers(source, some_sensitivities(Transformer::load(source)), request);
  for (const double bits : {9.0, 10.0, 12.0}) {
    const auto plan = higgs::allocate(layers, higgs::Budget::bits(bits));
    if (!plan) continue;
    for (std::size_t i = 0; i < 14; i += 7) {
      CHECK(plan->layers[i].format == plan->layers[i + 1].format);
      CHECK(plan->layers[i].format == plan->layers[i + 2].format);
      CHECK(plan->layers[i + 4].format == plan->layers[i + 5].format);
    }
  }
}

TEST_CASE("plans that do not fit the model or the format are refused", "[model][plan]") {
  const TemporaryFolder folder;
  write_folder(folder.path(), tiny_config("llama"));
  const ModelSource source(folder.path());
  const Transformer model = Transformer::load(source);
  SensitivityFile file = some_sensitivities(model);
  file.layers[2].name = "model.layers.7.mlp.up_proj.weight";
  CHECK_THROWS_AS(plan_layers(source, file, {}), higgs::FormatError);
  PlanRequest unknown;
  unknown.codebooks = {"3x7"};
  CHECK_THROWS_AS(plan_layers(source, some_sensitivities(model), unknown), higgs::InvalidArgument);
  std::vector<double> t2;
  std::vector<std::int64_t> bytes;
  CHECK_THROWS_AS(PlanRunner(model, {}).with({"2x16"}, t2, bytes), higgs::InvalidArgument);

  const std::string good = R"({"format":"higgs plan 1","block":0,"group":64,"input_scales":false,)"
                           R"("layers":[{"name":"a","codebook":"2x16"},{"name":"b","codebook":"1x4"}]})";
  const StoredPlan plan = read_plan(good, "plan.json");
  CHECK(plan.codebooks.at("b") == "1x4");
  CHECK_FALSE(plan.input_scales);
  for (const auto& [from, to] :
       std::vector<std::pair<std::string, std::string>>{{"plan 1", "plan 9"},
                                                        {"2x16", "2x17"},
                                                        {"\"b\"", "\"a\""},
                                                        {"64", "[]"},
                                                        {"\"block\":0", "\"block\":31"},
                                                        {"\"2x16\"", "\"2x16\",\"codebook\":\"2x16\""},
                                                        {"layers", "rows"},
                                                        {"\"block\"", "\"blocks\""},
                                                        {"false", "\"false\""},
                                                        {"false", "null"},
                                                        {"false,", "false,\"round\":\"up\","},
                                                        {"false,", "false,\"loss\":\"low\","},
                                                        {"false,", "false,\"metric\":\"bits\","},
                                                        {"\"b\",", "\"b\",\"bits\":4,"},
                                                        {"64,", "64,\"seed\":\"7\","},
                                                        {"}]}", ""}}) {
    std::string text = good;
    text.replace(text.find(from), from.size(), to);
    CHECK_THROWS_WITH(read_plan(text, "plan.json"), Catch::Contains("plan.json"));
    CHECK_THROWS_AS(read_plan(text, "plan.json"), higgs::FormatError);
  }
}

TEST_CASE("plans choose from the best code of each rate from 1.5 bits on", "[model][plan]") {
  const std::vector<std::string> names = plan_codebooks();
  CHECK(PlanRequest{}.codebooks == names);
  for (const std::string& each : names) CHECK(higgs::rate_of_code(each).bits >= 1.5);
  for (const std::string& each : higgs::shipped_code_names()) {
    const double bits = higgs::rate_of_code(each).bits;
    INFO(each);
    CHECK(std::count(names.begin(), names.end(), higgs::best_code_of_bits(bits)) == (bits >= 1.5 ? 1 : 0));
  }
}

TEST_CASE("the runner rounds with the input scales that quantization takes from measured inputs",
          "[model][plan]") {
  const TemporaryFolder folder;
  ModelConfig config = tiny_config("llama");
  config.ffn_width = 100;  // rows of gate and of up: enough for input scales together
  config.heads = 18;       // 108, 12 and 12 rows of queries, keys and values
  write_folder(folder / "model", config);
  const ModelSource source(folder / "model");
  const Transformer model = Transformer::load(source);
  QuantizeRequest request{.codebook = "2x64", .embedding = "none", .calibrated = true};
  request.input_squares = measure_inputs(source, tiny_text(24), 12);
  quantize_model(source, folder / "out", request);
  const ModelSource quantized(folder / "out");
  std::vector<double> t2, plain_t2;
  std::vector<std::int64_t> bytes;
  PlanRunner(model, request.options, request.input_squares)
      .with(std::vector<std::string>(14, request.codebook), t2, bytes);
  PlanRunner(model, request.options).with(std::vector<std::string>(14, request.codebook), plain_t2, bytes);
  const std::vector<BlockLinear> layers = block_linears(config);
  for (std::size_t i = 0; i < layers.size(); ++i) {
    INFO(layers[i].name);
    CHECK(t2[i] == quantized.checkpoint()->find_layer(layers[i].name)->t2);
  }
  CHECK(t2 != plain_t2);

  // A plan counts the bytes of the input scales that it asks for.
  SensitivityFile file = some_sensitivities(model);
  for (const bool fused : {false, true}) {
    const PlanRequest plan{.codebooks = {request.codebook}, .fused = fused};
    const std::vector<higgs::PlanLayer> planned = plan_layers(source, file, plan);
    const auto chosen = higgs::allocate(planned, higgs::Budget::bits(16));
    REQUIRE(chosen);
    const StoredPlan stored = read_plan(write_plan(*chosen, plan, file), "plan");
    request.sharing = stored.sharing;
    CHECK((request.sharing == Sharing::Fused) == fused);
    quantize_model(source, folder / "planned", request);
    const ModelSource out(folder / "planned");
    REQUIRE(planned.size() == layers.size());
    std::int64_t all = 0;
    for (std::size_t i = 0; i < layers.size(); ++i) {
      INFO(layers[i].name);
      const std::int64_t stored_bytes =
          layer_bytes(*out.checkpoint(), *out.checkpoint()->find_layer(layers[i].name));
      CHECK(planned[i].formats.at(0).bytes == stored_bytes);
      if (!fused) CHECK(bytes[i] == stored_bytes);
      all += stored_bytes;
    }
    CHECK(all == chosen->bytes);
    CHECK(all > std::accumulate(bytes.begin(), bytes.end(), std::int64_t{fused ? 0 : -1}));
  }
}

TEST_CASE("a format with a group is its code in groups of that size, for every shipped code",
          "[model][plan]") {
  const TemporaryFolder folder;
  write_folder(folder.path(), tiny_config("llama"));
  const Transformer model = Transformer::load(ModelSource(folder.path()));
  PlanRunner by_option(model, {.group = 12}), by_name(model, {});
  for (const std::string& code : higgs::shipped_code_names()) {
    std::vector<double> t2, expected_t2;
    std::vector<std::int64_t> bytes, expected_bytes;
    by_option.with(std::vector<std::string>(14, code), expected_t2, expected_bytes);
    by_name.with(std::vector<std::string>(14, code + "/12"), t2, bytes);
    INFO(code);
    CHECK(t2 == expected_t2);
    CHECK(bytes == expected_bytes);
  }
}

TEST_CASE("the page of a plan shows every layer", "[model][plan]") {
  const TemporaryFolder folder;
  write_folder(folder.path(), tiny_config("llama"));
  const ModelSource source(folder.path());
  const SensitivityFile file = some_sensitivities(Transformer::load(source));
  const auto layers = plan_layers(source, file, {});
  const auto plan = higgs::allocate(layers, higgs::Budget::bits(16));
  REQUIRE(plan);
  const std::string page = allocation_page("A <title>", file, layers, *plan);
  CHECK(page.find("A &lt;title&gt;") != page.npos);
  CHECK(page.find("proven optimal") != page.npos);
  std::size_t cells = 0;
  for (std::size_t at = page.find("<rect"); at != page.npos; at = page.find("<rect", at + 1)) ++cells;
  CHECK(cells == 14);
}
