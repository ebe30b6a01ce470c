"""The driver without a GPU: reading doctest's reports, also those that end in the middle; statuses; the table; the file."""

import json
import sys
import tempfile
import unittest
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.dont_write_bytecode = True

import building  # noqa: E402
import machine  # noqa: E402
import stages  # noqa: E402
import suites  # noqa: E402
from context import Context, Result, run  # noqa: E402
from table import table  # noqa: E402

REPORT = """device: a GPU
<?xml version="1.0" encoding="UTF-8"?>
<doctest binary="x"><Options/><TestSuite>
<TestCase name="adds, &lt;often&gt;" filename="a_test.cc" line="1">
<OverallResultsAsserts successes="3" failures="0" test_case_success="true" duration="0.5"/></TestCase>
<TestCase name="fails" filename="a_test.cc" line="9"><Expression success="false" type="CHECK"><Original>a == b</Original>
<Expanded>1 == 2</Expanded></Expression>
<OverallResultsAsserts successes="0" failures="1" test_case_success="false" duration="0.1"/></TestCase>
<TestCase name="other" skipped="true"/></TestSuite></doctest>
"""
CUT = REPORT[:REPORT.index("<Expression")]


def options(folder, **more):
    limits = {name: limit for name, (_, limit) in stages.STAGES.items()}
    given = {"out": folder, "build": f"{folder}/build", "seconds": 60, "quick": False, "jobs": 2, "arch": None,
             "doctest": None, "limits": limits}
    return SimpleNamespace(**{**given, **more})


class Doctest(unittest.TestCase):
    def test_report(self):
        cases, whole = suites.parse(REPORT)
        self.assertTrue(whole)
        self.assertEqual([(case["name"], case["passed"]) for case in cases], [("adds, <often>", True), ("fails", False)])
        self.assertIn("1 == 2", cases[1]["failures"][0])

    def test_report_that_ends_in_the_middle(self):
        cases, whole = suites.parse(CUT)
        self.assertFalse(whole)
        self.assertEqual([case["passed"] for case in cases], [None, False])

    def test_filters_hold_one_name(self):
        self.assertEqual(suites.pattern("a, b*[c]"), "a? b??c?")

    def test_statuses(self):
        def result(status, passed):
            return {"file": "a", "status": status, "error": "why", "cases": [{"name": "n", "passed": passed}]}

        self.assertEqual(suites.summary([result("passed", True)])[0], "passed")
        self.assertEqual(suites.summary([result("passed", True), result("failed", False)])[0], "failed")
        self.assertEqual(suites.summary([result("passed", True), result("timed out", None)])[0], "timed out")
        self.assertEqual(suites.summary([{**result("no device", None), "cases": []}])[0], "no device")
        self.assertEqual(suites.summary([{"file": "a", "status": "passed", "cases": []}])[0], "failed")  # nothing ran

    def test_shortest_cases(self):
        cases = [{"name": name, "passed": passed, "assertions": count, "seconds": seconds}
                 for name, passed, count, seconds in (("slow", True, 5, 2.0), ("fast", True, 5, 0.1),
                                                      ("empty", True, 0, 0.0), ("bad", False, 5, 0.0))]
        self.assertEqual(stages.shortest_cases([{"file": "f", "cases": cases}], 1), [("f", "fast")])


class Programs(unittest.TestCase):
    def test_limit_ends_a_command_and_keeps_its_output(self):
        result = run(["sh", "-c", "echo begun; sleep 20"], 0.5)
        self.assertTrue(result.timed_out)
        self.assertLess(result.seconds, 10)
        self.assertIn("begun", result.output)

    def test_measured(self):
        lines = '{"case": "decode", "us_median": 1.5}\nnoise\n'
        self.assertEqual(stages.measured(Result(0, lines, 1, False), {})[0], "passed")
        self.assertEqual(stages.measured(Result(-9, lines, 1, True), {})[0], "timed out")
        self.assertEqual(stages.measured(Result(3, "no device: none", 1, False), {})[0], "no device")
        self.assertEqual(stages.measured(Result(1, lines + '{"error": "lost"}', 1, False), {})[1]["error"], "lost")
        self.assertEqual(stages.measured(Result(0, "", 1, False), {})[0], "failed")

    def test_architectures(self):
        self.assertEqual(machine.architecture(None, "9.0"), "90a")
        self.assertEqual(machine.architecture(None, "8.6"), "86")
        self.assertEqual(machine.architecture("80", "9.0"), "80")
        self.assertEqual(machine.architecture("90", None), "90a")

    def test_tests_that_look_inside_the_emulator_stay_out(self):
        names = [path.name for path in building.source_sets()["tests"]]
        self.assertIn("gate_up_test.cc", names)
        self.assertIn("full_size_test.cc", names)
        self.assertNotIn("bugs_test.cc", names)
        self.assertNotIn("runtime_test.cc", names)


class Report(unittest.TestCase):
    def test_written_after_each_stage_and_read_by_the_next_run(self):
        with tempfile.TemporaryDirectory() as folder:
            context = Context(options(folder))
            context.report["machine"] = machine.describe(context.options)
            context.report["stages"]["tests"] = {"status": "passed", "seconds": 1.0, "passed": 2, "failed": 0, "files": []}
            context.save()
            report = json.loads((Path(folder) / "gpu-check.json").read_text())
            self.assertEqual(set(report), {"schema", "date", "quick", "machine", "stages"})
            self.assertEqual(set(report["machine"]), {"gpu", "nvcc", "compiler", "cores", "architecture", "commit"})
            again = Context(options(folder))
            again.keep_previous()
            self.assertEqual(again.earlier("tests")["passed"], 2)
            self.assertEqual(again.earlier("bench"), {})

    def test_table(self):
        cases, _ = suites.parse(REPORT)
        failed = {"file": "a_test.cc", "status": "failed", "cases": cases}
        bench = [{"case": "memory ceilings", "read_gb_s": 4500.0},
                 {"case": "decode", "shape": "OLMoE", "format": "bf16", "tokens": 1, "skew": "uniform", "path": "fused",
                  "us_median": 31.5, "us_p99": 33.0, "roofline_us": 22.5, "ratio": 0.71, "gb_s": 3200.0, "gate_us": 32.0, "gate_met": True},
                 {"case": "prefill", "shape": "OLMoE", "format": "bf16", "tokens": 512, "skew": "uniform", "path": "wgmma",
                  "skipped": "this device has no wgmma"}]
        lines = list(table({"machine": {}, "stages": {
            "build": {"status": "failed", "seconds": 1.0, "files": 3, "failures": [{"file": "x.cu", "error": "error: no"}]},
            "tests": {"status": "failed", "seconds": 1.0, "passed": 1, "failed": 1, "files": [failed],
                      "fresh": {"seed": 7, "files": [failed]}},
            "bench": {"status": "passed", "seconds": 1.0, "lines": bench},
            "compare": {"status": "skipped", "seconds": 0.1, "why": "PyTorch is not installed"}}}))
        text = "\n".join(lines)
        self.assertIn("FAILED build: x.cu", text)
        self.assertIn("FAILED tests: a_test.cc: fails with SMOE_TEST_SEED=7", text)
        self.assertIn("gate 32.0 us met", text)
        self.assertIn("this device has no wgmma", text)
        self.assertIn("PyTorch is not installed", lines[-1])


if __name__ == "__main__":
    unittest.main()
