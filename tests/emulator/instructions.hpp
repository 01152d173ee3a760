// SPDX-License-Identifier: Apache-2.0
// The instruction families. Each gives the function that executes an instruction, or null if it is not in the family;
// it may set the instruction's mode and flags.
#pragma once
#include "program.hpp"

namespace emulator {

Execute find_integer(const Mnemonic& m, Instruction& i);    // add, mul, mad, div, min, shifts, dp4a ...
Execute find_bits(const Mnemonic& m, Instruction& i);       // and, lop3, prmt, shf, bfe, popc, brev ...
Execute find_floating(const Mnemonic& m, Instruction& i);   // add, fma, rcp, ex2 ... of any float type
Execute find_compare(const Mnemonic& m, Instruction& i);    // setp, set, selp, slct, logic on predicates
Execute find_convert(const Mnemonic& m, Instruction& i);    // cvt
Execute find_move(const Mnemonic& m, Instruction& i);       // mov, cvta, isspacep
Execute find_memory(const Mnemonic& m, Instruction& i);     // ld, st, atom, red, fences
Execute find_copy(const Mnemonic& m, Instruction& i);       // cp.async
Execute find_shuffle(const Mnemonic& m, Instruction& i);    // shfl, vote, match, redux, elect
Execute find_matrix(const Mnemonic& m, Instruction& i);     // ldmatrix, stmatrix, movmatrix, mma
Execute find_warpgroup(const Mnemonic& m, Instruction& i);  // wgmma
Execute find_bulk(const Mnemonic& m, Instruction& i);       // mbarrier, cp.async.bulk, fence.proxy.async
Execute find_control(const Mnemonic& m, Instruction& i);    // bra, brx, ret, exit, bar, trap

// What the parser itself needs to place.
void execute_return(Warp& w, const Instruction& i);
void execute_call(Warp& w, const Instruction& i);  // table: (to, from, bytes) into the callee's parameters
void execute_copy_result(Warp& w, const Instruction& i);  // table: (to, from, bytes) after the call
void execute_printf(Warp& w, const Instruction& i);       // table: offsets of vprintf's two parameters
void execute_assertion(Warp& w, const Instruction& i);    // table: offsets of message, file, line
void execute_unsupported(Warp& w, const Instruction& i);
void execute_nothing(Warp& w, const Instruction& i);

}  // namespace emulator
