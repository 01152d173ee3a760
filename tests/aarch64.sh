#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Optional: builds tests for AArch64 with Debian's cross compiler and runs them under qemu-user: the library without x86
# intrinsics, and its NEON path. Usage: tests/aarch64.sh [STAGE/STEM ...]
set -euo pipefail
cd "$(dirname "$0")/.."
source tests/packages.sh
need_packages g++-aarch64-linux-gnu qemu-user catch2
tests=("$@")
[ $# -gt 0 ] || tests=(core/half core/random cpu/convert core/executor rotate/hadamard rotate/random_hadamard pack/bits
                       scale/group_scale codes/grid/grid store/safetensors matmul/activations matmul/packed_matrix
                       cpu/portable/lut cpu/portable/activations cpu/portable/panel_product codes/e8/packed
                       core/code matmul/matmul round/outer_product
                       round/second_moment round/feedback)
out=build/aarch64
mkdir -p "$out/include"
ln -sfn /usr/include/catch2 "$out/include/catch2"  # not all of /usr/include: its C headers are the host's
compile() { aarch64-linux-gnu-g++ -std=c++20 -O1 -Wall -Wextra -Iinclude -Itests -I"$out/include" -c "$1" -o "$2"; }
compile tests/main.cpp "$out/main.o"
for test in "${tests[@]}"; do
  compile "tests/${test}_test.cpp" "$out/test.o"
  aarch64-linux-gnu-g++ "$out/main.o" "$out/test.o" -o "$out/test" -static
  for cpu in max cortex-a53; do  # with all extensions, and with none
    echo "$test, $cpu: $(qemu-aarch64 -cpu "$cpu" "$out/test" | tail -n 2 | head -n 1)"
  done
done
