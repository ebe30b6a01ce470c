"""What every stage shares: paths, the clock, the report on disk, and commands with a time limit."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = 1
NO_DEVICE = 3  # exit code of the programs, and of the check, where there is no GPU


class Context:
    def __init__(self, options):
        self.options = options
        self.out = Path(options.out).resolve()
        self.build = Path(options.build).resolve()
        self.deadline = time.monotonic() + options.seconds
        self.report = {"schema": SCHEMA, "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                       "quick": options.quick, "machine": {}, "stages": {}}
        self.file = self.out / "gpu-check.json"
        self.out.mkdir(parents=True, exist_ok=True)
        self.build.mkdir(parents=True, exist_ok=True)

    def left(self, limit):
        """Seconds that something may take: its own limit, or what is left of the whole."""
        return max(0.0, min(limit, self.deadline - time.monotonic()))

    def clock(self, stage):
        """Seconds that the stage has left, at most as many as asked for."""
        end = time.monotonic() + self.options.limits[stage]
        return lambda most=float("inf"): self.left(min(most, end - time.monotonic()))

    def save(self):
        """Written whole or not at all: whoever cuts the check short finds the stages before."""
        partial = self.file.with_suffix(".partial")
        partial.write_text(json.dumps(self.report, indent=1) + "\n")
        os.replace(partial, self.file)

    def earlier(self, stage):
        """The result of a stage in this run, else in the last one that wrote to the same folder."""
        if stage in self.report["stages"]:
            return self.report["stages"][stage]
        try:
            return json.loads(self.earlier_text())["stages"].get(stage, {})
        except (OSError, ValueError, KeyError):
            return {}

    def earlier_text(self):
        return (self.out / "gpu-check.previous.json").read_text()

    def keep_previous(self):
        if self.file.exists():
            os.replace(self.file, self.out / "gpu-check.previous.json")


class Result:
    def __init__(self, code, output, seconds, timed_out):
        self.code, self.output, self.seconds, self.timed_out = code, output, seconds, timed_out

    def tail(self, characters=4000):
        return self.output[-characters:]


def run(command, limit, env=None, cwd=ROOT, merge=True):
    """Runs a command, kills its whole group after `limit` seconds; what it had printed by then is kept."""
    begin = time.monotonic()
    if limit <= 0:
        return Result(-1, "no time left", 0.0, True)
    child = subprocess.Popen([str(word) for word in command], cwd=cwd, env={**os.environ, **(env or {})},
                             stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT if merge else subprocess.PIPE, start_new_session=True)
    timed_out = False
    try:
        output, errors = child.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        timed_out = True
        os.killpg(child.pid, signal.SIGKILL)
        output, errors = child.communicate()
    text = output.decode(errors="replace")
    if errors and (child.returncode != 0 or timed_out):
        text += errors.decode(errors="replace")
    return Result(child.returncode, text, time.monotonic() - begin, timed_out)
