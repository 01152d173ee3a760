// SPDX-License-Identifier: Apache-2.0
// Writes higgs checkpoints (see checkpoint.hpp) in bounded memory, and goes on after a kill. A matrix that is
// whole in memory:
//
//     CheckpointContents contents;
//     contents.add_layer("layer.0", matrix, "BF16");
//     CheckpointWriter writer("model.safetensors", contents);
//     writer.write_layer("layer.0", matrix);
//     writer.commit();
#pragma once

#include <higgs/core/error.hpp>
#include <higgs/core/half.hpp>
#include <higgs/core/matrix_view.hpp>
#include <higgs/core/scale_format.hpp>
#include <higgs/store/checkpoint.hpp>
#include <higgs/store/journal.hpp>
#include <higgs/store/json.hpp>
#include <higgs/store/mapped_file.hpp>
#include <higgs/store/quantized_matrix.hpp>
#include <higgs/store/safetensors.hpp>

#include <algorithm>
#include <concepts>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#if HIGGS_DEFINITIONS
#  include <cmath>
#  include <random>
#  include <set>
#  include <system_error>
#endif

namespace higgs {
inline namespace v0 {

/// What will be in a checkpoint: every size is known before the first row is quantized.
class CheckpointContents {
 public:
  /// Declares a layer that stands for the tensor `name` of type `dtype`. Throws InvalidArgument for a bad
  /// layout.
  template <Code C>
  void add_layer(const std::string& name, const CodeLayout& layout, std::optional<std::uint64_t> seed,
                 std::string dtype, const C& book = C{}) {
    constexpr std::int64_t most = detail::max_extent;
    using detail::sentence;
    const char* const place = "higgs::CheckpointContents::add_layer: layer \"";
    expects(layout.rows >= 0 && layout.rows <= most && layout.cols > 0 && layout.cols <= most, [&] {
      return sentence(place, name, "\" is ", detail::shape_text(layout.rows, layout.cols),
                      ", but rows and columns must lie in [0, 2^48] and [1, 2^48]");
    });
    expects(layout.block > 0 && layout.block <= most && layout.group > 0 && layout.block % layout.group == 0,
            [&] {
              return sentence(place, name, "\" has block ", layout.block, " and group ", layout.group,
                              ", but the group must divide the block");
            });
    const auto shapes = detail::shapes_of<C>(name, layout);
    const std::vector<typename C::Element> points = detail::points_of(book);
    const auto table = detail::bytes_of(std::span<const typename C::Element>(points));
    CheckpointLayer layer{name, C::name(), layout, seed, std::move(dtype)};
    layer.step = book.step();
    layer.mse = book.mse();
    items_.push_back({std::move(layer), {shapes.begin(), shapes.end()}, {table.begin(), table.end()}});
  }
  /// The same for a matrix that is there already; `dtype` is that of the weights it was made from.
  template <Code C>
  void add_layer(const std::string& name, const QuantizedMatrix<C>& matrix, std::string dtype = "F32") {
    add_layer(name, matrix.layout, matrix.seed, std::move(dtype), matrix.book);
  }
  template <std::same_as<AnyQuantizedMatrix> Any>
  void add_layer(const std::string& name, const Any& matrix, std::string dtype = "F32");
  /// Declares a tensor that is kept as it is.
  void add_tensor(TensorShape tensor) { items_.push_back({{}, {std::move(tensor)}, {}}); }
  /// Adds an entry of metadata; "format" and what begins with "higgs." are taken.
  void set_metadata(const std::string& key, std::string value);
  /// The size of the file that CheckpointWriter makes of it, header included, if it is one file.
  std::uint64_t file_bytes() const;

 private:
  friend class CheckpointWriter;
  struct Item {
    std::optional<CheckpointLayer> layer;  // none: a tensor that is kept as it is
    std::vector<TensorShape> tensors;
    std::vector<std::uint8_t> table;

    const std::string& name() const noexcept { return layer ? layer->name : tensors[0].name; }
    std::uint64_t bytes() const {
      std::uint64_t sum = 0;
      for (const TensorShape& tensor : tensors)
        sum += tensor.bytes().value_or(0);  // the writer refuses overflow
      return sum;
    }
    /// Holds the place of the longest record that finish_layer() can lead to.
    std::pair<std::string, std::string> widest_record() const {
      CheckpointLayer widest = *layer;
      widest.exponent = detail::min_exponent;
      widest.t2 = widest.weight_error = -std::numeric_limits<double>::min();
      return {std::string(detail::layer_key) + widest.name, detail::to_json(widest)};
    }
  };
  /// What each file of the checkpoint says beside its layers.
  SafetensorsWriter::Metadata file_metadata() const;
  std::vector<Item> items_;
  SafetensorsWriter::Metadata metadata_;
};

/// How a checkpoint is divided into files, and whether a killed attempt is continued.
struct CheckpointOptions {
  /// Not 0: `path` is a folder, which gets shards of at most so many bytes of tensors (or one larger layer
  /// each).
  std::uint64_t max_shard_bytes = 0;
  /// Everything that decides the bytes: the source, its date, all options. A killed attempt with the same
  /// fingerprint and contents is continued. Empty: nothing is kept of an attempt that fails.
  std::string fingerprint;
};

/// Writes a checkpoint in bounded memory: layers and tensors in any order, their rows in pieces, from any
/// threads. The files get their names at commit(); until then they are `.partial`, beside a
/// `.partial.journal` of what is finished. A kill at any moment leaves the old file, or the new one; never a
/// mixture.
class CheckpointWriter {
 public:
  /// `path` is the file to write, or its folder. A file is replaced, shards of another checkpoint are not.
  CheckpointWriter(const std::filesystem::path& path, CheckpointContents contents,
                   CheckpointOptions options = {});
  CheckpointWriter(const CheckpointWriter&) = delete;
  CheckpointWriter& operator=(const CheckpointWriter&) = delete;
  ~CheckpointWriter() {
    if (!resumable_ && !committed_ && journal_) journal_->remove();
  }

  /// Whether a layer or tensor is on the disk already, from a killed attempt or this one.
  bool finished(std::string_view name) const {
    const std::lock_guard lock(mutex_);
    return entry(name).finished;
  }

  /// Writes rows of a layer from `first_row` on: codes (n, row_bytes) and scales (n, groups), which must be
  /// finite, and in a layout with 8-bit scales such as these stand for.
  void write_rows(std::string_view name, std::int64_t first_row, std::span<const std::uint8_t> codes,
                  std::span<const Half> scales);
  /// Writes the input scales (cols) of a layer whose layout has them; they must be finite.
  void write_input_scales(std::string_view name, std::span<const Half> input_scales);
  /// Declares a layer complete, with what is known only by then (errors as in QuantizedMatrix, NaN if
  /// unknown). It will not be asked for again after a kill.
  void finish_layer(std::string_view name, int exponent, double t2,
                    double weight_error = std::numeric_limits<double>::quiet_NaN());
  /// Writes a whole layer at once and finishes it; it must be cut as declared.
  template <Code C>
  void write_layer(std::string_view name, const QuantizedMatrix<C>& matrix) {
    const CheckpointContents::Item& item = layer_item(unfinished(name), name);
    const auto same = [&](bool ok, const char* what) {
      expects(ok, [&] {
        return place("write_layer", name) + "the matrix has another " + what +
               " than the layer was declared with";
      });
    };
    same(item.layer->codebook == C::name(), "codebook");
    same(item.layer->layout == matrix.layout, "layout");
    same(item.layer->seed == matrix.seed, "seed");
    const std::vector<typename C::Element> points = detail::points_of(matrix.book);
    const auto table = detail::bytes_of(std::span<const typename C::Element>(points));
    same(std::equal(table.begin(), table.end(), item.table.begin(), item.table.end()), "table of points");
    write_rows(name, 0, matrix.codes, matrix.scales);
    if (matrix.layout.input_scales) write_input_scales(name, matrix.input_scales);
    finish_layer(name, matrix.exponent, matrix.t2, matrix.weight_error);
  }
  template <std::same_as<AnyQuantizedMatrix> Any>
  void write_layer(std::string_view name, const Any& matrix);

  /// Writes bytes of a tensor that is kept as it is, from byte `offset` on.
  void write_tensor(std::string_view name, std::uint64_t offset, std::span<const std::uint8_t> bytes) {
    const Entry& at = unfinished(name);
    shards_[at.shard].writer->write(name, offset, bytes);
  }
  /// Declares a tensor complete.
  void finish_tensor(std::string_view name);

  /// Gives the files their names, the index last. Every layer and tensor must be finished.
  void commit();

 private:
  static constexpr const char* publishing = "{}";

  struct Shard {
    std::filesystem::path path;
    std::vector<TensorShape> tensors;
    SafetensorsWriter::Metadata metadata;
    std::unique_ptr<SafetensorsWriter> writer;  // null: has its name already
    std::uint64_t bytes = 0;
  };
  struct Entry {
    std::size_t item, shard;
    bool finished = false;
  };

  static std::string layer_key(std::string_view name) {
    return std::string(detail::layer_key) + std::string(name);
  }

  // How a message about a layer or tensor begins.
  static std::string place(const char* function, std::string_view name) {
    return detail::sentence("higgs::CheckpointWriter::", function, ": \"", name, "\": ");
  }

  const Entry& entry(std::string_view name) const;
  const Entry& unfinished(std::string_view name) const;
  const CheckpointContents::Item& layer_item(const Entry& at, std::string_view name) const;
  CheckpointContents::Item& layer_item(const Entry& at, std::string_view name) {
    return const_cast<CheckpointContents::Item&>(std::as_const(*this).layer_item(at, name));
  }
  void expect_all_finished() const;

  // Deals the items out in the order of their declaration; a layer stays together.
  void divide(std::uint64_t max_bytes);

  void name_files(const std::filesystem::path& path, bool folder);

  // A hash of the caller's text and of all declarations.
  std::uint64_t fingerprint(std::string_view text) const;

  // Continues a killed attempt of that title, or begins anew. The first line of a journal ends with a number
  // that also stands in its partial files: a journal can never speak for the bytes of another attempt.
  void open_files(const std::string& title);

  // A folder holds one checkpoint: half of another one's shards must not be replaced.
  void refuse_other_checkpoint();

  // Takes up what a line of the journal says is finished.
  void recall(const std::string& line);

  void finish(std::string_view name, const std::string& record);

  void write_index() const;

  CheckpointContents contents_;
  bool resumable_;
  bool committed_ = false;
  std::filesystem::path main_file_;  // the file, or the index of the shards
  std::vector<Shard> shards_;
  std::map<std::string, Entry, std::less<>> entries_;
  mutable std::mutex mutex_;  // guards `finished` and the journal
  std::optional<Journal> journal_;
};

template <std::same_as<AnyQuantizedMatrix> Any>
void CheckpointContents::add_layer(const std::string& name, const Any& matrix, std::string dtype) {
  matrix.visit([&](const auto& each) { add_layer(name, each, std::move(dtype)); });
}

template <std::same_as<AnyQuantizedMatrix> Any>
void CheckpointWriter::write_layer(std::string_view name, const Any& matrix) {
  matrix.visit([&](const auto& each) { write_layer(name, each); });
}

#if HIGGS_DEFINITIONS

HIGGS_INLINE void CheckpointContents::set_metadata(const std::string& key, std::string value) {
  expects(key != "format" && !key.starts_with("higgs."),
          [&] { return "higgs::CheckpointContents::set_metadata: the key \"" + key + "\" is taken"; });
  metadata_.insert_or_assign(key, std::move(value));
}

HIGGS_INLINE std::uint64_t CheckpointContents::file_bytes() const {
  std::vector<TensorShape> tensors;
  SafetensorsWriter::Metadata metadata = file_metadata();
  for (const Item& item : items_) {
    tensors.insert(tensors.end(), item.tensors.begin(), item.tensors.end());
    if (item.layer) metadata.insert(item.widest_record());
  }
  return SafetensorsWriter::file_bytes(std::move(tensors), metadata);
}

HIGGS_INLINE SafetensorsWriter::Metadata CheckpointContents::file_metadata() const {
  SafetensorsWriter::Metadata out = metadata_;
  out.emplace("format", "higgs");
  out.emplace("higgs.version", std::to_string(detail::checkpoint_version));
  return out;
}

HIGGS_INLINE CheckpointWriter::CheckpointWriter(const std::filesystem::path& path,
                                                CheckpointContents contents, CheckpointOptions options)
    : contents_(std::move(contents)), resumable_(!options.fingerprint.empty()) {
  divide(options.max_shard_bytes);
  name_files(path, options.max_shard_bytes != 0);
  journal_.emplace(FileWriter::partial_path(main_file_) += ".journal");
  open_files("higgs " + std::to_string(fingerprint(options.fingerprint)) + " ");
}

HIGGS_INLINE void CheckpointWriter::write_rows(std::string_view name, std::int64_t first_row,
                                               std::span<const std::uint8_t> codes,
                                               std::span<const Half> scales) {
  const Entry& at = unfinished(name);
  const auto& item = layer_item(at, name);
  const auto row_bytes = static_cast<std::uint64_t>(item.tensors[0].shape[1]);
  const auto groups = static_cast<std::uint64_t>(item.layer->layout.groups());
  const auto declared = static_cast<std::uint64_t>(item.layer->layout.rows);
  const std::uint64_t rows = scales.size() / groups;
  expects(scales.size() == rows * groups && codes.size() == rows * row_bytes && first_row >= 0 &&
              rows <= declared && static_cast<std::uint64_t>(first_row) <= declared - rows,
          [&] {
            return place("write_rows", name) +
                   detail::sentence(codes.size(), " bytes of codes and ", scales.size(), " scales from row ",
                                    first_row, " on are not whole rows of the layer: it has ", declared,
                                    " of ", row_bytes, " bytes and ", groups, " scales");
          });
  expects(detail::all_finite(scales),
          [&] { return place("write_rows", name) + "a scale is NaN or infinite"; });
  const auto first = static_cast<std::uint64_t>(first_row);
  const bool log8 = item.layer->layout.scale_format == ScaleFormat::Log8;
  std::vector<std::uint8_t> log8_scales;
  for (std::size_t i = 0; log8 && i < scales.size(); ++i) {
    const Log8 rounded(static_cast<double>(static_cast<float>(scales[i])));
    expects(static_cast<Half>(rounded) == scales[i],
            [&] { return place("write_rows", name) + "the layout has 8-bit scales, but these are others"; });
    log8_scales.push_back(rounded.code);
  }
  SafetensorsWriter& file = *shards_[at.shard].writer;
  file.write(item.tensors[0].name, first * row_bytes, codes);
  file.write(item.tensors[1].name,
             first * groups * static_cast<std::uint64_t>(item.layer->layout.scale_bytes()),
             log8 ? log8_scales : detail::bytes_of(scales));
}

HIGGS_INLINE void CheckpointWriter::write_input_scales(std::string_view name,
                                                       std::span<const Half> input_scales) {
  const Entry& at = unfinished(name);
  const auto& item = layer_item(at, name);
  const std::int64_t due = item.layer->layout.input_scales ? item.layer->layout.cols : 0;
  expects(due != 0 && std::ssize(input_scales) == due, [&] {
    return place("write_input_scales", name) +
           detail::sentence(input_scales.size(), " input scales, but its layout has ", due);
  });
  expects(detail::all_finite(input_scales),
          [&] { return place("write_input_scales", name) + "an input scale is NaN or infinite"; });
  shards_[at.shard].writer->write(item.tensors[3].name, 0, detail::bytes_of(input_scales));
}

HIGGS_INLINE void CheckpointWriter::finish_layer(std::string_view name, int exponent, double t2,
                                                 double weight_error) {
  auto& item = layer_item(unfinished(name), name);
  expects(exponent >= detail::min_exponent && exponent <= detail::max_exponent, [&] {
    return place("finish_layer", name) + detail::sentence("the exponent ", exponent, " is not in [",
                                                          detail::min_exponent, ", ", detail::max_exponent,
                                                          "]");
  });
  for (const double error : {t2, weight_error})
    expects(std::isnan(error) || (error >= 0 && std::isfinite(error)), [&] {
      return place("finish_layer", name) + "an error is " + std::to_string(error) +
             ", but must be finite and not negative, or NaN";
    });
  item.layer->exponent = exponent;
  item.layer->t2 = t2;
  item.layer->weight_error = weight_error;
  finish(name, ",\"exponent\":" + std::to_string(exponent) + ",\"t2\":" + detail::json_number(t2) +
                   ",\"weight_error\":" + detail::json_number(weight_error));
}

HIGGS_INLINE void CheckpointWriter::finish_tensor(std::string_view name) {
  expects(!contents_.items_[unfinished(name).item].layer,
          [&] { return place("finish_tensor", name) + "it was declared as a layer"; });
  finish(name, "");
}

HIGGS_INLINE void CheckpointWriter::commit() {
  expect_all_finished();
  for (const auto& [name, at] : entries_) {
    const auto& layer = contents_.items_[at.item].layer;
    if (layer && shards_[at.shard].writer)
      shards_[at.shard].writer->set_metadata(layer_key(name), detail::to_json(*layer));
  }
  if (resumable_) journal_->append(publishing);
  for (Shard& shard : shards_)
    if (shard.writer) shard.writer->commit();
  if (shards_.size() > 1) write_index();
  journal_->remove();
  committed_ = true;
}

HIGGS_INLINE const CheckpointWriter::Entry& CheckpointWriter::entry(std::string_view name) const {
  const auto found = entries_.find(name);
  expects(found != entries_.end(), [&] {
    return detail::sentence("higgs::CheckpointWriter: no layer or tensor \"", name, "\" was declared");
  });
  return found->second;
}

HIGGS_INLINE const CheckpointWriter::Entry& CheckpointWriter::unfinished(std::string_view name) const {
  expects(!finished(name), [&] {
    return detail::sentence("higgs::CheckpointWriter: \"", name,
                            "\" is finished and must not be written again");
  });
  return entry(name);
}

HIGGS_INLINE const CheckpointContents::Item& CheckpointWriter::layer_item(const Entry& at,
                                                                          std::string_view name) const {
  const CheckpointContents::Item& item = contents_.items_[at.item];
  expects(item.layer.has_value(), [&] {
    return detail::sentence("higgs::CheckpointWriter: \"", name,
                            "\" was declared as a tensor, not as a layer");
  });
  return item;
}

HIGGS_INLINE void CheckpointWriter::expect_all_finished() const {
  const auto open = [](const auto& each) { return !each.second.finished; };
  const auto first = std::find_if(entries_.begin(), entries_.end(), open);
  expects(first == entries_.end(), [&] {
    const auto count = std::count_if(entries_.begin(), entries_.end(), open);
    return detail::sentence("higgs::CheckpointWriter::commit: ", count, " of ", entries_.size(),
                            " layers and tensors are not finished, the first is \"", first->first, "\"");
  });
}

HIGGS_INLINE void CheckpointWriter::divide(std::uint64_t max_bytes) {
  shards_.emplace_back();
  for (std::size_t i = 0; i < contents_.items_.size(); ++i) {
    const auto& item = contents_.items_[i];
    if (max_bytes != 0 && shards_.back().bytes != 0 && shards_.back().bytes + item.bytes() > max_bytes)
      shards_.emplace_back();
    Shard& shard = shards_.back();
    shard.bytes += item.bytes();
    shard.tensors.insert(shard.tensors.end(), item.tensors.begin(), item.tensors.end());
    if (item.layer) shard.metadata.insert(item.widest_record());
    expects(entries_.try_emplace(item.name(), Entry{i, shards_.size() - 1}).second,
            [&] { return "higgs::CheckpointWriter: \"" + item.name() + "\" was declared twice"; });
  }
  std::set<std::string_view> names;
  for (Shard& shard : shards_) {
    for (const TensorShape& tensor : shard.tensors)
      expects(names.insert(tensor.name).second,
              [&] { return "higgs::CheckpointWriter: two tensors would be named \"" + tensor.name + "\""; });
    shard.metadata.merge(contents_.file_metadata());
  }
}

HIGGS_INLINE void CheckpointWriter::name_files(const std::filesystem::path& path, bool folder) {
  std::error_code error;
  if (folder) std::filesystem::create_directories(path, error);
  if (error) detail::throw_io(path, "cannot be made", error.value());
  main_file_ = detail::is_folder(path) ? path / "model.safetensors" : path;
  if (shards_.size() == 1) {
    shards_[0].path = main_file_;
    return;
  }
  const auto digits = [](std::size_t number) {
    const std::string text = std::to_string(number);
    return std::string(text.size() < 5 ? 5 - text.size() : 0, '0') + text;
  };
  for (std::size_t i = 0; i < shards_.size(); ++i)
    shards_[i].path = path / ("model-" + digits(i + 1) + "-of-" + digits(shards_.size()) + ".safetensors");
  main_file_ = path / "model.safetensors.index.json";
}

HIGGS_INLINE std::uint64_t CheckpointWriter::fingerprint(std::string_view text) const {
  std::uint64_t hash = hash_text(text);
  const auto add = [&](std::string_view part) {
    hash = hash_text(part, hash_text(std::to_string(part.size()) + ":", hash));
  };
  for (const Shard& shard : shards_) {
    for (const auto& [key, value] : shard.metadata) add(key), add(value);
    for (const TensorShape& tensor : shard.tensors) {
      add(tensor.name), add(dtype_name(tensor.dtype));
      for (const std::int64_t extent : tensor.shape) add(std::to_string(extent));
    }
    add("end of shard");
  }
  for (const auto& item : contents_.items_)
    add({reinterpret_cast<const char*>(item.table.data()), item.table.size()});
  return hash;
}

HIGGS_INLINE void CheckpointWriter::open_files(const std::string& title) {
  const std::vector<std::string>& lines = journal_->lines();
  bool ours = resumable_ && !lines.empty() && lines.front().starts_with(title);
  const bool published = ours && lines.back() == publishing;
  const auto has_name = [&](const Shard& shard) {
    return published && shards_.size() > 1 && detail::exists(shard.path) &&
           !detail::exists(FileWriter::partial_path(shard.path));
  };
  for (const Shard& shard : shards_) {
    const auto mark = SafetensorsWriter::mark_of(shard.path);
    // Once published, a header may stand in place of the mark.
    ours =
        ours && (has_name(shard) || (mark && (published || lines.front() == title + std::to_string(*mark))));
  }
  if (shards_.size() > 1 && !(ours && published)) refuse_other_checkpoint();
  if (!ours) journal_->clear();
  for (Shard& shard : shards_)
    if (!ours || !has_name(shard))
      shard.writer = std::make_unique<SafetensorsWriter>(shard.path, shard.tensors, shard.metadata,
                                                         ours         ? Leftover::Continue
                                                         : resumable_ ? Leftover::Keep
                                                                      : Leftover::Discard);
  if (ours) {
    for (std::size_t i = 1; i < lines.size(); ++i)
      if (lines[i] != publishing) recall(lines[i]);
  } else if (resumable_) {
    std::random_device random;
    const std::uint64_t mark = std::uint64_t{random()} << 32 | random();
    for (Shard& shard : shards_) shard.writer->mark(mark);
    journal_->append(title + std::to_string(mark));
  }
  for (const auto& [name, at] : entries_)
    if (const auto& item = contents_.items_[at.item]; item.layer && !at.finished)
      shards_[at.shard].writer->write(item.tensors[2].name, 0, item.table);
}

HIGGS_INLINE void CheckpointWriter::refuse_other_checkpoint() {
  const auto refuse = [&](const std::filesystem::path& path) {
    if (!detail::exists(path)) return;
    if (journal_->lines().empty()) journal_->remove();  // made by this attempt
    detail::throw_io(path, "is there already; remove it or choose another folder", 0);
  };
  refuse(main_file_);
  refuse(main_file_.parent_path() / "model.safetensors");
  for (const Shard& shard : shards_) refuse(shard.path);
}

HIGGS_INLINE void CheckpointWriter::recall(const std::string& line) {
  const Json json = Json::parse(line, journal_->path().string());
  const Json* name = json.find("name");
  const auto found = name && name->string() ? entries_.find(*name->string()) : entries_.end();
  if (found == entries_.end()) throw FormatError(journal_->path().string() + ": names what was not declared");
  auto& item = contents_.items_[found->second.item];
  if (item.layer) {
    const Json* exponent = json.find("exponent");
    item.layer->exponent = exponent ? static_cast<int>(exponent->integer().value_or(0)) : 0;
    if (const Json* t2 = json.find("t2"); t2 && t2->number()) item.layer->t2 = *t2->number();
    if (const Json* error = json.find("weight_error"); error && error->number())
      item.layer->weight_error = *error->number();
  }
  if (SafetensorsWriter* file = shards_[found->second.shard].writer.get())
    for (const TensorShape& tensor : item.tensors) file->assume_written(tensor.name);
  found->second.finished = true;
}

HIGGS_INLINE void CheckpointWriter::finish(std::string_view name, const std::string& record) {
  Entry& at = entries_.find(name)->second;
  SafetensorsWriter& file = *shards_[at.shard].writer;
  for (const TensorShape& tensor : contents_.items_[at.item].tensors)
    expects(file.complete(tensor.name), [&] {
      return "higgs::CheckpointWriter: \"" + tensor.name + "\" must be written whole before it is finished";
    });
  if (resumable_) file.sync();  // the journal speaks only of what is on the disk
  const std::lock_guard lock(mutex_);
  if (resumable_) journal_->append("{\"name\":" + detail::json_quote(name) + record + "}");
  at.finished = true;
}

HIGGS_INLINE void CheckpointWriter::write_index() const {
  std::map<std::string, std::string> files;
  std::uint64_t total = 0;
  for (const Shard& shard : shards_) {
    total += shard.bytes;
    for (const TensorShape& tensor : shard.tensors) files[tensor.name] = shard.path.filename().string();
  }
  std::string text = "{\"metadata\":{\"total_size\":" + std::to_string(total) + "},\n\"weight_map\":{";
  for (const auto& [tensor, file] : files)
    text += (text.back() == '{' ? "\n" : ",\n") + detail::json_quote(tensor) + ":" + detail::json_quote(file);
  text += "}}\n";
  FileWriter index(main_file_, text.size());
  index.write(0, {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()});
  index.commit();
}

#endif

}  // namespace v0
}  // namespace higgs
