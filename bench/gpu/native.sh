#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Tests and measures the library on a GPU in a few minutes, the most important steps first. It needs bash, nvcc, g++ and the
# headers that bench/gpu/fetch_deps.sh puts into .deps; no CMake, no other package.
# Usage: bench/gpu/native.sh [SECONDS]     on a GPU, in that time (560); a step that has no time left is left out
#        bench/gpu/native.sh --tiny        the same steps on the emulator, each as small as it can be: does the kit work?
# Leaves in $OUT (build/native): summary.txt (one page: predicted beside measured), probe.txt, tests.txt, bench.txt,
# tokens.txt, ncu.txt, ncu.ncu-rep, sanitizers.txt. Exits with 0 if all steps that ran succeeded.
# Environment: OUT, BUILD (objects), NVCC, JOBS, DEPS (a folder with catch2/catch.hpp), STAGES (folders of tests/),
# MODEL (a word of the models to time), KEEP (1: objects of the run before are used again). For --tiny: EMULATOR (libhiggs_emulator.a).
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
tiny=
[ "${1:-}" != --tiny ] || { tiny=--tiny && shift; }
limit=${1:-$([ -z "$tiny" ] && echo 560 || echo 3000)}
out=${OUT:-build/native} build=${BUILD:-build/native-objects} deps=${DEPS:-.deps}
command -v nvcc >/dev/null || PATH=$PATH:/usr/local/cuda/bin
read -ra nvcc <<<"${NVCC:-nvcc}"  # perhaps with a launcher in front and options behind
linker=nvcc
for word in "${nvcc[@]}"; do [[ ${word##*/} != nvcc* ]] || linker=$word; done
jobs=${JOBS:-$(nproc)}
failures=0
mkdir -p "$out" "$build"
rm -f "$out"/*.txt "$out"/*.ncu-rep "$build"/*.done
[ -n "${KEEP:-}" ] || rm -f "$build"/*.o
[ -e "$deps/catch2/catch.hpp" ] || { echo "no $deps/catch2/catch.hpp: run bench/gpu/fetch_deps.sh where there is a network" >&2 && exit 1; }

left() { echo $((limit - SECONDS)); }
say() { printf '[%4d s] %s\n' "$SECONDS" "$*" | tee -a "$out/summary.txt"; }
# step NAME LEAST MOST COMMAND...: runs it for at most MOST seconds if LEAST are left; what it prints goes to NAME.txt, and
# its lines that begin with "= " (question | predicted | measured) to the summary.
step() {
  local name=$1 least=$2 most=$3 rc
  shift 3
  if [ "$(left)" -lt "$least" ]; then
    say "$name: LEFT OUT, $(left) s are left"
    [ -z "$tiny" ] || failures=$((failures + 1))
    return
  fi
  local at
  touch "$out/$name.txt"
  at=$(wc -l <"$out/$name.txt")
  timeout $(($(left) < most ? $(left) : most)) "$@" >>"$out/$name.txt" 2>&1
  rc=$?
  tail -n +$((at + 1)) "$out/$name.txt" | grep '^= ' | cut -c3- >>"$out/summary.txt"
  say "$name: exit status $rc; $(grep -Ev '^ *$|^= ' "$out/$name.txt" | tail -n 1 | cut -c1-150)"
  [ "$rc" = 0 ] || failures=$((failures + 1))
}

# The emulator differs in what is compiled for and linked; and tools that need a GPU have stand-ins.
libraries=() blas=
if [ -n "$tiny" ]; then
  mkdir -p "$build/stand-ins"
  cat >"$build/stand-ins/tool" <<'TOOL'
#!/usr/bin/env bash
# ncu or compute-sanitizer: runs the program behind the options. nvidia-smi: says what the emulator claims to be.
case $0 in *nvidia-smi) case $* in *compute_cap*) echo 8.0 ;; *) echo 'the emulator' ;; esac && exit ;; esac
while [ $# -gt 0 ] && ! { [ -f "$1" ] && [ -x "$1" ]; }; do shift; done
[ $# -eq 0 ] || exec "$@"
TOOL
  chmod +x "$build/stand-ins/tool"
  for tool in nvidia-smi ncu compute-sanitizer; do ln -sf tool "$build/stand-ins/$tool"; done
  PATH=$PWD/$build/stand-ins:$PATH
  [[ $build != /* ]] || PATH=$build/stand-ins:$PATH
  STAGES=${STAGES:-encode}
  flags=('--generate-code=arch=compute_80,code=[compute_80]' --compress-mode=none -DHIGGS_EMULATED -DHIGGS_BENCH_FEW_CODES)
  libraries=("${EMULATOR:?the path of libhiggs_emulator.a}" -lpthread -ldl -cudart none)
fi
command -v "$linker" >/dev/null || { echo "no $linker" >&2 && exit 1; }
capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -n 1 | tr -d .)
[ -n "$capability" ] || { echo "no GPU: nvidia-smi names none" >&2 && exit 1; }
# Code of sm_90a has all of sm_90 and wgmma.
special=$capability
[ "$capability" != 90 ] || special=90a
includes=(-Iinclude -Itests -Iexamples/model -I"$deps")
# cuBLAS of the toolkit, or else of Python's packages, whose other headers may be those of another CUDA.
find_cublas() {
  local toolkit folder headers library
  toolkit=$(dirname "$(readlink -f "$(command -v "$linker")")")/..
  for folder in "$toolkit"/{lib64,targets/x86_64-linux/lib} \
    $(python3 -c 'import nvidia; print(*(each + "/cu13/lib" for each in nvidia.__path__))' 2>/dev/null); do
    for headers in "$toolkit"/{include,targets/x86_64-linux/include} "$folder/../include"; do
      for library in "$folder"/libcublas.so{,.13}; do
        { [ -e "$library" ] && [ -e "$headers/cublas_v2.h" ]; } || continue
        mkdir -p "$build/cublas" && ln -sf "$(cd "$headers" && pwd)"/cublas*.h "$build/cublas/"
        includes+=(-I"$build/cublas")
        blas=-DHIGGS_BENCH_CUBLAS libraries=(-Xlinker "$library" -Xlinker -rpath -Xlinker "$folder")
        return
      done
    done
  done
}
if [ -z "$tiny" ]; then
  # -arch=sm_90a would compile everything twice: for compute_90 too.
  flags=("--generate-code=arch=compute_$special,code=sm_$special" -split-compile=4)
  find_cublas
fi
[ ! -e "$deps/usr/include" ] || includes+=(-I"$deps/usr/include")
flags+=(-std=c++20 --expt-relaxed-constexpr -O2 -lineinfo "${includes[@]}")
{
  nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.mem,memory.total --format=csv,noheader
  "${nvcc[@]}" --version | tail -n 1
  printf 'sm_%s; commit %s; cuBLAS %s\n\nquestion | predicted | measured\n' "$special" \
    "$(git rev-parse --short HEAD 2>/dev/null || echo unknown)" "${blas:-is not linked}"
} >"$out/summary.txt"

# 1. Everything is compiled in the background: first what step 2 waits for, then the largest files; the application last.
mapfile -t stages < <(for s in ${STAGES:-matmul rotate $(find tests -name '*_test.cu' | cut -d/ -f2 | sed 's/.*_test.cu/front/' | sort)}; do
  echo "$s"; done | awk '!seen[$0]++')
# sources_of STAGE: its tests, as tests/CMakeLists.txt finds them. Stage "model": the application too, without its command line,
# if its packages are there.
sources_of() {
  local depth=(-mindepth 1)
  if [ "$1" = model ]; then
    [ -n "$json" ] || { echo "model needs nlohmann/json.hpp" >>"$build/left_out" && return; }
    find examples/model -name '*.cpp' ! -path '*/cli/*' ! -name no_cuda.cpp -o -path '*/device/*.cu'
  fi
  [ "$1" != front ] || depth=(-maxdepth 1)
  find "tests/${1#front}" "${depth[@]}" -name '*_test.cu' | sort
}
json=$(find "$deps/nlohmann/json.hpp" "$deps/usr/include/nlohmann/json.hpp" 2>/dev/null | head -n 1)
object() { echo "$build/$(tr / _ <<<"$1").o"; }
: >"$build/left_out"
kernels=(bench/gpu/product.cu bench/gpu/codes/*.cu) # a file for each code
[ -z "$tiny" ] || kernels=(bench/gpu/product.cu bench/gpu/codes/grid{4,2}.cu)
programs=("${kernels[@]}" bench/gpu/probe.cu bench/gpu/tokens.cu bench/matmul/matmul_bench.cu bench/gpu/rounding.cu)
engine=(bench/gpu/decoder.cu examples/model/device/{decoder,dense_matrix}.cu examples/model/architecture/rope.cpp)
mapfile -t tests < <(for s in "${stages[@]}"; do [ "$s" = model ] || sources_of "$s"; done | xargs -r ls -S
  for s in "${stages[@]}"; do [ "$s" != model ] || sources_of "$s"; done)
compile() { # compile COMMAND... SOURCE OBJECT: leaves OBJECT.done also if it fails
  local source=${*: -2:1} object=${*: -1}
  [ -e "$object" ] || "${@:1:$#-2}" -c "$source" -o "$object" >"$object.log" 2>&1 || { echo "DOES NOT COMPILE: $source" && head -n 5 "$object.log"; }
  touch "$object.done"
}
export -f compile
{
  for source in $(printf '%s\n' tests/main.cpp "${programs[@]}" "${engine[@]}" "${tests[@]}" | awk '!seen[$0]++'); do
    if [[ $source == *.cpp ]]; then
      printf 'compile g++ %s -std=c++20' "$([ "$source" = tests/main.cpp ] && echo -O0 || echo -O2)"
      printf ' %q' "${includes[@]}" "$source" "$(object "$source")"
      printf '\0'
    else
      printf 'compile'
      printf ' %q' "${nvcc[@]}" "${flags[@]}" ${blas:+"$blas"} -x cu "$source" "$(object "$source")"
      printf '\0'
    fi
  done
} | xargs -0 -P "$jobs" -I{} nice -n 19 bash -c '{}' >"$build/errors.txt" 2>&1 &
compiler=$!
trap 'kill "$compiler" 2>/dev/null' EXIT
# built PROGRAM SOURCE...: waits for the objects, up to a third of the whole time, and links those that there are.
built() {
  local program=$build/$1 source objects=() until=$((SECONDS + limit / 3))
  shift
  for source in "$@"; do
    while [ ! -e "$(object "$source").done" ] && [ "$(left)" -gt 5 ] && [ "$SECONDS" -lt "$until" ]; do sleep 0.2; done
    if [ ! -e "$(object "$source").done" ]; then
      say "NOT COMPILED IN TIME: $source" && failures=$((failures + 1)) && return 1
    elif [ -e "$(object "$source")" ]; then
      objects+=("$(object "$source")")
    else
      say "DOES NOT COMPILE: $source" && failures=$((failures + 1))
    fi
  done
  "$linker" "${flags[0]}" "${objects[@]}" "${libraries[@]}" -o "$program" >"$program.log" 2>&1 && return
  say "DOES NOT LINK: $program ($(head -n 1 "$program.log"))" && failures=$((failures + 1)) && return 1
}

# 2. What an emulator cannot know: shared memory, cold capture, uploads, repetitions under load, costs of the host, the grid.
built probe bench/gpu/probe.cu "${kernels[@]}" && step probe 20 120 "$build/probe" $tiny

# 3. All tests of the CUDA half, natively; those of the application, whose objects come last, behind step 4.
test_stage() {
  local sources
  mapfile -t sources < <(sources_of "$1")
  [ "${#sources[@]}" -gt 0 ] || return
  built "test_$1" tests/main.cpp "${sources[@]}" || return
  echo "=== $1" >>"$out/tests.txt"
  HIGGS_REPETITIONS=20 step tests 10 120 "$build/test_$1" -d yes
}
for stage in "${stages[@]}"; do [ "$stage" = model ] || test_stage "$stage"; done
[ ! -s "$build/left_out" ] || say "tests left out: $(sort -u "$build/left_out" | tr '\n' ';')"

# 4. Products of the layers of one model beside cuBLAS; then all layers of whole models in one graph.
built bench bench/matmul/matmul_bench.cu "${kernels[@]}" && step bench 30 150 "$build/bench" "${tiny:-${MODEL:-Llama-3.1-8B}}"
built tokens bench/gpu/tokens.cu "${kernels[@]}" && step tokens 30 120 "$build/tokens" "${tiny:-${MODEL:-Llama-3.1-8B}}"
# Whole decoders: attention, the output layer and the choice of tokens too.
built decoder "${engine[@]}" && step tokens 30 120 "$build/decoder" "${tiny:-${MODEL:-Llama-3.1-8B}}"
# Second moments, factors and rounding.
built rounding bench/gpu/rounding.cu && step bench 20 90 "$build/rounding" $tiny
for stage in "${stages[@]}"; do [ "$stage" != model ] || test_stage model; done

# 5. Counters of ten launches. --set full first: a misspelt metric cannot end the run. --clock-control none leaves the clocks
# alone; --cache-control all makes every launch a cold one.
if command -v ncu >/dev/null; then
  step ncu 45 120 ncu --clock-control none --cache-control all --set full --import-source yes -k regex:stream_kernel -f -o "$out/ncu" \
    "$build/probe" one $tiny
  ncu -i "$out/ncu.ncu-rep" --page details >>"$out/ncu.txt" 2>&1
  grep -E '^ *(DRAM Throughput|L1/TEX Cache Throughput|L2 Cache Throughput|Duration|Issue Slots Busy|Registers Per Thread) ' "$out/ncu.txt" |
    sed -E 's/ +/ /g' | head -n 60 | paste -sd ';' | fold -w 180 >>"$out/summary.txt"
else
  say 'ncu: LEFT OUT, it is not there'
fi

# 6. The sanitizers on the products' tests, without repetitions. racecheck sees shared memory alone.
if command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck synccheck initcheck; do
    echo "=== $tool" >>"$out/sanitizers.txt"
    HIGGS_REPETITIONS=1 step sanitizers 40 90 compute-sanitizer --tool "$tool" --error-exitcode 9 "$build/test_${stages[0]}"
  done
else
  say 'sanitizers: LEFT OUT, compute-sanitizer is not there'
fi
touch "$out"/{probe,tests,bench,tokens,ncu,sanitizers}.txt "$out/ncu.ncu-rep"
head -c 20000 "$build/errors.txt" >>"$out/tests.txt"  # what did not compile
say "$failures steps failed; files in $out"
cat "$out/summary.txt"
[ "$failures" = 0 ]
