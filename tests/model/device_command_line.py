# SPDX-License-Identifier: Apache-2.0
"""Runs higgs-model on a tiny model, on the CPU and on a GPU: device_command_line.py HIGGS_MODEL

The program is built with CUDA, or with the emulator in place of the CUDA runtime."""
import json
import sys
import unittest

import command_line


class DeviceCommandLine(unittest.TestCase):
    setUp = command_line.CommandLine.setUp
    run_program = command_line.CommandLine.run_program
    fails = command_line.CommandLine.fails
    works = command_line.CommandLine.works

    def results(self, device, *words):
        return json.loads(self.works(*words, "--json", "-", "--device", device))

    def test_generate_writes_the_text_of_the_cpu(self):
        words = ["generate", self.model, "--prompt", "!3*A", "--tokens", 10]
        on_gpu, on_cpu = self.results("cuda", *words), self.results("cpu", *words)
        self.assertEqual(on_gpu["text"], on_cpu["text"])
        self.assertEqual(on_gpu["tokens"], 10)
        self.assertGreater(on_gpu["decode_tokens_per_second"], 0)
        for extra in (["--dtype", "bf16"], ["--output-codebook", "4", "--temperature", 1, "--seed", 3]):
            self.assertEqual(self.results("cuda", *words, *extra)["tokens"], 10)

    def test_texts_of_a_batch_are_those_of_the_cpu(self):
        prompts = self.folder / "prompts"
        prompts.write_text("AB3\n!3*A\n")
        words = ["generate", self.model, "--prompts", prompts, "--prompt", "B", "--tokens", 7]
        on_gpu, on_cpu = self.results("cuda", *words, "--batch", 2), self.results("cpu", *words, "--batch", 2)
        self.assertEqual([each["text"] for each in on_gpu["texts"]], [each["text"] for each in on_cpu["texts"]])
        self.assertEqual([each["prompt"] for each in on_gpu["texts"]], ["B", "B", "AB3", "AB3", "!3*A", "!3*A"])
        self.assertEqual(on_gpu["tokens"], sum(each["tokens"] for each in on_gpu["texts"]))
        for each in on_gpu["texts"]:
            self.assertEqual(each.keys(), on_cpu["texts"][0].keys())
            self.assertGreater(each["prefill_tokens_per_second"], 0)
            self.assertGreater(each["decode_tokens_per_second"], 0)
            self.assertLess(each["decode_tokens_per_second"], on_gpu["decode_tokens_per_second"])

    def test_draws_of_a_seed_are_those_of_the_cpu(self):
        words = ["generate", self.model, "--prompt", "!3*A", "--tokens", 3, "--batch", 12, "--temperature", 1,
                 "--seed", 4]
        gpu, cpu = ([each["text"] for each in self.results(device, *words)["texts"]] for device in ("cuda", "cpu"))
        # Logits differ in their last digits: few draws fall between two tokens.
        self.assertGreaterEqual(sum(here == there for here, there in zip(gpu, cpu, strict=True)), 10)

    def test_a_quantized_model_is_evaluated(self):
        self.works("quantize", self.model, "-o", self.folder / "out", "--bits", 3)
        words = ["eval", self.folder / "out", "--text", self.text, "--window", 64, "--tokens", 128, "--reference", self.model]
        on_gpu, on_cpu = self.results("cuda", *words), self.results("cpu", *words)
        self.assertEqual((on_gpu["device"], on_gpu["dtype"]), ("cuda", "fp16"))
        self.assertEqual((on_cpu["device"], on_cpu["dtype"]), ("cpu", "float"))
        self.assertEqual(self.results("cuda", *words, "--dtype", "bf16")["dtype"], "bf16")
        self.assertAlmostEqual(on_gpu["cross_entropy"], on_cpu["cross_entropy"], delta=5e-3)
        self.assertAlmostEqual(on_gpu["kl"], on_cpu["kl"], delta=0.02 * on_cpu["kl"])

    def test_compare_measures_what_the_cpu_does(self):
        words = ["compare", self.model, "--text", self.text, "--window", 64, "--tokens", 128,
                 "--methods", "higgs 2x256,nf4-64,higgs 2x64 random"]
        on_gpu, on_cpu = self.results("cuda", *words), self.results("cpu", *words)
        self.assertEqual(on_gpu["protocol"]["device"], "cuda, activations in fp16")
        for here, there in zip(on_gpu["rows"], on_cpu["rows"], strict=True):
            self.assertEqual(here["bits"], there["bits"])
            self.assertEqual(here["t2"], there["t2"])
            self.assertAlmostEqual(here["kl"], there["kl"], delta=0.02 * there["kl"])

    def test_sensitivity_measures_what_the_cpu_does(self):
        gradients = ["sensitivity", self.model, "--window", 16, "--tokens", 32]
        words = [*gradients, "--levels", 1, "--most", 0.05]
        on_gpu = self.results("cuda", *words, "-o", self.folder / "gpu.json")
        on_cpu = self.results("cpu", *words, "-o", self.folder / "cpu.json")
        for here, there in zip(on_gpu["layers"], on_cpu["layers"], strict=True):
            self.assertEqual(here["name"], there["name"])
            self.assertAlmostEqual(here["alpha"], there["alpha"], delta=0.1 * there["alpha"])
        refused = self.fails(1, *words, "-o", self.folder / "cpu.json", "--device", "cuda")
        self.assertIn("--device cpu in float", refused)
        self.assertIn("--device cuda in fp16", refused)
        refused = self.fails(1, *gradients, "-o", self.folder / "more.json", "--gradients", 2, "--device", "cuda")
        self.assertIn("--gradients", refused)
        self.assertIn("--device cpu", refused)


if __name__ == "__main__":
    command_line.PROGRAM = sys.argv.pop(1)
    unittest.main()
