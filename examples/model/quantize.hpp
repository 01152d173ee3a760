// SPDX-License-Identifier: Apache-2.0
// Quantizes a whole model to a folder that can be run, in bounded memory, and goes on after a kill.
#pragma once

#include "calibrate.hpp"
#include "source.hpp"

#include <higgs/core/executor.hpp>
#include <higgs/quantizer.hpp>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <regex>
#include <string>
#include <string_view>
#include <vector>

namespace higgs {
// All encoders in one: quantize.cpp compiles it for every file.
extern template AnyQuantizedMatrix quantize(MatrixView<const float>, std::string_view, const QuantizeOptions&,
                                            Executor&);
}  // namespace higgs

namespace higgs::model {

struct QuantizeRequest {
  std::string codebook = "2x256";                               ///< one of shipped_codebook_names()
  std::map<std::string, std::string, std::less<>> codebooks{};  ///< by tensor name, in place of `codebook`
  QuantizeOptions options{};
  InputSquares input_squares{};      ///< for better input scales, where known; see measure_inputs()
  std::optional<std::regex> skip{};  ///< matrices whose name it finds a match in stay as they are
  /// Called as work proceeds with the weights done, those to do, and the matrix in work.
  std::function<void(std::int64_t done, std::int64_t total, const std::string& name)> progress{};
};

/// The matrices that quantize_model() quantizes: the linear layers of the blocks, or every matrix of floats
/// where there is no configuration.
std::vector<const ModelTensor*> quantizable(const ModelSource& source,
                                            const std::optional<std::regex>& skip = {});

/// Writes `folder` with model.safetensors (a higgs checkpoint), config.json and the tokenizer. Other tensors
/// are kept as they are; those in a format of GGUF's own become F16, or floats where that cannot hold them.
/// Returns what to tell the user, if anything. Throws FormatError, which names tensor, row and column, for weights that are NaN or
/// infinite.
std::string quantize_model(const ModelSource& source, const std::filesystem::path& folder,
                           const QuantizeRequest& request, Executor& executor = default_executor());

}  // namespace higgs::model
