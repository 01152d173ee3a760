// SPDX-License-Identifier: Apache-2.0
#include "quantize/sizes.hpp"

#include <cmath>
#include <cstdio>
#include <memory>
#include <utility>

namespace higgs::model {
namespace {

double bits_for(std::uint64_t bytes, std::int64_t weights) noexcept {
  return weights > 0 ? 8.0 * static_cast<double>(bytes) / static_cast<double>(weights) : 0;
}

std::string with_bits(double bits) {
  char text[48];
  std::snprintf(text, sizeof text, "%.3f bits a weight", bits);
  return text;
}

// "2x256", or "2x256 (120), e8 (90)".
std::string joined(const std::map<std::string, std::int64_t>& formats) {
  if (formats.size() == 1) return formats.begin()->first;
  std::string out;
  for (const auto& [format, count] : formats)
    out += (out.empty() ? "" : ", ") + format + " (" + std::to_string(count) + ")";
  return out;
}

Share& share_of(Sizes& sizes, Role role) noexcept {
  return role == Role::Linear      ? sizes.linear
         : role == Role::Embedding ? sizes.embedding
         : role == Role::Output    ? sizes.output
                                   : sizes.rest;
}

nlohmann::ordered_json to_json(const Share& share) {
  return {{"tensors", share.tensors},
          {"weights", share.weights},
          {"bytes", share.bytes},
          {"bits", share.bits()},
          {"formats", share.formats}};
}

}  // namespace

std::string with_bytes(std::int64_t bytes) {
  constexpr std::pair<double, const char*> units[] = {{1e12, "TB"}, {1e9, "GB"}, {1e6, "MB"}, {1e3, "kB"}};
  char text[48];
  for (const auto& [size, unit] : units) {
    const double value = static_cast<double>(bytes) / size;
    if (value < 0.9995) continue;
    std::snprintf(text, sizeof text,
                  value < 9.995   ? "%.2f %s"
                  : value < 99.95 ? "%.1f %s"
                                  : "%.0f %s",
                  value, unit);
    return text;
  }
  return counted(bytes, "byte");
}

std::string counted(std::int64_t count, const std::string& one, const std::string& many) {
  return std::to_string(count) + " " + (count == 1 ? one : many.empty() ? one + "s" : many);
}

void Share::add(std::int64_t weight_count, std::int64_t byte_count, const std::string& format) {
  ++tensors;
  weights += weight_count;
  bytes += byte_count;
  ++formats[format];
}

double Share::bits() const noexcept { return bits_for(static_cast<std::uint64_t>(bytes), weights); }

double Sizes::bits() const noexcept { return bits_for(file_bytes, weights()); }

std::vector<std::string> Sizes::lines() const {
  std::vector<std::string> out;
  const auto add = [&](const Share& share, const std::string& name) {
    if (share.tensors > 0)
      out.push_back(name + ": " + with_bytes(share.bytes) + ", " + with_bits(share.bits()) + ", " +
                    counted(share.tensors, "tensor") + ", " + joined(share.formats));
  };
  add(linear, "linear layers");
  add(embedding, tied ? "embedding, also the output layer" : "embedding");
  add(output, "output layer");
  add(rest, "all else");
  return out;
}

std::string Sizes::total() const {
  return with_bytes(static_cast<std::int64_t>(file_bytes)) + " (" + std::to_string(file_bytes) + " bytes), " +
         with_bits(bits());
}

std::int64_t layer_bytes(const Checkpoint& checkpoint, const CheckpointLayer& layer) {
  std::size_t bytes = 0;
  for (const char* part : {".codes", ".scales", ".input_scales"})
    if (const StoredTensor* tensor = checkpoint.file().find(layer.name + part)) bytes += tensor->data.size();
  return static_cast<std::int64_t>(bytes);
}

std::uint64_t file_bytes(const ModelSource& source) {
  std::map<const void*, std::uint64_t> files;
  const auto add = [&](const std::shared_ptr<const MappedFile>& file) {
    if (file) files[file.get()] = file->bytes().size();
  };
  for (const ModelTensor& tensor : source.tensors()) {
    add(tensor.stored->owner);
    if (tensor.stored->scales) add(tensor.stored->scales->owner);
  }
  if (source.checkpoint())
    for (const StoredTensor& tensor : source.checkpoint()->file().tensors()) add(tensor.owner);
  std::uint64_t sum = 0;
  for (const auto& [file, bytes] : files) sum += bytes;
  return sum;
}

double bits_of(const Checkpoint& checkpoint, const CheckpointLayer& layer) {
  return bits_for(static_cast<std::uint64_t>(layer_bytes(checkpoint, layer)),
                  layer.layout.rows * layer.layout.cols);
}

Sizes sizes_of(const ModelSource& source) {
  Sizes out{.tied = source.config() && source.config()->tied_embeddings, .file_bytes = file_bytes(source)};
  for (const ModelTensor& tensor : source.tensors())
    share_of(out, role_of(source, tensor))
        .add(tensor.rows() * tensor.cols(), static_cast<std::int64_t>(tensor.stored->data.size()),
             tensor.stored->dtype);
  if (const Checkpoint* checkpoint = source.checkpoint())
    for (const CheckpointLayer& layer : checkpoint->layers())
      share_of(out, role_named(source, layer.name))
          .add(layer.layout.rows * layer.layout.cols, layer_bytes(*checkpoint, layer), layer.codebook);
  return out;
}

Sizes sizes_of(const ModelSource& source, const Outline& outline) {
  Sizes out{.tied = source.config() && source.config()->tied_embeddings, .file_bytes = outline.file_bytes};
  for (const Outline::Matrix& matrix : outline.matrices)
    share_of(out, matrix.role).add(matrix.weights(), matrix.bytes, matrix.codebook);
  for (const Outline::Kept& kept : outline.kept)
    share_of(out, kept.role)
        .add(kept.tensor->rows() * kept.tensor->cols(), kept.bytes, std::string(dtype_name(kept.dtype)));
  return out;
}

nlohmann::ordered_json number_or_null(double value) {
  return std::isnan(value) ? nlohmann::ordered_json() : nlohmann::ordered_json(value);
}

nlohmann::ordered_json to_json(const Sizes& sizes) {
  nlohmann::ordered_json out{
      {"bytes", sizes.file_bytes}, {"bits", sizes.bits()}, {"weights", sizes.weights()}};
  const std::pair<const char*, const Share&> shares[] = {{"linear", sizes.linear},
                                                         {"embedding", sizes.embedding},
                                                         {"output", sizes.output},
                                                         {"rest", sizes.rest}};
  for (const auto& [name, share] : shares)
    if (share.tensors > 0) out[name] = to_json(share);
  return out;
}

}  // namespace higgs::model
