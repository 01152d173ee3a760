// SPDX-License-Identifier: Apache-2.0
// Quantizes a whole model to a folder that can be run, in bounded memory, and goes on after a kill.
#pragma once

#include "quantize/outline.hpp"
#include "source/source.hpp"

#include <higgs/core/executor.hpp>
#include <higgs/quantizer.hpp>

#include <filesystem>
#include <string_view>

namespace higgs {
// All encoders in one: quantize.cpp compiles it for every file.
extern template AnyQuantizedMatrix quantize(MatrixView<const float>, std::string_view, const QuantizeOptions&,
                                            Executor&);
}  // namespace higgs

namespace higgs::model {

/// Writes `folder` with model.safetensors (a higgs checkpoint), config.json and the tokenizer. Other tensors
/// are kept as they are; those in a format of GGUF's own become F16, or floats where that cannot hold them.
/// `outline` is what outline_of() says of the same source and request. Throws as check_weights() does for the matrices, and
/// as check_folder().
void quantize_model(const ModelSource& source, const Outline& outline, const std::filesystem::path& folder,
                    const QuantizeRequest& request, Executor& executor = default_executor());
inline void quantize_model(const ModelSource& source, const std::filesystem::path& folder,
                           const QuantizeRequest& request, Executor& executor = default_executor()) {
  quantize_model(source, outline_of(source, request), folder, request, executor);
}

}  // namespace higgs::model
