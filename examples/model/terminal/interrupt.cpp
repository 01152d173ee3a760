// SPDX-License-Identifier: Apache-2.0
#include "terminal/interrupt.hpp"

#include <atomic>
#include <cstddef>
#include <list>
#include <string>

#if __has_include(<unistd.h>)
#  include <signal.h>
#  include <unistd.h>
#endif

namespace higgs::model {
namespace {

std::atomic<Interrupted> state{Interrupted::NothingWritten};
std::atomic<const char*> removed[8] = {};
static_assert(std::atomic<Interrupted>::is_always_lock_free && std::atomic<const char*>::is_always_lock_free,
              "a signal handler may touch nothing that locks");

#if __has_include(<unistd.h>)
std::atomic<bool> terminal{false};

void say(const char* text) noexcept {
  std::size_t size = 0;
  while (text[size] != '\0') ++size;
  // There is nobody to tell if this fails.
  [[maybe_unused]] const auto written = ::write(STDERR_FILENO, text, size);
}

// Calls only what POSIX allows in a signal handler.
extern "C" void explain_and_end(int signal) {
  for (const auto& each : removed)
    if (const char* path = each.load()) ::unlink(path);
  if (terminal) say("\n");  // after ^C and what is left of a bar
  const Interrupted now = state;
  say(now == Interrupted::GoesOn           ? "higgs-model: interrupted; the same command goes on from here\n"
      : now == Interrupted::NothingWritten ? "higgs-model: interrupted; nothing was written\n"
                                           : "higgs-model: interrupted\n");
  ::signal(signal, SIG_DFL);
  ::raise(signal);  // comes when this handler returns
}
#endif

}  // namespace

void explain_interrupts() {
#if __has_include(<unistd.h>)
  terminal = ::isatty(STDERR_FILENO) == 1;
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    struct sigaction before = {};
    if (::sigaction(signal, nullptr, &before) != 0 || before.sa_handler == SIG_IGN) continue;
    struct sigaction after = {};
    after.sa_handler = explain_and_end;
    ::sigfillset(&after.sa_mask);
    ::sigaction(signal, &after, nullptr);
  }
#endif
}

void on_interrupt(Interrupted now) noexcept { state = now; }

RemovedOnInterrupt::RemovedOnInterrupt(const std::filesystem::path& path) : slot_(-1) {
  // The handler may read a name at any time: names are kept for good. There are few.
  static auto& names = *new std::list<std::string>;
  const char* name = names.emplace_back(path.string()).c_str();
  for (std::size_t i = 0; i < std::size(removed) && slot_ < 0; ++i) {
    const char* free = nullptr;
    if (removed[i].compare_exchange_strong(free, name)) slot_ = static_cast<int>(i);
  }
}

RemovedOnInterrupt::~RemovedOnInterrupt() {
  if (slot_ >= 0) removed[slot_] = nullptr;
}

}  // namespace higgs::model
