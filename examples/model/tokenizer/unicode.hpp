// SPDX-License-Identifier: Apache-2.0
// UTF-8, the three classes of code points that pre-tokenizers tell apart, and the canonical normalization forms.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace higgs::model {

/// The classes \p{L}, \p{N} and \s of regular expressions, which are disjoint, and everything else.
enum class CharClass : std::uint8_t { Other, Letter, Number, Space };

/// The class of a code point by Unicode 16.0.
CharClass char_class(char32_t c) noexcept;

/// What stands for bytes that are not UTF-8.
inline constexpr char32_t replacement_character = 0xfffd;

/// A code point and the number of bytes that spell it.
struct CodePoint {
  char32_t value = replacement_character;
  std::size_t bytes = 1;
};

/// Bytes of the sequence that starts at `at` < text.size(); 0 if it is not UTF-8 (Unicode 16.0, table 3-7).
std::size_t sequence_length(std::string_view text, std::size_t at) noexcept;

/// The code point that starts at `at` < text.size(). A byte that starts no valid sequence stands alone, as
/// the replacement character.
CodePoint code_point_at(std::string_view text, std::size_t at) noexcept;

/// The UTF-8 spelling of a code point below U+110000.
std::string to_utf8(char32_t c);

/// Normalization form D by Unicode 9.0, the version of Hugging Face's tokenizers: characters are taken apart into
/// letters and marks, and marks are put in order. Bytes that are not UTF-8 stay as they are.
std::string to_nfd(std::string_view text);
/// Normalization form C by Unicode 9.0: form D, put together again as far as possible.
std::string to_nfc(std::string_view text);

/// Holds back the bytes of a character until all of them have come, so that tokens can be printed as they
/// come.
class Utf8Stream {
 public:
  /// The complete characters so far not returned; broken ones come out as the replacement character.
  std::string push(std::string_view bytes);
  /// What is left at the end of the stream.
  std::string finish();

 private:
  std::string pending_;
};

}  // namespace higgs::model
