// SPDX-License-Identifier: Apache-2.0
#include "terminal/output.hpp"

#include "terminal/interrupt.hpp"
#include "terminal/progress.hpp"

#include <higgs/core/error.hpp>
#include <higgs/store/mapped_file.hpp>

#include <fstream>
#include <iostream>
#include <optional>
#include <set>
#include <system_error>
#include <utility>

namespace higgs::model {
namespace {

namespace fs = std::filesystem;

// Results are small: tables, plans, pages.
constexpr std::uint64_t expected_bytes = 1 << 20;

// The files that are being written; an entry is the same for every spelling of a path.
std::set<fs::path>& open_paths() {
  static std::set<fs::path> paths;
  return paths;
}

// The files that the command reads, spelled alike.
std::set<fs::path>& input_paths() {
  static std::set<fs::path> paths;
  return paths;
}

fs::path identity_of(const fs::path& path) {
  std::error_code ignored;
  return fs::weakly_canonical(fs::absolute(path), ignored);
}

bool is_device(const fs::path& path) {
  std::error_code ignored;
  const fs::file_status status = fs::status(path, ignored);
  return fs::exists(status) && !fs::is_regular_file(status) && !fs::is_directory(status);
}

}  // namespace

struct Output::Target {
  fs::path path;
  fs::path identity;                // in open_paths(), or empty
  std::ofstream device;             // open for devices and pipes alone
  std::optional<FileWriter> probe;  // holds the name and its lock until the content is known
  std::optional<RemovedOnInterrupt> partial;

  explicit Target(const fs::path& name) : path(name) {
    if (path == "-") return;
    if (is_device(path)) {
      device.open(path, std::ios::binary);
      if (!device) throw IoError(path.string() + ": cannot be opened for writing");
      return;
    }
    identity = identity_of(path);
    if (input_paths().contains(identity)) {
      identity.clear();
      throw InvalidArgument(path.string() +
                            ": is read by this command, whose result would replace it; choose another file");
    }
    if (!open_paths().insert(identity).second) {
      identity.clear();
      throw InvalidArgument(path.string() + ": is named for two results of one command");
    }
    try {
      open();
    } catch (...) {
      open_paths().erase(identity);
      throw;
    }
  }
  ~Target() { open_paths().erase(identity); }

  void open() {
    if (fs::is_directory(path)) throw IoError(path.string() + ": is a folder; a file is wanted");
    const fs::path folder = path.has_parent_path() ? path.parent_path() : ".";
    if (!fs::exists(folder)) throw IoError(path.string() + ": there is no folder " + folder.string());
    require_space(path, expected_bytes);
    probe.emplace(path, 0);
    partial.emplace(FileWriter::partial_path(probe->path()));
  }

  void write(std::string_view content) {
    std::ostream* stream = path == "-" ? &std::cout : device.is_open() ? &device : nullptr;
    if (stream) {
      *stream << content << std::flush;
      if (!*stream)
        throw IoError((path == "-" ? "the standard output" : path.string()) + " cannot be written");
      return;
    }
    const fs::path resolved = probe->path();
    probe.reset();
    FileWriter file(resolved, content.size());
    file.write(0, {reinterpret_cast<const std::uint8_t*>(content.data()), content.size()});
    file.commit();
  }
};

Output::Output() = default;
Output::Output(Output&&) noexcept = default;
Output& Output::operator=(Output&&) noexcept = default;
Output::~Output() = default;

Output::Output(const fs::path& path) : target_(path.empty() ? nullptr : std::make_unique<Target>(path)) {}

void Output::commit(std::string_view content) {
  if (!target_) return;
  target_->write(content);
  target_.reset();
  on_interrupt(Interrupted::PartWritten);
}

void keep_input(const fs::path& file) { input_paths().insert(identity_of(file)); }

fs::path nearest_folder(const fs::path& path) {
  std::error_code error;
  fs::path folder = fs::absolute(path, error);
  while (!folder.empty() && folder != folder.root_path() && !fs::exists(folder, error))
    folder = folder.parent_path();
  return folder;
}

std::optional<std::uint64_t> free_space(const fs::path& path) {
  std::error_code error;
  const fs::space_info space = fs::space(nearest_folder(path), error);
  if (error || space.available == static_cast<std::uintmax_t>(-1)) return std::nullopt;
  return space.available;
}

void require_space(const fs::path& path, std::uint64_t bytes) {
  const std::optional<std::uint64_t> free = free_space(path);
  if (free && *free < bytes)
    throw IoError(path.string() + ": " + with_unit(static_cast<double>(bytes), "B") + " are needed, and " +
                  with_unit(static_cast<double>(*free), "B") + " are free on its disk");
}

}  // namespace higgs::model
