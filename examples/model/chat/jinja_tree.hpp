// SPDX-License-Identifier: Apache-2.0
// A chat template as a tree: the part of the language Jinja that templates of models use.
#pragma once

#include <nlohmann/json.hpp>

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace higgs::model::jinja {

/// What an expression is worth. An undefined value is `discarded`.
using Value = nlohmann::ordered_json;

/// Something that has a value.
struct Expression {
  enum class Kind {
    Constant,  ///< `constant`
    Name,      ///< the variable `text`
    Member,    ///< parts[0].text
    Item,      ///< parts[0][parts[1]]
    Slice,     ///< parts[0][parts[1]:parts[2]:parts[3]]; a bound that is left out is null
    Call,      ///< parts[0](arguments)
    Filter,    ///< parts[0] | text(arguments)
    Test,      ///< parts[0] is text(arguments)
    Not,       ///< not parts[0]
    Negate,    ///< -parts[0]
    Binary,    ///< parts[0] text parts[1]
    And,       ///< the first part that is false, or the last
    Or,        ///< the first part that is true, or the last
    Choice,    ///< parts[0] if parts[1] else parts[2]
    List,      ///< [parts...]
    Dict       ///< parts are keys and values by turns
  };
  Kind kind = Kind::Constant;
  std::string text;
  Value constant;
  std::vector<Expression> parts;
  /// Of the arguments given by name, which are the last parts.
  std::vector<std::string> names;
  std::size_t line = 0;
  /// Levels of expressions, this one among them.
  std::size_t depth = 1;
};

/// Something that writes or does.
struct Node {
  enum class Kind {
    Text,   ///< `text`
    Print,  ///< expressions[0]
    If,     ///< `body` if expressions[0], else `otherwise`
    For,  ///< names take the items of expressions[0], if expressions[1] is true; `otherwise` if there are none
    Set,  ///< names take expressions[0]; with `text`, the member of that name of the namespace names[0] does
    Capture,  ///< names[0] takes what `body` writes
    Macro,    ///< `text` writes `body` with parameters `names`; the last ones have the defaults `expressions`
    Break,    ///< ends the loop
    Continue  ///< ends one turn of the loop
  };
  Kind kind = Kind::Text;
  std::string text;
  std::vector<std::string> names;
  std::vector<Expression> expressions;
  std::vector<Node> body, otherwise;
  std::size_t line = 0;
};

/// Reads a template as transformers does: a line break after a statement goes, and so does white space before a
/// statement at the beginning of a line. Throws FormatError, which names `source` and the line, for what is no Jinja
/// and for statements that are not supported.
std::vector<Node> parse(std::string_view text, const std::string& source);

}  // namespace higgs::model::jinja
