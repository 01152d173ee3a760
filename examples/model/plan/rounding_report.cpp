// SPDX-License-Identifier: Apache-2.0
#include "plan/rounding_report.hpp"

#include "json/fields.hpp"
#include "json/parse_json.hpp"

#include <nlohmann/json.hpp>

#include <cstddef>

namespace higgs::model {
namespace {

constexpr std::int64_t most = std::int64_t{1} << 48;

// What a layer says of its loss; none where rounding to the nearest made it, or would lose nothing either.
std::optional<RoundingReport::Layer> read_layer(const Fields& fields) {
  if (!fields.has("loss") && !fields.has("expected_nearest_loss")) return std::nullopt;
  RoundingReport::Layer out{.rows = fields.count("rows", most), .cols = fields.count("cols", most)};
  const double loss = fields.number("loss"), expected = fields.number("expected_nearest_loss");
  if (loss < 0) fields.refuse("loss", "a number, not negative");
  if (expected < 0) fields.refuse("expected_nearest_loss", "a number, not negative");
  if (expected == 0) return std::nullopt;
  out.left = loss / expected;
  return out;
}

}  // namespace

RoundingReport read_rounding(std::string_view text, const std::string& source) {
  return parse_json(text, source, [&](const nlohmann::json& json) {
    const Fields fields(json, source);
    if (fields.choice("round", {"nearest", "hessian"}) == "nearest")
      fields.fail(
          "is of rounding to the nearest, which has no losses of layers; quantize --round hessian does");
    RoundingReport out{
        .path = source,
        .model = fields.text("model"),
        .weights = parse_decimal(fields.text("weights_fingerprint"), source + ": weights_fingerprint")};
    if (const auto calibration = fields.object("calibration")) {
      out.calibration = calibration->text("source");
      out.tokens = calibration->count("tokens", most);
    }
    const nlohmann::json* layers = fields.array("layers");
    if (!layers) fields.fail("layers is missing; those of --dry-run have no loss");
    for (std::size_t i = 0; i < layers->size(); ++i) {
      const Fields layer((*layers)[i], source, "layers[" + std::to_string(i) + "]");
      const std::string name = layer.text("name");
      const auto read = read_layer(layer);
      if (read && !out.layers.emplace(name, *read).second)
        fields.fail("layer \"" + name + "\" is there twice");
    }
    if (out.layers.empty()) fields.fail("no layer has a loss");
    return out;
  });
}

}  // namespace higgs::model
