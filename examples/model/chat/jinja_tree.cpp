// SPDX-License-Identifier: Apache-2.0
#include "chat/jinja_tree.hpp"

#include "tokenizer/unicode.hpp"

#include <higgs/core/error.hpp>

#include <algorithm>
#include <charconv>
#include <optional>
#include <utility>

namespace higgs::model::jinja {
namespace {

struct Token {
  enum class Kind { Text, Name, String, Integer, Float, Operator, Begin, End };
  Kind kind = Kind::Text;
  std::string text;  // Begin and End have "{{", "{%", "}}", "%}"; "" ends the template
  std::size_t line = 0;
};

[[noreturn]] void fail(const std::string& source, std::size_t line, const std::string& what) {
  throw FormatError(source + ": line " + std::to_string(line) + " of the chat template: " + what);
}

bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_blank(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

// Line breaks as "\n", without the last one.
std::string with_plain_lines(std::string_view text) {
  std::string out;
  for (std::size_t at = 0; at < text.size(); ++at) {
    if (text[at] == '\r' && at + 1 < text.size() && text[at + 1] == '\n') continue;
    out += text[at] == '\r' ? '\n' : text[at];
  }
  if (out.ends_with('\n')) out.pop_back();
  return out;
}

// Cuts a template into its text and what stands within its marks.
class Lexer {
 public:
  Lexer(std::string_view text, const std::string& source) : text_(text), source_(source) {}

  std::vector<Token> tokens() {
    while (at_ < text_.size()) {
      read_text();
      if (at_ == text_.size()) break;
      if (text_.substr(at_, 2) == "{#")
        read_comment();
      else
        read_tag();
    }
    add(Token::Kind::End, "");
    return std::move(out_);
  }

 private:
  void add(Token::Kind kind, std::string text) { out_.push_back({kind, std::move(text), line_}); }
  // Passes over so many characters.
  void pass(std::size_t count) {
    const std::string_view passed = text_.substr(at_, count);
    line_ += static_cast<std::size_t>(std::count(passed.begin(), passed.end(), '\n'));
    at_ += passed.size();
  }
  std::size_t next_mark() const {
    const std::size_t mark = std::min({text_.find("{{", at_), text_.find("{%", at_), text_.find("{#", at_)});
    return std::min(mark, text_.size());
  }

  // Text up to the next mark, less the white space that the mark takes away.
  void read_text() {
    const std::size_t mark = next_mark();
    std::string_view plain = text_.substr(at_, mark - at_);
    const char sign = mark + 2 < text_.size() ? text_[mark + 2] : '\0';
    if (sign == '-') {
      while (!plain.empty() && is_blank(plain.back())) plain.remove_suffix(1);
    } else if (sign != '+' && mark < text_.size() && text_[mark + 1] != '{') {
      const std::size_t line = plain.rfind('\n') + 1;  // 0 without a line break
      const bool begins_line = line > 0 || line_begins_;
      if (begins_line &&
          std::all_of(plain.begin() + static_cast<std::ptrdiff_t>(line), plain.end(), is_blank))
        plain = plain.substr(0, line);
    }
    if (!plain.empty()) add(Token::Kind::Text, std::string(plain));
    pass(mark - at_);
  }

  // Passes over the end of a tag and the white space after it that goes.
  void end_tag(std::size_t length, char sign, bool print) {
    pass(length);
    line_begins_ = false;
    if (sign == '-') {
      while (at_ < text_.size() && is_blank(text_[at_])) {
        line_begins_ = text_[at_] == '\n';
        pass(1);
      }
    } else if (sign != '+' && !print && at_ < text_.size() && text_[at_] == '\n') {
      pass(1);
      line_begins_ = true;
    }
  }

  void read_comment() {
    const std::size_t end = text_.find("#}", at_ + 2);
    if (end == text_.npos) fail(source_, line_, "a comment does not end");
    const char sign = end > at_ + 2 ? text_[end - 1] : '\0';
    end_tag(end + 2 - at_, sign, false);
  }

  void read_tag() {
    const bool print = text_[at_ + 1] == '{';
    const std::string end = print ? "}}" : "%}";
    add(Token::Kind::Begin, std::string(text_.substr(at_, 2)));
    pass(2);
    if (at_ < text_.size() && (text_[at_] == '-' || text_[at_] == '+')) pass(1);
    int open = 0;  // brackets
    for (;;) {
      while (at_ < text_.size() && is_blank(text_[at_])) pass(1);
      if (at_ == text_.size()) fail(source_, line_, "\"" + end + "\" is missing");
      const char sign = text_[at_] == '-' || text_[at_] == '+' ? text_[at_] : '\0';
      const std::size_t length = sign == '\0' ? 0 : 1;
      if (open == 0 && text_.substr(at_ + length, 2) == end) {
        add(Token::Kind::End, end);
        return end_tag(length + 2, sign, print);
      }
      read_token(open);
    }
  }

  void read_token(int& open) {
    const char c = text_[at_];
    const std::size_t begin = at_;
    std::size_t end = at_;
    const auto take = [&](Token::Kind kind) {
      add(kind, std::string(text_.substr(begin, end - begin)));
      pass(end - begin);
    };
    if (is_letter(c)) {
      while (end < text_.size() && (is_letter(text_[end]) || is_digit(text_[end]))) ++end;
      return take(Token::Kind::Name);
    }
    if (is_digit(c)) {
      while (end < text_.size() && is_digit(text_[end])) ++end;
      const bool fraction = end + 1 < text_.size() && text_[end] == '.' && is_digit(text_[end + 1]);
      if (!fraction) return take(Token::Kind::Integer);
      for (++end; end < text_.size() && is_digit(text_[end]);) ++end;
      return take(Token::Kind::Float);
    }
    if (c == '\'' || c == '"') return read_string(c);
    constexpr std::string_view two[] = {"==", "!=", "<=", ">=", "//", "**"};
    const bool twofold = std::find(std::begin(two), std::end(two), text_.substr(at_, 2)) != std::end(two);
    if (!twofold && std::string_view("+-*/%~<>=.,:|()[]{}").find(c) == std::string_view::npos)
      fail(source_, line_, std::string("\"") + c + "\" is no Jinja");
    if (std::string_view("([{").find(c) != std::string_view::npos) ++open;
    if (std::string_view(")]}").find(c) != std::string_view::npos && --open < 0)
      fail(source_, line_, std::string("\"") + c + "\" closes nothing");
    end += twofold ? 2 : 1;
    take(Token::Kind::Operator);
  }

  void read_string(char quote) {
    const std::size_t line = line_;
    std::string value;
    for (pass(1); at_ < text_.size() && text_[at_] != quote;) {
      if (text_[at_] == '\\' && at_ + 1 < text_.size()) {
        read_escape(value);
      } else {
        value += text_[at_];
        pass(1);
      }
    }
    if (at_ == text_.size()) fail(source_, line, "a text does not end");
    pass(1);
    out_.push_back({Token::Kind::String, std::move(value), line});
  }

  // Python's escapes; what is none stays as it is.
  void read_escape(std::string& value) {
    constexpr std::string_view letters = "nrtbfva0\\'\"\n";
    constexpr std::string_view meanings("\n\r\t\b\f\v\a\0\\'\"", 11);
    const char c = text_[at_ + 1];
    pass(2);
    if (c == 'x' || c == 'u' || c == 'U') {
      const std::size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : 8;
      const std::string_view code = text_.substr(at_, digits);
      std::uint32_t point = 0;
      const auto read = std::from_chars(code.data(), code.data() + code.size(), point, 16);
      if (code.size() != digits || read.ptr != code.data() + code.size() || point >= 0x110000)
        fail(source_, line_, std::string("\"\\") + c + std::string(code) + "\" is no character");
      value += to_utf8(point);
      pass(digits);
    } else if (const std::size_t known = letters.find(c); known == letters.npos) {
      value += {'\\', c};
    } else if (c != '\n') {
      value += meanings[known];
    }
  }

  std::string_view text_;
  const std::string& source_;
  std::size_t at_ = 0, line_ = 1;
  bool line_begins_ = true;  // what follows stands at the beginning of a line
  std::vector<Token> out_;
};

using Kind = Expression::Kind;

class Parser {
 public:
  Parser(std::vector<Token> tokens, const std::string& source)
      : tokens_(std::move(tokens)), source_(source) {}

  std::vector<Node> all() {
    std::vector<Node> out = nodes({});
    if (at_ + 1 < tokens_.size()) refuse("\"" + tokens_[at_ + 1].text + "\" ends nothing");
    return out;
  }

 private:
  // Levels of expressions and statements within each other, so that a hostile template cannot use up the stack.
  class Level {
   public:
    explicit Level(Parser& parser) : parser_(parser) {
      constexpr int most = 200;
      if (++parser_.depth_ > most) parser_.refuse("more than " + std::to_string(most) + " levels");
    }
    ~Level() { --parser_.depth_; }
    Level(const Level&) = delete;
    Level& operator=(const Level&) = delete;

   private:
    Parser& parser_;
  };

  [[noreturn]] void refuse(const std::string& what) const { fail(source_, tokens_[at_].line, what); }
  const Token& token() const { return tokens_[at_]; }
  bool is(Token::Kind kind, std::string_view text) const {
    return token().kind == kind && token().text == text;
  }
  bool is_operator(std::string_view text) const { return is(Token::Kind::Operator, text); }
  bool is_name(std::string_view text) const { return is(Token::Kind::Name, text); }
  bool take(Token::Kind kind, std::string_view text) {
    const bool found = is(kind, text);
    if (found) ++at_;
    return found;
  }
  bool take_operator(std::string_view text) { return take(Token::Kind::Operator, text); }
  bool take_name(std::string_view text) { return take(Token::Kind::Name, text); }
  void want(Token::Kind kind, const std::string& text) {
    if (!take(kind, text)) refuse("\"" + text + "\" is expected before \"" + token().text + "\"");
  }
  void want_operator(const std::string& text) { want(Token::Kind::Operator, text); }
  std::string name() {
    if (token().kind != Token::Kind::Name) refuse("a name is expected before \"" + token().text + "\"");
    return tokens_[at_++].text;
  }
  Expression made(Kind kind, std::string text, std::vector<Expression> parts) const {
    Expression out;
    out.kind = kind;
    out.text = std::move(text);
    out.parts = std::move(parts);
    out.line = token().line;
    for (const Expression& part : out.parts) out.depth = std::max(out.depth, part.depth + 1);
    constexpr std::size_t most = 1000;  // for what reads the tree, level by level
    if (out.depth > most) refuse("more than " + std::to_string(most) + " levels");
    return out;
  }
  Expression constant(Value value) const {
    Expression out = made(Kind::Constant, "", {});
    out.constant = std::move(value);
    return out;
  }

  // Statements, up to one of `ends`, whose name is left to be read, or to the end of the template.
  std::vector<Node> nodes(const std::vector<std::string_view>& ends) {
    const Level level(*this);
    std::vector<Node> out;
    for (; !is(Token::Kind::End, "");) {
      const std::size_t line = token().line;
      if (token().kind == Token::Kind::Text) {
        out.push_back({Node::Kind::Text, tokens_[at_++].text, {}, {}, {}, {}, line});
      } else if (take(Token::Kind::Begin, "{{")) {
        out.push_back({Node::Kind::Print, "", {}, {tuple()}, {}, {}, line});
        want(Token::Kind::End, "}}");
      } else {
        const std::string& what = tokens_[at_ + 1].text;
        if (what.starts_with("end") || what == "else" || what == "elif") {
          if (std::find(ends.begin(), ends.end(), what) == ends.end() && !ends.empty())
            refuse("\"" + what + "\" where \"" + std::string(ends.back()) + "\" is expected");
          return out;
        }
        ++at_;
        statement(out);
        out.back().line = line;
      }
    }
    if (!ends.empty()) refuse("\"" + std::string(ends.back()) + "\" is missing");
    return out;
  }
  void end_statement() { want(Token::Kind::End, "%}"); }
  // Passes over the beginning of a statement, and says whether it is this one.
  bool take_end(std::string_view name) {
    if (tokens_[at_ + 1].text != name) return false;
    at_ += 2;
    return true;
  }
  std::vector<Node> body(std::string_view end) {
    end_statement();
    std::vector<Node> out = nodes({end});
    take_end(end);
    end_statement();
    return out;
  }

  void statement(std::vector<Node>& out) {
    const std::string what = name();
    Node node;
    if (what == "if") {
      node = conditional();
    } else if (what == "for") {
      node = loop();
    } else if (what == "set") {
      node = assignment();
    } else if (what == "macro") {
      node = macro();
    } else if (what == "break" || what == "continue") {
      node.kind = what == "break" ? Node::Kind::Break : Node::Kind::Continue;
      end_statement();
    } else if (what == "generation") {  // marks what a model is trained on; it is written as it stands
      node.kind = Node::Kind::If;
      node.expressions.push_back(constant(true));
      node.body = body("endgeneration");
    } else {
      refuse("the statement \"" + what + "\" is not supported");
    }
    out.push_back(std::move(node));
  }

  // After "if" or "elif".
  Node conditional() {
    const Level level(*this);
    Node out;
    out.kind = Node::Kind::If;
    out.line = token().line;
    out.expressions.push_back(expression());
    end_statement();
    out.body = nodes({"elif", "else", "endif"});
    if (take_end("elif")) {
      out.otherwise.push_back(conditional());
      return out;
    }
    if (take_end("else")) {
      end_statement();
      out.otherwise = nodes({"endif"});
    }
    take_end("endif");
    end_statement();
    return out;
  }

  Node loop() {
    Node out;
    out.kind = Node::Kind::For;
    out.names = targets();
    if (!take_name("in")) refuse("\"in\" is expected before \"" + token().text + "\"");
    out.expressions.push_back(either());
    if (take_name("if")) out.expressions.push_back(expression());
    if (is_name("recursive")) refuse("recursive loops are not supported");
    end_statement();
    out.body = nodes({"else", "endfor"});
    if (take_end("else")) {
      end_statement();
      out.otherwise = nodes({"endfor"});
    }
    take_end("endfor");
    end_statement();
    return out;
  }

  std::vector<std::string> targets() {
    const bool open = take_operator("(");
    std::vector<std::string> out{name()};
    while (take_operator(",")) out.push_back(name());
    if (open) want_operator(")");
    return out;
  }

  Node assignment() {
    Node out;
    out.kind = Node::Kind::Set;
    out.names = targets();
    if (out.names.size() == 1 && take_operator(".")) out.text = name();
    if (take_operator("=")) {
      out.expressions.push_back(tuple());
      end_statement();
      return out;
    }
    if (out.names.size() > 1 || !out.text.empty()) refuse("\"=\" is missing");
    if (is_operator("|")) refuse("filters of blocks are not supported");
    out.kind = Node::Kind::Capture;
    out.body = body("endset");
    return out;
  }

  Node macro() {
    Node out;
    out.kind = Node::Kind::Macro;
    out.text = name();
    want_operator("(");
    while (!take_operator(")")) {
      out.names.push_back(name());
      if (take_operator("="))
        out.expressions.push_back(expression());
      else if (!out.expressions.empty())
        refuse("parameter \"" + out.names.back() + "\" lacks a default");
      if (!is_operator(")")) want_operator(",");
    }
    out.body = body("endmacro");
    return out;
  }

  // Expressions with commas between them are a list.
  Expression tuple() {
    Expression first = expression();
    if (!is_operator(",")) return first;
    std::vector<Expression> parts{std::move(first)};
    while (take_operator(",")) parts.push_back(expression());
    return made(Kind::List, "", std::move(parts));
  }

  Expression expression() {
    const Level level(*this);
    Expression value = either();
    while (take_name("if")) {
      Expression condition = either();
      Expression other = take_name("else") ? expression() : constant(Value(Value::value_t::discarded));
      value = made(Kind::Choice, "", {std::move(value), std::move(condition), std::move(other)});
    }
    return value;
  }
  Expression either() {
    Expression left = both();
    while (take_name("or")) left = made(Kind::Or, "", {std::move(left), both()});
    return left;
  }
  Expression both() {
    Expression left = negation();
    while (take_name("and")) left = made(Kind::And, "", {std::move(left), negation()});
    return left;
  }
  Expression negation() {
    const Level level(*this);
    if (take_name("not")) return made(Kind::Not, "", {negation()});
    return comparison();
  }

  // The comparison that comes next; empty if there is none.
  std::string comparison_sign() {
    for (const std::string_view sign : {"==", "!=", "<=", ">=", "<", ">"})
      if (take_operator(sign)) return std::string(sign);
    if (take_name("in")) return "in";
    if (!is_name("not") || tokens_[at_ + 1].text != "in") return "";
    at_ += 2;
    return "not in";
  }
  Expression comparison() {
    Expression left = sum();
    const std::string sign = comparison_sign();
    if (sign.empty()) return left;
    left = made(Kind::Binary, sign, {std::move(left), sum()});
    if (!comparison_sign().empty()) refuse("comparisons in a row are not supported");
    return left;
  }
  Expression sum() {
    Expression left = joined();
    for (;;) {
      const std::string sign = token().text;
      if (!take_operator("+") && !take_operator("-")) return left;
      left = made(Kind::Binary, sign, {std::move(left), joined()});
    }
  }
  Expression joined() {
    Expression left = product();
    while (take_operator("~")) left = made(Kind::Binary, "~", {std::move(left), product()});
    return left;
  }
  Expression product() {
    Expression left = unary(true);
    for (;;) {
      const std::string sign = token().text;
      if (!take_operator("*") && !take_operator("/") && !take_operator("//") && !take_operator("%"))
        return left;
      left = made(Kind::Binary, sign, {std::move(left), unary(true)});
    }
  }
  Expression unary(bool with_filters) {
    const Level level(*this);
    Expression out = take_operator("-") ? made(Kind::Negate, "", {unary(false)}) : postfix(primary());
    return with_filters ? filtered(std::move(out)) : out;
  }

  Expression primary() {
    const Token& first = token();
    if (first.kind == Token::Kind::Integer || first.kind == Token::Kind::Float) return number();
    if (first.kind == Token::Kind::String) {
      std::string text;
      while (token().kind == Token::Kind::String) text += tokens_[at_++].text;
      return constant(std::move(text));
    }
    if (first.kind == Token::Kind::Name) {
      const std::string what = name();
      if (what == "true" || what == "True") return constant(true);
      if (what == "false" || what == "False") return constant(false);
      if (what == "none" || what == "None") return constant(nullptr);
      return made(Kind::Name, what, {});
    }
    if (take_operator("(")) {
      if (take_operator(")")) return made(Kind::List, "", {});
      Expression out = tuple();
      want_operator(")");
      return out;
    }
    if (take_operator("[")) return list();
    if (take_operator("{")) return dict();
    refuse("a value is expected before \"" + first.text + "\"");
  }
  Expression number() {
    const Token& from = tokens_[at_++];
    const char *begin = from.text.data(), *end = begin + from.text.size();
    double value = 0;
    std::int64_t whole = 0;
    const bool integer = from.kind == Token::Kind::Integer;
    const auto read = integer ? std::from_chars(begin, end, whole) : std::from_chars(begin, end, value);
    if (read.ec != std::errc() || read.ptr != end) refuse(from.text + " is too large");
    return integer ? constant(whole) : constant(value);
  }
  Expression list() {
    std::vector<Expression> parts;
    while (!take_operator("]")) {
      parts.push_back(expression());
      if (!is_operator("]")) want_operator(",");
    }
    return made(Kind::List, "", std::move(parts));
  }
  Expression dict() {
    std::vector<Expression> parts;
    while (!take_operator("}")) {
      parts.push_back(expression());
      want_operator(":");
      parts.push_back(expression());
      if (!is_operator("}")) want_operator(",");
    }
    return made(Kind::Dict, "", std::move(parts));
  }

  Expression postfix(Expression out) {
    for (;;) {
      if (take_operator(".")) {
        out = made(Kind::Member, name(), {std::move(out)});
      } else if (take_operator("[")) {
        out = item(std::move(out));
      } else if (take_operator("(")) {
        out = made(Kind::Call, "", {std::move(out)});
        arguments(out);
      } else {
        return out;
      }
    }
  }
  // After "[".
  Expression item(Expression object) {
    std::vector<Expression> parts{std::move(object)};
    const auto bound = [&] {
      const bool given = !is_operator(":") && !is_operator("]");
      parts.push_back(given ? expression() : constant(nullptr));
    };
    bound();
    if (take_operator("]")) {
      if (parts[1].kind == Kind::Constant && parts[1].constant.is_null()) refuse("an index is missing");
      return made(Kind::Item, "", std::move(parts));
    }
    for (int i = 0; i < 2; ++i) {
      if (i == 0) want_operator(":");
      if (i == 0 || take_operator(":"))
        bound();
      else
        parts.push_back(constant(nullptr));
    }
    want_operator("]");
    return made(Kind::Slice, "", std::move(parts));
  }
  // After "(".
  void arguments(Expression& out) {
    while (!take_operator(")")) {
      const bool named = token().kind == Token::Kind::Name && tokens_[at_ + 1].text == "=" &&
                         tokens_[at_ + 1].kind == Token::Kind::Operator;
      if (named) {
        out.names.push_back(name());
        want_operator("=");
      } else if (!out.names.empty()) {
        refuse("an argument without a name follows one with a name");
      }
      if (is_operator("*") || is_operator("**")) refuse("lists of arguments are not supported");
      out.parts.push_back(expression());
      if (!is_operator(")")) want_operator(",");
    }
  }

  Expression filtered(Expression out) {
    for (;;) {
      if (take_operator("|")) {
        out = made(Kind::Filter, name(), {std::move(out)});
        if (take_operator("(")) arguments(out);
      } else if (take_name("is")) {
        out = test(std::move(out));
      } else if (take_operator("(")) {
        out = made(Kind::Call, "", {std::move(out)});
        arguments(out);
      } else {
        return out;
      }
    }
  }
  // After "is". An argument may stand without brackets.
  Expression test(Expression value) {
    const bool negated = take_name("not");
    Expression out = made(Kind::Test, name(), {std::move(value)});
    const bool follows =
        token().kind == Token::Kind::String || token().kind == Token::Kind::Integer ||
        token().kind == Token::Kind::Float || is_operator("[") || is_operator("{") ||
        (token().kind == Token::Kind::Name && !is_name("else") && !is_name("or") && !is_name("and") &&
         !is_name("if") && !is_name("is") && !is_name("in") && !is_name("not"));
    if (take_operator("("))
      arguments(out);
    else if (follows)
      out.parts.push_back(postfix(primary()));
    return negated ? made(Kind::Not, "", {std::move(out)}) : out;
  }

  std::vector<Token> tokens_;
  const std::string& source_;
  std::size_t at_ = 0;
  int depth_ = 0;
};

}  // namespace

std::vector<Node> parse(std::string_view text, const std::string& source) {
  const std::string plain = with_plain_lines(text);
  return Parser(Lexer(plain, source).tokens(), source).all();
}

}  // namespace higgs::model::jinja
