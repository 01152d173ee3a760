// SPDX-License-Identifier: Apache-2.0
// Byte-level byte-pair encoding: text to token ids and back.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace higgs::model {

using TokenId = std::int32_t;

/// How text is cut into words before merges apply within each; named after the models that made the rules
/// known.
enum class PreTokenizer { Gpt2, Smollm, Llama3, Qwen2 };

/// Everything a tokenizer is made of, whatever file it came from.
struct Vocabulary {
  struct AddedToken {
    TokenId id = 0;
    std::string content;
    bool special = false;
  };
  /// By id. A byte is spelled as one code point (GPT-2's byte alphabet), an added token as itself.
  std::vector<std::string> tokens;
  /// Pairs of spellings, the one to merge first first.
  std::vector<std::pair<std::string, std::string>> merges;
  /// Found in the text before anything else and never cut.
  std::vector<AddedToken> added;
  PreTokenizer pre_tokenizer = PreTokenizer::Gpt2;
  /// A word that is a token needs no merges.
  bool whole_words_first = false;
  /// Put before every text.
  std::optional<TokenId> prefix;
  /// Stands for a byte that is no token; without it such a byte is left out.
  std::optional<TokenId> unknown;
};

/// Byte-level BPE over a vocabulary. Equal to Hugging Face's `tokenizers` on text in normalization form C: a
/// normalizer, which for these models is NFC or none, is not run.
class Tokenizer {
 public:
  /// Throws FormatError, which names `source`, if the vocabulary contradicts itself.
  Tokenizer(Vocabulary vocabulary, const std::string& source);

  const Vocabulary& vocabulary() const noexcept { return vocabulary_; }
  std::size_t size() const noexcept { return bytes_.size(); }

  /// The tokens of `text`. Bytes that are not UTF-8 are characters of no class.
  std::vector<TokenId> encode(std::string_view text) const;

  /// The bytes that a token stands for; empty for ids outside the vocabulary.
  std::string_view bytes(TokenId id) const noexcept;
  /// The bytes of all tokens in order; special tokens are left out.
  std::string decode(std::span<const TokenId> ids) const;
  /// Whether the token marks structure, such as the end of a text, and is not text itself.
  bool is_special(TokenId id) const noexcept;
  /// The id of an added token, such as "<|im_end|>".
  std::optional<TokenId> added_token(std::string_view content) const;

 private:
  struct Merge {
    std::int32_t rank;
    TokenId merged;
  };
  void encode_plain(std::string_view text, std::unordered_map<std::string_view, std::vector<TokenId>>& known,
                    std::vector<TokenId>& out) const;
  std::vector<TokenId> encode_word(std::string_view word) const;

  Vocabulary vocabulary_;
  std::vector<std::string> bytes_;                   // by id
  std::vector<bool> special_;                        // by id
  std::unordered_map<std::string, TokenId> words_;   // by bytes
  std::unordered_map<std::uint64_t, Merge> merges_;  // by left id << 32 | right id
  std::vector<TokenId> byte_tokens_;                 // by byte; -1: left out
  std::vector<std::vector<std::size_t>>
      added_by_byte_;  // by first byte: indices of added tokens, longest first
};

/// Cuts `text` into words and returns where each one ends.
std::vector<std::size_t> word_ends(std::string_view text, PreTokenizer rule);

/// Reads Hugging Face's tokenizer.json. Throws FormatError, naming `source` and what is wrong or not
/// byte-level BPE with one of the known rules.
Vocabulary read_tokenizer_json(std::string_view text, const std::string& source);
/// The same vocabulary in the format of tokenizer.json.
std::string write_tokenizer_json(const Vocabulary& vocabulary);

/// The rule of that name in GGUF's tokenizer.ggml.pre, such as "smollm".
std::optional<PreTokenizer> pre_tokenizer_named(std::string_view gguf_name) noexcept;

}  // namespace higgs::model
