// SPDX-License-Identifier: Apache-2.0
// What can go wrong, and the checks that say so.
#pragma once

#include <higgs/config.hpp>

#include <concepts>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <string_view>

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

inline void append_part(std::string& text, std::string_view part) { text += part; }
template <std::integral T>
void append_part(std::string& text, T part) {
  text += std::to_string(part);
}
inline void append_part(std::string& text, double part) {
  char digits[32];
  std::snprintf(digits, sizeof digits, "%g", part);
  text += digits;
}

/// Words and numbers one after the other: the text of a message.
template <class... Parts>
std::string sentence(const Parts&... parts) {
  std::string text;
  (append_part(text, parts), ...);
  return text;
}

/// Far from the code that calls it, as it hardly ever does.
template <class What>
#if defined(__GNUC__)
[[noreturn, gnu::cold, gnu::noinline]]
#else
[[noreturn]]
#endif
void throw_invalid_said_by(const What& what) {
  throw InvalidArgument(what());
}

}  // namespace detail

/// Throws InvalidArgument unless `ok`. `what` names the function and the rule.
constexpr void expects(bool ok, const char* what) {
  if (!ok) detail::throw_invalid(what);
}
/// The same for a message with numbers: what() makes it, and runs only when the rule is broken.
template <std::invocable What>
constexpr void expects(bool ok, const What& what) {
  if (!ok) [[unlikely]]
    detail::throw_invalid_said_by(what);
}

}  // namespace v0
}  // namespace higgs
