// SPDX-License-Identifier: Apache-2.0
// What can go wrong, and the checks that say so.
#pragma once

#include <higgs/config.hpp>

#include <stdexcept>
#include <string>

namespace higgs {
inline namespace v0 {

/// A caller broke a documented precondition; the message names the function and the rule.
struct InvalidArgument : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

/// A file is not what it claims to be; the message names the file and what is wrong at which byte or tensor.
struct FormatError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// The machine refused: a file cannot be opened, a disk is full. The message names the path and the reason.
struct IoError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

namespace detail {
[[noreturn]] inline void throw_invalid(const char* what) { throw InvalidArgument(what); }
[[noreturn]] inline void throw_format(const std::string& what) { throw FormatError(what); }
}  // namespace detail

/// Throws InvalidArgument unless `ok`. `what` names the function and the rule.
constexpr void expects(bool ok, const char* what) {
  if (!ok) detail::throw_invalid(what);
}

}  // namespace v0
}  // namespace higgs
