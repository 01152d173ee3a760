// SPDX-License-Identifier: Apache-2.0
// How much of the second moments of a block's inputs fits in memory.
#pragma once

#include "quantize/outline.hpp"

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

namespace higgs::model {

/// The second moments that rounding a block keeps at once: one for each input that matrices to be quantized read.
struct MomentParts {
  /// By the input of linear layers (Part::input): the inputs of a diagonal part, 0 where the second moment is whole.
  std::map<std::string_view, std::int64_t> parts;
  std::int64_t bytes = 0;  // bytes of the second moments of a block and of the largest factor
  std::string note;        // which second moments are divided, for the user; empty if none is

  /// The parts in words, for fingerprints.
  std::string text() const;
};

/// Divides second moments, the largest first, until they and the largest factor fit into `memory` bytes. Parts are whole
/// blocks of the rotation. Throws InvalidArgument, with both numbers, if they do not fit even then.
MomentParts divide_moments(const Outline& outline, std::int64_t memory);

/// Bytes that second moments may take where nobody says: half of what the machine has free.
std::int64_t default_moment_memory();

}  // namespace higgs::model
