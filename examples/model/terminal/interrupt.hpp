// SPDX-License-Identifier: Apache-2.0
// What the program says when a signal ends it.
#pragma once

#include <filesystem>

namespace higgs::model {

/// What is true of the files of a command when it is interrupted.
enum class Interrupted {
  NothingWritten,  ///< they are as they were
  GoesOn,          ///< the same command goes on where this one stopped
  PartWritten,     ///< some results are complete
};

/// From now on SIGINT, SIGTERM and SIGHUP are answered by one line on standard error before they end the program, as
/// the signal itself would: a shell sees 128 + its number, 130 for SIGINT. A signal that was ignored when the program
/// began, as under nohup, stays ignored. Does nothing on systems without such signals.
void explain_interrupts();

/// Says what the line is to tell; NothingWritten until this is called.
void on_interrupt(Interrupted state) noexcept;

/// A file that an interrupt removes, while this object lives.
class RemovedOnInterrupt {
 public:
  explicit RemovedOnInterrupt(const std::filesystem::path& path);
  RemovedOnInterrupt(const RemovedOnInterrupt&) = delete;
  RemovedOnInterrupt& operator=(const RemovedOnInterrupt&) = delete;
  ~RemovedOnInterrupt();

 private:
  int slot_;  // -1: there was no room, the file stays
};

}  // namespace higgs::model
