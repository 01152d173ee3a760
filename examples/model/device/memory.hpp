// SPDX-License-Identifier: Apache-2.0
// Whether a model fits in the memory of a GPU: asked before anything goes there.
#pragma once

#include "architecture/config.hpp"

#include <algorithm>
#include <cstdint>
#include <string>

namespace higgs::model {

/// Bytes that are left to the driver beside what is counted, an ASSUMPTION: code of kernels, local memory of threads,
/// graphs, a handle of cuBLAS, tokens and their positions, rows on their way through an output layer, and what buffers of
/// activations are rounded up by.
inline constexpr std::int64_t driver_bytes = std::int64_t{256} << 20;

/// Bytes of workspace that the product of a quantized matrix needs at most.
inline constexpr std::int64_t most_product_workspace = std::int64_t{64} << 20;

/// What a GPU is ASSUMED to add to an allocation of so many bytes: up to a multiple of 512 bytes, beyond 1 MiB of 2 MiB.
constexpr std::int64_t rounding_of(std::int64_t bytes) noexcept {
  constexpr std::int64_t mib = 1 << 20;
  const std::int64_t unit = bytes > mib ? 2 * mib : 512;
  return (unit - bytes % unit) % unit;
}

/// Bytes of device memory that a model needs.
struct DeviceNeeds {
  std::int64_t weights = 0;
  std::int64_t cache = 0;      // keys and values
  std::int64_t workspace = 0;  // activations, logits and what kernels need
  std::int64_t rounding = 0;   // rounding_of() the allocations of weights
  std::int64_t loading = 0;    // what is there while a matrix is packed, before keys and values are
  std::int64_t copies = 0;     // what copies of the model hold that live beside it

  std::int64_t all() const noexcept {
    return weights + rounding + std::max(cache + workspace, loading) + copies + driver_bytes;
  }
};

/// The copies of a network (Network::copy()) that live beside it at one time.
enum class Copies {
  None,
  OneMatrix,  // a copy, one matrix of which is replaced, again and again
  AllLayers   // a copy, all linear layers of whose blocks are replaced, each once
};
/// Bytes that such a copy holds of its own: keys, values and workspace as the model's, and matrices of at most 16 bits a
/// weight.
std::int64_t copies_bytes(const ModelConfig& config, const DeviceNeeds& model, Copies copies);

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
