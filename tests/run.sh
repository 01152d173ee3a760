#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Everything that must be green: installs what is missing (Debian), then builds and runs all tests.
# Needs no network where nothing is missing. Exits with 0 if nothing failed.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
jobs=$(nproc)

# shellcheck source=tests/packages.sh
source tests/packages.sh

need_packages g++ cmake ninja-build python3 catch2 libcli11-dev nlohmann-json3-dev libbenchmark-dev
newest_clang() { compgen -c clang++- | grep -xE 'clang\+\+-[0-9]+' | sort -t- -k2n | tail -n 1; }
clang=$(newest_clang)
if [ -z "$clang" ] || [ "${clang##*-}" -lt 19 ]; then
  need_packages clang-19 || need_packages clang
  clang=$(newest_clang)
fi
[ -z "$clang" ] || need_packages "libclang-rt-${clang##*-}-dev"
if command -v ccache >/dev/null; then
  export CMAKE_CXX_COMPILER_LAUNCHER=ccache CMAKE_CUDA_COMPILER_LAUNCHER=ccache
fi

passed=0 failed=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# phase TITLE PRESET CONFIGURE BUILD CTEST: the last three are further options (words) of the three steps.
# Adds up what ctest's summary says (CMake 4 names no failures where there are none); a phase without one counts as a failure.
phase() {
  local title=$1 preset=$2 begin=$SECONDS failures=1 total=1
  printf '\n=== %s\n' "$title"
  # shellcheck disable=SC2086
  if cmake --preset "$preset" $3 >"$log" || ! cat "$log"; then
    grep '^-- higgs' "$log"
    if cmake --build --preset "$preset" -j "$jobs" $4 -- --quiet -k 0; then
      printf '    built in %d s\n' $((SECONDS - begin))
      if ctest --preset "$preset" -j "$jobs" $5 | tee "$log"; then failures=0 total=0; fi
      read -r failures total < <(
        sed -nE -e 's/.*tests passed out of ([0-9]+).*/0 \1/p' \
          -e 's/.*tests passed, ([0-9]+) tests? failed out of ([0-9]+).*/\1 \2/p' "$log"
        echo $failures $total)
      sed -n 's/^LEFT OUT/    &/p' "build/$preset/Testing/Temporary/LastTest.log"
    fi
  fi
  passed=$((passed + total - failures)) failed=$((failed + failures))
  printf '=== %s: %d s; so far %d passed, %d failed\n' "$title" $((SECONDS - begin)) "$passed" "$failed"
}

phase 'g++: everything' dev '-DHIGGS_BUILD_BENCH=ON' '' ''
# One build serves as the second compiler and as the sanitized one: two would take ten minutes more.
if [ -n "$clang" ]; then
  phase "$clang with sanitizers: headers, unit and long tests" asan "-DCMAKE_CXX_COMPILER=$clang" '' ''
else
  printf '\n=== no clang: its warnings are LEFT OUT\n'
  phase 'g++ with sanitizers: unit and long tests' asan '' '' ''
fi
if need_nvcc "$PWD/build/cuda-toolkit"; then
  phase 'nvcc: CUDA headers, tests and benchmarks' cuda '-DCMAKE_CUDA_ARCHITECTURES=80 -DHIGGS_BUILD_BENCH=ON' '--target higgs_cuda_tests' '-L gpu'
else
  printf '\n=== no nvcc, and none to be had: the CUDA half is LEFT OUT\n'
fi
# What README.md shows first, with few tokens.
if need_model build/demo; then
  begin=$SECONDS
  printf '\n=== examples/demo.sh 512\n'
  if examples/demo.sh 512 >"$log" 2>&1; then
    passed=$((passed + 1))
  else
    cat "$log"
    failed=$((failed + 1))
  fi
  printf '=== examples/demo.sh 512: %d s; so far %d passed, %d failed\n' $((SECONDS - begin)) "$passed" "$failed"
else
  printf '\n=== no model, and none to be had: examples/demo.sh is LEFT OUT\n'
fi

printf '\nall phases: %d s\n%d passed, %d failed\n' "$SECONDS" "$passed" "$failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
