// SPDX-License-Identifier: Apache-2.0
#include "module.hpp"

#include <cctype>
#include <cstring>
#include <stdexcept>

#include "parser.hpp"

namespace emulator {
namespace {

bool in_word(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '$' || c == '%' || c == '.';
}

}  // namespace

void fail(const std::string& message) { throw std::runtime_error(message); }

std::vector<Token> lex(std::string_view text) {
  std::vector<Token> tokens;
  int line = 1;
  std::size_t at = 0;
  const auto rest_starts = [&](std::string_view s) { return text.substr(at).starts_with(s); };
  const auto skip_to = [&](std::string_view end) {
    const std::size_t found = text.find(end, at);
    const std::size_t stop = found == text.npos ? text.size() : found + end.size();
    for (; at < stop; ++at) line += text[at] == '\n' ? 1 : 0;
  };
  while (at < text.size()) {
    const char c = text[at];
    if (c == '\n' || c == 0 || std::isspace(static_cast<unsigned char>(c)) != 0) {
      line += c == '\n' ? 1 : 0;
      ++at;
    } else if (rest_starts("//")) {
      skip_to("\n");
    } else if (rest_starts("/*")) {
      skip_to("*/");
    } else {
      std::size_t end = at + 1;
      if (c == '"') {
        end = std::min(text.find('"', end), text.size() - 1) + 1;
      } else if (in_word(c)) {
        // "L2::128B" is one word, "label:" is two.
        while (end < text.size() && (in_word(text[end]) || text.substr(end).starts_with("::") ||
                                     (text[end] == ':' && text[end - 1] == ':'))) {
          ++end;
        }
      }
      tokens.push_back({text.substr(at, end - at), line});
      at = end;
    }
  }
  return tokens;
}

Module::Module(std::string text, Memory& memory)
    : text_(std::move(text)), memory_(memory), tokens_(lex(text_)) {
  Parser(*this).read_declarations();
}

Program& Module::kernel(const std::string& name) {
  std::unique_ptr<Program>& program = programs_[name];
  if (!program) {
    if (!kernels_.contains(name)) fail("no kernel named " + name);
    program = Parser(*this).read_kernel(name);
    memory_.add(program->parameter_values.data(), program->parameter_values.size());
  }
  return *program;
}

void* Module::variable(const std::string& name) const {
  const auto found = variables_.find(name);
  if (found == variables_.end()) fail("no variable named " + name);
  return reinterpret_cast<void*>(found->second.place);
}

}  // namespace emulator
