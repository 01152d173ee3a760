# SPDX-License-Identifier: Apache-2.0
"""Runs higgs-model on a model of a few thousand weights: command_line.py HIGGS_MODEL

What a user sees at the edges: names that are wrong, files that cannot be written, interrupts, damaged weights."""
import array
import json
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

PROGRAM = ""
COMMANDS = ["inspect", "quantize", "eval", "compare", "sensitivity", "allocate", "linearity", "generate"]
WIDTH, FFN, VOCABULARY, LAYERS = 24, 36, 40, 2


def write_model(folder, damage=None, more=None, seed=1, head=WIDTH // 4):
    """A Llama of random weights and `more` tensors, name to shape; the last number of the tensor `damage` is NaN. Its heads
    have `head` outputs each."""
    shapes = {"model.embed_tokens.weight": (VOCABULARY, WIDTH), "model.norm.weight": (WIDTH,)}
    for layer in range(LAYERS):
        block = f"model.layers.{layer}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shapes[block + norm + ".weight"] = (WIDTH,)
        for part, rows, cols in (("self_attn.q", 4 * head, WIDTH), ("self_attn.k", 2 * head, WIDTH),
                                 ("self_attn.v", 2 * head, WIDTH), ("self_attn.o", WIDTH, 4 * head),
                                 ("mlp.gate", FFN, WIDTH), ("mlp.up", FFN, WIDTH), ("mlp.down", WIDTH, FFN)):
            shapes[f"{block}{part}_proj.weight"] = (rows, cols)
    shapes.update(more or {})
    generator, header, data = random.Random(seed), {}, b""
    for name, shape in shapes.items():
        count = shape[0] * (shape[1] if len(shape) > 1 else 1)
        values = [1.0] * count if len(shape) == 1 else [generator.gauss(0, 0.3) for _ in range(count)]
        if name == damage:
            values[-1] = float("nan")
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + 4 * count]}
        data += array.array("f", values).tobytes()
    text = json.dumps(header).encode()
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    (folder / "config.json").write_text(json.dumps({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": WIDTH,
        "intermediate_size": FFN, "num_hidden_layers": LAYERS, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": head,
        "vocab_size": VOCABULARY, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "tie_word_embeddings": True, "eos_token_id": VOCABULARY - 1}))
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    (folder / "tokenizer.json").write_text(json.dumps({
        "version": "1.0", "normalizer": None, "post_processor": None, "decoder": byte_level,
        "added_tokens": [{"id": VOCABULARY - 1, "content": "<|end|>", "special": True, "single_word": False,
                          "lstrip": False, "rstrip": False, "normalized": False}],
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True},
                                                                byte_level]},
        "model": {"type": "BPE", "merges": [], "vocab": {**{chr(33 + i): i for i in range(VOCABULARY - 1)},
                                                         "<|end|>": VOCABULARY - 1}}}))
    return folder


class CommandLine(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)
        self.model = write_model(self.folder / "model")
        self.text = self.folder / "text"
        self.text.write_text("".join(chr(33 + i * i % 39) for i in range(600)))

    def run_program(self, *words):
        return subprocess.run([PROGRAM, *map(str, words)], capture_output=True, text=True, check=False)

    def fails(self, code, *words):
        """What the command says of its failure; it leaves no file behind that was not there."""
        before = sorted(self.folder.rglob("*"))
        result = self.run_program(*words)
        self.assertEqual(result.returncode, code, result.stderr)
        self.assertEqual(sorted(self.folder.rglob("*")), before)
        return result.stderr

    def works(self, *words):
        result = self.run_program(*words)
        self.assertEqual(result.returncode, 0, result.stderr)
        return result.stdout

    def test_first_words(self):
        for name in COMMANDS:
            self.assertIn(name, self.works("help"))
            self.assertIn(f"higgs-model {name}", self.works("help", name))
            for word in (name[:-1], name + "x", name[0] + name[2:]):
                said = self.fails(2, word, "--anything")
                self.assertIn(f'unknown command "{word}"', said)
                self.assertIn(f"did you mean {name}?", said)
        self.assertIn("SUBCOMMAND", self.fails(2))
        self.assertIn("--json", self.fails(2, "--json", "-", "eval"))
        self.assertIn("COMMAND ... --json", self.fails(2, "--json=x", "eval"))
        self.assertRegex(self.works("--version"), r"^\d+\.\d+\.\d+\n$")

    def test_methods_are_read_before_the_work(self):
        # The model is not there: it is not even looked for.
        for method in ("bogus", "higgs 9x9", "nf4"):
            said = self.fails(2, "compare", "no-model", "--text", self.text, "--methods", "nf4-64,higgs 2x256," + method)
            self.assertIn(f'"{method}"', said)
            for known in ("nf4-64 dq", "hqq3-64", "2x256", "3x512", "e8n4"):
                self.assertIn(known, said)
        self.assertIn("9x9", self.fails(2, "linearity", "no-model", "--text", self.text, "--alpha", "x", "--uniform", "9x9"))
        self.assertIn("2x64/0", self.fails(2, "linearity", "no-model", "--text", self.text, "--alpha", "x",
                                           "--uniform", "2x256,2x64/0"))

    def test_outputs_are_opened_before_the_work(self):
        missing = self.folder / "missing" / "file"
        same = self.folder / "same"
        for words in (["eval"], ["compare"], ["linearity", "--alpha", "x"], ["generate", "--prompt", "x"]):
            text = [] if words[0] == "generate" else ["--text", self.text]
            self.assertIn(str(missing), self.fails(1, words[0], "no-model", *words[1:], *text, "--json", missing))
            self.assertIn(str(self.folder), self.fails(1, words[0], "no-model", *words[1:], *text, "--json", self.folder))
            if words[0] in ("compare", "linearity"):
                self.assertIn(str(missing), self.fails(1, words[0], "no-model", *words[1:], *text, "--report", missing))
                self.assertIn("two results", self.fails(1, words[0], "no-model", *words[1:], *text, "--report", same, "--json", same))

        self.assertIn(str(missing), self.fails(1, "sensitivity", "no-model", "-o", missing))

    def test_no_result_replaces_what_the_command_reads(self):
        alpha, link = self.folder / "alpha.json", self.folder / "link"
        sensitivity = ["sensitivity", self.model, "--gradients", 1, "--tokens", 64, "--window", 64]
        self.works(*sensitivity, "-o", alpha)
        link.symlink_to(self.text)
        weights, config = self.model / "model.safetensors", self.model / "config.json"
        text = ["--text", self.text, "--window", 64]
        for words, outputs in (
                (["eval", self.model, *text], [self.text, link, weights, config]),
                (["eval", weights, *text], [weights, config, self.model / "tokenizer.json"]),
                (["compare", self.model, *text, "--methods", "nf4-64"], [self.text, weights]),
                (["generate", self.model, "--prompts", self.text, "--tokens", 1], [self.text, config]),
                (["allocate", self.model, "--alpha", alpha, "--bits", 16], [alpha, weights]),
                (["linearity", self.model, "--alpha", alpha, *text], [alpha, self.text]),
                (["inspect", self.model], [config]),
                (["quantize", self.model, "-o", self.folder / "out", "--calibrate", self.text], [self.text, config]),
                (sensitivity[:2] + ["-o", self.folder / "a", "--text", self.text], [self.text, weights])):
            for output in outputs:
                before = output.read_bytes()
                for option in ["--json"] + {"allocate": ["-o", "--report"], "compare": ["--report"],
                                            "linearity": ["--report"]}.get(words[0], []):
                    self.assertIn(f"{output}: is read by this command", self.fails(1, *words, option, output))
                self.assertEqual(output.read_bytes(), before)
        self.assertIn("is read by this command", self.fails(1, *sensitivity, "-o", config))

    def test_settings_that_leave_each_other_nothing_are_refused(self):
        quantize = ["quantize", self.model, "-o", self.folder / "out", "--dry-run"]
        sensitivity = ["sensitivity", self.model, "-o", self.folder / "a", "--tokens", 64, "--window", 64]
        for code, words, said in (
                (2, [*quantize, "--seed", "-1"], "-1 is no integer from 0"),
                (2, [*quantize, "--seed", 5, "--no-signs"], "--seed"),
                (2, [*quantize, "--scales", "0"], "fp16"),
                (1, [*quantize, "--calibrate", "none", "--calibrate-tokens", 9], "--calibrate-tokens"),
                (1, [*quantize, "--no-input-scales", "--calibrate-tokens", 9], "--calibrate-tokens"),
                (1, [*quantize, "--no-input-scales", "--calibrate", "random"], "--calibrate random"),
                (1, [*quantize, "--calibrate", self.folder / "no-text"], "no-text"),
                (1, [*quantize, "--calibrate", self.model], str(self.model)),
                (1, [*quantize, "--skip", "no-such-name"], "no-such-name"),
                (2, [*sensitivity, "--gradients", 1, "--levels", 2], "--levels"),
                (2, [*sensitivity, "--gradients", 1, "--most", 0.1], "--most"),
                (2, [*sensitivity, "--seed", "-3"], "-3 is no integer"),
                (1, [*sensitivity, "--no-input-scales", "--calibrate", "random"], "--calibrate random"),
                (2, ["generate", self.model, "--prompt", "x", "--system", "y"], "--chat"),
                (2, ["generate", self.model, "--prompt", "x", "--temperature", "nan"], "nan is no finite"),
                (2, ["generate", self.model, "--prompt", "x", "--top-p", "nan"], "nan is no finite"),
                (2, ["generate", self.model, "--prompt", "x", "--top-p", "0"], "0 is no finite number that is positive"),
                (2, ["allocate", self.model, "--alpha", "a", "--bits", "nan"], "nan is no finite number that is positive"),
                (2, ["allocate", self.model, "--alpha", "a", "--bits", 4, "--caution", "inf"], "inf is no finite"),
                (2, ["linearity", self.model, "--alpha", "a", "--text", self.text, "--bits", "4,-1"], "-1 is no finite"),
                (1, ["eval", self.model, "--text", self.text, "--tokens", 9, "--window", 64], str(self.text))):
            self.assertIn(said, self.fails(code, *words))
        quantized = self.folder / "quantized"
        self.works("quantize", self.model, "-o", quantized)
        self.assertIn("quantized already, to w5", self.fails(1, "generate", quantized, "--prompt", "!", "--output-codebook", 4))
        self.works("generate", self.model, "--prompt", "!", "--output-codebook", 4)
        alpha = self.folder / "alpha.json"
        self.works(*sensitivity[:2], "-o", alpha, "--gradients", 1, "--tokens", 64, "--window", 64, "--calibrate", "none")
        linearity = ["linearity", self.model, "--alpha", alpha, "--text", self.text, "--window", 64, "--uniform", "w4",
                     "--random", 0]
        self.assertIn("(0, 1024]", self.fails(1, *linearity, "--bits", "4,2000"))
        self.assertIn("without calibration", self.fails(1, *linearity, "--calibrate", "random"))
        self.assertIn("no plan takes only 0.25 bits", self.run_program(*linearity, "--bits", "0.25").stderr)
        self.works(*quantize, "--no-input-scales", "--calibrate", "none")
        self.assertIn("600 tokens, fewer than the 4096", self.run_program(*quantize, "--calibrate", self.text).stderr)

    def test_a_list_takes_one_word(self):
        # The word behind it is the model, whatever follows.
        for words in (["allocate", "--bits", 4, "--alpha", "a", "--codebooks", "w4,w3"],
                      ["compare", "--text", self.text, "--methods", "nf4-64,int4-64"],
                      ["linearity", "--text", self.text, "--alpha", "a"],
                      ["linearity", "--text", self.text, "--alpha", "a", "--alpha", "b", "--uniform", "w4"],
                      ["linearity", "--text", self.text, "--alpha", "a", "--bits", "4,3"]):
            self.assertIn("no-model: cannot be opened", self.fails(1, *words, "no-model", "--threads", 1))

    def test_a_reference_that_reads_other_tokens_is_told(self):
        other = write_model(self.folder / "other")
        text = ["--text", self.text, "--window", 64]
        self.assertNotIn("other tokens", self.run_program("eval", self.model, "--reference", other, *text).stderr)
        tokenizer = other / "tokenizer.json"
        values = json.loads(tokenizer.read_text())
        vocabulary = values["model"]["vocab"]
        vocabulary["!"], vocabulary["#"] = vocabulary["#"], vocabulary["!"]
        tokenizer.write_text(json.dumps(values))
        said = self.run_program("eval", self.model, "--reference", other, *text).stderr
        self.assertIn(f"{other}: reads the text as other tokens than {self.model}", said)

    def test_what_cannot_be_done_is_said_at_once(self):
        said = self.fails(1, "eval", self.model, "--text", self.text, "--window", 65)
        self.assertTrue(all(each in said for each in (str(self.model), "65", "64")), said)
        quantized = self.folder / "quantized"
        self.works("quantize", self.model, "-o", quantized, "--codebook", "2x256")
        self.assertIn("original", self.fails(1, "compare", quantized, "--text", self.text, "--window", 32))
        self.assertIn("original", self.fails(1, "linearity", quantized, "--text", self.text, "--window", 32, "--alpha", "x"))

    def rates(self):
        """The bits a weight that --bits takes, as its refusal of others lists them."""
        said = self.fails(2, "quantize", "no-model", "-o", "out", "--bits", "0.7")
        self.assertIn("0.7", said)
        listed = re.search(r"there are ([\d., ]+)", said)[1].split(", ")
        self.assertEqual(sorted(map(float, listed)), [float(each) for each in listed])
        return listed

    def quantize(self, *words):
        """The bytes of the checkpoint, and the codebooks of its linear layers, embedding and output layer."""
        out = self.folder / "out"
        results = json.loads(self.works("quantize", self.model, "-o", out, "--json", "-", *words))
        weights = (out / "model.safetensors").read_bytes()
        shutil.rmtree(out)
        linear = {layer["codebook"] for layer in results["layers"] if "layers" in layer["name"]}
        return weights, linear, {layer["codebook"] for layer in results["layers"] if "embed" in layer["name"]}

    def test_bits_stand_for_the_best_code_of_that_rate(self):
        rates = self.rates()
        self.assertIn("4", rates)
        for rate in rates:
            weights, linear, embedding = self.quantize("--bits", rate)
            self.assertEqual((len(linear), embedding), (1, linear if float(rate) > 5 else {"w5"}))
            self.assertEqual(weights, self.quantize("--codebook", *linear)[0], rate)
            self.assertEqual(self.quantize("--embedding", rate)[2], linear)
            if rate == "4":
                self.assertEqual(weights, self.quantize()[0])

    def test_bits_that_no_code_has_are_refused_with_those_that_there_are(self):
        rates = self.rates()
        options = [["quantize", "-o", "out", "--bits"], ["quantize", "-o", "out", "--embedding"],
                   ["quantize", "-o", "out", "--lm-head"], ["generate", "--prompt", "x", "--output-codebook"],
                   ["allocate", "--alpha", "x", "--bits", "4", "--codebooks"],
                   ["linearity", "--alpha", "x", "--text", "x", "--codebooks"],
                   ["linearity", "--alpha", "x", "--text", "x", "--uniform"]]
        for words in options:
            for wrong in ("2.7", "-4", "nan", "9x9", "4 bits"):
                said = self.fails(2, words[0], "no-model", *words[1:-1], words[-1] + "=" + wrong)
                self.assertIn(words[-1], said)
                self.assertIn(wrong, said)
                self.assertTrue(all(" " + rate in said for rate in rates), said)
                if words[-1] != "--bits" and not re.match(r"[\d.-]+$|nan", wrong):
                    self.assertIn("2x256", said)
        for excluded in (["--codebook", "2x256"], ["--plan", "x"]):
            said = self.fails(2, "quantize", "no-model", "-o", "out", "--bits", "4", *excluded)
            self.assertTrue("--bits" in said and excluded[0] in said, said)

    def test_plans_take_bits_for_codes(self):
        alpha, plan = self.folder / "alpha.json", self.folder / "plan.json"
        self.works("sensitivity", self.model, "-o", alpha, "--gradients", 2, "--tokens", 64, "--window", 64)
        names = [next(iter(self.quantize("--bits", rate)[1])) for rate in ("2", "4", "8")]
        results = [self.works("allocate", self.model, "--alpha", alpha, "--bits", 16, "--codebooks", codebooks, "-o", plan,
                              "--json", "-") for codebooks in ("2,4,8", ",".join(names))]
        self.assertEqual(*results)
        self.assertLessEqual(set(json.loads(results[0])["counts"]), set(names))
        self.assertFalse(json.loads(plan.read_text())["fused"])
        self.works("quantize", self.model, "-o", self.folder / "out", "--plan", plan)
        self.works("allocate", self.model, "--alpha", alpha, "--bits", 16, "--fused", "-o", plan)
        self.assertTrue(json.loads(plan.read_text())["fused"])
        self.assertEqual(self.quantize("--plan", plan)[0], self.quantize("--plan", plan, "--fused")[0])
        values = json.loads(self.works("linearity", self.model, "--alpha", alpha, "--text", self.text, "--window", 64,
                                       "--random", 0, "--bits", 16, "--uniform", f"4,4/8,{names[0]}/8", "--json", "-"))
        self.assertEqual([row["name"] for row in values["rows"][:3]], [names[1], names[1] + "/8", names[0] + "/8"])

    def test_plans_are_made_for_layers_that_are_rounded_with_feedback(self):
        alpha, plan, report = (self.folder / name for name in ("alpha.json", "plan.json", "report.json"))
        out, hessian = self.folder / "out", ["--round", "hessian", "--calibrate", self.text, "--calibrate-tokens", 600]
        self.works("sensitivity", self.model, "-o", alpha, "--gradients", 2, "--tokens", 64, "--window", 64)
        allocate = ["allocate", self.model, "--alpha", alpha, "--bits", 5, "-o", plan, "--json", "-"]
        quantize = ["quantize", self.model, "-o", out, "--json", "-", "--plan", plan]
        nearest = json.loads(self.works(*allocate))
        self.assertEqual(json.loads(plan.read_text())["round"], "nearest")
        self.assertIn("allocate --rounding", self.run_program(*quantize, *hessian).stderr)
        self.works("quantize", self.model, "-o", out, *hessian, "--json", report)
        result = self.run_program(*allocate, "--rounding", report)
        self.assertIn("lacks 1 of the 15 planned layers", result.stderr)
        self.assertIn("with --round hessian", result.stderr)
        planned, written = json.loads(result.stdout), json.loads(plan.read_text())
        self.assertLess(planned["loss"], nearest["loss"])
        self.assertTrue(planned["next"].endswith(f"--round hessian --calibrate {self.text} --calibrate-tokens 600"))
        self.assertEqual(written["round"], "hessian")
        self.assertGreater(len(planned["counts"]), 2)
        for more in ([], ["--fused"], ["--no-input-scales"]):
            result = self.run_program(*quantize, *hessian, *more)
            self.assertNotIn("allocate --rounding", result.stderr)
            values = json.loads(result.stdout)
            self.assertEqual(values["plan"], {"metric": "kl", "loss": planned["loss"], "round": "hessian"})
            found = {layer["name"]: layer["codebook"] for layer in values["layers"]}
            self.assertEqual(found, {layer["name"]: layer["codebook"] for layer in written["layers"]})
            self.assertEqual(values["bits_per_weight"], planned["bits_per_weight"])
            self.assertEqual(sum("loss" in layer for layer in values["layers"]), len(found) - 1)
        said = self.fails(1, *quantize, *hessian, "--skip", "0.mlp.down")
        self.assertIn(f"{plan}: has a codebook for model.layers.0.mlp.down_proj.weight, so --skip 0.mlp.down", said)
        self.assertIn(str(plan), self.fails(1, *quantize, "--embedding", 4))
        said = self.run_program(*quantize)
        self.assertIn(f"{plan}: is for --round hessian", said.stderr)
        self.assertIn(f"{plan}: predicted kl +", said.stderr)

        self.works("sensitivity", self.model, "-o", alpha, "--gradients", 2, "--tokens", 64, "--window", 64,
                   "--no-input-scales")
        self.works(*allocate)
        self.assertIn(f"--calibrate {self.text}", self.fails(1, *quantize, "--calibrate", self.text))
        self.works(*quantize, *hessian)  # which needs inputs though the plan has no input scales

        other = write_model(self.folder / "other", seed=2)
        self.assertIn(f"{report}: is of model", self.fails(1, "allocate", other, *allocate[2:], "--rounding", report))
        self.works("quantize", self.model, "-o", out, "--json", report)
        self.assertIn(f"{report}: is of rounding to the nearest", self.fails(1, *allocate, "--rounding", report))
        self.assertIn(str(alpha), self.fails(1, *allocate, "--rounding", alpha))
        self.assertIn("is read by this command", self.fails(1, *allocate[:-1], report, "--rounding", report))

    def test_losses_of_rounding_are_told(self):
        words = ["quantize", self.model, "-o", self.folder / "out", "--calibrate", self.text]
        said = self.works(*words)
        self.assertIn("what the codebook promises", said)
        said = self.run_program(*words, "--round", "hessian")
        self.assertRegex(said.stdout, r"losses of rounding: 0\.\d+ of what .* \(median of 14 matrices\), at most \d\.\d+, in "
                                      r"model\.layers\.")
        self.assertRegex(said.stdout, r"rounding errors: .* promises, in model\.embed_tokens\.weight\n")
        self.assertNotIn("random tokens", said.stderr)
        random_tokens = ["quantize", self.model, "-o", self.folder / "out", "--dry-run"]
        hessian = [*random_tokens, "--round", "hessian"]
        self.assertIn("--calibrate self", self.run_program(*hessian, "--calibrate", "random").stderr)
        self.assertNotIn("--calibrate self", self.run_program(*hessian).stderr)  # is the default there
        self.assertNotIn("--calibrate self", self.run_program(*random_tokens).stderr)

    def test_rounding_by_second_moments_is_obeyed_or_refused(self):
        out, hessian = self.folder / "out", ["--round", "hessian"]
        words = ["quantize", self.model, "-o", out]
        self.assertIn("--calibrate", self.fails(2, *words, *hessian, "--calibrate", "none"))
        self.assertIn("--round hessian", self.fails(2, *words, "--round-memory", "1GB"))
        self.assertIn("--scale-search", self.fails(2, *words, *hessian, "--scale-search", 2))
        self.assertIn("--round hessian", self.fails(2, *words, "--round-gradients", 64))
        self.assertIn("--round hessian", self.fails(2, *words, "--round-damping", 0.01))
        for damping in (-0.1, "inf", "nan"):
            self.assertIn("--round-damping", self.fails(2, *words, *hessian, "--round-damping", damping))
        said = self.fails(2, *words, *hessian, "--calibrate-tokens", 100, "--round-gradients", 101)
        self.assertTrue("101" in said and "100" in said, said)
        said = self.fails(1, *words, *hessian, "--round-memory", "1kB")
        self.assertRegex(said, r"take \d.*B .*--round-memory is 1.00 kB")
        said = self.fails(1, *words, *hessian, "--calibrate", self.text, "--calibrate-tokens", 601)
        self.assertTrue("600 tokens" in said and "601" in said, said)
        (self.model / "config.json").rename(self.folder / "config.json")
        self.assertIn("config.json", self.fails(1, *words, *hessian))
        (self.folder / "config.json").rename(self.model / "config.json")
        for more in ([], ["--no-input-scales"], ["--fused", "--skip", "down_proj"],
                     ["--round-gradients", 300, "--round-damping", 0.02]):
            results = json.loads(self.works(*words, *hessian, *more, "--calibrate", self.text, "--round-memory", "1GB",
                                            "--json", "-"))
            self.assertEqual(results["calibration"], {"source": str(self.text), "tokens": 600})
            self.assertEqual((results["round"], results["rounding"]["blocks"]), ("hessian", LAYERS))
            self.assertEqual(results["rounding"]["memory_allowed"], 10**9)
            self.assertEqual(results["rounding"]["gradient_tokens"], 300 if "--round-gradients" in more else 0)
            self.assertEqual(results["rounding"]["shares"]["gradients"] > 0, "--round-gradients" in more)
            self.assertAlmostEqual(sum(results["rounding"]["shares"].values()), 1)
            self.assertGreater(results["peak_memory"], 10**6)
            dampings = {layer["damping"] for layer in results["layers"] if "damping" in layer}
            self.assertEqual(dampings, {0.02 if "--round-damping" in more else 0.05})
            losses = [layer["loss"] / layer["expected_nearest_loss"] for layer in results["layers"] if "loss" in layer]
            self.assertEqual(len(losses), sum("layers" in layer["name"] for layer in results["layers"]))
            self.assertLess(sum(losses) / len(losses), 0.9)
        self.assertIn("--calibrate-tokens", self.fails(1, *words, "--calibrate", self.text, "--calibrate-tokens", 601))

    def test_fused_layers_share_input_scales_in_both_ways_of_rounding(self):
        wide = write_model(self.folder / "wide", head=28)  # 112, 56 and 56 rows: enough for input scales together
        for way in ("nearest", "hessian"):
            words = ["quantize", wide, "-o", self.folder / "out", "--round", way, "--calibrate", self.text, "--json", "-"]
            apart, fused = (json.loads(self.works(*words, *more))["layers"] for more in ([], ["--fused"]))
            for before, after in zip(apart, fused, strict=True):
                shares = any(part in before["name"] for part in ("q_proj", "k_proj", "v_proj"))
                (self.assertLess if shares else self.assertEqual)(before["bits"], after["bits"], before["name"])

    def test_rounding_that_is_killed_goes_on_and_ends_with_equal_bytes(self):
        def command(name):
            return ["quantize", self.model, "-o", self.folder / name, "--round", "hessian", "--calibrate-tokens", 8192,
                    "--threads", 1]
        def losses(said):
            return {layer["name"]: layer.get("loss") for layer in json.loads(said)["layers"]}
        expected = losses(self.works(*command("whole"), "--json", "-"))
        whole = (self.folder / "whole" / "model.safetensors").read_bytes()
        killed = 0
        for lines in (0, 5, 8, 13, 15, 17, 19):  # of the journal: matrices and tensors that are done
            out = self.folder / f"out{lines}"
            journal = out / "model.safetensors.partial.journal"
            with subprocess.Popen([PROGRAM, *map(str, command(out.name))], stderr=subprocess.DEVNULL,
                                  stdout=subprocess.DEVNULL) as process:
                while process.poll() is None and not (journal.exists() and journal.read_bytes().count(b"\n") > lines):
                    pass
                process.kill()
            killed += process.returncode == -signal.SIGKILL
            self.assertEqual(losses(self.works(*command(out.name), "--json", "-")), expected)
            self.assertEqual((out / "model.safetensors").read_bytes(), whole)
            self.assertEqual(sorted(file.name for file in out.iterdir()),
                             ["config.json", "model.safetensors", "tokenizer.json"])
        self.assertGreater(killed, 3)

    def test_what_a_model_writes_for_its_calibration_outlives_a_kill(self):
        def command(name, way):
            return ["quantize", self.model, "-o", self.folder / name, "--round", way, "--calibrate", "self",
                    "--calibrate-tokens", 16384, "--threads", 1]
        def is_written(path, lines):
            try:
                return path.read_bytes().count(b"\n") >= lines
            except FileNotFoundError:
                return False
        killed = 0
        for way, name in (("nearest", "model.safetensors.partial.tokens"), ("hessian", "model.safetensors.partial.tokens"),
                          ("hessian", "model.safetensors.partial.states")):
            self.works(*command("whole", way))
            out = self.folder / "out"
            awaited, least = out / name, 2 if name.endswith("tokens") else 0  # lines: the first is no text
            with subprocess.Popen([PROGRAM, *map(str, command("out", way))], stderr=subprocess.DEVNULL,
                                  stdout=subprocess.DEVNULL) as process:
                while process.poll() is None and not is_written(awaited, least):
                    pass
                process.kill()
            killed += process.returncode == -signal.SIGKILL
            said = self.run_program(*command("out", way)).stderr
            self.assertRegex(said, r"goes on: \d+ of 16384 tokens are written" if least == 2 else
                             r"goes on: 16384 of 16384 tokens are written")
            self.assertEqual((out / "model.safetensors").read_bytes(),
                             (self.folder / "whole" / "model.safetensors").read_bytes())
            self.assertEqual(sorted(file.name for file in out.iterdir()),
                             ["config.json", "model.safetensors", "tokenizer.json"])
            shutil.rmtree(out)
        self.assertEqual(killed, 3)

    def test_eval_reports_errors_and_tails(self):
        result = self.folder / "result.json"
        said = self.works("eval", self.model, "--reference", self.model, "--text", self.text, "--window", 64,
                          "--tokens", 599, "--json", result)
        self.assertIn("567 of 599 tokens predicted; the last 23 do not fill a window", said)
        values = json.loads(result.read_text())
        self.assertEqual((values["tokens"], values["windows"], values["tokens_left_out"]), (567, 9, 23))
        self.assertEqual(values["standard_error_of"], "windows")
        self.assertEqual(values["top_agreement"], 1)
        self.assertEqual(values["ppl"], values["reference_ppl"])
        self.assertGreater(values["ppl_standard_error"], 0)
        for key in ("kl", "kl_standard_error", "kl_99", "kl_max"):
            self.assertLess(abs(values[key]), 1e-5)
        self.assertIn("perplexity", said)
        alone = json.loads(self.works("eval", self.model, "--text", self.text, "--window", 64, "--json", "-"))
        self.assertNotIn("kl", alone)
        self.assertIsNone(json.loads(self.works("eval", self.model, "--text", self.text, "--window", 2, "--tokens", 3,
                                                "--json", "-"))["ppl_standard_error"])  # one token tells none

    def test_damaged_weights_never_become_a_result(self):
        result = self.folder / "result.json"
        result.write_text("before")
        for tensor in ("model.norm.weight", "model.embed_tokens.weight", "model.layers.1.input_layernorm.weight"):
            damaged = write_model(self.folder / tensor, tensor)
            for words in (["eval", "--text", self.text, "--window", 64], ["generate", "--prompt", "#$%&<|end|>"],
                          ["compare", "--methods", "nf4-64", "--text", self.text, "--window", 64]):
                self.fails(1, words[0], damaged, *words[1:], "--json", result)
                self.assertEqual(result.read_text(), "before")

    def test_unused_tensors_are_told_by_all_that_run_a_model(self):
        lora = "model.layers.0.self_attn.q_proj.lora_A.weight"
        model = write_model(self.folder / "lora", more={lora: (2, WIDTH), "model.layers.9.x": (3,)})
        text = ["--text", self.text, "--window", 64]
        for words in (["eval", model, *text], ["generate", model, "--prompt", "#", "--tokens", 1],
                      ["compare", model, *text, "--methods", "nf4-64"], ["quantize", model, "--dry-run", "-o", self.folder / "out"],
                      ["sensitivity", model, "-o", self.folder / "a", "--gradients", 1, "--tokens", 64, "--window", 64]):
            said = self.run_program(*words).stderr
            self.assertRegex(said, r"2 tensors.*" + lora.replace(".", r"\."), words[0])
            self.assertNotIn("not used", self.run_program(words[0], self.model, *words[2:]).stderr)

    def test_compare_tells_both_errors_and_what_was_done(self):
        result, report = self.folder / "result.json", self.folder / "report <1>.html"
        methods = ["nf4-64", "nf4-64 dq", "hqq3-64", "higgs 2x256", "higgs 2x64 random", "higgs 3x64"]
        said = self.works("compare", self.model, "--text", self.text, "--window", 64, "--methods", ",".join(methods),
                          "--json", result, "--report", report)
        self.assertIn("weight_error", said)
        values = json.loads(result.read_text())
        self.assertEqual([row["method"] for row in values["rows"]], methods)
        for row in values["rows"]:
            self.assertTrue(row["choices"])
            self.assertGreater(row["kl_standard_error"], 0)
            if not row["method"].startswith("higgs"):
                self.assertEqual(row["t2"], row["weight_error"])
        self.assertEqual(values["reference"]["bits"], 32)
        page = report.read_text()
        for text in (str(self.text), "600 bytes", "567 of 600 tokens", "F32", "higgs-model compare", "&lt;1&gt;", "UTC"):
            self.assertIn(text, page)

    def test_processors_are_obeyed_or_refused(self):
        generate = ["generate", self.model, "--prompt", "!", "--tokens", "1"]
        self.works(*generate, "--device", "cpu")
        self.assertIn("--dtype bf16 needs --device cuda", self.fails(1, *generate, "--dtype", "bf16"))
        self.assertIn("--device", self.fails(2, *generate, "--device", "gpu"))
        if self.run_program(*generate, "--device", "cuda").returncode == 0:
            return  # a build with CUDA, and a GPU
        for command in (generate, ["eval", self.model, "--text", self.text, "--window", "64"],
                        ["compare", self.model, "--text", self.text, "--window", "64"],
                        ["sensitivity", self.model, "-o", self.folder / "alpha.json"]):
            self.assertRegex(self.fails(1, *command, "--device", "cuda"), "built without CUDA|no GPU can be used")

    def test_texts_of_a_batch_are_numbered_and_each_is_what_it_is_alone(self):
        generate = ["generate", self.model, "--tokens", 6, "--temperature", 1]
        alone = [json.loads(self.works(*generate, "--prompt", prompt, "--seed", 5 + i, "--json", "-"))
                 for i, prompt in enumerate(["!3*A", "!3*A", "AB", "AB"])]
        words = [*generate, "--prompt", "!3*A", "--prompt", "AB", "--batch", 2, "--seed", 5]
        together = json.loads(self.works(*words, "--json", "-"))
        self.assertNotIn("text", together)
        for i, (each, one) in enumerate(zip(together["texts"], alone, strict=True)):
            self.assertEqual((each["number"], each["seed"]), (i + 1, 5 + i))
            self.assertEqual((each["text"], each["tokens"]), (one["text"], one["tokens"]))
            self.assertEqual(one["texts"][0]["text"], one["text"])
        self.assertEqual(together["tokens"], sum(one["tokens"] for one in alone))
        self.assertEqual(together["prompt_tokens"], 12)
        self.assertEqual(self.works(*words), "".join(
            f"[{each['number']}] {each['prompt']}{each['text']}\n" for each in together["texts"]))
        prompts = self.folder / "prompts"
        prompts.write_bytes(b"!3*A\r\n\nAB\n")
        self.assertEqual(self.works(*generate, "--prompts", prompts, "--batch", 2, "--seed", 5), self.works(*words))
        prompts.write_bytes(b"\xef\xbb\xbf!3*A\r\nAB")  # as editors of Windows write it
        self.assertEqual(self.works(*generate, "--prompts", prompts, "--batch", 2, "--seed", 5), self.works(*words))
        prompts.write_text("AB\n", encoding="utf-16")
        self.assertIn("UTF-16", self.fails(1, *generate, "--prompts", prompts))
        prompts.write_text("\n")
        self.assertIn("has no prompt", self.fails(1, *generate, "--prompts", prompts))
        self.assertIn("3 prompts", self.fails(1, *generate, *3 * ["--prompt", "A"], "--batch", 33))
        self.assertIn("--prompt", self.fails(2, *generate))

    def test_no_text_is_written_before_all_prompts_are_read(self):
        generate = ["generate", self.model, "--tokens", 2, "--prompt", "AB", "--prompt"]
        for prompt, said in (("A" * 64, "text 2 has 64 tokens"), ("", "text 2 is empty")):
            result = self.run_program(*generate, prompt)
            self.assertEqual((result.returncode, result.stdout), (1, ""))
            self.assertIn(said, result.stderr)
        self.assertIn("context of 64", self.run_program(*generate, "A" * 64).stderr)
        self.works(*generate, "A" * 63)
        for prompt in ("[A,B]", "A,B"):  # no list of prompts
            alone = json.loads(self.works(*generate[:-3], "--prompt", prompt, "--json", "-"))
            self.assertEqual([each["prompt"] for each in alone["texts"]], [prompt])

    def test_interrupts_are_explained(self):
        self.text.write_text("".join(chr(33 + i * i % 39) for i in range(4_000_000)))
        result = self.folder / "result.json"
        result.write_text("before")
        with subprocess.Popen([PROGRAM, "eval", str(self.model), "--text", str(self.text), "--window", "64", "--threads", "1",
                               "--json", str(result)], stderr=subprocess.PIPE, text=True) as process:
            line = process.stderr.readline()  # of the log: the work has begun
            process.send_signal(signal.SIGINT)
            said = process.stderr.read()
        self.assertRegex(line, r"^eval: \d+ %.*perplexity")
        self.assertTrue(said.endswith("higgs-model: interrupted; nothing was written\n"), said)
        self.assertEqual(process.returncode, -signal.SIGINT)  # a shell says 130
        self.assertEqual(result.read_text(), "before")
        self.assertEqual(list(self.folder.glob("*.partial")), [])


if __name__ == "__main__":
    PROGRAM = sys.argv.pop(1)
    unittest.main()
