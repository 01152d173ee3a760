// SPDX-License-Identifier: Apache-2.0
// How much of the second moments of a block's inputs fits in memory.
#pragma once

#include "quantize/outline.hpp"

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace higgs::model {

/// The second moments that rounding a block keeps at once: one for each input that matrices to be quantized read, and that of
/// the outputs of one matrix where gradients are known.
struct MomentParts {
  /// By the input of linear layers (Part::input): the inputs of a diagonal part, 0 where the second moment is whole.
  std::map<std::string_view, std::int64_t> parts;
  /// By the name of linear layers (Part::name): the outputs of a diagonal part, likewise. Empty without gradients.
  std::map<std::string_view, std::int64_t> outputs;
  std::int64_t bytes = 0;          // bytes of the second moments of a block and of the largest factors
  std::vector<std::string> notes;  // which second moments are divided, for the user

  /// The parts in words, for fingerprints.
  std::string text() const;
};

/// Divides second moments, the largest first, until they and the largest factors fit into `memory` bytes. Parts of inputs are
/// whole blocks of the rotation, those of outputs steps of rounding. Throws InvalidArgument, with both numbers, if they do
/// not fit even then. `with_outputs`: gradients of outputs are known.
MomentParts divide_moments(const Outline& outline, std::int64_t memory, bool with_outputs);

/// Bytes that second moments may take where nobody says: half of what the machine has free.
std::int64_t default_moment_memory();

}  // namespace higgs::model
