// SPDX-License-Identifier: Apache-2.0
#include "compare/compare.hpp"

#include "architecture/parts.hpp"
#include "model/tiny_model.hpp"

#include <higgs/codes/rates.hpp>
#include <higgs/core/error.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "compare/round_to_codebook.hpp"
#include "quantize/quantize.hpp"

using namespace higgs::model;
using Catch::Contains;
using higgs::shipped_code_names;

namespace {

std::size_t count(const std::string& text, const std::string& part) {
  std::size_t found = 0;
  for (std::size_t at = text.find(part); at != text.npos; at = text.find(part, at + 1)) ++found;
  return found;
}

// Rows of plausible numbers for all default methods.
std::vector<ComparisonRow> crowded_rows() {
  std::vector<ComparisonRow> rows;
  for (const std::string& name : default_methods()) {
    const auto i = static_cast<std::uint64_t>(rows.size());
    ComparisonRow row{.method = name, .bits = 2.05 + 0.1 * static_cast<double>(i), .choices = "a <choice>"};
    row.evaluation = {.tokens = 5110, .windows = 10, .cross_entropy = {3.5, 0.05}};
    row.evaluation.divergence =
        Divergence{.kl = {0.1 * static_cast<double>(i + 1), 0.01}, .top_agreement = 0.8};
    rows.push_back(row);
  }
  return rows;
}

}  // namespace

TEST_CASE("every method has a name that is read back, and states its choices", "[model][compare]") {
  const Transformer model = load_tiny(tiny_config("llama"));
  std::vector<std::string> names = default_methods();
  for (const Baseline& each : baselines()) names.emplace_back(each.name);
  for (const std::string& name : names) {
    INFO(name);
    const Method method = parse_method(name);
    CHECK(method.name == name);
    CHECK((method.baseline == nullptr) == name.starts_with("higgs "));
    CHECK(method.calibrated == name.ends_with(" random"));
    if (method.baseline) CHECK(!method.baseline->choices.empty());
  }
  CHECK(parse_method("higgs 2x256 g128 random").options.group == 128);
}

TEST_CASE("without being told, compare takes the best code of each rate from 2 to 4 bits, calibrated and not",
          "[model][compare]") {
  const std::vector<std::string> names = default_methods();
  for (const std::string& name : names) CHECK(std::count(names.begin(), names.end(), name) == 1);
  for (const higgs::RatedCode& code : higgs::best_codes())
    for (const char* suffix : {"", " random"}) {
      const bool wanted = code.bits >= 2 && code.bits <= 4;
      INFO(code.name);
      CHECK(std::count(names.begin(), names.end(), "higgs " + code.name + suffix) == (wanted ? 1 : 0));
    }
}

TEST_CASE("an unknown method is refused with all that there are", "[model][compare]") {
  for (const char* name : {"", "nf5", "higgs", "higgs ", "higgs 9x9", "higgs 2x256 g64",
                           "higgs 2x256 randomly", "2x256", "nf4-64 random", "higgs 2x256 random g128"}) {
    const std::string message = message_of<higgs::InvalidArgument>([&] { parse_method(name); });
    INFO(name);
    CHECK_THAT(message, Contains(std::string("\"") + name + "\""));
    for (const Baseline& each : baselines()) CHECK_THAT(message, Contains(std::string(each.name)));
    for (const std::string& each : shipped_code_names()) CHECK_THAT(message, Contains(" " + each));
    for (const std::string& each : further_codebook_names()) CHECK_THAT(message, Contains(" " + each));
  }
}

TEST_CASE("a format is measured by both errors, which are one for baselines", "[model][compare]") {
  const Transformer model = load_tiny(tiny_config("llama"));
  for (const char* name : {"nf4-64", "nf4-64 dq", "hqq3-64", "higgs 2x16", "higgs 3x64", "higgs 3x64 g128"}) {
    INFO(name);
    const Method method = parse_method(name);
    ComparisonRow row;
    std::vector<std::int64_t> steps;
    const Transformer rounded = with_method(model, method, {}, row, higgs::default_executor(),
                                            [&](std::int64_t done, std::int64_t total) {
                                              steps.push_back(done);
                                              CHECK(done <= total);
                                            });
    CHECK(steps.size() == block_linears(model.config()).size());
    CHECK(row.method == name);
    CHECK(!row.choices.empty());
    CHECK(row.t2 > 0);
    if (method.baseline) CHECK(row.t2 == row.weight_error);

    // The weights that run have the errors that the row tells.
    double error = 0, weights = 0;
    bool dense = true;
    for (const BlockLinear& layer : block_linears(model.config())) {
      const Matrix& exact = *require_dense(layer.in(model.weights), "");
      const auto* other = std::get_if<SharedMatrix>(&layer.in(rounded.weights).weight);
      if (!other) {
        dense = false;
        continue;
      }
      double squares = 0, norm = 0;
      for (std::size_t i = 0; i < exact.values.size(); ++i) {
        squares += std::pow(static_cast<double>((*other)->values[i]) - exact.values[i], 2);
        norm += std::pow(exact.values[i], 2);
      }
      const auto n = static_cast<double>(exact.values.size());
      error += squares / norm * n;
      weights += n;
    }
    if (dense) CHECK(row.weight_error == Approx(error / weights).epsilon(1e-4));
  }
  ComparisonRow row;
  CHECK_THROWS_AS(with_method(model, parse_method("higgs 2x16 random"), {}, row), higgs::InvalidArgument);
}

TEST_CASE("layers that are alike are rounded with one set of input scales", "[model][compare]") {
  ModelConfig config = tiny_config("llama");
  config.heads = 18;  // 108, 12 and 12 rows of queries, keys and values
  config.ffn_width = 100;
  const Transformer model = load_tiny(config);
  for (const char* name : {"higgs 2x16", "higgs 3x64"}) {  // from codes, from rounded floats
    INFO(name);
    ComparisonRow row;
    HostNetwork network(model);
    apply_method(network, parse_method(name), {}, row);
    double t2 = 0, weights = 0;
    for (const BlockLinear& layer : block_linears(config)) {
      const higgs::ColumnStatistics columns =
          shared_columns(config, layer.name, Sharing::Alike,
                         [&](std::string_view each) { return HostNetwork(model).dense(each, "the test"); });
      const Matrix& dense = *require_dense(layer.in(model.weights), "");
      const double expected = name == std::string("higgs 3x64")
                                  ? round_to_codebook(dense.view(), "3x64", {.statistics = &columns}).t2
                                  : higgs::quantize(dense.view(), "2x16", {.statistics = &columns}).t2();
      t2 += expected * static_cast<double>(dense.size());
      weights += static_cast<double>(dense.size());
      if (const auto* packed = std::get_if<higgs::PackedMatrix>(&layer.in(network.model().weights).weight)) {
        const std::vector<higgs::Half> scales = columns.rows() >= higgs::min_rows_for_input_scales
                                                    ? columns.input_scales()
                                                    : std::vector<higgs::Half>();
        CHECK(std::ranges::equal(packed->input_scales(), scales, {}, {},
                                 [](higgs::Half x) { return static_cast<float>(x); }));
      }
    }
    CHECK(row.t2 == Approx(t2 / weights).epsilon(1e-12));
  }
}

TEST_CASE("the reference stands with the bits and the type that it is stored in", "[model][compare]") {
  const TemporaryFolder folder;
  write_folder(folder.path(), tiny_config("llama"));
  const ModelSource source(folder.path());
  const ComparisonRow row = reference_row(source);
  CHECK(row.bits == 32);
  CHECK_THAT(row.choices, Contains("F32"));
  CHECK(stored_types(source) == "F32");

  // Blocks in F16 under an embedding of floats.
  std::vector<TinyTensor> tensors = tiny_tensors(tiny_config("llama"));
  std::vector<higgs::TensorShape> shapes;
  for (const TinyTensor& tensor : tensors)
    shapes.push_back(
        {tensor.name, is_block_linear(tensor.name) ? higgs::DType::F16 : higgs::DType::F32, tensor.shape});
  const auto path = folder / "model.safetensors";
  higgs::SafetensorsWriter writer(path, shapes);
  for (const TinyTensor& tensor : tensors) {
    std::string bytes = tensor.bytes();
    if (is_block_linear(tensor.name)) {
      bytes.clear();
      for (const float value : tensor.values) bytes += raw(higgs::Half(value));
    }
    writer.write(tensor.name, 0, bytes_of(bytes));
  }
  writer.commit();
  const ModelSource mixed(folder.path());
  CHECK(reference_row(mixed).bits == 16);
  CHECK_THAT(reference_row(mixed).choices, Contains("F16") && !Contains("F32"));
  CHECK_THAT(stored_types(mixed), Contains("F16 (") && Contains("F32 (") && Contains("%"));
}

TEST_CASE("the page of a comparison has every method in picture and table, and says what was done",
          "[model][compare]") {
  const std::vector<ComparisonRow> rows = crowded_rows();
  ComparisonRow reference{.method = "reference", .bits = 5, .choices = "as stored: Q4_1"};
  reference.evaluation = {.tokens = 5110, .windows = 10, .cross_entropy = {3.4, 0.05}};
  const Protocol protocol{{"text", "a&b.txt, 12 bytes"}, {"command", "higgs-model compare '<x>'"}};
  const std::string page = comparison_page("title<", protocol, reference, rows);
  CHECK(count(page, "class=\"label\"") == rows.size());
  CHECK(count(page, "<tr class=") == rows.size() + 1);
  for (const ComparisonRow& row : rows) {
    CHECK(count(page, ">" + row.method + "</text>") == 1);
    CHECK(count(page, "<td>" + row.method + "<td>") == 1);
  }
  CHECK(count(page, "<td>reference<td>5.000") == 1);
  CHECK(count(page, "Q4_1") == 1);
  CHECK(count(page, "±") == 2 * rows.size() + 1);
  CHECK_THAT(page, Contains("a&amp;b.txt") && Contains("&lt;x&gt;") && Contains("a &lt;choice&gt;"));
  CHECK(page.find("nan") == page.npos);
}
