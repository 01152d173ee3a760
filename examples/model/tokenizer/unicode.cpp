// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/unicode.hpp"

#include <algorithm>
#include <iterator>
#include <unordered_map>
#include <vector>

namespace higgs::model {
namespace {

// The tables below hold, for one class, its runs of code points in ascending order: how many code points are
// skipped since the last run, how many belong to this one. Generated from Unicode 16.0 by asking Python's
// package unicodedata2 16.0.0 for category(chr(c))[0] of every code point c.

// clang-format off

// General categories Lu, Ll, Lt, Lm, Lo: 677 runs.
constexpr std::uint32_t letter_runs[] = {
    65, 26, 6, 26, 47, 1, 10, 1, 4, 1, 5, 23, 1, 31, 1, 458, 4, 12, 14, 5, 7, 1, 1, 1, 129, 5, 1, 2, 2, 4, 1,
    1, 6, 1, 1, 3, 1, 1, 1, 20, 1, 83, 1, 139, 8, 166, 1, 38, 2, 1, 6, 41, 71, 27, 4, 4, 45, 43, 35, 2, 1, 99,
    1, 1, 15, 2, 7, 2, 10, 3, 2, 1, 16, 1, 1, 30, 29, 89, 11, 1, 24, 33, 9, 2, 4, 1, 5, 22, 4, 1, 9, 1, 3, 1,
    23, 25, 7, 11, 5, 24, 1, 6, 17, 42, 58, 54, 3, 1, 18, 1, 7, 10, 15, 16, 4, 8, 2, 2, 2, 22, 1, 7, 1, 1, 3,
    4, 3, 1, 16, 1, 13, 2, 1, 3, 14, 2, 10, 1, 8, 6, 4, 2, 2, 22, 1, 7, 1, 2, 1, 2, 1, 2, 31, 4, 1, 1, 19, 3,
    16, 9, 1, 3, 1, 22, 1, 7, 1, 2, 1, 5, 3, 1, 18, 1, 15, 2, 23, 1, 11, 8, 2, 2, 2, 22, 1, 7, 1, 2, 1, 5, 3,
    1, 30, 2, 1, 3, 15, 1, 17, 1, 1, 6, 3, 3, 1, 4, 3, 2, 1, 1, 1, 2, 3, 2, 3, 3, 3, 12, 22, 1, 52, 8, 1, 3,
    1, 23, 1, 16, 3, 1, 26, 3, 2, 1, 2, 2, 30, 1, 4, 8, 1, 3, 1, 23, 1, 10, 1, 5, 3, 1, 31, 2, 1, 2, 15, 2,
    17, 9, 1, 3, 1, 41, 2, 1, 16, 1, 5, 3, 8, 3, 24, 6, 5, 18, 3, 24, 1, 9, 1, 1, 2, 7, 58, 48, 1, 2, 12, 7,
    58, 2, 1, 1, 1, 5, 1, 24, 1, 1, 1, 10, 1, 2, 9, 1, 2, 5, 1, 1, 21, 4, 32, 1, 63, 8, 1, 36, 27, 5, 115, 43,
    20, 1, 16, 6, 4, 4, 3, 1, 3, 2, 7, 3, 4, 13, 12, 1, 17, 38, 1, 1, 5, 1, 2, 43, 1, 333, 1, 4, 2, 7, 1, 1,
    1, 4, 2, 41, 1, 4, 2, 33, 1, 4, 2, 7, 1, 1, 1, 4, 2, 15, 1, 57, 1, 4, 2, 67, 37, 16, 16, 86, 2, 6, 3, 620,
    2, 17, 1, 26, 5, 75, 6, 8, 7, 18, 13, 19, 14, 18, 14, 13, 1, 3, 15, 52, 35, 1, 4, 1, 67, 89, 7, 5, 2, 34,
    1, 1, 5, 70, 10, 31, 49, 30, 2, 5, 11, 44, 4, 26, 54, 23, 9, 53, 82, 1, 93, 47, 17, 8, 54, 30, 13, 2, 10,
    44, 26, 36, 41, 3, 10, 36, 2, 11, 5, 43, 2, 3, 41, 4, 1, 6, 1, 2, 3, 1, 5, 192, 64, 278, 2, 6, 2, 38, 2,
    6, 2, 8, 1, 1, 1, 1, 1, 1, 1, 31, 2, 53, 1, 7, 1, 1, 3, 3, 1, 7, 3, 4, 2, 6, 4, 13, 5, 3, 1, 7, 116, 1,
    13, 1, 16, 13, 101, 1, 4, 1, 2, 10, 1, 1, 3, 5, 6, 1, 1, 1, 1, 1, 1, 4, 1, 11, 2, 4, 5, 5, 4, 1, 52, 2,
    2683, 229, 6, 4, 3, 2, 12, 38, 1, 1, 5, 1, 2, 56, 7, 1, 16, 23, 9, 7, 1, 7, 1, 7, 1, 7, 1, 7, 1, 7, 1, 7,
    1, 7, 80, 1, 469, 2, 42, 5, 5, 2, 4, 86, 6, 3, 1, 90, 1, 4, 5, 43, 1, 94, 17, 32, 48, 16, 512, 6592, 64,
    22157, 67, 46, 2, 269, 3, 16, 10, 2, 20, 47, 16, 31, 2, 70, 49, 9, 2, 103, 2, 67, 2, 2, 1, 1, 1, 8, 21,
    16, 1, 3, 1, 4, 1, 23, 29, 52, 14, 50, 62, 6, 3, 1, 1, 2, 11, 28, 10, 23, 25, 29, 7, 47, 28, 1, 16, 5, 1,
    10, 10, 5, 1, 41, 23, 3, 1, 8, 20, 23, 3, 1, 3, 50, 1, 1, 3, 2, 2, 5, 2, 1, 1, 1, 24, 3, 2, 11, 7, 3, 12,
    6, 2, 6, 2, 6, 9, 7, 1, 7, 1, 43, 1, 14, 6, 115, 29, 11172, 12, 23, 4, 49, 8452, 366, 2, 106, 38, 7, 12,
    5, 5, 1, 1, 10, 1, 13, 1, 5, 1, 1, 1, 2, 1, 2, 1, 108, 33, 363, 18, 64, 2, 54, 40, 12, 116, 5, 1, 135, 36,
    26, 6, 26, 11, 89, 3, 6, 2, 6, 2, 6, 2, 3, 35, 12, 1, 26, 1, 19, 1, 2, 1, 15, 2, 14, 34, 123, 389, 29, 3,
    49, 47, 32, 13, 20, 1, 8, 6, 38, 10, 30, 2, 36, 4, 8, 48, 158, 18, 36, 4, 36, 4, 40, 8, 52, 12, 11, 1, 15,
    1, 7, 1, 2, 1, 11, 1, 15, 1, 7, 1, 2, 3, 52, 12, 311, 9, 22, 10, 8, 24, 6, 1, 42, 1, 9, 69, 6, 2, 1, 1,
    44, 1, 2, 3, 1, 2, 23, 10, 23, 9, 31, 65, 19, 1, 2, 10, 22, 10, 26, 70, 56, 6, 2, 64, 1, 15, 4, 1, 3, 1,
    29, 42, 29, 3, 29, 35, 8, 1, 28, 27, 54, 10, 22, 10, 19, 13, 18, 110, 73, 55, 51, 13, 51, 13, 36, 38, 28,
    9, 23, 250, 42, 6, 2, 16, 3, 59, 29, 10, 1, 8, 22, 42, 18, 46, 21, 27, 23, 12, 53, 57, 2, 2, 1, 13, 45,
    32, 25, 26, 36, 29, 1, 2, 1, 8, 35, 3, 1, 12, 48, 14, 4, 21, 1, 1, 1, 35, 18, 1, 25, 19, 2, 63, 7, 1, 1,
    1, 4, 1, 15, 1, 10, 7, 47, 38, 8, 2, 2, 2, 22, 1, 7, 1, 2, 1, 5, 3, 1, 18, 1, 12, 5, 30, 10, 1, 1, 2, 1,
    1, 38, 1, 1, 25, 1, 1, 1, 44, 53, 18, 4, 20, 3, 30, 48, 20, 2, 1, 1, 184, 47, 41, 4, 36, 48, 20, 1, 59,
    43, 13, 1, 71, 27, 37, 7, 185, 44, 116, 64, 31, 8, 2, 1, 2, 8, 1, 2, 1, 24, 15, 1, 1, 1, 94, 8, 2, 39, 16,
    1, 1, 1, 28, 1, 10, 40, 7, 1, 21, 1, 11, 46, 19, 1, 18, 73, 199, 33, 31, 9, 1, 37, 17, 1, 49, 30, 112, 7,
    1, 2, 1, 38, 21, 1, 25, 6, 1, 2, 1, 32, 14, 1, 327, 19, 15, 1, 1, 13, 1, 34, 124, 1, 79, 922, 230, 196,
    2636, 97, 15, 1072, 17, 6, 25, 3995, 5, 583, 6841, 30, 1762, 569, 7, 31, 17, 79, 17, 30, 18, 48, 16, 4,
    31, 21, 5, 19, 432, 45, 211, 64, 128, 75, 5, 1, 66, 13, 64, 2, 1, 1, 28, 6136, 8, 1238, 41, 10, 8935, 4,
    1, 7, 1, 2, 1, 291, 15, 1, 29, 3, 2, 1, 14, 4, 8, 396, 2308, 107, 5, 13, 3, 9, 7, 10, 5990, 85, 1, 71, 1,
    2, 2, 1, 2, 2, 2, 4, 1, 12, 1, 1, 1, 7, 1, 65, 1, 4, 2, 8, 1, 7, 1, 28, 1, 4, 1, 5, 1, 1, 3, 7, 1, 340, 2,
    25, 1, 25, 1, 31, 1, 25, 1, 31, 1, 25, 1, 31, 1, 25, 1, 31, 1, 25, 1, 8, 1844, 31, 6, 6, 261, 62, 146, 45,
    10, 7, 16, 1, 321, 30, 18, 44, 484, 28, 228, 30, 2, 1, 495, 7, 1, 4, 1, 2, 1, 15, 1, 197, 59, 68, 7, 1,
    1204, 4, 1, 27, 1, 2, 1, 1, 2, 1, 1, 10, 1, 4, 1, 1, 1, 1, 6, 1, 4, 1, 1, 1, 1, 1, 1, 3, 1, 2, 1, 1, 2, 1,
    1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 1, 1, 2, 4, 1, 7, 1, 4, 1, 4, 1, 1, 1, 10, 1, 17, 5, 3, 1, 5, 1, 17, 4420,
    42720, 32, 4154, 6, 222, 2, 5762, 14, 7473, 15, 622, 2466, 542, 1506, 4939, 5, 4192,
};

// General categories Nd, Nl, No: 144 runs.
constexpr std::uint32_t number_runs[] = {
    48, 10, 120, 2, 5, 1, 2, 3, 1441, 10, 134, 10, 198, 10, 412, 10, 118, 10, 4, 6, 108, 10, 118, 10, 118, 10,
    2, 6, 110, 13, 115, 10, 8, 7, 103, 10, 104, 7, 7, 19, 109, 10, 96, 10, 118, 10, 70, 20, 268, 10, 70, 10,
    719, 20, 881, 3, 239, 10, 6, 10, 22, 10, 300, 10, 128, 11, 165, 10, 6, 10, 182, 10, 86, 10, 134, 10, 6,
    10, 1046, 1, 3, 6, 6, 10, 198, 51, 2, 5, 726, 60, 78, 22, 630, 30, 1385, 1, 777, 1, 25, 9, 14, 3, 343, 4,
    138, 10, 30, 8, 1, 15, 32, 10, 39, 15, 29536, 10, 188, 10, 320, 6, 154, 10, 38, 10, 198, 10, 22, 10, 86,
    10, 406, 10, 21270, 10, 493, 45, 12, 57, 17, 2, 341, 27, 36, 4, 29, 1, 8, 1, 134, 5, 202, 10, 942, 8, 25,
    7, 39, 9, 75, 5, 22, 6, 160, 2, 2, 16, 2, 46, 64, 9, 52, 2, 30, 3, 75, 5, 104, 8, 24, 8, 41, 7, 330, 6,
    48, 10, 6, 10, 278, 31, 158, 10, 42, 4, 112, 7, 134, 30, 128, 10, 60, 10, 144, 10, 7, 20, 251, 10, 342,
    10, 118, 10, 374, 10, 102, 10, 6, 20, 76, 12, 420, 19, 93, 10, 662, 10, 86, 29, 227, 10, 70, 10, 422, 10,
    102, 21, 1067, 111, 15553, 10, 2342, 10, 86, 10, 134, 10, 1, 7, 526, 10, 262, 23, 24153, 10, 1478, 20, 12,
    20, 108, 25, 1109, 50, 2368, 10, 422, 10, 502, 10, 247, 10, 716, 9, 128, 10, 791, 59, 1, 3, 1, 4, 76, 45,
    1, 15, 962, 13, 2787, 10,
};

// Property White_Space, first and last code point of each run.
constexpr std::uint32_t space_runs[][2] = {
    {0x9, 0xd}, {0x20, 0x20}, {0x85, 0x85}, {0xa0, 0xa0}, {0x1680, 0x1680}, {0x2000, 0x200a}, {0x2028, 0x2029},
    {0x202f, 0x202f}, {0x205f, 0x205f}, {0x3000, 0x3000}};

// clang-format on

#include "tokenizer/unicode_forms.inc"

constexpr std::uint32_t code_points = 0x110000;

template <std::size_t Count>
void mark(std::vector<CharClass>& classes, const std::uint32_t (&runs)[Count], CharClass as) {
  std::uint32_t at = 0;
  for (std::size_t i = 0; i < Count; i += 2) {
    at += runs[i];
    for (const std::uint32_t end = at + runs[i + 1]; at < end; ++at) classes[at] = as;
  }
}

std::vector<CharClass> all_classes() {
  std::vector<CharClass> classes(code_points, CharClass::Other);
  mark(classes, letter_runs, CharClass::Letter);
  mark(classes, number_runs, CharClass::Number);
  for (const auto& run : space_runs)
    for (std::uint32_t c = run[0]; c <= run[1]; ++c) classes[c] = CharClass::Space;
  return classes;
}

struct Pair {
  char32_t first = 0, second = 0;
};

// The canonical decompositions in both directions, and the combining classes.
struct Forms {
  std::unordered_map<char32_t, Pair> parts;
  std::unordered_map<std::uint64_t, char32_t> composed;  // by first << 32 | second
  std::unordered_map<char32_t, std::uint8_t> classes;

  static std::uint64_t key(char32_t first, char32_t second) {
    return static_cast<std::uint64_t>(first) << 32 | second;
  }
  Forms() {
    char32_t at = 0;
    for (std::size_t i = 0; i < std::size(decomposition_gaps); i += 3) {
      at += decomposition_gaps[i];
      const Pair pair{decomposition_gaps[i + 1], decomposition_gaps[i + 2]};
      parts.emplace(at, pair);
      if (pair.second != 0 && !std::binary_search(std::begin(never_composed), std::end(never_composed), at))
        composed.emplace(key(pair.first, pair.second), at);
    }
    at = 0;
    for (std::size_t i = 0; i < std::size(class_runs); i += 3) {
      at += class_runs[i];
      for (const char32_t end = at + class_runs[i + 1]; at < end; ++at)
        classes.emplace(at, static_cast<std::uint8_t>(class_runs[i + 2]));
    }
  }
  std::uint8_t combining_class(char32_t c) const {
    const auto found = c < 0x300 ? classes.end() : classes.find(c);
    return found == classes.end() ? std::uint8_t{0} : found->second;
  }
};

const Forms& forms() {
  static const Forms all;
  return all;
}

// Syllables of Hangul: 19 leading consonants, 21 vowels, 27 trailing consonants or none, combined by arithmetic.
constexpr char32_t syllables = 0xac00, leads = 0x1100, vowels = 0x1161, tails = 0x11a7;
constexpr char32_t lead_count = 19, vowel_count = 21, tail_count = 28;

void append_parts(char32_t c, std::vector<char32_t>& out) {
  if (c >= syllables && c < syllables + lead_count * vowel_count * tail_count) {
    const char32_t index = c - syllables;
    out.push_back(leads + index / tail_count / vowel_count);
    out.push_back(vowels + index / tail_count % vowel_count);
    if (index % tail_count != 0) out.push_back(tails + index % tail_count);
    return;
  }
  const auto found = c < 0xc0 ? forms().parts.end() : forms().parts.find(c);
  if (found == forms().parts.end()) {
    out.push_back(c);
    return;
  }
  append_parts(found->second.first, out);
  if (found->second.second != 0) append_parts(found->second.second, out);
}

// The character that two make, or 0.
char32_t composition(char32_t first, char32_t second) {
  if (first >= leads && first < leads + lead_count && second >= vowels && second < vowels + vowel_count)
    return syllables + ((first - leads) * vowel_count + second - vowels) * tail_count;
  if (first >= syllables && first < syllables + lead_count * vowel_count * tail_count &&
      (first - syllables) % tail_count == 0 && second > tails && second < tails + tail_count)
    return first + second - tails;
  const auto found = forms().composed.find(Forms::key(first, second));
  return found == forms().composed.end() ? 0 : found->second;
}

// Form D as code points. A byte that is not UTF-8 becomes code_points + byte, which belongs to no table.
std::vector<char32_t> decomposed(std::string_view text) {
  std::vector<char32_t> out;
  out.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) {
    if (sequence_length(text, at) == 0) {
      out.push_back(code_points + static_cast<unsigned char>(text[at++]));
      continue;
    }
    const CodePoint c = code_point_at(text, at);
    append_parts(c.value, out);
    at += c.bytes;
  }
  const auto is_starter = [](char32_t c) { return forms().combining_class(c) == 0; };
  for (auto at = out.begin(); at != out.end();) {
    const auto marks = std::find_if_not(at, out.end(), is_starter);
    at = std::find_if(marks, out.end(), is_starter);
    std::stable_sort(marks, at, [](char32_t a, char32_t b) {
      return forms().combining_class(a) < forms().combining_class(b);
    });
  }
  return out;
}

// Puts each mark together with the last starter before it, unless a mark of the same or a higher class lies between.
void compose(std::vector<char32_t>& text) {
  std::size_t kept = 0, starter = text.size();
  std::uint8_t last_class = 0;
  for (const char32_t c : std::vector<char32_t>(text)) {
    const std::uint8_t own = forms().combining_class(c);
    const bool beside = starter + 1 == kept;
    if (starter < kept && (beside || last_class < own)) {
      if (const char32_t both = composition(text[starter], c); both != 0) {
        text[starter] = both;
        continue;
      }
    }
    if (own == 0) starter = kept;
    last_class = own;
    text[kept++] = c;
  }
  text.resize(kept);
}

std::string spelled(const std::vector<char32_t>& text) {
  std::string out;
  for (const char32_t c : text)
    out += c < code_points ? to_utf8(c) : std::string(1, static_cast<char>(c - code_points));
  return out;
}

// Whether all characters are spelled with lead bytes below `lead`.
bool all_below(std::string_view text, unsigned lead) {
  return std::all_of(text.begin(), text.end(), [&](char c) {
    const auto byte = static_cast<unsigned char>(c);
    return byte < 0x80 || (byte & 0xc0u) == 0x80 || (byte >= 0xc2 && byte < lead);
  });
}

// Whether bytes can be appended to `text` so that it starts with a valid sequence.
bool may_become_valid(std::string_view text) noexcept {
  if (text.size() > 3) return false;
  const std::string low = std::string(text) + std::string(4 - text.size(), '\x8f');
  const std::string high = std::string(text) + std::string(4 - text.size(), '\xbf');
  return sequence_length(low, 0) > text.size() || sequence_length(high, 0) > text.size();
}

}  // namespace

CharClass char_class(char32_t c) noexcept {
  static const std::vector<CharClass> classes = all_classes();
  return c < code_points ? classes[c] : CharClass::Other;
}

std::size_t sequence_length(std::string_view text, std::size_t at) noexcept {
  const auto byte = [&](std::size_t i) {
    return at + i < text.size() ? static_cast<unsigned char>(text[at + i]) : 0u;
  };
  const unsigned lead = byte(0);
  if (lead < 0x80) return 1;
  const std::size_t length = lead < 0xc2 ? 0 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : lead < 0xf5 ? 4 : 0;
  // The second byte's range excludes overlong forms, surrogates, and what lies above U+10FFFF.
  const unsigned low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
  const unsigned high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
  if (length > 1 && (byte(1) < low || byte(1) > high)) return 0;
  for (std::size_t i = 2; i < length; ++i)
    if ((byte(i) & 0xc0u) != 0x80) return 0;
  return length;
}

CodePoint code_point_at(std::string_view text, std::size_t at) noexcept {
  const std::size_t length = sequence_length(text, at);
  if (length == 0) return {};
  const unsigned lead = static_cast<unsigned char>(text[at]);
  char32_t value = length == 1 ? lead : lead & (0x7fu >> length);
  for (std::size_t i = 1; i < length; ++i)
    value = value << 6 | (static_cast<unsigned char>(text[at + i]) & 0x3fu);
  return {value, length};
}

std::string to_utf8(char32_t c) {
  const auto tail = [&](int shift) { return static_cast<char>(0x80u | (c >> shift & 0x3fu)); };
  if (c < 0x80) return {static_cast<char>(c)};
  if (c < 0x800) return {static_cast<char>(0xc0u | c >> 6), tail(0)};
  if (c < 0x10000) return {static_cast<char>(0xe0u | c >> 12), tail(6), tail(0)};
  return {static_cast<char>(0xf0u | c >> 18), tail(12), tail(6), tail(0)};
}

std::string to_nfd(std::string_view text) {
  // The first character that is taken apart is U+00C0, spelled C3 80.
  return all_below(text, 0xc3) ? std::string(text) : spelled(decomposed(text));
}

std::string to_nfc(std::string_view text) {
  // Nothing below U+0300, spelled CC 80, is put together with what follows unless that is U+0300 or above.
  if (all_below(text, 0xcc)) return std::string(text);
  std::vector<char32_t> out = decomposed(text);
  compose(out);
  return spelled(out);
}

std::string Utf8Stream::push(std::string_view bytes) {
  pending_ += bytes;
  std::string out;
  std::size_t at = 0;
  while (at < pending_.size()) {
    const std::size_t length = sequence_length(pending_, at);
    if (length == 0 && may_become_valid(std::string_view(pending_).substr(at))) break;
    out += length == 0 ? to_utf8(replacement_character) : pending_.substr(at, length);
    at += length == 0 ? 1 : length;
  }
  pending_.erase(0, at);
  return out;
}

std::string Utf8Stream::finish() {
  std::string out;
  if (!pending_.empty()) out = to_utf8(replacement_character);
  pending_.clear();
  return out;
}

}  // namespace higgs::model
