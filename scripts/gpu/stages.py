"""The stages of the check. Each returns (status, details); status is passed, failed, skipped, timed out or no device."""

import json
import random
import shutil
import sys

import machine
import suites
from building import build
from context import NO_DEVICE, ROOT, run

FULL_SIZE = ("full_size_test.cc", "offsets_test.cc")
PROBES = ("probes_test.cc", "fragments_test.cc", "kernels_test.cc")


def tests_program(context):
    program = context.build / "smoe_gpu_tests"
    return program if program.exists() else None


def run_build(context):
    return build(context, machine.find_doctest(context.options.doctest, context.build))


def needs_tests(stage):
    def wrapped(context):
        program = tests_program(context)
        if program is None:
            return "skipped", {"why": "smoe_gpu_tests was not built"}
        return stage(context, program)

    return wrapped


@needs_tests
def run_probes(context, program):
    return suites.summary(suites.run_files(program, PROBES, context.clock("probes"), 3))


@needs_tests
def run_tests(context, program):
    """Every kernel test twice: with the inputs that the emulation has, and with fresh ones."""
    clock = context.clock("tests")
    files = sorted({source for source, _ in suites.test_cases(program)} - {*FULL_SIZE, *PROBES})
    workers = min(6, context.options.jobs)

    def left():
        return clock(120)

    results = suites.run_files(program, files, left, workers)
    layers = context.build / "smoe_gpu_layer_tests"
    if layers.exists():
        above = sorted({source for source, _ in suites.test_cases(layers)})
        results += suites.run_files(layers, above, left, workers)
    status, details = suites.summary(results)
    if status == "no device" or context.options.quick:
        return status, details
    seed = random.randrange(1, 2**31)
    fresh = suites.run_files(program, files, left, workers, {"SMOE_TEST_SEED": str(seed)})
    fresh_status, fresh_details = suites.summary(fresh)
    details["fresh"] = {"seed": seed, **fresh_details, "status": fresh_status}
    details["passed"] += fresh_details["passed"]
    details["failed"] += fresh_details["failed"]
    return (status if status != "passed" else fresh_status), details


def shortest_cases(results, per_file):
    """A few test cases that passed in the least time, of every file: what a checker that is slow can afford."""
    chosen = []
    for result in results:
        cases = sorted((case for case in result["cases"] if case.get("passed") and case.get("assertions")),
                       key=lambda case: case["seconds"])
        chosen += [(result["file"], case["name"]) for case in cases[:per_file]]
    return chosen


@needs_tests
def run_sanitizer(context, program):
    tool = machine.find_tool("compute-sanitizer")
    if tool is None:
        return "skipped", {"why": "compute-sanitizer is not on this machine"}
    earlier = [context.earlier(stage).get("files", []) for stage in ("probes", "tests")]
    known = {source for source, _ in suites.test_cases(program)}
    # More of each only where more time was given than the whole check takes by default.
    cases = shortest_cases([result for result in sum(earlier, []) if result["file"] in known],
                           2 if context.options.seconds > 600 else 1)
    if not cases:
        return "skipped", {"why": "no test has passed that could be repeated"}
    clock = context.clock("sanitizer")
    # Margins of ours around an array would hide from memcheck what leaves it.
    env = {"SMOE_TEST_NO_MARGIN": "1"}
    results = []
    for checker in ("memcheck", "racecheck", "synccheck"):
        log = context.build / f"{checker}.log"
        # An allocation that is refused, which a test asks for, is no fault of a kernel.
        api = ["--report-api-errors", "no"] if checker == "memcheck" else []
        wrapper = [tool, "--tool", checker, *api, "--error-exitcode", "9", "--print-limit", "5", "--log-file", log]
        for source, name in cases:
            if clock() <= 0:
                results.append({"file": f"{checker} {source}", "status": "timed out", "cases": []})
                continue
            entry = suites.run_file(program, source, clock(), env, wrapper, suites.pattern(name))
            if entry["status"] == "failed" and log.exists():
                entry["error"] = log.read_text(errors="replace")[:3000]
            results.append({**entry, "file": f"{checker} {source}", "case": name})
    return suites.summary(results)


@needs_tests
def run_full_size(context, program):
    clock = context.clock("full")
    return suites.summary([suites.run_file(program, source, clock()) for source in FULL_SIZE])


def json_lines(text):
    lines = []
    for line in text.splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            continue
    return [line for line in lines if isinstance(line, dict)]


def measured(result, details):
    """Status of a program that prints JSON lines and may have been stopped between two of them."""
    lines = json_lines(result.output)
    details["lines"] = lines
    errors = [line for line in lines if "error" in line]
    if result.code == NO_DEVICE:
        return "no device", {"error": result.tail(300).strip()}
    if result.timed_out and lines and not errors:
        return "timed out", details
    if result.code != 0 or errors or not lines:
        return "failed", {**details, "error": errors[0]["error"] if errors else result.tail(2000)}
    return "passed", details


def run_program(context, stage, *options):
    program = context.build / "cuda_bench"
    if not program.exists():
        return "skipped", {"why": "cuda_bench was not built"}
    limit = context.clock(stage)()
    # The program begins no case after its time; the rest is for the case that has begun.
    command = [program, "--seconds", f"{max(1.0, limit - 15):.0f}", *options, *(["--quick"] if context.options.quick else [])]
    return measured(run(command, limit, merge=False), {})


def run_bench(context):
    return run_program(context, "bench")


def run_decoder(context):
    """Whole decoders, host and all, in the plug-in."""
    return run_program(context, "decoder", "--decoder")


def run_compare(context):
    limit = context.clock("compare")()
    command = [sys.executable, ROOT / "scripts/gpu_compare.py", "--seconds", f"{max(1.0, limit - 10):.0f}"]
    result = run(command, limit, merge=False)
    status, details = measured(result, {})
    lines = details.get("lines", [])
    if status == "passed" and all("skipped" in line for line in lines):
        return "skipped", {"why": "; ".join(line["skipped"] for line in lines)}
    return status, details


def run_jest(context):
    """The package itself on the GPU, where Node and its modules came along."""
    if not shutil.which("node") or not (ROOT / "node_modules/jest/bin/jest.js").exists():
        return "skipped", {"why": "no node, or no node_modules"}
    clock = context.clock("jest")
    for command in (["npx", "--no-install", "cmake-js", "build"], ["npm", "run", "-s", "build:ts"]):
        result = run(command, clock())
        if result.code != 0:
            return ("timed out" if result.timed_out else "failed"), {"error": result.tail()}
    report = context.build / "jest.json"
    report.unlink(missing_ok=True)
    result = run(["node", ROOT / "node_modules/jest/bin/jest.js", "--json", f"--outputFile={report}"],
                 clock(), {"SMOE_REQUIRE_CUDA": "1"})
    try:
        counts = json.loads(report.read_text())
    except (OSError, ValueError):
        return ("timed out" if result.timed_out else "failed"), {"error": result.tail()}
    details = {"passed": counts["numPassedTests"], "failed": counts["numFailedTests"],
               "skipped": counts["numPendingTests"]}
    return ("passed" if counts["success"] else "failed"), details if counts["success"] else {
        **details, "error": result.tail()}


# In order; seconds that each may take: together 600, on a machine with 16 cores.
STAGES = {
    "build": (run_build, 170),
    "probes": (run_probes, 15),
    "tests": (run_tests, 90),
    "sanitizer": (run_sanitizer, 60),
    "full": (run_full_size, 65),
    "bench": (run_bench, 110),
    "decoder": (run_decoder, 50),
    "compare": (run_compare, 40),
    "jest": (run_jest, 600),
}
# A GPU is of no use to it.
WITHOUT_DEVICE = ("build",)
