// SPDX-License-Identifier: Apache-2.0
#include "plan/rounding_report.hpp"

#include "store/temporary_folder.hpp"

#include <higgs/core/error.hpp>

#include <catch2/catch.hpp>

#include <array>
#include <string>
#include <vector>

using namespace higgs::model;

namespace {

const std::string good =
    R"({"model":"tiny","weights_fingerprint":"18446744073709551615","bits_per_weight":4.1,"round":"hessian",)"
    R"("calibration":{"source":"a text","tokens":600},"layers":[)"
    R"({"name":"a","rows":4,"cols":6,"bits":4,"loss":3.0,"expected_nearest_loss":4.0},)"
    R"({"name":"zeros","rows":4,"cols":6,"loss":0.0,"expected_nearest_loss":0.0},)"
    R"({"name":"embedding","rows":9,"cols":6}]})";

}  // namespace

TEST_CASE("a report says what feedback leaves of each layer's loss", "[model][rounding_report]") {
  const RoundingReport report = read_rounding(good, "report.json");
  CHECK(report.path == "report.json");
  CHECK(report.model == "tiny");
  CHECK(report.weights == 0xffffffffffffffff);
  CHECK(report.calibration == "a text");
  CHECK(report.tokens == 600);
  REQUIRE(report.layers.size() == 1);
  CHECK(report.layers.at("a").rows == 4);
  CHECK(report.layers.at("a").cols == 6);
  CHECK(report.left_of("a") == 0.75);
  CHECK(report.left_of("zeros") == 1);
  CHECK(report.left_of("embedding") == 1);
}

TEST_CASE("what is no report of rounding with feedback is refused by name", "[model][rounding_report]") {
  for (const auto& [from, to, said] : std::vector<std::array<std::string, 3>>{
           {"hessian", "nearest", "nearest"},
           {"\"hessian\"", "7", "round"},
           {"\"round\":\"hessian\",", "", "round"},
           {"\"model\":\"tiny\",", "", "model"},
           {"1844", "9" + std::string(20, '1'), "weights_fingerprint"},
           {"600", "-600", "calibration.tokens"},
           {"\"rows\":4", "\"rows\":0", "layers[0].rows"},
           {",\"loss\":3.0", "", "layers[0].loss"},
           {"3.0", "-3.0", "layers[0].loss"},
           {"3.0", "null", "layers[0].loss"},
           {"4.0", "-4.0", "layers[0].expected_nearest_loss"},
           {",\"expected_nearest_loss\":4.0", "", "layers[0].expected_nearest_loss"},
           {"\"expected_nearest_loss\":4.0", "\"expected_nearest_loss\":0", "no layer"},
           {"{\"name\":\"zeros\"",
            R"({"name":"a","rows":4,"cols":6,"loss":1,"expected_nearest_loss":1},)"
            R"({"name":"zeros")",
            "\"a\" is there twice"},
           {"\"layers\"", "\"kept\"", "layers"},
           {"]}", "", ""}}) {
    INFO(from << " -> " << to);
    std::string text = good;
    REQUIRE(text.find(from) != text.npos);
    text.replace(text.find(from), from.size(), to);
    CHECK_THAT(message_of<higgs::FormatError>([&] { read_rounding(text, "report.json"); }),
               Catch::Contains("report.json") && Catch::Contains(said));
  }
}
