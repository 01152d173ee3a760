// SPDX-License-Identifier: Apache-2.0
// Steps that the readers of config.json and of GGUF metadata share.
#pragma once

#include "architecture/config.hpp"
#include "architecture/families.hpp"
#include "json/fields.hpp"

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace higgs::model {

// Far beyond any model; products of a few of them do not overflow.
inline constexpr std::int64_t most_layers = 1 << 14, most_width = 1 << 24, most_heads = 1 << 16,
                              most_context = 1 << 30, most_token = INT32_MAX;

inline std::string in_quotes(std::string_view text) { return "\"" + std::string(text) + "\""; }

/// An object that has members; none where it is absent, null or empty.
std::optional<Fields> filled_object(const Fields& file, const std::string& key);
/// The family whose `property` is `value`, which stands at `key`. Throws UnsupportedArchitecture, which lists the
/// families, if there is none.
const Family& require_family(std::string_view Family::* property, std::string_view value,
                             const std::string& key, const std::string& source);

/// The keys of the counts of heads.
struct HeadKeys {
  std::string heads, kv_heads, width;
};
/// Throws FormatError unless heads share keys evenly and have pairs of elements to turn.
void check_heads(const ModelConfig& config, const Fields& fields, const HeadKeys& keys);
/// Adds the end tokens that `key` holds: one, or an array of them.
void add_end_tokens(ModelConfig& config, const Fields& file, const std::string& key);

/// Rows and columns of weights that share a scale of 8-bit floats, as weight_block_size of quantization_config says; empty
/// if config.json does not say it. Throws FormatError, which names `source` and the key, for anything but two counts.
std::vector<std::int64_t> read_scale_block(std::string_view text, const std::string& source);

/// Reads rotary positions from config.json, as transformers 5 resolves them.
void read_rope(const Fields& file, ModelConfig& out);
/// Reads them from the metadata of a GGUF file, whose keys begin with `prefix`, as llama.cpp does.
void read_gguf_rope(const Fields& fields, const std::string& prefix, const TensorSource& tensors,
                    ModelConfig& out);
/// What YaRN multiplies cosines and sines by: https://arxiv.org/abs/2309.00071, section 3.4.
double yarn_attention(double factor, double scale = 1);
/// Refuses numbers that are fine alone, but whose angles exceed floats.
void check_rope(const ModelConfig& config, const Fields& fields, const std::string& keys);
/// The divisors of rotary frequencies (head_width / 2) that a tensor holds. Throws FormatError for another shape and for
/// numbers that are not above 0.
std::vector<double> read_divisors(const SourceTensor& tensor, const ModelConfig& config);
/// Divides each frequency by one of `divisors`, on top of the scaling that there is.
void divide_frequencies(ModelConfig& config, const std::vector<double>& divisors);

}  // namespace higgs::model
