"""Runs doctest programs a source file at a time, so that an error that a GPU does not recover from ends one file only."""

import html
import re
import xml.etree.ElementTree as xml
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from context import NO_DEVICE, run


def pattern(name):
    """A doctest filter for one name: commas separate filters, brackets and stars would be taken as wildcards."""
    return re.sub(r"[,*?\[\]\\]", "?", name)


def test_cases(program):
    """[(source file, test case)] that the program holds."""
    listed = run([program, "-ltc", "-r=xml", "--no-skip"], 60, merge=False)
    try:
        tree = xml.fromstring(listed.output)
    except xml.ParseError:
        return []
    return [(Path(case.get("filename", "")).name, case.get("name")) for case in tree.iter("TestCase")]


def parse(output):
    """Test cases of an XML report, which may end in the middle: then its last case is the one that crashed."""
    begin = output.find("<?xml")
    text = output[max(begin, 0):]
    try:
        tree = xml.fromstring(text[:text.rindex("</doctest>") + len("</doctest>")])
    except (xml.ParseError, ValueError):
        names = re.findall(r'<TestCase name="([^"]*)"', text)
        done = text.count("</TestCase>")
        return [{"name": html.unescape(name), "passed": None if i < done else False} for i, name in enumerate(names)], False
    cases = []
    for case in tree.iter("TestCase"):
        results = case.find("OverallResultsAsserts")
        if case.get("skipped") == "true" or results is None:
            continue
        entry = {"name": case.get("name"), "passed": results.get("test_case_success") == "true",
                 "assertions": int(results.get("successes", 0)), "seconds": float(results.get("duration", 0))}
        messages = [message.findtext("Text", "").strip() for message in case.iter("Message")]
        if messages:
            entry["messages"] = messages[:5]
        if not entry["passed"]:
            entry["failures"] = [" ".join("".join(failed.itertext()).split())[:400]
                                 for failed in list(case.iter("Expression"))[:3] + list(case.iter("Exception"))[:1]]
        cases.append(entry)
    return cases, True


def run_file(program, source, limit, env=None, wrapper=(), only=None):
    """One source file's test cases; {file, status, cases, ...}."""
    filters = [f"-sf=*{source}"] + ([f"-tc={only}"] if only else [])
    result = run([*wrapper, program, "-r=xml", "-d", "--no-skip", *filters], limit, env, merge=False)
    cases, whole = parse(result.output)
    entry = {"file": source, "seconds": round(result.seconds, 2), "cases": cases}
    if result.timed_out:
        return {**entry, "status": "timed out"}
    if result.code == NO_DEVICE:
        return {**entry, "status": "no device", "error": result.tail(300).strip()}
    if not whole or result.code < 0:
        return {**entry, "status": "crashed", "error": result.tail(1500), "code": result.code}
    failed = result.code != 0 or any(case["passed"] is False for case in cases)
    if failed and not any(case["passed"] is False for case in cases):
        entry["error"] = result.tail(3000)
    return {**entry, "status": "failed" if failed else "passed"}


def run_files(program, files, limit, workers, env=None):
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(lambda source: run_file(program, source, limit(), env), files))


def summary(results):
    """(status, details) of a stage."""
    cases = [case for result in results for case in result["cases"]]
    passed = sum(case["passed"] is True for case in cases)
    statuses = [result["status"] for result in results]
    if statuses and all(status == "no device" for status in statuses):
        return "no device", {"error": results[0]["error"]}
    bad = [status for status in statuses if status != "passed"]
    status = "passed" if not bad and passed > 0 else "timed out" if set(bad) == {"timed out"} else "failed"
    return status, {"passed": passed, "failed": sum(case["passed"] is False for case in cases), "files": results}
