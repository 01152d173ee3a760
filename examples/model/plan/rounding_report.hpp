// SPDX-License-Identifier: Apache-2.0
// What rounding with feedback left of the losses of a model's layers, for plans that will be rounded so.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>

namespace higgs::model {

/// What `quantize --round hessian --json` says of a model's layers.
struct RoundingReport {
  struct Layer {
    std::int64_t rows = 0, cols = 0;  // shape of the weight
    double left = 1;                  // loss, relative to what rounding to the nearest is expected to leave
  };
  std::string path{};         // where it was read from
  std::string model{};        // file name of the model
  std::uint64_t weights = 0;  // weights_fingerprint() of the model
  std::string calibration{};  // what --calibrate was,
  std::int64_t tokens = 0;    // and how many tokens that gave
  std::map<std::string, Layer, std::less<>>
      layers{};  // layers rounded with feedback, by the names of their weights

  /// What is left of the loss of the layer with that weight; 1 if the report lacks it.
  double left_of(std::string_view name) const {
    const auto found = layers.find(name);
    return found == layers.end() ? 1 : found->second.left;
  }
};

/// Reads the results of quantize. Layers whose inputs are all zero are left out: rounding to the nearest loses nothing there
/// either. Throws FormatError, which names `source`, for other JSON, for results of rounding to the nearest, and for
/// results without a loss.
RoundingReport read_rounding(std::string_view text, const std::string& source);

}  // namespace higgs::model
