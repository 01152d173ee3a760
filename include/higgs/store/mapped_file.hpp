// SPDX-License-Identifier: Apache-2.0
// Files as memory for reading, and files that appear complete or not at all for writing.
#pragma once

#include <higgs/core/error.hpp>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <limits>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#if !defined(HIGGS_NO_POSIX_FILES) && __has_include(<sys/mman.h>) && __has_include(<unistd.h>)
#  define HIGGS_POSIX_FILES 1
#  include <fcntl.h>
#  include <sys/file.h>
#  include <sys/mman.h>
#  include <sys/stat.h>
#  include <unistd.h>
#else
#  define HIGGS_POSIX_FILES 0
#  include <fstream>
#  include <new>
#endif

static_assert(std::endian::native == std::endian::little,
              "higgs reads files in place: they are little-endian");

namespace higgs {
inline namespace v0 {

namespace detail {
[[noreturn]] HIGGS_INLINE void throw_io(const std::filesystem::path& path, std::string_view what,
                                        int error = errno);

inline bool exists(const std::filesystem::path& path) noexcept {
  std::error_code ignored;  // what cannot be seen cannot be used either
  return std::filesystem::exists(path, ignored);
}
inline bool is_folder(const std::filesystem::path& path) noexcept {
  std::error_code ignored;
  return std::filesystem::is_directory(path, ignored);
}

HIGGS_INLINE bool is_text(std::span<const std::uint8_t> bytes) noexcept;

// What is wrong with a file that begins with these bytes and was taken for weights of a model: the end of a sentence
// that begins with the file's name.
HIGGS_INLINE std::string describe_foreign(std::span<const std::uint8_t> bytes);
}  // namespace detail

/// A whole file as read-only memory: mapped, or read where the machine cannot map. Whoever shortens the file
/// meanwhile breaks the mapping, as everywhere; writing a new file and renaming it over the old one does not.
class MappedFile {
 public:
  /// Throws IoError if `path` is not a regular file that may be read.
  explicit MappedFile(std::filesystem::path path) : path_(std::move(path)) { open(); }
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile() {
#if HIGGS_POSIX_FILES
    if (size_ != 0) ::munmap(const_cast<std::uint8_t*>(data_), size_);
#else
    ::operator delete[](const_cast<std::uint8_t*>(data_), std::align_val_t{64});
#endif
  }

  /// Shared, so that views into the file can keep it alive.
  static std::shared_ptr<const MappedFile> open(std::filesystem::path path) {
    return std::make_shared<const MappedFile>(std::move(path));
  }

  const std::filesystem::path& path() const noexcept { return path_; }
  /// All bytes; they start at a multiple of 64.
  std::span<const std::uint8_t> bytes() const noexcept { return {data_, size_}; }

 private:
#if HIGGS_POSIX_FILES
  void open() {
    struct Descriptor {
      int value;
      ~Descriptor() {
        if (value >= 0) ::close(value);
      }
    };
    // O_NONBLOCK: opening a pipe must not wait.
    const Descriptor file{::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
    struct stat status = {};
    if (file.value < 0 || ::fstat(file.value, &status) != 0) detail::throw_io(path_, "cannot be opened");
    if (!S_ISREG(status.st_mode)) detail::throw_io(path_, "is not a regular file", 0);
    if (static_cast<std::uint64_t>(status.st_size) > std::numeric_limits<std::size_t>::max() / 2)
      detail::throw_io(path_, "is larger than the address space", 0);
    if (status.st_size == 0) return;  // an empty mapping is an error
    const auto size = static_cast<std::size_t>(status.st_size);
    void* data = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.value, 0);
    if (data == MAP_FAILED) detail::throw_io(path_, "cannot be mapped");
    data_ = static_cast<const std::uint8_t*>(data);
    size_ = size;
  }
#else
  void open() {
    std::error_code error;
    const auto size = static_cast<std::size_t>(std::filesystem::file_size(path_, error));
    if (error) detail::throw_io(path_, "is not a regular file", error.value());
    std::ifstream file(path_, std::ios::binary);
    auto* data = static_cast<std::uint8_t*>(::operator new[](size, std::align_val_t{64}));
    data_ = data;
    size_ = size;
    if (!file.read(reinterpret_cast<char*>(data), static_cast<std::streamsize>(size))) {
      ::operator delete[](data, std::align_val_t{64});
      detail::throw_io(path_, "cannot be read", 0);
    }
  }
#endif

  std::filesystem::path path_;
  const std::uint8_t* data_ = nullptr;
  std::size_t size_ = 0;
};

/// Tells the system that bytes of a mapping are not needed soon, so that streaming through a file of any size keeps
/// little of it in memory. They stay readable.
HIGGS_INLINE void release_pages(std::span<const std::uint8_t> bytes) noexcept;

namespace detail {

/// A file open for writing at any offset; one process at a time. Every failure throws IoError.
class OutputFile {
 public:
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;
  const std::filesystem::path& path() const noexcept { return path_; }

#if HIGGS_POSIX_FILES
  explicit OutputFile(std::filesystem::path path) : path_(std::move(path)) {
    file_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0666);
    if (file_ < 0) throw_io(path_, "cannot be opened for writing");
    // The lock tells a living writer from what a killed one left behind. Some file systems have no locks.
    const bool locked = ::flock(file_, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK;
    struct stat mine = {}, named = {};
    // A writer that finished between our open and our lock has renamed the file that we hold.
    const bool same = ::fstat(file_, &mine) == 0 && ::stat(path_.c_str(), &named) == 0 &&
                      mine.st_ino == named.st_ino && mine.st_dev == named.st_dev && S_ISREG(mine.st_mode);
    if (!locked || !same) {
      ::close(file_);
      throw_io(path_,
               locked ? "is no regular file, or not there any more" : "is being written by another process",
               0);
    }
  }
  ~OutputFile() {
    if (file_ >= 0) ::close(file_);
  }

  std::uint64_t size() const {
    struct stat status = {};
    if (::fstat(file_, &status) != 0) throw_io(path_, "cannot be examined");
    return static_cast<std::uint64_t>(status.st_size);
  }

  /// Cuts or extends the file and reserves the space, so that a full disk is known before the work begins.
  void resize(std::uint64_t size) {
    if (size > static_cast<std::uint64_t>(std::numeric_limits<off_t>::max()))
      throw_io(path_, "too large", EFBIG);
    if (::ftruncate(file_, static_cast<off_t>(size)) != 0) throw_io(path_, "cannot be resized");
#  if defined(__linux__)
    while (size > 0 && ::fallocate(file_, 0, 0, static_cast<off_t>(size)) != 0) {
      if (errno == EOPNOTSUPP || errno == ENOSYS) break;
      if (errno != EINTR) throw_io(path_, "cannot reserve " + std::to_string(size) + " bytes");
    }
#  endif
  }

  void write(std::uint64_t offset, std::span<const std::uint8_t> bytes) {
    while (!bytes.empty()) {
      const ::ssize_t done = ::pwrite(file_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
      if (done < 0 && errno == EINTR) continue;
      if (done <= 0) throw_io(path_, "cannot be written", done < 0 ? errno : ENOSPC);
      offset += static_cast<std::uint64_t>(done);
      bytes = bytes.subspan(static_cast<std::size_t>(done));
    }
  }

  void sync() {
    if (::fsync(file_) != 0) throw_io(path_, "cannot be brought to the disk");
  }
  /// Replaces `path` by this file and closes it. The lock is held until then: nobody else may begin anew
  /// meanwhile.
  void rename_to(const std::filesystem::path& path) {
    sync();
    if (std::rename(path_.c_str(), path.c_str()) != 0) throw_io(path, "cannot be replaced");
    if (::close(std::exchange(file_, -1)) != 0) throw_io(path, "cannot be closed");
    // The new name must survive a power cut too. A folder may be written and not read.
    const auto folder = path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
    const int file = ::open(folder.c_str(), O_RDONLY | O_CLOEXEC);
    if (file < 0) return;
    const int error = ::fsync(file) == 0 ? 0 : errno;
    ::close(file);
    if (error != 0 && error != EINVAL) throw_io(folder, "cannot be brought to the disk", error);
  }

 private:
  std::filesystem::path path_;
  int file_ = -1;
#else
  explicit OutputFile(std::filesystem::path path) : path_(std::move(path)) {
    file_.open(path_, std::ios::binary | std::ios::app);
    file_.close();
    file_.open(path_, std::ios::binary | std::ios::in | std::ios::out);
    check("cannot be opened for writing");
  }
  std::uint64_t size() const {
    std::error_code error;
    const std::uintmax_t size = std::filesystem::file_size(path_, error);
    if (error) throw_io(path_, "cannot be examined", error.value());
    return size;
  }
  void resize(std::uint64_t size) {
    std::error_code error;
    std::filesystem::resize_file(path_, size, error);
    if (error) throw_io(path_, "cannot be resized to " + std::to_string(size) + " bytes", error.value());
  }
  void write(std::uint64_t offset, std::span<const std::uint8_t> bytes) {
    const std::lock_guard lock(mutex_);
    file_.seekp(static_cast<std::streamoff>(offset));
    file_.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    check("cannot be written");
  }
  void sync() {
    const std::lock_guard lock(mutex_);
    file_.flush();
    check("cannot be written");
  }
  void rename_to(const std::filesystem::path& path) {
    file_.close();
    check("cannot be closed");
    std::error_code error;
    std::filesystem::rename(path_, path, error);
    if (error) throw_io(path, "cannot be replaced", error.value());
  }

 private:
  void check(const char* what) const {
    if (!file_) throw_io(path_, what, 0);
  }
  std::filesystem::path path_;
  std::fstream file_;
  std::mutex mutex_;
#endif
};

}  // namespace detail

/// What becomes of `.partial` files. Discard and Keep begin anew, Continue goes on with the bytes that a
/// killed writer left. Without commit(), Discard removes the file; Keep and Continue leave it for the next
/// attempt.
enum class Leftover { Discard, Keep, Continue };

/// Writes `path` so that it appears complete or not at all: the bytes go to `path`.partial, which commit()
/// renames. Without commit(), `path` stays as it was.
class FileWriter {
 public:
  /// Makes the partial file, `size` bytes long. Throws IoError, with the path and the reason.
  FileWriter(const std::filesystem::path& path, std::uint64_t size, Leftover leftover = Leftover::Discard);
  FileWriter(const FileWriter&) = delete;
  FileWriter& operator=(const FileWriter&) = delete;
  ~FileWriter() {
    std::error_code ignored;
    if (!committed_ && leftover_ == Leftover::Discard) std::filesystem::remove(file_.path(), ignored);
  }

  static std::filesystem::path partial_path(const std::filesystem::path& path) {
    return std::filesystem::path(path) += ".partial";
  }
  const std::filesystem::path& path() const noexcept { return path_; }
  std::uint64_t size() const noexcept { return size_; }

  /// Threads may write disjoint ranges at once.
  void write(std::uint64_t offset, std::span<const std::uint8_t> bytes);
  /// Returns when all bytes written so far are on the disk.
  void sync() { file_.sync(); }
  /// Gives the file its name.
  void commit();

 private:
  FileWriter(std::filesystem::path path, Leftover leftover)
      : path_(std::move(path)), file_(partial_path(path_)), leftover_(leftover) {}

  // A link keeps pointing at the new file, and nothing but a regular file is ever replaced.
  static std::filesystem::path resolve(const std::filesystem::path& path);

  std::filesystem::path path_;
  detail::OutputFile file_;
  Leftover leftover_;
  std::uint64_t size_ = 0;
  bool committed_ = false;
};

#if HIGGS_DEFINITIONS

namespace detail {

[[noreturn]] HIGGS_INLINE void throw_io(const std::filesystem::path& path, std::string_view what, int error) {
  std::string message = path.string() + ": " + std::string(what);
  if (error != 0) message += ": " + std::generic_category().message(error);
  throw IoError(message);
}

HIGGS_INLINE bool is_text(std::span<const std::uint8_t> bytes) noexcept {
  return std::all_of(bytes.begin(), bytes.end(), [](std::uint8_t byte) {
    return (byte >= ' ' && byte <= '~') || byte == '\n' || byte == '\r' || byte == '\t';
  });
}

HIGGS_INLINE std::string describe_foreign(std::span<const std::uint8_t> bytes) {
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()),
                              std::min<std::size_t>(bytes.size(), 40));
  if (text.empty()) return "is empty";
  if (text.starts_with("version https://git-lfs"))
    return "is a Git LFS pointer, not the file itself: run git lfs pull";
  std::string out = "is not a safetensors or GGUF file (it begins with ";
  if (is_text(bytes.first(std::min<std::size_t>(bytes.size(), 4)))) {
    const auto end = std::find_if(text.begin(), text.end(), [](char c) { return c < ' ' || c > '~'; });
    out.append("\"").append(text.begin(), end).append("\"");
  } else {
    out += "the bytes";
    for (const std::uint8_t byte : bytes.first(std::min<std::size_t>(bytes.size(), 8)))
      out.append(" ").append({"0123456789abcdef"[byte >> 4], "0123456789abcdef"[byte & 15]});
  }
  if (text.starts_with("PK\3\4"))
    out += ", as zip archives and the files of PyTorch do: save the model as safetensors";
  else if (text.starts_with("\x80") && text.size() > 1 && text[1] >= 2 && text[1] <= 5)
    out += ", as pickled files of Python do: save the model as safetensors";
  else if (text.starts_with("\x1f\x8b"))
    out += ", as files compressed by gzip do: unpack it";
  else if (text.starts_with("<"))
    out += ", as web pages do: was the download refused?";
  return out + ")";
}

}  // namespace detail

HIGGS_INLINE void release_pages(std::span<const std::uint8_t> bytes) noexcept {
#  if HIGGS_POSIX_FILES && defined(MADV_PAGEOUT)
  const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto begin = (reinterpret_cast<std::uintptr_t>(bytes.data()) + page - 1) / page * page;
  const auto end = (reinterpret_cast<std::uintptr_t>(bytes.data()) + bytes.size()) / page * page;
  if (begin < end) ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_PAGEOUT);
#  else
  static_cast<void>(bytes);
#  endif
}

HIGGS_INLINE FileWriter::FileWriter(const std::filesystem::path& path, std::uint64_t size, Leftover leftover)
    : FileWriter(resolve(path), leftover) {
  if (leftover != Leftover::Continue) {
    file_.resize(0);
    file_.resize(size);
  } else if (file_.size() != size) {
    detail::throw_io(file_.path(), "has another size than what is to be continued; remove it", 0);
  }
  size_ = size;
}

HIGGS_INLINE void FileWriter::write(std::uint64_t offset, std::span<const std::uint8_t> bytes) {
  expects(!committed_ && offset <= size_ && bytes.size() <= size_ - offset,
          "higgs::FileWriter::write: the bytes must lie within the declared size, before commit()");
  file_.write(offset, bytes);
}

HIGGS_INLINE void FileWriter::commit() {
  expects(!committed_, "higgs::FileWriter::commit: may be called once");
  file_.rename_to(path_);
  committed_ = true;
}

HIGGS_INLINE std::filesystem::path FileWriter::resolve(const std::filesystem::path& path) {
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  if (std::filesystem::exists(status) && !std::filesystem::is_regular_file(status))
    detail::throw_io(path, "is not a regular file and will not be replaced", 0);
  if (!std::filesystem::is_symlink(path, error)) return path;
  const std::filesystem::path target = std::filesystem::weakly_canonical(path, error);
  if (error) detail::throw_io(path, "leads nowhere", error.value());
  return target;
}

#endif

}  // namespace v0
}  // namespace higgs
