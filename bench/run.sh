#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds the benchmarks as users compile and runs them, or those whose name matches a regular expression.
# Usage: bench/run.sh [FILTER] [Google Benchmark options]
#        bench/run.sh gpu [MODEL]    the kernels on a GPU, layer by layer, and what a model predicts for them
set -euo pipefail
cd "$(dirname "$0")/.."
filter=${1:-.}
[ $# -eq 0 ] || shift
cmake --preset release-bench >/dev/null
cmake --build --preset release-bench -j "$(nproc)" -- --quiet
if [ "$filter" = gpu ]; then
  for program in build/release-bench/bench/run_gpu/*; do "$program" "$@"; done
  exit
fi
for program in build/release-bench/bench/run/*; do
  matches=$("$program" --benchmark_list_tests --benchmark_filter="$filter" 2>/dev/null || true)
  [ -z "$matches" ] || "$program" --benchmark_filter="$filter" "$@"
done
