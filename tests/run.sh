#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds and runs all checks, or the phases that are named. Installs what is missing (Debian); needs no network where nothing
# is missing. Exits with 0 if nothing failed.
# Usage: tests/run.sh [PHASE...]
#        tests/run.sh --list
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

list() {
  cat <<'END'
format  clang-format 19 would change no file
tidy    clang-tidy 19 finds nothing in the headers
gcc     g++: library, tests, application, examples, benchmarks and packages
clang   clang++ with address and undefined-behaviour sanitizers: headers, unit and long tests
cuda    nvcc: the CUDA half, its tests on the emulator where there is no GPU
demo    examples/demo.sh with few tokens
END
}
every=$(list | cut -d' ' -f1)
phases=("$@")
[ $# -gt 0 ] || mapfile -t phases <<<"$every"
for name in "${phases[@]}"; do
  [ "$name" != --list ] || { list && exit; }
  grep -qx -- "$name" <<<"$every" || { printf 'no phase %s; there are:\n%s\n' "$name" "$(list)" >&2 && exit 2; }
done

# shellcheck source=tests/packages.sh
source tests/packages.sh
jobs=$(nproc)
passed=0 failed=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if command -v ccache >/dev/null; then
  export CMAKE_CXX_COMPILER_LAUNCHER=ccache CMAKE_CUDA_COMPILER_LAUNCHER=ccache
fi

newest_clang() { compgen -c clang++- | grep -xE 'clang\+\+-[0-9]+' | sort -t- -k2n | tail -n 1; }

left_out() { printf '\n=== %s: LEFT OUT, %s\n' "$name" "$1"; }

# report BEGIN PASSED FAILED: adds up, and says how far this is.
report() {
  passed=$((passed + $2)) failed=$((failed + $3))
  printf '=== %s: %d s; so far %d passed, %d failed\n' "$name" $((SECONDS - $1)) "$passed" "$failed"
}

# check COMMAND...: one check, whose output is shown if it fails.
check() {
  local begin=$SECONDS
  printf '\n=== %s\n' "$name"
  if "$@" >"$log" 2>&1; then report "$begin" 1 0; else cat "$log" && report "$begin" 0 1; fi
}

# build PRESET CONFIGURE BUILD CTEST: configures, builds and tests; the last three are further options (words) of the steps.
# Adds up what ctest's summary says (CMake 4 names no failures where there are none); a phase without one counts as a failure.
build() {
  local preset=$1 begin=$SECONDS failures=1 total=1
  printf '\n=== %s\n' "$name"
  # shellcheck disable=SC2086
  if cmake --preset "$preset" $2 >"$log" || ! cat "$log"; then
    grep '^-- higgs' "$log"
    if cmake --build --preset "$preset" -j "$jobs" $3 -- --quiet -k 0; then
      printf '    built in %d s\n' $((SECONDS - begin))
      if ctest --preset "$preset" -j "$jobs" $4 | tee "$log"; then failures=0 total=0; fi
      read -r failures total < <(
        sed -nE -e 's/.*tests passed out of ([0-9]+).*/0 \1/p' \
          -e 's/.*tests passed, ([0-9]+) tests? failed out of ([0-9]+).*/\1 \2/p' "$log"
        echo $failures $total)
      sed -n 's/^LEFT OUT/    &/p' "build/$preset/Testing/Temporary/LastTest.log"
    fi
  fi
  report "$begin" $((total - failures)) "$failures"
}

phase_format() {
  need_packages clang-format-19 || command -v clang-format-19 >/dev/null || { left_out 'no clang-format-19' && return; }
  check python3 tests/format.py .
}

phase_tidy() {
  need_packages clang-tidy-19 || command -v clang-tidy-19 >/dev/null || { left_out 'no clang-tidy-19' && return; }
  check python3 tests/tidy.py .
}

phase_gcc() {
  need_packages libbenchmark-dev
  build check-gcc '' '' ''
}

# One build serves as the second compiler and as the sanitized one: two would take ten minutes more.
phase_clang() {
  local clang
  clang=$(newest_clang)
  if [ -z "$clang" ] || [ "${clang##*-}" -lt 19 ]; then
    need_packages clang-19 || need_packages clang
    clang=$(newest_clang)
  fi
  if [ -n "$clang" ]; then
    need_packages "libclang-rt-${clang##*-}-dev"
    build check-sanitized "-DCMAKE_CXX_COMPILER=$clang" '' ''
  else
    printf '\n    no clang: its warnings are LEFT OUT, g++ is sanitized\n'
    build check-sanitized '' '' ''
  fi
}

phase_cuda() {
  need_nvcc "$PWD/build/cuda-toolkit" || { left_out 'no nvcc, and none to be had' && return; }
  need_packages libbenchmark-dev
  local capability='' native=''
  if [ -e /dev/nvidia0 ]; then # the tests run natively: code for this GPU, with wgmma on sm_90
    capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1 | tr -d .)
    native=-DCMAKE_CUDA_ARCHITECTURES=${capability/#90/90a}-real
  fi
  build check-cuda "$native" '--target higgs_cuda_tests' '-L gpu'
}

# The application of the phase gcc serves, if that has run.
phase_demo() {
  need_model build/demo || { left_out 'no model, and none to be had' && return; }
  local built=build/check-gcc/examples/model/higgs-model
  [ ! -x "$built" ] || export HIGGS_MODEL=$built
  check examples/demo.sh 512
}

need_packages g++ cmake ninja-build python3 catch2 libcli11-dev nlohmann-json3-dev
for name in "${phases[@]}"; do "phase_$name"; done
printf '\nall phases: %d s\n%d passed, %d failed\n' "$SECONDS" "$passed" "$failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
