// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/chat.hpp"

#include "store/temporary_folder.hpp"

#include <higgs/core/error.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <initializer_list>
#include <string>
#include <vector>

using namespace higgs::model;

namespace {

Vocabulary with_tokens(std::initializer_list<const char*> special, const std::string& chat_template = "") {
  Vocabulary out;
  for (const char* token : special) {
    out.added.push_back({static_cast<TokenId>(out.tokens.size()), token, true});
    out.tokens.push_back(token);
  }
  out.begin_text = out.tokens.at(0);
  out.end_text = out.tokens.at(1);
  out.chat_template = chat_template;
  return out;
}

// The templates that models of each family ship, in short.
const std::string chatml =
    "{% for m in messages %}{{'<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n'}}{% "
    "endfor %}";
const std::string llama3 =
    "{{ bos_token }}'<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n' + m['content'] | trim + "
    "'<|eot_id|>'";
const std::string gemma =
    "{{ bos_token }}{{ raise_exception('System role not supported') }}'<start_of_turn>' + role + '\\n' + "
    "m['content'] | trim + '<end_of_turn>\\n'";
const std::string zephyr =
    "'<|user|>\\n' + m['content'] + eos_token '<|system|>\\n' '<|assistant|>\\n' + m['content'] + eos_token";
const std::string mistral = "{{ bos_token }}'[INST] ' + m['content'] + ' [/INST]' m['content'] + eos_token";
const std::string llama2 =
    "'<<SYS>>\\n' + system_message + bos_token + '[INST] ' + content.strip() + ' [/INST]' + eos_token";

}  // namespace

TEST_CASE("a question is written as the template of its model says", "[model][chat]") {
  const auto prompt = [](const Vocabulary& vocabulary, const std::string& system) {
    return ChatFormat(vocabulary, "model").prompt(" Why? ", system);
  };
  const Vocabulary im = with_tokens({"<|endoftext|>", "<|im_end|>", "<|im_start|>"}, chatml);
  CHECK(prompt(im, "") == "<|im_start|>user\n Why? <|im_end|>\n<|im_start|>assistant\n");
  CHECK(
      prompt(im, "Be brief.") ==
      "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n Why? <|im_end|>\n<|im_start|>assistant\n");
  const Vocabulary headers = with_tokens({"<b>", "<|eot_id|>", "<|start_header_id|>"}, llama3);
  CHECK(prompt(headers, "") ==
        "<b><|start_header_id|>user<|end_header_id|>\n\nWhy?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n");
  CHECK(prompt(headers, "S") ==
        "<b><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nWhy?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n");
  CHECK(prompt(with_tokens({"<bos>", "<eos>", "<end_of_turn>"}, gemma), "") ==
        "<bos><start_of_turn>user\nWhy?<end_of_turn>\n<start_of_turn>model\n");
  CHECK(prompt(with_tokens({"<s>", "</s>"}, zephyr), "S") ==
        "<|system|>\nS</s>\n<|user|>\n Why? </s>\n<|assistant|>\n");
  CHECK(prompt(with_tokens({"<s>", "</s>"}, mistral), "") == "<s>[INST]  Why?  [/INST]");
  CHECK(prompt(with_tokens({"<s>", "</s>"}, llama2), "S") ==
        "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\n Why?  [/INST]");
}

TEST_CASE("a template's own system message is taken where none is given", "[model][chat]") {
  const Vocabulary vocabulary = with_tokens(
      {"<|endoftext|>", "<|im_end|>", "<|im_start|>"},
      "{% if loop.first and m['role'] != 'system' %}{{ '<|im_start|>system\\nYou are Tom.<|im_end|>\\n' }}"
      "{% endif %}" +
          chatml);
  const ChatFormat format(vocabulary, "model");
  CHECK(
      format.prompt("Why?", "").starts_with("<|im_start|>system\nYou are Tom.<|im_end|>\n<|im_start|>user"));
  CHECK(format.prompt("Why?", "Be brief.").starts_with("<|im_start|>system\nBe brief.<|im_end|>\n"));
}

TEST_CASE("an answer ends at every token that ends a turn or a text", "[model][chat]") {
  const auto ends = [](std::initializer_list<const char*> tokens, const std::string& text) {
    std::vector<TokenId> out = ChatFormat(with_tokens(tokens, text), "model").end_tokens();
    std::sort(out.begin(), out.end());
    return out;
  };
  CHECK(ends({"<|endoftext|>", "<|im_start|>", "<|im_end|>"}, chatml) == std::vector<TokenId>{0, 2});
  CHECK(ends({"<b>", "<|end_of_text|>", "<|start_header_id|>", "<|eot_id|>", "<|eom_id|>"}, llama3) ==
        std::vector<TokenId>{1, 3, 4});
  CHECK(ends({"<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"}, gemma) == std::vector<TokenId>{1, 3});
  CHECK(ends({"<s>", "<stop>"}, mistral) == std::vector<TokenId>{1});
}

TEST_CASE("a model without a template is known by its special tokens", "[model][chat]") {
  CHECK(ChatFormat(with_tokens({"<|im_start|>", "<|im_end|>"}), "model").name() == "ChatML");
  CHECK(ChatFormat(with_tokens({"<|start_header_id|>", "<|eot_id|>"}), "model").name() == "Llama 3");
  CHECK(ChatFormat(with_tokens({"<start_of_turn>", "<end_of_turn>"}), "model").name() == "Gemma");
}

TEST_CASE("a model that is no chat model, or has another template, is refused with what is supported",
          "[model][chat]") {
  const auto message = [](const Vocabulary& vocabulary) {
    return message_of<higgs::InvalidArgument>([&] { ChatFormat(vocabulary, "model"); });
  };
  CHECK_THAT(message(with_tokens({"<s>", "</s>"})),
             Catch::Contains("model: ") && Catch::Contains("no chat template") && Catch::Contains("ChatML"));
  CHECK_THAT(message(with_tokens({"<s>", "</s>"}, "'### User: ' + m['content']")),
             Catch::Contains("no known form") && Catch::Contains("ChatML"));
  CHECK_THAT(
      message(with_tokens({"<s>", "</s>"}, "'<|user|>\\n' + m['content'] + '<|end|>\\n<|assistant|>\\n'")),
      Catch::Contains("no known form"));
  CHECK_THAT(message(with_tokens({"<s>", "</s>"}, chatml)),
             Catch::Contains("<|im_end|>") && Catch::Contains("no special token"));
  const ChatFormat format(with_tokens({"<bos>", "<eos>", "<end_of_turn>"}, gemma), "model");
  CHECK_THAT(message_of<higgs::InvalidArgument>([&] { format.prompt("Why?", "S"); }),
             Catch::Contains("takes no system message"));
}
