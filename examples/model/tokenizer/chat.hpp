// SPDX-License-Identifier: Apache-2.0
// The formats in which chat models were trained to read questions.
#pragma once

#include "tokenizer/tokenizer.hpp"

#include <string>
#include <string_view>
#include <vector>

namespace higgs::model {

/// How a question is written for a chat model, and what ends the answer.
class ChatFormat {
 public:
  /// Recognizes the vocabulary's chat template by its markers, and the vocabulary by its special tokens if there is no
  /// template: ChatML, Llama 3, Gemma, Zephyr (TinyLlama), and [INST] (Mistral, Llama 2). Throws InvalidArgument,
  /// which names `source`, for other models, and if a marker that ends a turn is no token.
  ChatFormat(const Vocabulary& vocabulary, const std::string& source);

  /// The question up to where the answer begins, with the text of the first token if the template has it. Without
  /// `system` the template's own system message, if it has one, is taken. Throws InvalidArgument for a system message
  /// that the template has no place for. Dates that some templates of Llama 3 add are left out.
  std::string prompt(std::string_view question, std::string_view system) const;
  /// The tokens that end an answer: those of all known formats that this vocabulary has.
  const std::vector<TokenId>& end_tokens() const noexcept { return end_tokens_; }
  /// "ChatML".
  std::string_view name() const noexcept;

 private:
  enum class Kind { ChatMl, Llama3, Gemma, Zephyr, Inst };
  void recognize(const Vocabulary& vocabulary, const std::string& source);

  Kind kind_ = Kind::ChatMl;
  std::string source_;
  std::string template_;
  std::string begin_, end_;  // before the first turn; after a turn, where the format leaves that to the model
  std::string default_system_;  // the template's own
  bool takes_system_ = true;
  bool trims_ = false;  // white space around messages goes
  std::vector<TokenId> end_tokens_;
};

}  // namespace higgs::model
