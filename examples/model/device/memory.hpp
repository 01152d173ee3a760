// SPDX-License-Identifier: Apache-2.0
// Whether a model fits in the memory of a GPU: asked before anything goes there.
#pragma once

#include "architecture/config.hpp"

#include <cstdint>
#include <string>

namespace higgs::model {

/// Bytes of device memory that a model needs.
struct DeviceNeeds {
  std::int64_t weights = 0;
  std::int64_t cache = 0;      // keys and values
  std::int64_t workspace = 0;  // activations, logits and what kernels need

  std::int64_t all() const noexcept { return weights + cache + workspace; }
};

/// How much a Decoder has room for.
struct DecoderSize {
  std::int64_t rows = 1;        // tokens that one pass reads
  std::int64_t sequences = 1;   // texts that have keys and values
  std::int64_t capacity = 1;    // tokens of a text
  std::int64_t logit_rows = 1;  // rows whose logits one pass computes
};

/// Throws InvalidArgument, which names the model and all numbers, if it needs more than `free` bytes.
void require_memory(const std::string& model, const DeviceNeeds& needs, std::int64_t free);

/// Throws InvalidArgument, which names the model, the size and the limit, if a kernel cannot do its heads. Kernels
/// take all other sizes of a model.
void require_shapes(const std::string& model, const ModelConfig& config);

}  // namespace higgs::model
