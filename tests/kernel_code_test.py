# SPDX-License-Identifier: Apache-2.0
"""kernel_code.py sees each planted fault, and nothing wrong with a good kernel. Arguments: nvcc, a scratch folder."""
import sys
import unittest
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).parent))
import kernel_code  # noqa: E402

NVCC, FOLDER = sys.argv.pop(1), Path(sys.argv.pop(1))
FAULTS = {  # kernel: what must be said of it
    "local_array_kernel": ["not stack == 0", "not ldl == 0", "not stl == 0"],
    "spill_kernel": ["not spills == 0", "not stack == 0", "not ldl == 0", "not stl == 0"],
    "too_many_registers_kernel": ["not registers <= 16"],
    "barrier_in_loop_kernel": ["not loop.bar == 0 {'loop.bar': 1}"],
    "narrow_load_kernel": ["not loop.ldg32 == 0 {'loop.ldg32': 4}"],
    "late_load_kernel": ["not loop.ldg_distance > 30 {'loop.ldg_distance': "],
    "unplanned": ["no plan names it"],
    "good_kernel": [],
}
SPILL_REPORT = """ptxas info    : Compiling entry function '_Z1kPi' for 'sm_90'
ptxas info    : Function properties for _Z1kPi
    24 bytes stack frame, 28 bytes spill stores, 32 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers, 24 bytes cumulative stack size, 512 bytes smem
"""


class KernelCode(unittest.TestCase):
    def test_faults_are_seen_on_the_oldest_and_the_newest_architecture(self):
        source = Path(__file__).with_name("kernel_code_faults.cu")
        rows, all_errors = kernel_code.check(NVCC, source, ["-std=c++20"], FOLDER, [80, 120])
        for arch in (80, 120):
            errors = [e for e in all_errors if e.startswith(f"sm_{arch} ") or e.startswith(f"sm_{arch}:")]
            for kernel, messages in FAULTS.items():
                mine = [e for e in errors if f" {kernel}(" in e]
                self.assertEqual(len(mine), len(messages), mine)
                for message in messages:
                    self.assertTrue(any(message in e for e in mine), (message, mine))
            self.assertIn(f"sm_{arch}: no kernel is named kernel_that_is_gone", errors)
            self.assertEqual(len(errors), sum(map(len, FAULTS.values())) + 1)
        self.assertEqual(sum("good_kernel" in row and "hmma 1 ldg128 1" in row for row in rows), 2, rows)
        self.assertTrue((FOLDER / "compute_100.ptx").exists())  # as nvcc -arch=sm_120 compiles

    def test_what_ptxas_says_costs_speed_is_seen(self):
        source = Path(__file__).with_name("kernel_code_faults_sm90a.cu")
        self.assertEqual(kernel_code.architectures_of(source), ["90a"])
        rows, errors = kernel_code.check(NVCC, source, ["-std=c++20"], FOLDER, ["90a"])
        self.assertEqual(len(errors), 2, errors)
        self.assertTrue(any("sm_90a serialized_kernel(" in e and "wgmma.mma_async instructions are serialized" in e
                            for e in errors), errors)
        self.assertTrue(any("'setmaxnreg' ignored" in e for e in errors), errors)
        self.assertEqual(sum("hgmma 1" in row for row in rows), 2, rows)

    def test_the_distance_of_a_load_is_that_to_its_first_reader_round_the_loop(self):
        registers = lambda form, d, a, b, c: (form << 9 | d << 16 | a << 24 | b << 32, c)  # noqa: E731
        load, other = ("ldg128", registers(1, 40, 2, 255, 255)), ("", registers(1, 8, 9, 10, 11))
        readers = {  # what reads registers 40 to 43
            "a": ("", registers(4, 7, 43, 255, 255)), "b": ("", registers(1, 7, 9, 41, 255)),
            "c": ("", registers(1, 7, 9, 9, 40)), "b beside a constant": ("", registers(2, 7, 9, 99, 42)),
            "a of mma": ("hmma", registers(1, 7, 37, 20, 60)), "b of mma": ("hmma", registers(1, 7, 20, 39, 60)),
            "c of mma": ("hmma", registers(1, 7, 20, 30, 38))}
        uniform = 0x090  # an addition of uniform registers
        others = [("", registers(4, 40, 9, 41, 255)), ("", (uniform | registers(1, 7, 41, 42, 43)[0], 43)), ("hmma", registers(1, 7, 36, 44, 60)),
                  ("hmma", registers(1, 7, 44, 38, 60))]
        distance = lambda loop: kernel_code.ldg_distance(*zip(*loop))  # noqa: E731
        for name, reader in readers.items():
            self.assertEqual(distance([reader, other, other, load, other]), 2, name)
            self.assertEqual(distance([load, other, *others, reader]), 2 + len(others), name)
        for instruction in others:
            self.assertEqual(distance([load, other, instruction]), 3, instruction)
        self.assertEqual(distance([other, readers["a"]]), 0)
        narrow = ("ldg64", load[1])
        self.assertEqual(distance([narrow, readers["a"], readers["b"]]), 2)  # register 43 is another's

    def test_conditions_compare_architectures_as_numbers(self):
        code = kernel_code.Code(["preexit"])
        for arch, errors in ((90, 0), ("90", 0), ("90a", 0), ("120", 0), ("80", 1)):
            found = list(kernel_code.errors_of({"k()": ({}, code, code)}, [("k", ["preexit == (arch >= 90)"])], arch))
            self.assertEqual(len(found), errors, (arch, found))

    def test_spills_are_read_from_ptxas(self):
        report = kernel_code.ptxas_report(SPILL_REPORT)["_Z1kPi"]
        self.assertEqual(report, {"registers": 255, "stack": 24, "spills": 60, "smem": 512, "barriers": 1})
        nothing = kernel_code.Code([])
        errors = list(kernel_code.errors_of({"k(int*)": (report, nothing, nothing)}, [("k", [])], 90))
        self.assertEqual(errors, ["sm_90 k(int*): not spills == 0 {'spills': 60}",
                                  "sm_90 k(int*): not stack == 0 {'stack': 24}"])


if __name__ == "__main__":
    unittest.main()
