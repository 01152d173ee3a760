// SPDX-License-Identifier: Apache-2.0
#include "chat/jinja.hpp"

#include "chat/jinja_values.hpp"

#include <higgs/core/error.hpp>

#include <algorithm>
#include <ctime>
#include <map>
#include <span>

namespace higgs::model::jinja {
namespace {

using Kind = Expression::Kind;
using Scope = std::map<std::string, Value>;
enum class Flow { Next, Break, Continue };

// What has the name of a function or a macro is defined, but has no members and cannot be written.
constexpr std::size_t no_space = SIZE_MAX;
constexpr std::string_view functions[] = {"raise_exception", "namespace", "range", "strftime_now"};

// One run of a template.
class Run {
 public:
  explicit Run(const Value& variables) : scopes_(1) {
    for (const auto& [name, value] : variables.items()) scopes_[0][name] = value;
  }

  std::size_t line() const { return line_; }

  Flow write(std::span<const Node> nodes, std::string& out) {
    for (const Node& node : nodes)
      if (const Flow flow = write(node, out); flow != Flow::Next) return flow;
    return Flow::Next;
  }

 private:
  void step(std::size_t line) {
    constexpr std::size_t most = 1'000'000;
    line_ = line;
    if (++steps_ > most) throw Problem("does not end");
  }

  Flow write(const Node& node, std::string& out) {
    step(node.line);
    switch (node.kind) {
      case Node::Kind::Text:
        out += node.text;
        return Flow::Next;
      case Node::Kind::Print:
        out += printed(value(node.expressions[0]));
        return Flow::Next;
      case Node::Kind::If:
        return write(truthy(value(node.expressions[0])) ? node.body : node.otherwise, out);
      case Node::Kind::For:
        return loop(node, out);
      case Node::Kind::Set:
        set(node);
        return Flow::Next;
      case Node::Kind::Capture: {
        std::string text;
        const Flow flow = write(node.body, text);
        scopes_.back()[node.names[0]] = std::move(text);
        return flow;
      }
      case Node::Kind::Macro:
        macros_[node.text] = &node;
        return Flow::Next;
      case Node::Kind::Break:
        return Flow::Break;
      case Node::Kind::Continue:
        return Flow::Continue;
    }
    return Flow::Next;
  }

  void assign(const std::vector<std::string>& names, const Value& given) {
    if (names.size() == 1) {
      scopes_.back()[names[0]] = given;
      return;
    }
    const std::vector<Value> items = items_of(given);
    if (items.size() != names.size())
      throw Problem(std::to_string(items.size()) + " values for " + std::to_string(names.size()) + " names");
    for (std::size_t i = 0; i < names.size(); ++i) scopes_.back()[names[i]] = items[i];
  }

  void set(const Node& node) {
    const Value given = value(node.expressions[0]);
    if (node.text.empty()) return assign(node.names, given);
    const Value space = variable(node.names[0]);
    if (!space.is_binary()) throw Problem("\"" + node.names[0] + "\" is no namespace");
    space_of(space)[node.text] = given;
  }

  Scope& space_of(const Value& value) {
    const std::size_t number = value.get_binary().subtype();
    if (number >= spaces_.size()) throw Problem("a function has no members");
    return spaces_[number];
  }

  Flow loop(const Node& node, std::string& out) {
    scopes_.emplace_back();
    std::vector<Value> items = items_of(value(node.expressions[0]));
    if (node.expressions.size() > 1)
      std::erase_if(items, [&](const Value& each) {
        assign(node.names, each);
        return !truthy(value(node.expressions[1]));
      });
    scopes_.pop_back();
    if (items.empty()) return write(node.otherwise, out);
    for (std::size_t i = 0; i < items.size(); ++i) {
      step(node.line);
      scopes_.emplace_back();  // what a turn sets ends with it
      scopes_.back()["loop"] = place(items, i);
      assign(node.names, items[i]);
      const Flow flow = write(node.body, out);
      scopes_.pop_back();
      if (flow == Flow::Break) break;
    }
    return Flow::Next;
  }
  static Value place(const std::vector<Value>& items, std::size_t i) {
    const std::size_t count = items.size();
    Value out{{"index", i + 1},        {"index0", i},
              {"revindex", count - i}, {"revindex0", count - i - 1},
              {"first", i == 0},       {"last", i + 1 == count},
              {"length", count}};
    if (i > 0) out["previtem"] = items[i - 1];
    if (i + 1 < count) out["nextitem"] = items[i + 1];
    return out;
  }

  Value variable(const std::string& name) const {
    if (macros_.contains(name)) return name_space(no_space);
    for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope)
      if (const auto found = scope->find(name); found != scope->end()) return found->second;
    if (std::find(std::begin(functions), std::end(functions), name) != std::end(functions))
      return name_space(no_space);
    if (name.ends_with("_token") && name != "bos_token" && name != "eos_token")
      throw Problem("\"" + name + "\" is not known");
    return undefined();
  }

  Value value(const Expression& of) {
    step(of.line);
    const auto part = [&](std::size_t i) { return value(of.parts[i]); };
    switch (of.kind) {
      case Kind::Constant:
        return of.constant;
      case Kind::Name:
        return variable(of.text);
      case Kind::Member: {
        const Value object = part(0);
        if (!object.is_binary()) return member(object, of.text);
        const Scope& space = space_of(object);
        const auto found = space.find(of.text);
        return found == space.end() ? undefined() : found->second;
      }
      case Kind::Item:
        return item(part(0), part(1));
      case Kind::Slice:
        return slice(part(0), part(1), part(2), part(3));
      case Kind::Call:
        return call(of);
      case Kind::Filter:
        return filter(of.text, part(0), arguments(of));
      case Kind::Test:
        return test(of.text, part(0), arguments(of));
      default:
        return combined(of);
    }
  }
  Value combined(const Expression& of) {
    const auto part = [&](std::size_t i) { return value(of.parts[i]); };
    switch (of.kind) {
      case Kind::Not:
        return !truthy(part(0));
      case Kind::Negate:
        return binary("-", 0, part(0));
      case Kind::Binary: {
        const Value left = part(0);
        return binary(of.text, left, part(1));
      }
      case Kind::Choice:
        return truthy(part(1)) ? part(0) : part(2);
      case Kind::And:
      case Kind::Or: {
        const Value left = part(0);
        return truthy(left) == (of.kind == Kind::Or) ? left : part(1);
      }
      default:
        return collection(of);
    }
  }
  Value collection(const Expression& of) {
    Value out = of.kind == Kind::Dict ? Value::object() : Value::array();
    for (std::size_t i = 0; i < of.parts.size(); ++i) {
      const Value first = value(of.parts[i]);
      if (of.kind == Kind::List) {
        out.push_back(first);
      } else {
        if (!first.is_string()) throw Problem("a key of a dictionary is no text");
        out[first.get<std::string>()] = value(of.parts[++i]);
      }
    }
    return out;
  }

  Arguments arguments(const Expression& of) {
    Arguments out;
    const std::size_t unnamed = of.parts.size() - of.names.size();
    for (std::size_t i = 1; i < of.parts.size(); ++i) {
      if (i < unnamed)
        out.values.push_back(value(of.parts[i]));
      else
        out.named.emplace_back(of.names[i - unnamed], value(of.parts[i]));
    }
    return out;
  }

  Value call(const Expression& of) {
    const Expression& callee = of.parts[0];
    if (callee.kind == Kind::Member) {
      const Value object = value(callee.parts[0]);
      return method(object, callee.text, arguments(of));
    }
    if (callee.kind != Kind::Name) throw Problem("what is called is no function");
    const Arguments given = arguments(of);
    if (const auto found = macros_.find(callee.text); found != macros_.end())
      return call_macro(*found->second, given);
    return call_function(callee.text, given);
  }

  Value call_function(const std::string& name, const Arguments& given) {
    const Value none;
    if (name == "raise_exception")
      throw Problem("refuses the conversation: " + printed(given.get(0, "message", none)));
    if (name == "namespace") {
      if (!given.values.empty()) throw Problem("namespace takes members by name");
      spaces_.emplace_back(given.named.begin(), given.named.end());
      return name_space(spaces_.size() - 1);
    }
    if (name == "range") {
      given.check(name, 3);
      return range(given);
    }
    if (name != "strftime_now") throw Problem("the function \"" + name + "\" is not supported");
    given.check(name, 1, {"format"});
    const std::time_t time = std::time(nullptr);
    const std::string format = printed(given.get(0, "format", none));
    char out[256];
    return std::string(out, std::strftime(out, sizeof out, format.c_str(), std::localtime(&time)));
  }
  static Value range(const Arguments& given) {
    std::int64_t bounds[3] = {0, 0, 1};
    for (std::size_t i = 0; i < given.values.size(); ++i) {
      if (!given.values[i].is_number_integer()) throw Problem("range takes whole numbers");
      bounds[given.values.size() == 1 ? 1 : i] = given.values[i].get<std::int64_t>();
    }
    const auto [begin, end, by] = bounds;
    if (by == 0 || given.values.empty()) throw Problem("range needs an end, and no step of 0");
    constexpr std::size_t most = 100'000;
    Value out = Value::array();
    for (std::int64_t i = begin; by > 0 ? i < end : i > end; i += by) {
      out.push_back(i);
      if (out.size() > most) throw Problem("range has more than " + std::to_string(most) + " numbers");
    }
    return out;
  }

  Value call_macro(const Node& macro, const Arguments& given) {
    constexpr std::size_t most_calls = 32;
    if (++calls_ > most_calls)
      throw Problem("more than " + std::to_string(most_calls) + " macros in each other");
    given.check(macro.text, macro.names.size(), {macro.names.begin(), macro.names.end()});
    Scope own;
    const std::size_t required = macro.names.size() - macro.expressions.size();
    for (std::size_t i = 0; i < macro.names.size(); ++i) {
      const Value fallback = i < required ? undefined() : value(macro.expressions[i - required]);
      own[macro.names[i]] = given.get(i, macro.names[i], fallback);
    }
    // A macro sees its parameters and the variables of the template, not those of the place that calls it.
    std::vector<Scope> here{scopes_[0], std::move(own)};
    here.swap(scopes_);
    std::string out;
    write(macro.body, out);
    here.swap(scopes_);
    --calls_;
    return out;
  }

  std::vector<Scope> scopes_;  // the innermost last
  std::vector<Scope> spaces_;  // members of namespaces
  std::map<std::string, const Node*> macros_;
  std::size_t line_ = 1, steps_ = 0, calls_ = 0;
};

}  // namespace

Template::Template(std::string_view text, const std::string& source)
    : source_(source), nodes_(parse(text, source)) {}

std::string Template::render(const Value& variables) const {
  Run run(variables);
  std::string out;
  try {
    run.write(nodes_, out);
  } catch (const Problem& problem) {
    throw InvalidArgument(source_ + ": line " + std::to_string(run.line()) +
                          " of the chat template: " + problem.what());
  }
  return out;
}

}  // namespace higgs::model::jinja
