#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the weights of a GGUF file as a Hugging Face folder of floats, for programs that round such a folder.

    float_model.py FILE.gguf FOLDER

The tied output layer is not written twice. `higgs-model eval FOLDER --reference FILE.gguf` says that both are one model.
Needs torch, transformers 5, gguf and safetensors.
"""
import argparse
from pathlib import Path

import torch
from gguf import GGUFReader
from safetensors.torch import save_file
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="GGUF file")
    parser.add_argument("folder", type=Path, help="folder to write")
    arguments = parser.parse_args()
    source = {"pretrained_model_name_or_path": arguments.file.parent, "gguf_file": arguments.file.name}
    model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    tied = {"lm_head.weight"} if model.config.tie_word_embeddings else set()
    tensors = {name: value.contiguous() for name, value in model.state_dict().items() if name not in tied}
    arguments.folder.mkdir(parents=True, exist_ok=True)
    del model.config.quantization_config  # says that the weights come from a GGUF file
    model.config.save_pretrained(arguments.folder)
    tokenizer = AutoTokenizer.from_pretrained(**source)
    if GGUFReader(arguments.file).get_field("tokenizer.ggml.pre").contents() == "smollm":  # transformers ignores the key
        rest = tokenizer.backend_tokenizer.pre_tokenizer
        digits = pre_tokenizers.Digits(individual_digits=True)
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, rest])
    tokenizer.save_pretrained(arguments.folder)
    save_file(tensors, arguments.folder / "model.safetensors", metadata={"format": "pt"})


if __name__ == "__main__":
    main()
