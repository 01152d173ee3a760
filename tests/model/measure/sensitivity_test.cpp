// SPDX-License-Identifier: Apache-2.0
#include "measure/sensitivity.hpp"

#include "model/tiny_model.hpp"
#include "quantize/quantize.hpp"
#include "source/source.hpp"

#include <higgs/codes/registry.hpp>
#include <higgs/core/error.hpp>
#include <higgs/core/random.hpp>
#include <higgs/matmul/decode.hpp>
#include <higgs/quantizer.hpp>

#include <catch2/catch.hpp>

#include <cmath>
#include <string>
#include <vector>

using namespace higgs::model;

namespace {

struct Interrupted {};

const ProbeProtocol protocol{
    .model = "tiny", .text = "a text", .window = 12, .seed = 5, .levels = {0.01, 0.02}};

SensitivityFile small_file() {
  SensitivityFile file{protocol, {}};
  file.protocol.fingerprint = ~std::uint64_t{0};
  file.protocol.cross_entropy = 2.5;
  file.layers = {{"a \"name\"", {{0.01, 0.1, 0.2}, {0.02, 0.2, 0.3}}},
                 {"b", {{0.01, 1e-9, -1e-3}, {0.02, 0, 0}}}};
  return file;
}

}  // namespace

TEST_CASE("sensitivities survive their file", "[model][sensitivity]") {
  const SensitivityFile file = small_file();
  const std::string text = write_sensitivities(file, Metric::Kl);
  const SensitivityFile back = read_sensitivities(text, "test");
  CHECK(back.protocol == file.protocol);
  REQUIRE(back.layers.size() == 2);
  CHECK(back.layers[0].name == "a \"name\"");
  CHECK(back.layers[1].results[0].cross_entropy == -1e-3);
  CHECK(write_sensitivities(back, Metric::Kl) == text);
  CHECK(text.find("\"device\"") == text.npos);  // files that do not say it are of the CPU
  SensitivityFile even = file;
  even.protocol.input_scales = false;
  CHECK(read_sensitivities(write_sensitivities(even, Metric::Kl), "test").protocol == even.protocol);
  SensitivityFile old = file;
  old.protocol.shared_scales = false;
  CHECK(read_sensitivities(write_sensitivities(old, Metric::Kl), "test").protocol == old.protocol);
  SensitivityFile on_gpu = file;
  on_gpu.protocol.device = "cuda";
  on_gpu.protocol.dtype = "fp16";
  CHECK(read_sensitivities(write_sensitivities(on_gpu, Metric::Kl), "test").protocol == on_gpu.protocol);
}

TEST_CASE("the metrics are those of their names", "[model][sensitivity]") {
  CHECK(change_of(metric_named("kl"), 0.3, 0.2, 2.5) == 0.3);
  CHECK(change_of(metric_named("nll"), 0.3, 0.2, 2.5) == 0.2);
  CHECK(change_of(metric_named("ppl"), 0.3, 0.2, 2.5) == Approx(std::exp(2.7) - std::exp(2.5)));
  CHECK_THROWS_AS(metric_named("loss"), higgs::InvalidArgument);
  const SensitivityFile file = small_file();
  CHECK(fit_layer(file.layers[0], Metric::Kl, file.protocol).alpha == Approx(10));
}

TEST_CASE("damaged sensitivities are refused with the file's name", "[model][sensitivity]") {
  const std::string good = write_sensitivities(small_file(), Metric::Kl);
  const auto refused = [&](const std::string& from, const std::string& to) {
    std::string text = good;
    const std::size_t at = text.find(from);
    REQUIRE(at != text.npos);
    text.replace(at, from.size(), to);
    CHECK_THROWS_WITH(read_sensitivities(text, "file.json"), Catch::Contains("file.json"));
    CHECK_THROWS_AS(read_sensitivities(text, "file.json"), higgs::FormatError);
  };
  refused("{", "[");
  refused("sensitivities 1", "sensitivities 2");
  refused("\"fingerprint\": \"1", "\"fingerprint\": \"x");
  refused("\"t2\": 0.01", "\"t2\": -0.01");
  refused("\"t2\": 0.01", "\"t2\": 1e999");
  refused("\"t2\": 0.01", "\"t2\": \"much\"");
  refused("\"probes\"", "\"tests\"");
  refused("\"window\": 12", "\"window\": []");
  refused("Gaussian, by column", "Gaussian");
  refused("\"window\": 12", "\"windows\": 12");
  refused("noise in one layer at a time", "gradients");
  refused("\"b\"", "\"a \\\"name\\\"\"");
  refused("\"alpha\"", "\"beta\"");
}

TEST_CASE("a model's measurement that was killed goes on, and ends as if it had not been",
          "[model][sensitivity]") {
  const TemporaryFolder folder;
  write_folder(folder.path(), tiny_config("llama"));
  const Transformer model = Transformer::load(ModelSource(folder.path()));
  const auto measure = [&](const char* name, std::int64_t fails_at, const ProbeProtocol& how) {
    return measure_model(model, tiny_text(24), how, Metric::Kl, folder / name,
                         [&](std::int64_t done, std::int64_t total) {
                           CHECK(total == 15);
                           if (done == fails_at) throw Interrupted{};
                         });
  };
  const SensitivityFile whole = measure("whole.json", -1, protocol);
  CHECK(whole.layers.size() == 15);
  CHECK(whole.layers.back().name == "model.embed_tokens.weight");
  CHECK(whole.layers.back().rows == 40);
  CHECK(whole.layers[8].name == "model.layers.1.self_attn.k_proj.weight");
  CHECK_THROWS_AS(measure("parts.json", 9, protocol), Interrupted);
  CHECK(read_sensitivities(read_text(folder / "parts.json"), "").layers.size() == 9);
  measure("parts.json", -1, protocol);
  CHECK(read_text(folder / "parts.json") == read_text(folder / "whole.json"));

  ProbeProtocol other = protocol;
  other.levels = {0.01, 0.03};
  CHECK_THROWS_AS(measure("whole.json", -1, other), higgs::InvalidArgument);
  other = protocol;
  other.input_scales = !other.input_scales;
  CHECK_THROWS_AS(measure("whole.json", -1, other), higgs::InvalidArgument);
  ProbeProtocol old = protocol;
  old.shared_scales = false;
  measure("old.json", -1, old);
  CHECK_THAT(message_of<higgs::InvalidArgument>([&] { measure("old.json", -1, protocol); }),
             Catch::Contains("old.json") && Catch::Contains("gate and up"));
  other = protocol;
  other.device = "cuda";
  other.dtype = "bf16";
  CHECK_THAT(message_of<higgs::InvalidArgument>([&] { measure("whole.json", -1, other); }),
             Catch::Contains("--device cpu in float") && Catch::Contains("--device cuda in bf16"));
}

TEST_CASE("fingerprints tell texts apart", "[model][sensitivity]") {
  CHECK(fingerprint_of(std::vector<TokenId>{1, 2}) != fingerprint_of(std::vector<TokenId>{2, 1}));
  CHECK(fingerprint_of(std::vector<TokenId>{0}) != fingerprint_of(std::vector<TokenId>{0, 0}));
  CHECK(fingerprint_of(std::vector<TokenId>{5, 6}) == fingerprint_of(std::vector<TokenId>{5, 6}));
}

// Sensitivities are measured with noise that is Gaussian, the same in every column and independent from weight to weight.
// They hold for a code whose error is so, seen in the basis of the weights. Rows may differ: ch8 has a step of its own in
// each.
TEST_CASE("the error of every shipped code has the shape of the noise that sensitivities insert",
          "[model][sensitivity]") {
  constexpr std::int64_t rows = 128, cols = 1024, count = rows * cols;
  std::vector<float> weights(count), rounded(count);
  for (std::int64_t i = 0; i < count; ++i)
    weights[static_cast<std::size_t>(i)] =
        static_cast<float>(higgs::random_normal(3, static_cast<std::uint64_t>(i)));
  for (const std::string& code : higgs::shipped_code_names()) {
    INFO(code);
    const auto quantized = higgs::quantize(higgs::MatrixView<const float>(weights.data(), rows, cols), code,
                                           {.input_scales = false});
    higgs::dequantize(quantized, higgs::MatrixView<float>(rounded.data(), rows, cols));
    std::vector<double> errors(count), columns(cols);  // in units of the row's RMS
    double fourth = 0;
    for (std::size_t first = 0; first < errors.size(); first += cols) {
      double square = 0;
      for (std::size_t i = first; i < first + cols; ++i) {
        errors[i] = static_cast<double>(rounded[i]) - static_cast<double>(weights[i]);
        square += errors[i] * errors[i] / cols;
      }
      for (std::size_t i = first; i < first + cols; ++i) {
        errors[i] /= std::sqrt(square);
        columns[i % cols] += errors[i] * errors[i] / rows;
        fourth += std::pow(errors[i], 4) / count;
      }
    }
    // Five standard errors of what independent Gaussians show.
    CHECK(fourth == Approx(3).margin(5 * std::sqrt(24.0 / count)));
    double spread = 0;
    for (const double each : columns) spread += (each - 1) * (each - 1) * rows / 2 / cols;
    CHECK(spread == Approx(1).margin(5 * std::sqrt(2.0 / cols)));
    for (const std::size_t lag : {1u, 2u, 3u, 4u, 5u, 6u, 7u, 8u, 12u, 16u, 32u, 64u}) {
      double product = 0;
      for (std::size_t i = lag; i < errors.size(); ++i) product += errors[i] * errors[i - lag] / count;
      INFO("lag " << lag);
      CHECK(product == Approx(0).margin(5 / std::sqrt(1.0 * count)));
    }
  }
}
