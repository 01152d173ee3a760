# SPDX-License-Identifier: Apache-2.0
"""Follows README.md and the pages on installation and on the application to the letter, in a fresh copy of the tree, on
what looks like a clean machine: an environment with nothing but a compiler, CMake and make, in which CMake finds no
package of the system.

A line of them that this script does not know is an error, so that none goes untried; what cannot be tried here is
said to be LEFT OUT."""
import argparse
import array
import json
import os
import random
import re
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path

TOOLS = "sh env uname rm cat gcc g++ as ld ar ranlib strip nm objdump make pkg-config".split()
CODE = re.compile(r"^```(\w+)\n(.*?)^```|((?:^    \S[^\n]*\n)+)", re.M | re.S)
REGION = re.compile(r"^[^\n]*// README: begin\n(.*?)^[^\n]*// README: end", re.M | re.S)


class Machine:
    """A folder with a copy of the tree, an empty home, and the only programs on the path."""

    def __init__(self, source, work, compiler):
        shutil.rmtree(work, ignore_errors=True)
        self.work, self.clone, self.bin, self.prefix = work, work / "higgs", work / "bin", work / "prefix"
        for folder in (self.clone, self.bin, work / "home", work / "app", work / "model"):
            folder.mkdir(parents=True)
        for name in files_of(source):
            (self.clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / name, self.clone / name)
        for tool in TOOLS:
            self.add(tool, shutil.which(tool))
        self.add("c++", compiler or shutil.which("c++"))
        # The one thing that is not literal: CMake must not look for packages in /usr, where this machine has some.
        self.add("cmake", shutil.which("cmake"),
                 'case " $* " in *" -B "*) set -- "$@" -DCMAKE_FIND_USE_CMAKE_SYSTEM_PATH=OFF ;; esac')
        self.environment = {"PATH": str(self.bin), "HOME": str(work / "home"), "LC_ALL": "C.UTF-8",
                            "CMAKE_PREFIX_PATH": str(self.prefix), "CONAN_HOME": str(work / "home"),
                            "PKG_CONFIG_PATH": str(self.prefix / "share/pkgconfig")}

    def add(self, name, path, first=":"):
        """Makes a program callable, through a script: some look for their parts where they were called."""
        if path:
            (self.bin / name).write_text(f'#!/bin/sh\n{first}\nexec "{path}" "$@"\n')
            (self.bin / name).chmod(0o755)

    def run(self, command, folder):
        """The output of a command, which must succeed."""
        start = time.monotonic()
        done = subprocess.run(["/bin/sh", "-c", command], cwd=folder, env=self.environment, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
        print(f"{time.monotonic() - start:6.1f} s  {command}", flush=True)
        expect(done.returncode == 0, f"{command}: exit status {done.returncode}\n{done.stdout[-4000:]}")
        return done.stdout


def files_of(source):
    """What a clone has: the files that git tracks, as they are now; without git all but what was built."""
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=source, capture_output=True, text=True)
    names = tracked.stdout.split("\0") if tracked.returncode == 0 else source.rglob("*")
    for path in (source / name for name in names):
        if path.is_file() and path.relative_to(source).parts[0] != "build":
            yield path.relative_to(source)


def expect(truth, message):
    if not truth:
        sys.exit(f"README.md: {message}")


def complete(snippet, root):
    """The example that shows the snippet, which makes it a whole program."""
    for path in sorted((root / "examples").glob("*.cpp")):
        text = path.read_text()
        for region in REGION.finditer(text):
            if re.sub(r"^ +", "", region[1], flags=re.M) == re.sub(r"^ +", "", snippet, flags=re.M):
                return text[:region.start(1)] + snippet + text[region.end(1):]
    sys.exit(f"README.md: no example completes the snippet\n{snippet}")


def write_model(folder):
    """A Llama of 2 blocks with random weights, whose tokens are bytes."""
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 256, "intermediate_size": 512,
              "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 257,
              "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
              "tie_word_embeddings": True, "torch_dtype": "float32", "bos_token_id": None, "eos_token_id": 256}
    width, ffn = config["hidden_size"], config["intermediate_size"]
    shapes = {"model.embed_tokens.weight": [257, width], "model.norm.weight": [width]}
    for i in range(config["num_hidden_layers"]):
        rows = {"self_attn.q_proj": width, "self_attn.k_proj": width // 2, "self_attn.v_proj": width // 2,
                "self_attn.o_proj": width, "mlp.gate_proj": ffn, "mlp.up_proj": ffn, "mlp.down_proj": width}
        for name, count in rows.items():
            shapes[f"model.layers.{i}.{name}.weight"] = [count, ffn if name == "mlp.down_proj" else width]
        for name in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"model.layers.{i}.{name}.weight"] = [width]
    generator, header, data = random.Random(1), {}, array.array("f")
    for name, shape in shapes.items():
        begin = 4 * len(data)
        if len(shape) == 1:
            data.extend([1.0] * shape[0])
        else:
            data.extend(generator.gauss(0, shape[1] ** -0.5) for _ in range(shape[0] * shape[1]))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, 4 * len(data)]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    # GPT-2's letters for bytes: printable ones stand for themselves, the others follow from 256 on.
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    end = {"id": 256, "content": "<|end|>", "special": True, "single_word": False, "lstrip": False, "rstrip": False,
           "normalized": False}
    tokenizer = {"version": "1.0", "added_tokens": [end], "normalizer": None, "post_processor": None,
                 "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                     {"type": "Digits", "individual_digits": True}, byte_level]},
                 "decoder": byte_level,
                 "model": {"type": "BPE", "vocab": {letters[byte]: byte for byte in range(256)} | {"<|end|>": 256},
                           "merges": []}}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data.tobytes())


class Follower:
    """Follows what the pages show, in their order."""

    def __init__(self, machine, has_application):
        self.machine, self.has_application = machine, has_application
        self.app = machine.work / "app"
        self.followed, self.left_out, self.programs = 0, [], []

    def follow(self, text):
        lines = {}  # the library is installed before a program uses it, whatever README.md shows first
        for block in CODE.finditer(text):
            language, fenced, indented = block.groups()
            if language == "cpp":
                self.programs.append(complete(fenced, self.machine.clone))
            elif language == "cmake":
                lines.setdefault("project", []).append(fenced)
            else:
                expect(indented, f"nothing tries a block of language {language}")
                for line in indented.splitlines():
                    command = line.split("  #")[0].strip()
                    lines.setdefault(re.split(r"[/ ]", command)[0], []).append(command)
        lines.pop("weights", None)  # the picture of the stages
        for word, method in (("cmake", self.install), ("project", self.project), ("c++", self.compile),
                             ("nvcc", self.compile_kernels), ("vcpkg", self.package), ("conan", self.package),
                             ("higgs-model", self.application), ("examples", self.whole), ("tests", self.whole)):
            expect(word in lines, f"shows no line that begins with {word}")
            for line in lines.pop(word):
                method(line)
        expect(not lines, f"nothing tries the lines {sum(lines.values(), [])}")
        print(f"{self.followed} lines and blocks of README.md followed, {len(self.left_out)} left out")

    def run(self, command, folder):
        self.followed += 1
        return self.machine.run(command, folder)

    def leave_out(self, line, reason):
        print(f"LEFT OUT: {line}: {reason}")
        self.left_out.append(line)

    def install(self, line):
        output = self.run(line.replace("PREFIX", str(self.machine.prefix)), self.machine.clone)
        expect("tests are LEFT OUT" in output, "this machine is not clean: the tests found Catch2")
        expect("higgs-model is LEFT OUT" in output, "this machine is not clean: the application found CLI11")
        expect((self.machine.prefix / "include/higgs/higgs.hpp").exists(), "no header was installed")
        expect(not (self.machine.prefix / "bin").exists(), "more than the library was installed")

    def project(self, block):
        """What the block says, and what it says one can write for it; the second one is not compiled again."""
        found = re.fullmatch(r"(find_package\(.*\)) +# or (add_subdirectory\((\w+)\))\n(.*)", block, re.S)
        expect(found, "the CMake block does not say `find_package(...)  # or add_subdirectory(...)`")
        head = "cmake_minimum_required(VERSION 3.20)\nproject(app LANGUAGES CXX)\nadd_executable(app app.cpp)\n"
        (self.app / "app.cpp").write_text(self.programs[0])
        for name, use in (("find", found[1]), ("add", found[2])):
            (self.app / "CMakeLists.txt").write_text(head + use + "\n" + found[4])
            if name == "add":
                (self.app / found[3]).symlink_to(self.machine.clone)
            output = self.machine.run(f"cmake -S . -B {name}", self.app)
            expect("Warning" not in output, f"{use} warns: {output}")
        self.followed += 1
        self.machine.run("cmake --build find && find/app", self.app)

    def compile(self, line):
        for program in self.programs[1:] or self.programs:
            (self.app / "app.cpp").write_text(program)
            output = self.run(f"{line} && ./a.out", self.app)
            expect("warning" not in output, f"{line} warns: {output}")

    def compile_kernels(self, line):
        nvcc = os.environ.get("CUDACXX") or shutil.which("nvcc")
        if not nvcc:
            return self.leave_out(line, "there is no nvcc")
        self.machine.add("nvcc", nvcc)
        (self.app / "app.cu").write_text("#include <higgs/matmul/packed_matrix.cuh>\nint main() {}\n")
        self.run(line, self.app)

    def package(self, line):
        tool = line.split()[0]
        if not shutil.which(tool):
            return self.leave_out(line, f"there is no {tool}")
        self.machine.add(tool, shutil.which(tool))
        self.run("conan profile detect && " * (tool == "conan") + line, self.machine.clone)

    def application(self, line):
        if not self.has_application:
            return self.leave_out(line, "higgs-model was not built")
        folder = self.machine.work / "model"
        if not (folder / "MODEL").exists():
            write_model(folder / "MODEL")
        self.run(re.sub(r"\bFILE\b", str(self.machine.clone / "CONTRIBUTING.md"), line), folder)

    def whole(self, line):
        expect(os.access(self.machine.clone / line, os.X_OK), f"{line} is no program")
        self.leave_out(line, "tests/run.sh runs it" if "demo" in line else "it runs this script")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("work", type=Path, help="folder that is made anew")
    parser.add_argument("--compiler", help="instead of c++")
    parser.add_argument("--application", type=Path, help="higgs-model, built elsewhere")
    arguments = parser.parse_args()
    machine = Machine(arguments.source.resolve(), arguments.work.resolve(), arguments.compiler)
    if arguments.application:
        machine.add("higgs-model", arguments.application.resolve())
    pages = [(machine.clone / name).read_text() for name in ("README.md", "docs/install.md", "docs/higgs-model.md")]
    Follower(machine, bool(arguments.application)).follow("\n".join(pages))


if __name__ == "__main__":
    main()
