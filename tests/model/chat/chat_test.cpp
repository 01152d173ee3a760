// SPDX-License-Identifier: Apache-2.0
#include "chat/chat.hpp"

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

// Templates as models of each family ship them, in short.
const std::string chatml =
    "{% for m in messages %}{{'<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n'}}{% "
    "endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";
const std::string llama3 =
    "{% for m in messages %}{% set content = '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + "
    "m['content'] | trim + '<|eot_id|>' %}{{ bos_token + content if loop.first else content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}";
const std::string gemma =
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') "
    "}}"
    "{% endif %}{% for m in messages %}{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}";
const std::string phi3 =
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}";
const std::string zephyr =
    "{% for m in messages %}\n{{ '<|' + m.role + '|>\n' + m.content + eos_token }}\n"
    "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}";
const std::string llama2 =
    "{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{% set system = "
    "messages[0]['content'] %}"
    "{% else %}{% set rest = messages %}{% set system = false %}{% endif %}{% for m in rest %}"
    "{% if loop.index0 == 0 and system != false %}{% set content = '<<SYS>>\\n' + system + "
    "'\\n<</SYS>>\\n\\n' + "
    "m['content'] %}{% else %}{% set content = m['content'] %}{% endif %}{% if m['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% else %}{{ ' ' + content.strip() + ' ' + "
    "eos_token }}"
    "{% endif %}{% endfor %}";

}  // namespace

TEST_CASE("a question is written as the template of its model says", "[model][chat]") {
  const auto prompt = [](const Vocabulary& vocabulary, const std::string& system) {
    return ChatFormat(vocabulary, "model").prompt(" Why? ", system);
  };
  // Each result is that of apply_chat_template of transformers 5.24.
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
  CHECK(prompt(with_tokens({"<s>", "<|endoftext|>", "<|end|>"}, phi3), "S") ==
        "<|system|>\nS<|end|>\n<|user|>\n Why? <|end|>\n<|assistant|>\n");
  CHECK(prompt(with_tokens({"<s>", "</s>"}, zephyr), "S") ==
        "<|system|>\nS</s>\n<|user|>\n Why? </s>\n<|assistant|>\n");
  CHECK(prompt(with_tokens({"<s>", "</s>"}, llama2), "S") ==
        "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\n Why? [/INST]");
}

TEST_CASE("a template's own system message is taken where none is given", "[model][chat]") {
  // Line breaks within the template are as good as those that it spells.
  for (const std::string line_break : {"\n", "\\n"}) {
    const Vocabulary vocabulary =
        with_tokens({"<|endoftext|>", "<|im_end|>", "<|im_start|>"},
                    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system" + line_break +
                        "You are Tom.<|im_end|>" + line_break + "' }}{% endif %}" + chatml);
    const ChatFormat format(vocabulary, "model");
    CHECK(format.prompt("Why?", "")
              .starts_with("<|im_start|>system\nYou are Tom.<|im_end|>\n<|im_start|>user\nWhy?"));
    CHECK(format.prompt("Why?", "Be brief.").starts_with("<|im_start|>system\nBe brief.<|im_end|>\n"));
  }
}

TEST_CASE("an answer ends at every token that ends a turn or a text", "[model][chat]") {
  const auto ends = [](std::initializer_list<const char*> tokens, const std::string& text) {
    std::vector<TokenId> out = ChatFormat(with_tokens(tokens, text), "model").end_tokens();
    std::sort(out.begin(), out.end());
    return out;
  };
  CHECK(ends({"<|endoftext|>", "<|im_start|>", "<|im_end|>"}, chatml) == std::vector<TokenId>{0, 1, 2});
  CHECK(ends({"<b>", "<|end_of_text|>", "<|start_header_id|>", "<|eot_id|>", "<|eom_id|>"}, llama3) ==
        std::vector<TokenId>{1, 3, 4});
  CHECK(ends({"<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"}, gemma) == std::vector<TokenId>{1, 3});
  CHECK(ends({"<s>", "<stop>"}, llama2) == std::vector<TokenId>{1});
  // What the template writes after an answer, whatever its name: the longest token that stands there.
  CHECK(ends({"<s>", "<|x|>", "<|end|>", "<|end"}, phi3) == std::vector<TokenId>{1, 2});
  CHECK(ends({"<s>", "<x>"}, "{% for m in messages %}{{ m.role ~ ': ' ~ m.content }}\n{% endfor %}") ==
        std::vector<TokenId>{1});
}

TEST_CASE("a model without a template is known by its special tokens", "[model][chat]") {
  const auto prompt = [](std::initializer_list<const char*> tokens) {
    return ChatFormat(with_tokens(tokens), "model").prompt(" Why? ", "");
  };
  CHECK(prompt({"<|im_start|>", "<|im_end|>"}) ==
        "<|im_start|>user\n Why? <|im_end|>\n<|im_start|>assistant\n");
  CHECK(prompt({"<b>", "<e>", "<|start_header_id|>", "<|eot_id|>"}) ==
        "<b><|start_header_id|>user<|end_header_id|>\n\nWhy?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n");
  CHECK(prompt({"<b>", "<e>", "<start_of_turn>", "<end_of_turn>"}) ==
        "<b><start_of_turn>user\nWhy?<end_of_turn>\n<start_of_turn>model\n");
}

TEST_CASE("a model that is no chat model, or whose template cannot write the messages, is refused",
          "[model][chat]") {
  using Catch::Contains;
  const auto message = [](const Vocabulary& vocabulary, const std::string& system = "") {
    return message_of<higgs::InvalidArgument>(
        [&] { ChatFormat(vocabulary, "model").prompt("Why?", system); });
  };
  CHECK_THAT(message(with_tokens({"<s>", "</s>"})),
             Contains("model: ") && Contains("no chat template") && Contains("ChatML"));
  CHECK_THAT(message(with_tokens({"<s>", "</s>"}, "{{ messages | sort }}")),
             Contains("model: line 1 of the chat template") && Contains("\"sort\""));
  CHECK_THAT(message(with_tokens({"<s>", "</s>"}, chatml)),
             Contains("<|im_end|>") && Contains("no special token"));
  CHECK_THAT(message(with_tokens({"<bos>", "<eos>", "<end_of_turn>"}, gemma), "S"),
             Contains("System role not supported"));
  // A template that leaves a message out says nothing about it.
  const std::string deaf =
      "{% for m in messages if m.role != 'system' %}{{ m.content if m.role != 'user' or MORE else '' }}{% "
      "endfor %}";
  const auto with = [&](const std::string& more) {
    return with_tokens({"<s>", "</s>"}, std::string(deaf).replace(deaf.find("MORE"), 4, more));
  };
  CHECK_THAT(message(with("true"), "Brief."), Contains("takes no system message"));
  CHECK_THAT(message(with("false")), Contains("leaves out the question"));
  CHECK_THAT(message(with_tokens({"<s>", "</s>"}, "{{ messages[0].content }}")),
             Contains("leaves out the answer"));
}
