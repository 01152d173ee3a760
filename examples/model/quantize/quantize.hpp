// SPDX-License-Identifier: Apache-2.0
// Quantizes a whole model to a folder that can be run, in bounded memory, and goes on after a kill.
#pragma once

#include "quantize/block_rounder.hpp"
#include "quantize/outline.hpp"
#include "source/source.hpp"

#include <higgs/core/executor.hpp>
#include <higgs/quantizer.hpp>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

namespace higgs {
// All encoders in one: quantize.cpp compiles it for every file.
extern template AnyQuantizedMatrix quantize(MatrixView<const float>, std::string_view, const QuantizeOptions&,
                                            Executor&);
}  // namespace higgs

namespace higgs::model {

/// Writes `folder` with model.safetensors (a higgs checkpoint), config.json and the tokenizer. Other tensors
/// are kept as they are; those in a format of GGUF's own become F16, or floats where that cannot hold them.
/// `outline` is what outline_of() says of the same source and request. Returns what rounding by second moments took and left,
/// where the request has them; of an earlier run that finished all matrices as far as its states are there. Throws as
/// check_weights() does for the matrices, as check_folder(), and with second moments as BlockRunner and divide_moments().
std::optional<RoundReport> quantize_model(const ModelSource& source, const Outline& outline,
                                          const std::filesystem::path& folder, const QuantizeRequest& request,
                                          Executor& executor = default_executor());
inline std::optional<RoundReport> quantize_model(const ModelSource& source,
                                                 const std::filesystem::path& folder,
                                                 const QuantizeRequest& request,
                                                 Executor& executor = default_executor()) {
  return quantize_model(source, outline_of(source, request), folder, request, executor);
}

/// Bytes that quantize_model() writes to `folder`: the checkpoint, and the states of `tokens` tokens where linear layers are
/// rounded by second moments (0: they are not).
std::uint64_t bytes_to_write(const ModelSource& source, const Outline& outline,
                             const std::filesystem::path& folder, std::int64_t tokens);

/// The checkpoint that quantize_model() writes to `folder`.
std::filesystem::path checkpoint_in(const std::filesystem::path& folder);
/// The files that a model is read from, with their dates: tells a model from what it was before somebody changed it.
std::string files_fingerprint(const ModelSource& source);

}  // namespace higgs::model
