// SPDX-License-Identifier: Apache-2.0
// Chat templates at work: Jinja as transformers runs it.
#pragma once

#include "chat/jinja_tree.hpp"

#include <string>
#include <string_view>
#include <vector>

namespace higgs::model::jinja {

/// A template that writes a conversation. Equal to Jinja 3.1 with the options of transformers, for all that it
/// accepts.
class Template {
 public:
  /// Throws FormatError, which names `source` and the line, for what is no Jinja or not supported.
  Template(std::string_view text, const std::string& source);

  /// What the template writes for these variables, the members of an object. raise_exception, namespace, range and
  /// strftime_now (with the local time of the call) are there. Throws InvalidArgument, which names `source` and the
  /// line, where the template itself refuses, where it does what Python would not, and for functions, filters, tests and
  /// methods that are not supported.
  std::string render(const Value& variables) const;

 private:
  std::string source_;
  std::vector<Node> nodes_;
};

}  // namespace higgs::model::jinja
