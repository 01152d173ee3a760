// SPDX-License-Identifier: Apache-2.0
// Reads PTX as nvcc writes it into Programs.
#pragma once
#include <optional>
#include <unordered_map>
#include <utility>

#include "module.hpp"

namespace emulator {

class Parser {
 public:
  explicit Parser(Module& module) : module_(module), tokens_(module.tokens_) {}

  /// Places the module's variables and finds its kernels and functions.
  void read_declarations();
  std::unique_ptr<Program> read_kernel(const std::string& name);

 private:
  struct Register {  // or `count` of them, named by their number
    Operand::Kind kind;
    bool wide;
    u32 offset, stride, count;
  };
  struct Scope {
    u32 id;
    std::unordered_map<std::string_view, Register> registers;
    std::unordered_map<std::string_view, Variable> variables;
  };
  struct Declaration {
    std::string_view name;
    Type type = Type::B32;
    u32 alignment = 0;
    u64 count = 1;
    bool unsized = false;
    u32 bytes() const { return unsized ? 0 : static_cast<u32>(count * size_of(type)); }
  };
  struct Place {  // where a parameter or result is in the local frame
    u32 offset, bytes;
  };
  struct Function {
    std::vector<Place> parameters, results;
    u32 start = 0;
  };
  struct Call {
    u32 instruction;
    std::string name;
    std::vector<Place> arguments, results;
  };
  struct Jump {  // to a label that may come later
    u32 instruction;
    int slot;  // in the table, or -1: operand 0
    std::string_view label;
    std::vector<u32> scopes;
    int line;
  };

  // ---- tokens
  std::string_view peek(std::size_t ahead = 0) const;
  std::string_view next();
  bool accept(std::string_view text);
  void expect(std::string_view text);
  void skip_line();
  void skip_past(std::string_view text);
  void skip_body();
  int line() const { return at_ < tokens_.size() ? tokens_[at_].line : 0; }
  [[noreturn]] void fail_here(const std::string& what) const;

  // ---- declarations
  Declaration read_declaration();
  std::vector<Declaration> read_parameters();
  void read_variable(bool is_extern);
  void read_initializer(const Declaration& d, std::vector<u8>& bytes);
  void read_registers();
  Place place_local(const Declaration& d);
  void place_shared(Variable& v);
  std::optional<Register> find_register(std::string_view name) const;
  Variable* find_variable(std::string_view name);

  // ---- code
  void read_function(const std::string& name);
  void read_body();
  void read_statement();
  void read_instruction();
  void read_call(Instruction& i, Source source);
  void read_operand(Instruction& i);
  void read_address(Instruction& i);
  Operand read_scalar(Instruction& i);
  std::vector<Place> read_call_list();
  void read_branch_table(Instruction& i);
  Execute find(const Mnemonic& m, Instruction& i);
  void add(Instruction i, Source source);
  void add_jump(u32 slot_or_operand, std::string_view label, bool in_table);
  void link_jumps();
  void link_call(const Call& call);
  void check_loads() const;
  u32 constant(u64 value);
  u32 new_constant(u64 value);
  std::string text_since(std::size_t token) const;

  Module& module_;
  const std::vector<Token>& tokens_;
  std::size_t at_ = 0;

  std::unique_ptr<Program> program_;
  std::vector<Scope> scopes_;
  u32 scope_count_ = 0;
  std::map<std::pair<u32, std::string_view>, u32> labels_;
  std::map<std::string_view, std::vector<std::string_view>> branch_tables_;
  std::vector<Jump> jumps_;
  std::vector<Call> calls_;
  std::map<std::string, Function> functions_;
  std::map<std::string_view, Variable>
      module_shared_;  // what the kernel uses of the module's shared variables
  std::map<u64, u32> constant_at_;
  std::vector<u32> dynamic_constants_;                  // to be moved behind the static shared memory
  std::vector<std::pair<u32, u32>> dynamic_addresses_;  // the same: instruction, operand
  u32 dynamic_alignment_ = 1;
  u32 register_top_ = first_register, local_top_ = 0, shared_top_ = 0;
  int source_line_ = 0;
};

}  // namespace emulator
