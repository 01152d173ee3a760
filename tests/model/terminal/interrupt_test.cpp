// SPDX-License-Identifier: Apache-2.0
#include "terminal/interrupt.hpp"

#include <catch2/catch.hpp>

#if __has_include(<sys/wait.h>)
#  include "store/temporary_folder.hpp"
#  include "terminal/output.hpp"

#  include <csignal>
#  include <filesystem>
#  include <functional>
#  include <string>

#  include <sys/wait.h>
#  include <unistd.h>

using namespace higgs::model;

namespace {

struct Ending {
  int status = 0;
  std::string said;
};

// What becomes of a process that does `work` and then gets `signal`.
Ending end_by(int signal, const std::function<void()>& work) {
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  const ::pid_t child = ::fork();
  if (child == 0) {
    ::dup2(ends[1], STDERR_FILENO);
    work();
    ::raise(signal);
    ::_exit(0);  // the signal was ignored
  }
  ::close(ends[1]);
  Ending out;
  char letter = 0;
  while (::read(ends[0], &letter, 1) == 1) out.said += letter;
  ::close(ends[0]);
  REQUIRE(::waitpid(child, &out.status, 0) == child);
  return out;
}

}  // namespace

TEST_CASE("an interrupt says what became of the files and ends the process as the signal does",
          "[model][interrupt]") {
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    const auto said = [&](const std::function<void()>& work) {
      const Ending out = end_by(signal, [&] {
        ::signal(signal, SIG_DFL);
        explain_interrupts();
        work();
      });
      CHECK(WIFSIGNALED(out.status));
      CHECK(WTERMSIG(out.status) == signal);
      return out.said;
    };
    CHECK(said([] { on_interrupt(Interrupted::NothingWritten); }) ==
          "higgs-model: interrupted; nothing was written\n");
    CHECK(said([] { on_interrupt(Interrupted::GoesOn); }) ==
          "higgs-model: interrupted; the same command goes on from here\n");
    CHECK(said([] { on_interrupt(Interrupted::PartWritten); }) == "higgs-model: interrupted\n");
  }
}

TEST_CASE("an ignored signal stays ignored", "[model][interrupt]") {
  const Ending out = end_by(SIGHUP, [] {
    ::signal(SIGHUP, SIG_IGN);
    explain_interrupts();
  });
  CHECK(WIFEXITED(out.status));
  CHECK(out.said.empty());
}

TEST_CASE("an interrupt leaves no half of an output behind", "[model][interrupt]") {
  const TemporaryFolder folder;
  write_file(folder / "result", "before");
  const Ending out = end_by(SIGINT, [&] {
    ::signal(SIGINT, SIG_DFL);
    explain_interrupts();
    new Output(folder / "result");  // never destroyed
    if (!std::filesystem::exists(folder / "result.partial")) ::_exit(3);
  });
  CHECK(WIFSIGNALED(out.status));
  CHECK_FALSE(std::filesystem::exists(folder / "result.partial"));
  CHECK(read_file(folder / "result") == "before");
}
#endif
