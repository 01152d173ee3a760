// SPDX-License-Identifier: Apache-2.0
// Memory that a thread reuses from call to call.
#pragma once

#include <higgs/config.hpp>

#include <cstddef>
#include <cstdint>
#include <new>
#include <utility>

namespace higgs {
inline namespace v0 {
namespace detail {

/// Bytes that a thread keeps between calls, so that a steady state allocates nothing. A call inside another call of the
/// same thread allocates its own bytes.
class Scratch {
 public:
  static constexpr std::size_t alignment = 64;

  explicit Scratch(std::size_t bytes) : memory_(std::exchange(kept(), {})) {
    if (memory_.size < bytes) memory_ = Memory(bytes);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() { kept() = std::move(memory_); }
  std::uint8_t* data() const noexcept { return memory_.data; }

 private:
  struct Memory {
    std::uint8_t* data = nullptr;
    std::size_t size = 0;
    Memory() = default;
    explicit Memory(std::size_t bytes)
        : data(static_cast<std::uint8_t*>(::operator new(bytes, std::align_val_t{alignment}))), size(bytes) {}
    Memory(Memory&& other) noexcept
        : data(std::exchange(other.data, nullptr)), size(std::exchange(other.size, 0)) {}
    Memory& operator=(Memory&& other) noexcept {
      std::swap(data, other.data);
      std::swap(size, other.size);
      return *this;
    }
    ~Memory() { ::operator delete(data, std::align_val_t{alignment}); }
  };
  static Memory& kept() noexcept {
    static thread_local Memory memory;
    return memory;
  }
  Memory memory_;
};

}  // namespace detail
}  // namespace v0
}  // namespace higgs
