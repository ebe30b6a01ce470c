"""The short table at the end."""


def number(value, digits=1):
    return "-" if value is None else f"{value:.{digits}f}"


def first_lines(text, count=3):
    return "\n".join("      " + line for line in str(text).strip().splitlines()[:count])


def stage_summary(stage):
    if "why" in stage:
        return stage["why"]
    if "passed" in stage:
        return f"{stage['passed']} passed, {stage['failed']} failed"
    if "lines" in stage:
        return f"{len(stage['lines'])} results"
    if "files" in stage:
        return f"{stage['files']} files, {len(stage.get('failures', []))} failures"
    return str(stage.get("error", "")).splitlines()[0] if stage.get("error") else ""


def failures(stages):
    for name, stage in stages.items():
        for failed in stage.get("failures", []):
            lines = [line for line in failed["error"].splitlines() if "error" in line] or failed["error"].splitlines()
            yield f"{name}: {failed['file']}", "\n".join(lines)
        for part in (stage, stage.get("fresh", {})):
            seed = f" with SMOE_TEST_SEED={part['seed']}" if "seed" in part else ""
            files = part.get("files", [])
            for result in files if isinstance(files, list) else []:
                if result["status"] in ("passed", "no device"):
                    continue
                bad = [case for case in result["cases"] if case["passed"] is False]
                for case in bad:
                    yield f"{name}: {result['file']}: {case['name']}{seed}", "\n".join(case.get("failures", []))
                if not bad:
                    yield f"{name}: {result['file']}: {result['status']}{seed}", result.get("error", "")
        if stage["status"] == "failed" and "error" in stage:
            yield name, stage["error"]


def bench_rows(lines):
    head = f"  {'shape':15} {'format':6} {'tokens':>6} {'routing':14} {'path':8} {'us':>9} {'p99':>9} {'roofline':>9} {'ratio':>6}  "
    yield head
    for line in lines:
        if line.get("case") not in ("decode", "prefill"):
            continue
        name = f"  {line['shape']:15} {line['format']:6} {line['tokens']:>6} {line['skew']:14} {line['path']:8}"
        if "us_median" not in line:
            yield f"{name} {line.get('skipped') or line.get('error')}"
            continue
        extra = f"{number(line.get('tflops'))} TFLOP/s" if "tflops" in line else (
            f"{number(line.get('gb_s'), 0)} GB/s, gate {number(line.get('gate_us'))} us "
            f"{'met' if line.get('gate_met') else 'missed'}")
        yield (f"{name} {number(line['us_median']):>9} {number(line['us_p99']):>9} {number(line['roofline_us']):>9} "
               f"{number(line.get('ratio'), 2):>6}  {extra}")


def decoder_rows(lines):
    """Of one sequence, measured from the host."""
    for line in lines:
        name = f"  {line.get('shape', ''):15} {line.get('format', ''):6} {line.get('layers', ''):>3} layers"
        if line.get("case") == "decoder prefill":
            yield f"{name}  prompt of {line['tokens']} tokens: {number(line['ms'])} ms, {number(line['tokens_s'], 0)} tokens/s"
        elif line.get("case") == "decoder" and "us_median" in line:
            yield (f"{name}  token: {number(line['us_median'])} us, p99 {number(line['us_p99'])}, "
                   f"roofline {number(line['roofline_us'])}, ratio {number(line['ratio'], 2)}")
        elif line.get("case") == "decoder":
            yield f"{name}  {line.get('skipped') or line.get('error')}"


def ceilings(lines):
    for line in lines:
        if line.get("case", "").endswith("ceilings"):
            yield "  " + ", ".join(f"{key} {value}" for key, value in line.items() if key != "case")


def comparison(lines):
    for line in lines:
        name = f"  {line.get('peer', ''):24} {line.get('shape', ''):15} {line.get('tokens', ''):>6}"
        yield f"{name} {number(line['us_median'])} us" if "us_median" in line else f"{name} {line.get('skipped') or line.get('error')}"


def table(report):
    machine, stages = report["machine"], report["stages"]
    card = machine.get("gpu") or {}
    yield f"{card.get('name', 'no GPU')}, driver {card.get('driver_version', '-')}, nvcc {machine.get('nvcc')}, commit {machine.get('commit')}"
    found = list(failures(stages))
    for name, text in found[:20]:
        yield f"FAILED {name}"
        if text:
            yield first_lines(text)
    if len(found) > 20:
        yield f"... and {len(found) - 20} more: see the JSON"
    bench, compare = stages.get("bench", {}).get("lines", []), stages.get("compare", {}).get("lines", [])
    if bench:
        yield from ceilings(bench)
        yield from bench_rows(bench)
    yield from decoder_rows(stages.get("decoder", {}).get("lines", []))
    yield from comparison(compare)
    for name, stage in stages.items():
        yield f"{name:10} {stage['status']:10} {stage['seconds']:7.1f} s  {stage_summary(stage)}"
