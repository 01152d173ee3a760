// SPDX-License-Identifier: Apache-2.0
#include "parser.hpp"

#include <algorithm>
#include <cctype>
#include <cstring>
#include <optional>
#include <unordered_set>

#include "instructions.hpp"

namespace emulator {
namespace {

u32 aligned(u32 v, u32 to) { return (v + to - 1) / to * to; }

constexpr std::pair<std::string_view, Type> types[] = {
    {"pred", Type::Pred},   {"b8", Type::B8},         {"b16", Type::B16}, {"b32", Type::B32},
    {"b64", Type::B64},     {"b128", Type::B128},     {"u8", Type::U8},   {"u16", Type::U16},
    {"u32", Type::U32},     {"u64", Type::U64},       {"s8", Type::S8},   {"s16", Type::S16},
    {"s32", Type::S32},     {"s64", Type::S64},       {"f16", Type::F16}, {"bf16", Type::Bf16},
    {"f16x2", Type::F16x2}, {"bf16x2", Type::Bf16x2}, {"f32", Type::F32}, {"f64", Type::F64}};

constexpr std::pair<std::string_view, Space> spaces[] = {
    {"global", Space::Global},      {"shared", Space::Shared},    {"shared::cta", Space::Shared},
    {"local", Space::Local},        {"const", Space::Constant},   {"param", Space::Param},
    {"param::entry", Space::Param}, {"param::func", Space::Param}};
Space space_named(std::string_view name) {
  for (const auto& [text, space] : spaces) {
    if (text == name) return space;
  }
  return Space::Generic;
}

const std::unordered_map<std::string_view, Special> specials = {
    {"%tid.x", Special::TidX},
    {"%tid.y", Special::TidY},
    {"%tid.z", Special::TidZ},
    {"%ntid.x", Special::NtidX},
    {"%ntid.y", Special::NtidY},
    {"%ntid.z", Special::NtidZ},
    {"%ctaid.x", Special::CtaidX},
    {"%ctaid.y", Special::CtaidY},
    {"%ctaid.z", Special::CtaidZ},
    {"%nctaid.x", Special::NctaidX},
    {"%nctaid.y", Special::NctaidY},
    {"%nctaid.z", Special::NctaidZ},
    {"%laneid", Special::Laneid},
    {"%warpid", Special::Warpid},
    {"%nwarpid", Special::Nwarpid},
    {"%smid", Special::Smid},
    {"%nsmid", Special::Nsmid},
    {"%lanemask_eq", Special::LanemaskEq},
    {"%lanemask_lt", Special::LanemaskLt},
    {"%lanemask_le", Special::LanemaskLe},
    {"%lanemask_gt", Special::LanemaskGt},
    {"%lanemask_ge", Special::LanemaskGe},
    {"%dynamic_smem_size", Special::DynamicSmemSize},
    {"%total_smem_size", Special::TotalSmemSize},
    {"%clock", Special::Clock}};

Mnemonic cut(std::string_view opcode) {
  Mnemonic m;
  std::size_t begin = 0;
  while (begin <= opcode.size()) {
    const std::size_t end = std::min(opcode.find('.', begin), opcode.size());
    const std::string_view part = opcode.substr(begin, end - begin);
    if (begin == 0) {
      m.op = part;
    } else if (!part.empty()) {
      m.parts.push_back(part);
    }
    begin = end + 1;
  }
  return m;
}

struct Number {
  u64 bits = 0;
  bool decimal_fraction = false;  // bits are those of a double
};
std::optional<Number> number(std::string_view word) {
  if (word.empty() || std::isdigit(static_cast<unsigned char>(word[0])) == 0) return std::nullopt;
  std::string text(word);
  const auto has_prefix = [&](char lower) { return text.size() > 2 && (text[1] | 0x20) == lower; };
  if ((text.size() == 10 && has_prefix('f')) || (text.size() == 18 && has_prefix('d'))) {
    return Number{std::stoull(text.substr(2), nullptr, 16)};
  }
  if (text.find('.') != text.npos) return Number{std::bit_cast<u64>(std::stod(text)), true};
  if (text.back() == 'U') text.pop_back();
  if (has_prefix('b')) return Number{std::stoull(text.substr(2), nullptr, 2)};
  return Number{std::stoull(text, nullptr, 0)};
}

}  // namespace

Type type_named(std::string_view name) {
  for (const auto& [text, type] : types) {
    if (text == name) return type;
  }
  return Type::None;
}

// ---- tokens
std::string_view Parser::peek(std::size_t ahead) const {
  return at_ + ahead < tokens_.size() ? tokens_[at_ + ahead].text : std::string_view{};
}
std::string_view Parser::next() {
  if (at_ >= tokens_.size()) fail_here("unexpected end");
  return tokens_[at_++].text;
}
bool Parser::accept(std::string_view text) {
  if (peek() != text) return false;
  ++at_;
  return true;
}
void Parser::expect(std::string_view text) {
  if (!accept(text)) fail_here("expected " + std::string(text));
}
void Parser::skip_line() {
  const int here = line();
  while (at_ < tokens_.size() && line() == here) ++at_;
}
void Parser::skip_past(std::string_view text) {
  while (next() != text) {
  }
}
void Parser::skip_body() {
  expect("{");
  for (int depth = 1; depth > 0;) {
    const std::string_view t = next();
    depth += t == "{" ? 1 : t == "}" ? -1 : 0;
  }
}
void Parser::fail_here(const std::string& what) const {
  fail("PTX line " + std::to_string(line()) + ": " + what + " near '" + std::string(peek()) + "'");
}

// ---- declarations
void Parser::read_declarations() {
  bool is_extern = false;
  while (at_ < tokens_.size()) {
    const std::string_view t = next();
    if (t == ".target") {  // sm_90a
      module_.architecture_ =
          static_cast<int>(std::strtol(std::string(peek().substr(3)).c_str(), nullptr, 10));
      --at_;
      skip_line();
    } else if (t == ".version" || t == ".address_size" || t == ".file" || t == ".loc") {
      --at_;
      skip_line();
    } else if (t == ".pragma" || t == ".alias") {
      skip_past(";");
    } else if (t == ".section") {
      next();
      skip_body();
    } else if (t == ".extern") {
      is_extern = true;
      continue;
    } else if (t == ".entry" || t == ".func") {
      const std::size_t begin = at_;
      if (peek() == "(") skip_past(")");
      const std::string_view name = next();
      if (peek() == "(") skip_past(")");
      while (peek() != "{" && peek() != ";") next();
      if (!accept(";")) {
        (t == ".entry" ? module_.kernels_ : module_.functions_)[std::string(name)] = begin;
        skip_body();
      }
    } else if (t == ".global" || t == ".const" || t == ".shared") {
      --at_;
      read_variable(is_extern);
    } else if (t != ".visible" && t != ".weak" && t != ".common") {
      --at_;
      fail_here("unexpected word");
    }
    is_extern = false;
  }
}

Parser::Declaration Parser::read_declaration() {
  Declaration d;
  u32 vector = 1;
  bool points = false;  // an .align behind .ptr tells of the memory pointed to
  for (;; next()) {
    const std::string_view t = peek();
    if (t == ".ptr") {
      points = true;
    } else if (t == ".align") {
      next();
      const auto v = static_cast<u32>(number(peek())->bits);
      if (!points) d.alignment = v;
    } else if (t == ".v2" || t == ".v4") {
      vector = t == ".v2" ? 2 : 4;
    } else if (t.starts_with('.') && type_named(t.substr(1)) != Type::None) {
      d.type = type_named(t.substr(1));
    } else if (!t.starts_with('.')) {
      break;
    }
  }
  d.name = next();
  d.count = vector;
  if (d.alignment == 0) d.alignment = size_of(d.type) * vector;
  while (accept("[")) {
    if (accept("]")) {
      d.unsized = true;
      continue;
    }
    d.count *= number(next()).value_or(Number{}).bits;
    expect("]");
  }
  return d;
}

void Parser::read_initializer(const Declaration& d, std::vector<u8>& bytes) {
  const auto put = [&](u64 v) {
    bytes.resize(bytes.size() + size_of(d.type));
    std::memcpy(bytes.data() + bytes.size() - size_of(d.type), &v, size_of(d.type));
  };
  int depth = 0;
  bool negative = false;
  do {
    std::string_view t = next();
    if (t == "{" || t == "}") {
      depth += t == "{" ? 1 : -1;
    } else if (t == "-") {
      negative = true;
    } else if (const auto n = number(t)) {
      put(std::exchange(negative, false) ? 0 - n->bits : n->bits);
    } else if (t != ",") {
      const bool generic = t == "generic";
      if (generic) expect("("), t = next();
      const Variable* v = find_variable(t);
      if (v == nullptr) fail_here("initializer names an unknown variable " + std::string(t));
      if (generic) expect(")");
      put(v->place + (accept("+") ? number(next())->bits : 0));
    }
  } while (depth > 0 || peek() != ";");
}

void Parser::read_variable(bool is_extern) {
  const Space space = space_named(next().substr(1));
  Declaration d = read_declaration();
  std::vector<u8> initial;
  if (accept("=")) read_initializer(d, initial);
  expect(";");
  Variable& v = module_.variables_[std::string(d.name)];
  v = {.space = space, .bytes = d.bytes(), .alignment = d.alignment};
  if (space == Space::Shared) {
    v.dynamic = d.unsized || is_extern;
    v.assigned = false;
    return;
  }
  v.bytes = std::max(v.bytes, static_cast<u32>(initial.size()));
  constexpr u64 alignment = 256;
  module_.storage_.push_back(std::make_unique<u8[]>(v.bytes + alignment));
  v.place = (reinterpret_cast<u64>(module_.storage_.back().get()) + alignment - 1) / alignment * alignment;
  if (!initial.empty()) std::memcpy(reinterpret_cast<void*>(v.place), initial.data(), initial.size());
  module_.memory_.add(reinterpret_cast<void*>(v.place), v.bytes);
}

std::vector<Parser::Declaration> Parser::read_parameters() {
  std::vector<Declaration> list;
  if (!accept("(")) return list;
  while (!accept(")")) {
    if (!accept(",")) list.push_back(read_declaration());
  }
  return list;
}

void Parser::read_registers() {
  const Type type = type_named(next().substr(1));
  if (type == Type::None || size_of(type) > 8) fail_here("registers of this type are not supported");
  const bool predicate = type == Type::Pred, wide = size_of(type) == 8;
  const u32 stride = predicate ? 4 : wide ? 256 : 128;
  do {
    const std::string_view name = next();
    u32 count = 0;
    if (accept("<")) {
      count = static_cast<u32>(number(next()).value_or(Number{}).bits);
      expect(">");
    }
    if (!predicate) register_top_ = aligned(register_top_, 64);
    const Operand::Kind kind = predicate ? Operand::Kind::Pred : Operand::Kind::Reg;
    scopes_.back().registers[name] = {kind, wide, register_top_, stride, count};
    register_top_ += stride * std::max(count, 1u);
  } while (accept(","));
  expect(";");
}

Parser::Place Parser::place_local(const Declaration& d) {
  local_top_ = aligned(local_top_, std::max(d.alignment, 8u));
  const Place p{local_top_, d.bytes()};
  local_top_ += std::max(d.bytes(), 4u);
  return p;
}
void Parser::place_shared(Variable& v) {
  if (v.dynamic) {
    dynamic_alignment_ = std::max(dynamic_alignment_, v.alignment);
  } else {
    shared_top_ = aligned(shared_top_, v.alignment);
    v.place = shared_top_;
    shared_top_ += v.bytes;
  }
  v.assigned = true;
}
std::optional<Parser::Register> Parser::find_register(std::string_view name) const {
  const std::string_view stem = name.substr(0, name.find_last_not_of("0123456789") + 1);
  for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope) {
    if (const auto found = scope->registers.find(name); found != scope->registers.end()) return found->second;
    const auto family = stem.size() < name.size() ? scope->registers.find(stem) : scope->registers.end();
    if (family == scope->registers.end()) continue;
    Register r = family->second;
    const auto index = static_cast<u32>(std::stoul(std::string(name.substr(stem.size()))));
    r.offset += r.stride * index;
    if (index < r.count) return r;
  }
  return std::nullopt;
}
Variable* Parser::find_variable(std::string_view name) {
  for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope) {
    const auto found = scope->variables.find(name);
    if (found != scope->variables.end()) return &found->second;
  }
  const auto found = module_.variables_.find(name);
  if (found == module_.variables_.end()) return nullptr;
  if (found->second.space != Space::Shared) return &found->second;
  Variable& used = module_shared_.try_emplace(found->first, found->second).first->second;
  if (!used.assigned) place_shared(used);
  return &used;
}

// ---- code
std::unique_ptr<Program> Parser::read_kernel(const std::string& name) {
  program_ = std::make_unique<Program>();
  program_->name = name;
  program_->parameter_values.resize(32764);  // the most that sm_70 and later take
  at_ = module_.kernels_.at(name);
  scopes_.push_back({scope_count_++, {}, {}});
  next();
  u32 top = 0;
  for (const Declaration& d : read_parameters()) {
    top = aligned(top, d.alignment);
    if (top + d.bytes() > program_->parameter_values.size()) fail_here("too many parameters");
    scopes_.back().variables[d.name] = {
        .space = Space::Param,
        .place = reinterpret_cast<u64>(program_->parameter_values.data()) + top,
        .bytes = d.bytes()};
    program_->parameters.push_back({top, d.bytes()});
    top += d.bytes();
  }
  while (peek().starts_with('.')) {  // .maxntid 128, 1, 1 .minnctapersm 2 ...
    const std::string_view directive = next();
    u64 product = 1;
    for (; number(peek()) || peek() == ","; next()) product *= number(peek()).value_or(Number{1}).bits;
    if (directive == ".maxntid" || directive == ".reqntid") program_->max_threads = static_cast<u32>(product);
    if (directive == ".minnctapersm") program_->min_blocks = static_cast<u32>(product);
  }
  program_->architecture = module_.architecture_;
  program_->reserved_shared_bytes = shared_top_ = program_->architecture >= 90 ? 1024 : 0;
  read_body();
  for (std::size_t k = 0; k < calls_.size(); ++k) {  // calls inside the functions are added behind
    const std::string callee = calls_[k].name;
    if (!functions_.contains(callee) && module_.functions_.contains(callee)) read_function(callee);
  }
  for (const Call& call : calls_) link_call(call);
  check_loads();

  const u32 dynamic = aligned(shared_top_, dynamic_alignment_);
  for (u32 offset : dynamic_constants_) {
    for (u32 lane = 0; lane < warp_size; ++lane) {
      std::memcpy(program_->constants.data() + offset + 4 * lane, &dynamic, 4);
      const u64 wide = dynamic;
      std::memcpy(program_->constants.data() + offset + 128 + 8 * lane, &wide, 8);
    }
  }
  for (auto [instruction, operand] : dynamic_addresses_)
    program_->code[instruction].x[operand].value += dynamic;
  program_->static_shared_bytes = dynamic - program_->reserved_shared_bytes;
  program_->register_bytes = aligned(register_top_, 64);
  program_->local_bytes = aligned(local_top_, 16);
  return std::move(program_);
}

void Parser::read_function(const std::string& name) {
  Function& f = functions_[name];
  f.start = static_cast<u32>(program_->code.size());
  at_ = module_.functions_.at(name);
  scopes_.assign(1, {scope_count_++, {}, {}});
  const auto place = [&](const Declaration& d) {
    const Place p = place_local(d);
    scopes_.back().variables[d.name] = {.space = Space::Local, .place = p.offset, .bytes = p.bytes};
    return p;
  };
  for (const Declaration& d : read_parameters()) f.results.push_back(place(d));
  next();
  for (const Declaration& d : read_parameters()) f.parameters.push_back(place(d));
  while (peek() != "{") next();
  read_body();
}

void Parser::read_body() {
  labels_.clear();
  branch_tables_.clear();
  jumps_.clear();
  const std::size_t depth = scopes_.size();
  expect("{");
  while (!(scopes_.size() == depth && accept("}"))) {
    if (accept("{")) {
      scopes_.push_back({scope_count_++, {}, {}});
    } else if (accept("}")) {
      scopes_.pop_back();
    } else {
      read_statement();
    }
  }
  Instruction end;
  end.execute = execute_return;
  add(std::move(end), {.opcode = "ret", .text = "ret"});
  link_jumps();
}

void Parser::read_statement() {
  const std::string_view t = peek();
  if (t == ".loc") {  // file line column {, function ...}
    const auto source_line = number(peek(2));
    source_line_ = source_line ? static_cast<int>(source_line->bits) : 0;
    skip_line();
  } else if (t == ".file") {
    skip_line();
  } else if (t == ".pragma") {
    skip_past(";");
  } else if (t == ".reg") {
    next();
    read_registers();
  } else if (t == ".global" || t == ".const") {
    read_variable(false);
  } else if (t == ".shared" || t == ".local" || t == ".param") {
    next();
    do {
      const Declaration d = read_declaration();
      Variable v{.space = Space::Shared, .bytes = d.bytes(), .alignment = d.alignment};
      if (t == ".shared") {
        place_shared(v);
      } else {
        v.space = Space::Local;
        v.place = place_local(d).offset;
      }
      scopes_.back().variables[d.name] = v;
    } while (accept(","));
    expect(";");
  } else if (peek(1) == ":") {
    at_ += 2;
    if (accept(".branchtargets")) {
      while (!accept(";")) {
        if (!accept(",")) branch_tables_[t].push_back(next());
      }
    } else if (peek() == ".callprototype" || peek() == ".calltargets") {
      skip_past(";");
    } else {
      labels_[{scopes_.back().id, t}] = static_cast<u32>(program_->code.size());
    }
  } else if (!accept(";")) {
    read_instruction();
  }
}

void Parser::read_instruction() {
  Instruction i;
  Source source{.opcode = {}, .text = {}, .line = line(), .source_line = source_line_};
  const std::size_t begin = at_;
  if (accept("@")) {
    i.guard_negated = accept("!");
    const auto r = find_register(next());
    if (!r || r->kind != Operand::Kind::Pred) fail_here("the guard is no predicate");
    i.guarded = true;
    i.guard = r->offset;
  }
  const std::string_view opcode = next();
  source.opcode = opcode;
  const Mnemonic m = cut(opcode);
  for (std::string_view part : m.parts) {
    if (type_named(part) != Type::None) i.first_type = std::exchange(i.type, type_named(part));
    if (space_named(part) != Space::Generic && i.space == Space::Generic) i.space = space_named(part);
  }
  i.flush = m.has("ftz");
  i.saturate = m.has("sat") || m.has("satfinite");
  i.rounding = m.has("rz")    ? Rounding::Zero
               : m.has("rm")  ? Rounding::Down
               : m.has("rp")  ? Rounding::Up
               : m.has("rna") ? Rounding::NearestAway
                              : Rounding::Nearest;
  if (m.op == "call") {
    read_call(i, source);
    return;
  }
  while (!accept(";")) {
    if (!accept(",")) read_operand(i);
  }
  source.text = text_since(begin);
  if (m.op == "brx") read_branch_table(i);
  i.execute = find(m, i);
  if (i.execute == nullptr) i.execute = execute_unsupported;
  add(std::move(i), std::move(source));
}

Execute Parser::find(const Mnemonic& m, Instruction& i) {
  if (m.op == "wgmma" || (m.op == "cp" && m.has("bulk"))) program_->uses_async_proxy = true;
  for (auto family :
       {find_warpgroup, find_bulk, find_move, find_memory, find_integer, find_bits, find_floating,
        find_compare, find_convert, find_copy, find_shuffle, find_matrix, find_control}) {
    if (const Execute found = family(m, i)) return found;
  }
  return nullptr;
}

void Parser::add(Instruction i, Source source) {
  i.pc = static_cast<u32>(program_->code.size());
  program_->code.push_back(std::move(i));
  program_->sources.push_back(std::move(source));
}

void Parser::read_operand(Instruction& i) {
  if (i.operands == i.first.size()) fail_here("too many operands");
  i.first[i.operands] = static_cast<u8>(i.x.size());
  if (accept("{")) {
    while (!accept("}")) {
      if (!accept(",")) i.x.push_back(read_scalar(i));
    }
  } else if (accept("[")) {
    read_address(i);
  } else {
    i.x.push_back(read_scalar(i));
    if (accept("|")) i.x.push_back(read_scalar(i));
  }
  i.size[i.operands] = static_cast<u8>(i.x.size() - i.first[i.operands]);
  ++i.operands;
}

void Parser::read_address(Instruction& i) {
  Operand o;
  o.kind = Operand::Kind::Address;
  const std::string_view base = next();
  if (const auto n = number(base)) {
    o.value = static_cast<s64>(n->bits);
  } else if (const auto r = find_register(base)) {
    o.has_base = true;
    o.wide = r->wide;
    o.offset = r->offset;
  } else if (const Variable* v = find_variable(base)) {
    o.value = static_cast<s64>(v->place);
    if (v->dynamic) dynamic_addresses_.emplace_back(program_->code.size(), i.x.size());
    if (i.space == Space::Param || i.space == Space::Generic) i.space = v->space;
  } else {
    fail_here("unknown address " + std::string(base));
  }
  while (peek() == "+" || peek() == "-") {
    bool negative = next() == "-";
    if (accept("-")) negative = !negative;
    const auto n = number(next());
    if (!n) fail_here("address offset");
    o.value += negative ? -static_cast<s64>(n->bits) : static_cast<s64>(n->bits);
  }
  expect("]");
  i.x.push_back(o);
}

Operand Parser::read_scalar(Instruction& i) {
  Operand o;
  const bool negative = accept("-"), negated = accept("!");
  const std::string_view word = next();
  const auto make_constant = [&](u64 v) {
    o.kind = Operand::Kind::Constant;
    o.value = static_cast<s64>(v);
    o.offset = constant(v);
  };
  if (word == "_") return o;
  if (auto n = number(word)) {
    if (n->decimal_fraction) {
      const double v = std::bit_cast<double>(n->bits) * (negative ? -1 : 1);
      n->bits = i.type == Type::F64 ? std::bit_cast<u64>(v) : std::bit_cast<u32>(static_cast<float>(v));
    } else if (negative) {
      n->bits = 0 - n->bits;
    }
    make_constant(n->bits);
  } else if (const auto r = find_register(word)) {
    o = {.kind = r->kind, .wide = r->wide, .negated = negated, .offset = r->offset};
  } else if (const auto special = specials.find(word); special != specials.end()) {
    o = {.kind = Operand::Kind::Reg, .offset = offset_of(special->second)};
  } else if (word == "%clock64" || word.starts_with("%globaltimer")) {
    o = {.kind = Operand::Kind::Reg, .wide = true, .offset = clock64_offset};
  } else if (word == "WARP_SZ") {
    make_constant(warp_size);
  } else if (const Variable* v = find_variable(word)) {
    u64 place = v->place;
    if (accept("+")) {
      const bool minus = accept("-");
      const u64 by = number(next()).value_or(Number{}).bits;
      place += minus ? 0 - by : by;
    }
    make_constant(place);
    if (v->dynamic) {
      o.offset = new_constant(place);
      dynamic_constants_.push_back(o.offset);
    }
  } else {
    o.kind = Operand::Kind::Label;
    add_jump(static_cast<u32>(i.x.size()), word, false);
  }
  return o;
}

u32 Parser::constant(u64 value) {
  const auto [found, is_new] = constant_at_.try_emplace(value, 0);
  if (is_new) found->second = new_constant(value);
  return found->second;
}
u32 Parser::new_constant(u64 value) {
  std::vector<u8>& pool = program_->constants;
  const auto offset = static_cast<u32>(pool.size());
  pool.resize(offset + 384);
  for (u32 lane = 0; lane < warp_size; ++lane) {
    std::memcpy(pool.data() + offset + 4 * lane, &value, 4);
    std::memcpy(pool.data() + offset + 128 + 8 * lane, &value, 8);
  }
  return offset;
}

std::string Parser::text_since(std::size_t token) const {
  std::string text;
  bool tight = true;
  for (std::size_t k = token; k + 1 < at_; ++k) {
    const std::string_view t = tokens_[k].text;
    const bool joins = t == "," || t == "]" || t == "}" || t == "+" || t == "|";
    if (!tight && !joins) text += ' ';
    text += t;
    tight = t == "[" || t == "{" || t == "+" || t == "@" || t == "!" || t == "-" || t == "|";
  }
  return text;
}

// ---- jumps and calls
void Parser::add_jump(u32 place, std::string_view label, bool in_table) {
  Jump j{.instruction = static_cast<u32>(program_->code.size()),
         .slot = in_table ? static_cast<int>(place) : -1,
         .label = label,
         .scopes = {},
         .line = line()};
  for (const Scope& s : scopes_) j.scopes.push_back(s.id);
  jumps_.push_back(std::move(j));
}
void Parser::read_branch_table(Instruction& i) {  // brx.idx index, table
  const auto found = branch_tables_.find(jumps_.back().label);
  jumps_.pop_back();
  if (found == branch_tables_.end()) fail_here("brx.idx without its .branchtargets");
  for (std::string_view label : found->second) {
    add_jump(static_cast<u32>(i.table.size()), label, true);
    i.table.push_back(0);
  }
}
void Parser::link_jumps() {
  for (const Jump& j : jumps_) {
    const u32* target = nullptr;
    for (auto scope = j.scopes.rbegin(); scope != j.scopes.rend() && target == nullptr; ++scope) {
      const auto found = labels_.find({*scope, j.label});
      if (found != labels_.end()) target = &found->second;
    }
    if (target == nullptr) fail("PTX line " + std::to_string(j.line) + ": no label " + std::string(j.label));
    Instruction& i = program_->code[j.instruction];
    (j.slot >= 0 ? i.table[static_cast<std::size_t>(j.slot)] : i.x[0].offset) = *target;
  }
}

std::vector<Parser::Place> Parser::read_call_list() {
  std::vector<Place> places;
  expect("(");
  while (!accept(")")) {
    if (accept(",")) continue;
    const Variable* v = find_variable(next());
    if (v == nullptr || v->space != Space::Local) fail_here("argument of a call");
    places.push_back({static_cast<u32>(v->place), v->bytes});
  }
  return places;
}
void Parser::read_call(Instruction& i,
                       Source source) {  // call.uni (results), name, (arguments) {, prototype};
  Call call{
      .instruction = static_cast<u32>(program_->code.size()), .name = {}, .arguments = {}, .results = {}};
  if (peek() == "(") {
    call.results = read_call_list();
    expect(",");
  }
  call.name = next();
  if (accept(",")) call.arguments = read_call_list();
  skip_past(";");
  source.text = "call " + call.name;
  i.x.push_back({.kind = Operand::Kind::Label});
  i.operands = i.size[0] = 1;
  i.execute = execute_unsupported;
  Instruction result = i;
  result.execute = execute_nothing;
  add(std::move(i), source);
  add(std::move(result), source);
  calls_.push_back(std::move(call));
}
void Parser::link_call(const Call& call) {
  Instruction& i = program_->code[call.instruction];
  Instruction& result = program_->code[call.instruction + 1];
  if (call.name == "vprintf" || call.name == "__assertfail") {
    i.execute = call.name == "vprintf" ? execute_printf : execute_assertion;
    for (const Place& p : call.arguments) i.table.push_back(p.offset);
    return;
  }
  const auto found = functions_.find(call.name);
  if (found == functions_.end()) return;
  const Function& f = found->second;
  i.execute = execute_call;
  i.x[0].offset = f.start;
  result.execute = execute_copy_result;
  for (std::size_t k = 0; k < f.parameters.size(); ++k) {
    const Place& to = f.parameters[k];
    i.table.insert(i.table.end(), {to.offset, call.arguments.at(k).offset, to.bytes});
  }
  for (std::size_t k = 0; k < f.results.size(); ++k) {
    const Place& from = f.results[k];
    result.table.insert(result.table.end(), {call.results.at(k).offset, from.offset, from.bytes});
  }
}

// ---- what ptxas does
// A load of global memory is none if nothing reads what it loads, or only a mov whose result nothing reads: ptxas removes
// it unless it is volatile.
void Parser::check_loads() const {
  const auto named = [&](const Instruction& i, std::string_view op) {
    return program_->sources[i.pc].opcode.starts_with(op);
  };
  const auto loads = [&](const Instruction& i) { return named(i, "ld.global") && !i.flag; };
  std::unordered_set<u32> read;
  const auto is_read = [&](const Instruction& i) {
    return std::any_of(i.x.begin(), i.x.begin() + i.size[0],
                       [&](const Operand& o) { return read.contains(o.offset); });
  };
  for (std::size_t before = 1; read.size() != before;) {
    before = read.size();
    for (const Instruction& i : program_->code) {
      const bool copies = named(i, "mov.");
      if (copies && !is_read(i)) continue;
      for (std::size_t k = copies || loads(i) ? i.size[0] : 0; k < i.x.size(); ++k) {
        const Operand& o = i.x[k];
        if (o.kind == Operand::Kind::Reg || (o.kind == Operand::Kind::Address && o.has_base))
          read.insert(o.offset);
      }
    }
  }
  for (const Instruction& i : program_->code) {
    if (!loads(i) || is_read(i)) continue;
    const Source& s = program_->sources[i.pc];
    fail("ptxas removes the load at PTX line " + std::to_string(s.line) + ", source line " +
         std::to_string(s.source_line) + ": nothing reads what it loads: " + s.text);
  }
}

}  // namespace emulator
