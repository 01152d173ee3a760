#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Fetches the one header that bench/gpu/native.sh needs beside nvcc, Catch2's, from Debian's package (460 KB) into .deps,
# which git ignores. Run it where there is a network; the machine with the GPU needs none.
#     .deps/catch2/catch.hpp   for native.sh
#     .deps/usr                the whole package: `cmake -DCMAKE_PREFIX_PATH=$PWD/.deps/usr` finds it
set -euo pipefail
cd "$(dirname "$0")/../.."
[ ! -e .deps/catch2/catch.hpp ] || { echo ".deps is there" && exit; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
(cd "$work" && { apt-get -qq download catch2 2>/dev/null || { ${SUDO:-} apt-get -qq update && apt-get -qq download catch2; }; })
dpkg -x "$work"/catch2_*.deb "$work/package"
mkdir -p .deps/catch2
cp -r "$work/package/usr" .deps/
cp .deps/usr/include/catch2/catch.hpp .deps/catch2/
echo "fetched $(sed -n 2p .deps/catch2/catch.hpp | sed 's,^ \* *,,') into .deps"
