# SPDX-License-Identifier: Apache-2.0
"""Plants one fault at a time in a small good tree: each check must name it, and nothing else. And the places of
planted_faults.py are still there."""
import sys
import tempfile
import unittest
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).parent))
import docs  # noqa: E402
import companions  # noqa: E402
import layering  # noqa: E402
import planted_faults  # noqa: E402

HEAD = "// SPDX-License-Identifier: Apache-2.0\n"
HEADER = HEAD + "#pragma once\n"
GOOD = {
    "include/higgs/config.hpp": HEADER + "#define HIGGS_VERSION_MAJOR 0\n",
    "include/higgs/core/half.hpp": HEADER + "#include <higgs/config.hpp>\n#include <cstdint>\n",
    "include/higgs/gpu/error.cuh": HEADER + "#include <higgs/core/half.hpp>\n#include <cuda_runtime_api.h>\n",
    "include/higgs/pack/bits.hpp": HEADER + "#include <higgs/core/half.hpp>\n",
    "include/higgs/pack/bits.cuh": HEADER + "#include <higgs/gpu/error.cuh>\n#include <higgs/pack/bits.hpp>\n",
    "include/higgs/higgs.hpp": HEADER + "".join(f"#include <higgs/{name}>\n" for name in (
        "config.hpp", "core/half.hpp", "pack/bits.hpp", "gpu/error.cuh", "pack/bits.cuh")),
    "tests/core/half_test.cpp": HEAD,
    "tests/pack/bits_test.cpp": HEAD,
    "tests/pack/bits_test.cu": HEAD,
    "tests/model/tokenizer/tokenizer_test.cpp": HEAD,
    "tests/emulator/runtime.cpp": HEAD,
    "tests/emulator/runtime_test.cu": HEAD,
    "examples/model/tokenizer/tokenizer.hpp": HEAD,
    "bench/pack/bits_bench.cpp": HEAD,
    "bench/README.md": "See `bits_bench.cpp` in `bench/pack/` and [the tests](../tests/pack/bits_test.cpp).\n",
    "examples/1_quickstart.cpp": HEAD + "int main() {\n  // README: begin\n  int x = 1;\n  // README: end\n}\n",
    "README.md": "Tests are in `tests/<stage>/`, headers such as higgs/core/half.hpp; run `build/dev/x`.\n"
                 "```cpp\nint x = 1;\n```\n",
    "CONTRIBUTING.md": "Write `tests/*/*_test.cpp`.\n",
    "CHANGELOG.md": "0.1.0\n",
    "docs/format.md": "# The format\n\nSee [codes](#codes) and [words](glossary.md#two-words).\n\n## Codes\n",
    "docs/glossary.md": "## Two words\n\n```cpp\nint x = 1;\n```\n",
}


class Checks(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = Path(folder.name)
        for name, text in GOOD.items():
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            (self.root / name).write_text(text)

    def test_a_good_tree_passes(self):
        for check in (layering, companions, docs):
            self.assertEqual(list(check.errors_of(self.root)), [])

    def expect(self, check, message, name, text=None):
        """With `text` added to file `name`, or the file gone if None, the only error holds `message`."""
        path = self.root / name
        before = path.read_text() if path.exists() else None
        if text is None:
            path.unlink()
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text((before or "") + text)
        errors = list(check.errors_of(self.root))
        with self.subTest(message):
            self.assertEqual(len(errors), 1, errors)
            self.assertIn(message, errors[0])
        path.unlink(missing_ok=True)
        if before is not None:
            path.write_text(before)

    def test_layering(self):
        half, bits = "include/higgs/core/half.hpp", "include/higgs/pack/bits.hpp"
        self.expect(layering, "tokenizer may not include source", "examples/model/tokenizer/tokenizer.hpp",
                    '#include "json/fields.hpp"\n#include "source/source.hpp"\n')
        self.expect(layering, "other is not in the list", "examples/model/other/x.hpp", HEADER)
        self.expect(layering, "core may not include pack", half, "#include <higgs/pack/bits.hpp>\n")
        self.expect(layering, "core may not include quantizer.hpp", half, "#  include <higgs/quantizer.hpp>\n")
        self.expect(layering, "pack may not include higgs.hpp", bits, "#include <higgs/higgs.hpp>\n")
        self.expect(layering, "config.hpp may not include core", "include/higgs/config.hpp",
                    "#include <higgs/core/half.hpp>\n")
        self.expect(layering, "matmul may not include encode", "include/higgs/matmul/deep/x.hpp",
                    HEADER + "#include <higgs/encode/nearest.hpp>\n")
        self.expect(layering, "a .hpp may not include CUDA", bits, "#include <higgs/pack/bits.cuh>\n")
        self.expect(layering, "a .hpp may not include CUDA", bits, "#include <cuda_fp16.h>\n")
        self.expect(layering, "a .hpp may not include CUDA", bits, "#include <cub/cub.cuh>\n")
        self.expect(layering, "not quotes", bits, '#include "bits.hpp"\n')
        self.expect(layering, "macro CHECK does not begin with HIGGS_", bits, "# define CHECK(x) x\n")
        self.expect(layering, "utils is not in the table", "include/higgs/utils/x.hpp", HEADER)
        self.expect(layering, "no #pragma once", "include/higgs/core/x.hpp", HEAD)
        self.expect(layering, "first line is not", "tests/core/x_test.cpp", "\n" + HEAD)

    def test_companions(self):
        self.expect(companions, "pack/bits.hpp has no tests/pack/bits_test.cpp", "tests/pack/bits_test.cpp")
        self.expect(companions, "pack/bits.cuh has no tests/pack/bits_test.cu", "tests/pack/bits_test.cu")
        self.expect(companions, "tests/pack/old_test.cpp has no include/", "tests/pack/old_test.cpp", HEAD)
        self.expect(companions, "tests/model/old_test.cpp has no include/", "tests/model/old_test.cpp", HEAD)
        self.expect(companions, "bench/pack/old_bench.cpp has no include/", "bench/pack/old_bench.cpp", HEAD)
        self.expect(companions, "half_test.cpp:3: the name of the case has a ';'", "tests/core/half_test.cpp",
                    'TEST_CASE("one") { a; }\nTEST_CASE("a b "\n          "\\"c\\"; d", "[core]") {\n')
        self.expect(companions, "bits_test.cu:2: the name", "tests/pack/bits_test.cu",
                    'TEMPLATE_TEST_CASE_METHOD(Fixture, "a;b", "[core]", int) {\n')
        self.expect(companions, "<higgs/gpu/warp.cuh> must be in one of", "include/higgs/gpu/warp.cuh", HEADER)

    def test_docs(self):
        self.expect(docs, "CHANGELOG.md is missing", "CHANGELOG.md")
        self.expect(docs, "names tests/core/quarter_test.cpp", "README.md", "In tests/core/quarter_test.cpp.\n")
        self.expect(docs, "names higgs/core/quarter.hpp", "CONTRIBUTING.md", "#include <higgs/core/quarter.hpp>\n")
        self.expect(docs, "names docs.md", "README.md", "[more](docs.md)\n")
        self.expect(docs, "names run.sh", "bench/README.md", "`run.sh`\n")
        self.expect(docs, "links to the heading #bits", "docs/format.md", "[bits](#bits)\n")
        self.expect(docs, "links to the heading glossary.md#words", "docs/format.md", "[bits](glossary.md#words)\n")
        self.expect(docs, "names notes/x.md", "docs/format.md", "[bits](notes/x.md#words)\n")
        self.expect(docs, "calls it weight panel", "docs/notes/new.md", "A strip of weights.\n")
        self.expect(docs, "half.hpp:5: \"strips\" is not in docs/glossary.md", "include/higgs/core/half.hpp", "// strips\n")
        self.expect(docs, 'docs/format.md: the snippet that begins "int x = 2;"', "docs/format.md",
                    "```cpp\nint x = 2;\n```\n")
        self.expect(docs, 'the snippet that begins "int y = 2;"', "README.md", "```cpp\nint y = 2;\n```\n")

    def test_planted_faults(self):
        self.assertEqual(list(planted_faults.texts_that_are_gone(planted_faults.ROOT)), [])


if __name__ == "__main__":
    unittest.main()
