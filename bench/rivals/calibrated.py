#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Rounds the linear layers of a model's blocks as methods with calibration do, to compare them with ours.

    float_model.py FILE.gguf MODEL
    calibrated.py MODEL OUT --text FILE --tokens 32768 --ggml ggml/bin/libggml-base.so gptq3 gptq3-act awq3 iq4_nl
    higgs-model eval OUT/gptq3 --text TEST --reference MODEL

MODEL is a Hugging Face folder of float weights. OUT/METHOD has the rounded weights as floats, and everything else, embedding
and output layer included, as MODEL has it. Printed are all bits of the rounded weights, over their number.

gptqB, gptqB-act   GPTQ with B bits in groups of 128, columns in their own order or by falling mean square. A block gets the
                   inputs that the rounded blocks before it give.
awqB               AWQ with B bits in groups of 128. Like the next, it gets the inputs of the float model.
q4_K, iq3_s ...    a type of ggml; matrices whose rows are no whole blocks of 256 get q5_0 for q4_K, else iq4_nl.

The tokens are the first of the text, in windows of 128, as `higgs-model quantize --calibrate FILE` takes them. `ggml` is built
as ggml_quality.py says. Needs torch, transformers 5 and safetensors.
"""
import argparse
import re
import shutil
import time
from pathlib import Path

import torch
from roundings import FORMATS, Inputs, awq, ggml, gptq
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

WINDOW = 128
WINDOWS_AT_ONCE = 16


class Runner:
    """Runs blocks of a model on all windows, and measures what their linear layers read."""

    def __init__(self, model):
        self.blocks = model.model.layers
        self.rotary = model.model.rotary_emb

    def run(self, block, states):
        """The states (windows, tokens, width) behind a block."""
        positions = torch.arange(states.shape[1])[None]
        embeddings = self.rotary(states, positions)
        out = [block(part, position_embeddings=embeddings, position_ids=positions, attention_mask=None)
               for part in states.split(WINDOWS_AT_ONCE)]
        return torch.cat([o[0] if isinstance(o, tuple) else o for o in out])

    def measure(self, block, states):
        """The states behind a block, and the Inputs of its linear layers by name. Layers that read the same share theirs."""
        inputs, last = {}, (None, None)

        def hook(name, module, arguments):
            nonlocal last
            if last[0] is arguments[0]:
                inputs[name] = last[1]
                return
            own = inputs.setdefault(name, Inputs(module.in_features))
            own.add(arguments[0])
            last = (arguments[0], own)

        handles = [layer.register_forward_pre_hook(lambda module, arguments, name=name: hook(name, module, arguments))
                   for name, layer in linear_layers(block)]
        states = self.run(block, states)
        for handle in handles:
            handle.remove()
        return states, inputs


def linear_layers(block):
    return [(name, layer) for name, layer in block.named_modules() if isinstance(layer, torch.nn.Linear)]


OWN = re.compile(r"gptq([2-8])(-act)?|awq([2-8])")


class Method:
    """One method on its way through the model."""

    def __init__(self, name, states, library):
        self.name, self.states, self.library = name, states, library
        self.sequential = name.startswith("gptq")
        self.weights, self.bits = {}, 0

    def round(self, weights, inputs):
        found = OWN.fullmatch(self.name)
        if not found:
            return ggml(weights, inputs, self.name, self.library)
        if found[3]:
            return awq(weights, inputs, int(found[3]))
        return gptq(weights, inputs, int(found[1]), bool(found[2]))

    def round_block(self, runner, block, prefix, inputs):
        """Rounds the layers of a block; `inputs` are those of the float model."""
        floats = {name: layer.weight.data for name, layer in linear_layers(block)}
        if self.sequential:
            _, inputs = runner.measure(block, self.states)
        for name, layer in linear_layers(block):
            layer.weight.data, bits = self.round(floats[name], inputs[name])
            self.weights[prefix + name + ".weight"] = layer.weight.data
            self.bits += bits
        if self.sequential:
            self.states = runner.run(block, self.states)
        for name, layer in linear_layers(block):
            layer.weight.data = floats[name]

    def write(self, model, folder):
        out = folder / self.name
        shutil.copytree(model, out, ignore=shutil.ignore_patterns("*.safetensors*"), dirs_exist_ok=True)
        tensors = {name: value for file in sorted(model.glob("*.safetensors")) for name, value in load_file(file).items()}
        save_file({**tensors, **self.weights}, out / "model.safetensors", metadata={"format": "pt"})
        weights = sum(value.numel() for value in self.weights.values())
        print(f"{self.name}: {self.bits / weights:.4f} bits a weight")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("methods", nargs="+")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=32768)
    parser.add_argument("--ggml", type=Path, help="libggml-base.so")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    for name in arguments.methods:
        if not OWN.fullmatch(name) and not (arguments.ggml and name in FORMATS):
            parser.error(f"no method {name}: there are gptqB, gptqB-act and awqB, and with --ggml {', '.join(FORMATS)}")
    torch.set_num_threads(arguments.threads)
    torch.set_grad_enabled(False)
    ids = AutoTokenizer.from_pretrained(arguments.model)(arguments.text.read_text(encoding="utf-8"))["input_ids"]
    if len(ids) < arguments.tokens or arguments.tokens % WINDOW:
        parser.error(f"{arguments.tokens} tokens are no windows of {WINDOW}, or more than the {len(ids)} of the text")
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32).eval()
    states = model.model.embed_tokens(torch.tensor(ids[:arguments.tokens]).view(-1, WINDOW))
    methods = [Method(name, states, arguments.ggml) for name in arguments.methods]
    runner, begin = Runner(model), time.time()
    for i, block in enumerate(runner.blocks):
        inputs = {}
        if not all(method.sequential for method in methods):
            states, inputs = runner.measure(block, states)
        for method in methods:
            method.round_block(runner, block, f"model.layers.{i}.", inputs)
        print(f"block {i + 1} of {len(runner.blocks)}, {time.time() - begin:.0f} s", flush=True)
    for method in methods:
        method.write(arguments.model, arguments.out)


if __name__ == "__main__":
    main()
