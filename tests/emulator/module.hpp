// SPDX-License-Identifier: Apache-2.0
// One PTX file. Its variables exist at once, its kernels are decoded when first asked for.
#pragma once
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "memory.hpp"
#include "program.hpp"

namespace emulator {

struct Token {
  std::string_view text;
  int line = 0;
};
/// Cuts PTX into words, numbers, strings and single marks; drops comments.
std::vector<Token> lex(std::string_view text);

/// A variable: its address, or its offset in shared or local memory.
struct Variable {
  Space space = Space::Global;
  u64 place = 0;
  u32 bytes = 0, alignment = 1;
  bool dynamic = false;  // extern shared memory, behind the static part
  bool assigned = true;  // false: shared memory of the module, without a place until a kernel uses it
};

class Module {
 public:
  /// The kernels' global memory is `memory`.
  Module(std::string text, Memory& memory);

  Program& kernel(const std::string& name);
  /// Address of a __device__ or __constant__ variable.
  void* variable(const std::string& name) const;

 private:
  friend class Parser;
  std::string text_;
  int architecture_ = 0;  // .target: 80 for sm_80
  Memory& memory_;
  std::vector<Token> tokens_;
  std::map<std::string, std::size_t, std::less<>> kernels_,
      functions_;  // name -> its token behind .entry or .func
  std::map<std::string, Variable, std::less<>> variables_;
  std::map<std::string, std::unique_ptr<Program>, std::less<>> programs_;
  std::vector<std::unique_ptr<u8[]>> storage_;
};

}  // namespace emulator
