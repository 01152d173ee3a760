#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Fetches the headers that bench/gpu/native.sh needs beside nvcc from Debian's packages into .deps, which git ignores: Catch2,
# and for the application CLI11 and nlohmann_json. Run it where there is a network; the machine with the GPU needs none.
#     .deps/catch2/catch.hpp   the one header without which native.sh does nothing
#     .deps/usr                the packages: `cmake -DCMAKE_PREFIX_PATH=$PWD/.deps/usr` finds them
set -euo pipefail
cd "$(dirname "$0")/../.."
[ ! -e .deps/catch2/catch.hpp ] || { echo ".deps is there" && exit; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
packages=(catch2 libcli11-dev nlohmann-json3-dev)
(cd "$work" && { apt-get -qq download "${packages[@]}" 2>/dev/null || { apt-get -qq update && apt-get -qq download "${packages[@]}"; }; })
for package in "$work"/*.deb; do dpkg -x "$package" "$work/package"; done
mkdir -p .deps/catch2
cp -r "$work/package/usr" .deps/
cp .deps/usr/include/catch2/catch.hpp .deps/catch2/
echo "fetched $(sed -n 2p .deps/catch2/catch.hpp | sed 's,^ \* *,,') into .deps"
