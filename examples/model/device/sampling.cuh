// SPDX-License-Identifier: Apache-2.0
// The choice of next tokens on the device. One kernel chooses, records the token and moves the sequence on, so that the
// host reads tokens when it likes. choose_token() in sampling.hpp is the definition: equal logits give equal choices.
#pragma once

#include "device/sampling.hpp"

#include <higgs/gpu/matrix.cuh>

#include <cuda_runtime.h>

#include <cstdint>

namespace higgs::model {

/// The state of the texts that grow, in device memory: element s belongs to sequence s.
struct TextStates {
  std::int32_t* tokens = nullptr;        // the token to read next
  std::int32_t* positions = nullptr;     // its position in the text; below 0: the text has ended
  std::int32_t* counts = nullptr;        // tokens chosen since the prompt
  const std::int32_t* limits = nullptr;  // the text ends when `counts` is this
  const std::uint64_t* seeds = nullptr;  // of the random numbers
  std::int32_t* output = nullptr;        // (sequences, ring): token i chosen is at i % ring
  std::int32_t ring = 0;
  std::int32_t* damage =
      nullptr;  // 0, or 1 + the id of a token whose logit was NaN or +infinity: the text has ended
  const std::int32_t* ends = nullptr;  // (end_count): tokens that end a text
  std::int32_t end_count = 0;

  /// The states from sequence s on.
  TextStates from(std::int32_t s) const noexcept;
};

/// Chooses the next token of each text that has not ended, from row s of `logits` (sequences, vocabulary): writes it to
/// `output` and `tokens`, advances `counts` and `positions`, and sets the position of a text that ends to -1.
void choose_tokens_async(gpu::DenseView<const float> logits, const TokenChoice& choice,
                         const TextStates& states, cudaStream_t stream);

}  // namespace higgs::model
