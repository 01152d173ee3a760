// SPDX-License-Identifier: Apache-2.0
// Makes small GGUF files, well-formed ones and others.
#pragma once

#include "temporary_folder.hpp"

#include <cstdint>
#include <string>
#include <vector>

/// "text" as GGUF stores it: its length, its bytes.
inline std::string gguf_text(const std::string& text) { return raw<std::uint64_t>(text.size()) + text; }

/// The parts of a GGUF file, free to be changed before build().
struct GgufBuilder {
  struct Tensor {
    std::string name;
    std::vector<std::uint64_t> extents;  // fastest first, as in the file
    std::uint32_t type = 0;
    std::uint64_t offset = 0;
  };
  std::string magic = "GGUF";
  std::uint32_t version = 3;
  std::uint64_t extra_tensors = 0, extra_values = 0;  // claimed, but not there
  std::vector<std::string> values;                    // key, type and value of each
  std::vector<Tensor> tensors;
  std::string data;
  std::uint64_t alignment = 32;

  void add_value(const std::string& key, std::uint32_t type, const std::string& value) {
    values.push_back(gguf_text(key) + raw(type) + value);
  }
  /// Appends a tensor whose data follows that of the last.
  void add_tensor(const std::string& name, std::vector<std::uint64_t> extents, std::uint32_t type,
                  const std::string& bytes) {
    pad(data);
    tensors.push_back({name, std::move(extents), type, data.size()});
    data += bytes;
  }
  std::string build() const {
    std::string out =
        magic + raw(version) + raw(tensors.size() + extra_tensors) + raw(values.size() + extra_values);
    for (const std::string& value : values) out += value;
    for (const Tensor& tensor : tensors) {
      out += gguf_text(tensor.name) + raw(static_cast<std::uint32_t>(tensor.extents.size()));
      for (const std::uint64_t extent : tensor.extents) out += raw(extent);
      out += raw(tensor.type) + raw(tensor.offset);
    }
    pad(out);
    return out + data;
  }

 private:
  void pad(std::string& text) const { text.resize((text.size() + alignment - 1) / alignment * alignment); }
};
