// SPDX-License-Identifier: Apache-2.0
// Text to token ids and back: byte-pair encoding over bytes or characters, and unigram models.
#pragma once

#include <higgs/store/gguf.hpp>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace higgs::model {

using TokenId = std::int32_t;

/// Where text is cut into words before merges apply within each. Whole cuts nowhere, Spaces after each space;
/// the others are named after the models that made the rules known.
enum class PreTokenizer { Gpt2, Smollm, Llama3, Qwen2, Whole, Spaces };

/// One change of the text before it is cut into words.
struct NormalizerStep {
  enum class Kind {
    Nfc,
    Nfd,
    Prepend,    ///< `to` before a text that is not empty
    Replace,    ///< each `from` by `to`
    StripLeft,  ///< white space at the beginning goes
    StripRight  ///< white space at the end goes
  };
  Kind kind = Kind::Nfc;
  std::string from, to;
  bool operator==(const NormalizerStep&) const = default;
};

/// How SentencePiece models spell spaces: as U+2581, one of which may be put before a text.
struct Metaspace {
  enum class Prefix {
    Never,
    First,  ///< before the beginning of the text
    Always  ///< before what follows an added token, too
  };
  Prefix prefix = Prefix::Always;
  bool split = true;  ///< a word begins at each U+2581
  bool operator==(const Metaspace&) const = default;
};

/// Everything a tokenizer is made of, whatever file it came from.
struct Vocabulary {
  enum class Model {
    ByteLevelBpe,  ///< a byte is spelled as one code point, GPT-2's byte alphabet
    CharacterBpe,  ///< SentencePiece's: tokens are spelled as they are, a space as U+2581
    Unigram        ///< spelled like CharacterBpe's; the likeliest sequence of tokens wins
  };
  struct AddedToken {
    TokenId id = 0;
    std::string content;
    bool special = false;
    bool normalized = false;  ///< is looked for after the normalizer, not before
    bool lstrip = false;      ///< takes the white space before it
    bool rstrip = false;      ///< takes the white space after it
    bool outside = false;     ///< the model does not know it: it is found in the text, or not at all
    bool operator==(const AddedToken&) const = default;
  };
  /// What decoding does to the beginning of a text.
  enum class Lead { Kept, SpaceStripped, FirstTokenStripped };

  Model model = Model::ByteLevelBpe;
  /// By id, spelled as the model says; an added token as itself.
  std::vector<std::string> tokens;
  /// Pairs of spellings, the one to merge first first.
  std::vector<std::pair<std::string, std::string>> merges;
  /// Logarithms of probabilities by id, of a unigram model.
  std::vector<double> scores;
  /// Found in the text before anything else and never cut.
  std::vector<AddedToken> added;
  std::vector<NormalizerStep> normalizer;
  PreTokenizer pre_tokenizer = PreTokenizer::Gpt2;
  /// Takes the place of `pre_tokenizer` where spaces are spelled so by a pre-tokenizer.
  std::optional<Metaspace> metaspace;
  /// Texts begin with a space; if they do not, it is put there (byte-level models).
  bool leading_space = false;
  /// A word that is a token needs no merges.
  bool whole_words_first = false;
  /// A character that is no token is spelled by tokens of its bytes, "<0x41>".
  bool byte_fallback = false;
  /// Unknown neighbours are one unknown token.
  bool fuse_unknown = false;
  /// Put before and after every text.
  std::vector<TokenId> prefix, suffix;
  /// Stands for what is no token; without it that is left out.
  std::optional<TokenId> unknown;
  Lead lead = Lead::Kept;
  /// The template of chat models, in Jinja; empty if there is none.
  std::string chat_template;
  /// The texts that tell where a text begins and ends, as templates name them; empty if there are none.
  std::string begin_text, end_text;
};

/// A vocabulary at work. Equal to Hugging Face's `tokenizers`.
class Tokenizer {
 public:
  /// Throws FormatError, which names `source`, if the vocabulary contradicts itself.
  Tokenizer(Vocabulary vocabulary, const std::string& source);

  const Vocabulary& vocabulary() const noexcept { return vocabulary_; }
  std::size_t size() const noexcept { return bytes_.size(); }

  /// The tokens of `text` between the prefix and the suffix of the vocabulary. Bytes that are not UTF-8 are
  /// characters of no class.
  std::vector<TokenId> encode(std::string_view text) const;
  /// The tokens of `text` alone.
  std::vector<TokenId> encode_bare(std::string_view text) const;

  /// The bytes that a token stands for; empty for ids outside the vocabulary.
  std::string_view bytes(TokenId id) const noexcept;
  /// The text of all tokens in order; special tokens are left out. Bytes that are not UTF-8 stay.
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
  // Added tokens by the first byte of what is looked for; the longest first.
  struct Pattern {
    std::string text;
    std::size_t added;
  };
  using Patterns = std::vector<std::vector<Pattern>>;
  // Words that were met already, with their tokens.
  using Known = std::unordered_map<std::string, std::vector<TokenId>>;

  void index_tokens();
  void index_added(const std::string& source);
  void index_merges(const std::string& source);
  std::string normalized(std::string_view text) const;
  template <class Plain>
  void split(std::string_view text, const Patterns& patterns, std::vector<TokenId>& out,
             const Plain& plain) const;
  void encode_plain(std::string_view text, bool first, Known& known, std::vector<TokenId>& out) const;
  void encode_words(std::string_view text, const std::vector<std::size_t>& ends, Known& known,
                    std::vector<TokenId>& out) const;
  std::vector<TokenId> encode_word(std::string_view word) const;
  std::vector<TokenId> symbols(std::string_view word) const;
  std::vector<TokenId> merge(const std::vector<TokenId>& word) const;
  std::vector<TokenId> likeliest(std::string_view word) const;
  std::optional<std::vector<TokenId>> byte_tokens(std::string_view text) const;

  Vocabulary vocabulary_;
  std::vector<std::string> bytes_;                   // by id
  std::vector<bool> special_;                        // by id
  std::unordered_map<std::string, TokenId> words_;   // by bytes
  std::unordered_map<std::uint64_t, Merge> merges_;  // by left id << 32 | right id
  std::vector<TokenId> single_bytes_;                // by byte: the token of this byte alone, or -1
  std::size_t longest_ = 0;                          // bytes of the longest token
  double unknown_score_ = 0;  // score of a character without a token, in unigram models
  Patterns raw_, cooked_;     // looked for before and after the normalizer
};

/// Cuts `text` into words and returns where each one ends.
std::vector<std::size_t> word_ends(std::string_view text, PreTokenizer rule);

/// Reads Hugging Face's tokenizer.json. Throws FormatError, naming `source` and the key that is wrong or asks for
/// something that is not supported.
Vocabulary read_tokenizer_json(std::string_view text, const std::string& source);
/// Reads tokenizer.json of a folder together with tokenizer_config.json, special_tokens_map.json and
/// added_tokens.json, as transformers 5 does. Throws like the above.
Vocabulary read_tokenizer_folder(const std::filesystem::path& folder);
/// The same vocabulary in the format of tokenizer.json.
std::string write_tokenizer_json(const Vocabulary& vocabulary);

/// Reads the tokenizer of a GGUF file: byte-level BPE ("gpt2") or SentencePiece's BPE ("llama"). Throws FormatError,
/// naming `source` and the key that is wrong or asks for something that is not supported.
Vocabulary read_vocabulary(const GgufFile& file, const std::string& source);
/// The rule of that name in GGUF's tokenizer.ggml.pre, such as "smollm".
std::optional<PreTokenizer> pre_tokenizer_named(std::string_view gguf_name) noexcept;

}  // namespace higgs::model
