// SPDX-License-Identifier: Apache-2.0
// Global memory: the host ranges that kernels may touch.
#pragma once
#include <map>

#include "numbers.hpp"

namespace emulator {

struct Range {
  u64 begin = 1, end = 0;
  u64 sectors_read = 0, sectors_written = 0;  // by the running launch
  u64 last_write = 0, last_access = 0;        // numbers of launches
  bool on_host = false;                       // pinned memory of the host
  bool holds(u64 address, u64 bytes) const { return address >= begin && address + bytes <= end; }
};

class Memory {
 public:
  /// The caller keeps the bytes alive until remove().
  void add(const void* p, u64 bytes) {
    const u64 begin = reinterpret_cast<u64>(p);
    ranges_[begin] = {.begin = begin, .end = begin + bytes};
    ++added_;
    bytes_ += bytes;
  }
  bool remove(const void* p) {
    const auto found = ranges_.find(reinterpret_cast<u64>(p));
    if (found == ranges_.end()) return false;
    bytes_ -= found->second.end - found->second.begin;
    ranges_.erase(found);
    return true;
  }
  /// Bytes that were added and not removed, and how often add() was called.
  u64 bytes() const { return bytes_; }
  u64 added() const { return added_; }
  /// The range that holds all the bytes, or null.
  Range* find(u64 address, u64 bytes) {
    auto after = ranges_.upper_bound(address);
    if (after == ranges_.begin()) return nullptr;
    Range& range = std::prev(after)->second;
    return range.holds(address, bytes) ? &range : nullptr;
  }
  std::map<u64, Range>& ranges() { return ranges_; }

 private:
  std::map<u64, Range> ranges_;  // by their begin
  u64 bytes_ = 0, added_ = 0;
};

}  // namespace emulator
