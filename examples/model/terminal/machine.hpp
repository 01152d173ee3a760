// SPDX-License-Identifier: Apache-2.0
// Memory of the machine and of this program.
#pragma once

#include <cstdint>
#include <optional>

namespace higgs::model {

/// Bytes that programs may still take without swapping; none where the system does not tell.
std::optional<std::int64_t> free_memory();
/// The most bytes that this program has had in memory at a time, mapped files included; none where the system does not
/// tell.
std::optional<std::int64_t> peak_memory();

}  // namespace higgs::model
