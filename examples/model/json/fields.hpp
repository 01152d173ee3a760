// SPDX-License-Identifier: Apache-2.0
// Questions to the settings that come with a model. A key that is present is obeyed or refused; only an absent key
// takes a default.
#pragma once

#include <higgs/store/gguf.hpp>

#include <nlohmann/json.hpp>

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace higgs::model {

/// The keys of a JSON object or of GGUF metadata. Each question throws FormatError, which names file and key and
/// shows the value, if the key is absent and has no default, or holds something else than what was asked for: a
/// wrong type, null, a number as text, a number outside the range.
class Fields {
 public:
  /// The members of `object`, which must outlive all questions; `path` stands before each key in messages
  /// ("rope_scaling"). Throws FormatError if it is no object.
  Fields(const nlohmann::json& object, std::string source, std::string path = {});
  /// The metadata of a GGUF file, which must outlive all questions.
  Fields(const GgufFile& file, std::string source);

  /// From now on a null of these keys means that they are absent. For formats that say so, and for no other key.
  Fields& null_means_absent(std::initializer_list<std::string_view> keys);

  /// Whether the key is present, whatever it holds.
  bool has(const std::string& key) const { return find(key) != nullptr; }
  /// All keys of a JSON object.
  std::vector<std::string> keys() const { return keys_ ? keys_() : std::vector<std::string>(); }
  /// What the key holds, of any type; null if it is absent.
  const nlohmann::json* find(const std::string& key) const;

  /// A whole number in [low, high]; 4096.0 is one.
  std::int64_t integer(const std::string& key, std::int64_t low, std::int64_t high,
                       std::optional<std::int64_t> fallback = {}) const;
  /// A whole number in [1, most].
  std::int64_t count(const std::string& key, std::int64_t most,
                     std::optional<std::int64_t> fallback = {}) const {
    return integer(key, 1, most, fallback);
  }
  /// A finite number.
  double number(const std::string& key, std::optional<double> fallback = {}) const;
  /// A finite number above 0.
  double positive(const std::string& key, std::optional<double> fallback = {}) const;
  /// True or false.
  bool flag(const std::string& key, std::optional<bool> fallback = {}) const;
  /// A text.
  std::string text(const std::string& key, std::optional<std::string> fallback = {}) const;
  /// One of `known` texts.
  std::string choice(const std::string& key, std::initializer_list<std::string_view> known,
                     std::optional<std::string> fallback = {}) const;
  /// The members of an object; none if the key is absent.
  std::optional<Fields> object(const std::string& key) const;
  /// An array; null if the key is absent.
  const nlohmann::json* array(const std::string& key) const;
  /// Finite numbers; none if the key is absent.
  std::optional<std::vector<double>> numbers(const std::string& key) const;

  /// Throws FormatError if there is a key that no question was about.
  void refuse_other_keys() const;
  /// Throws FormatError: "FILE: KEY is VALUE, but must be WANTED".
  [[noreturn]] void refuse(const std::string& key, const std::string& wanted) const;
  /// Throws FormatError: "FILE: WHAT".
  [[noreturn]] void fail(const std::string& what) const;
  /// "rope_scaling.factor": the key with the path to it.
  std::string name(const std::string& key) const { return path_.empty() ? key : path_ + "." + key; }
  const std::string& source() const noexcept { return source_; }

 private:
  const nlohmann::json& require(const std::string& key) const;

  std::string source_, path_;
  std::function<const nlohmann::json*(const std::string& key)> find_;  // null: absent
  std::function<std::vector<std::string>()> keys_;
  std::set<std::string, std::less<>> null_means_absent_;
  std::shared_ptr<std::set<std::string, std::less<>>> asked_ =
      std::make_shared<std::set<std::string, std::less<>>>();
};

/// A value of GGUF's metadata as JSON. Arrays are copied: ask for those of tokens through GgufFile.
nlohmann::json to_json(const GgufValue& value);

}  // namespace higgs::model
