"""The tools and the GPU of this machine, and which commit is checked."""

import os
import re
import shutil
from pathlib import Path

from context import ROOT, run


def find_tool(name, variables=()):
    """An executable by environment variable, PATH, or beside the toolkit."""
    toolkits = [os.environ[key] for key in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(key)] + ["/usr/local/cuda"]
    candidates = [os.environ.get(key) for key in variables] + [shutil.which(name)]
    candidates += [f"{toolkit}/bin/{name}" for toolkit in toolkits]
    return next((path for path in candidates if path and os.access(path, os.X_OK)), None)


def first_line(command, pattern=r".+"):
    try:
        found = re.search(pattern, run(command, 30).output)
    except OSError:
        return None
    return found.group(0) if found else None


def find_doctest(given, build):
    """The folder that holds doctest/doctest.h: the header of Debian's doctest-dev, or a copy that was brought along."""
    places = [given] if given else [os.environ.get("SMOE_DOCTEST"), "/usr/include", "/usr/local/include"]
    folders = [build, *sorted(ROOT.glob("build*"))]
    places += [str(folder / part) for folder in folders for part in ("include", "", "_deps/doctest-src")]
    for place in filter(None, places):
        path = Path(place).resolve()
        if path.name == "doctest.h":
            if path.parent.name == "doctest" and path.is_file():
                return path.parents[1]
            if path.is_file():  # a lone header: give it the folder that #include wants
                folder = build / "include" / "doctest"
                folder.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, folder / "doctest.h")
                return folder.parent
        elif (path / "doctest" / "doctest.h").is_file():
            return path
        elif (path / "doctest.h").is_file():
            return find_doctest(str(path / "doctest.h"), build)
    return None


def commit():
    """From git, from what `git archive` wrote into COMMIT, or from SMOE_COMMIT."""
    head = run(["git", "-C", ROOT, "rev-parse", "HEAD"], 10) if shutil.which("git") else None
    if head and head.code == 0:
        dirty = run(["git", "-C", ROOT, "status", "--porcelain", "--untracked-files=no"], 30)
        return head.output.strip() + ("+changes" if dirty.output.strip() else "")
    archived = (Path(__file__).parent / "COMMIT").read_text().strip()
    return os.environ.get("SMOE_COMMIT") or ("unknown" if archived.startswith("$") else archived)


def gpu():
    """Of the first GPU, by the driver's own tool; {} where there is none or it cannot be asked."""
    tool = shutil.which("nvidia-smi")
    if not tool:
        return {}
    fields = ["name", "compute_cap", "driver_version", "memory.total", "clocks.max.sm", "clocks.max.memory", "power.limit"]
    asked = run([tool, f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits", "--id=0"], 30)
    values = [value.strip() for value in asked.output.strip().split("\n")[0].split(",")]
    if asked.code != 0 or len(values) != len(fields):
        return {}
    return dict(zip((field.replace(".", "_") for field in fields), values))


def architecture(given, capability):
    """nvcc's name: sm_90 has instructions of its own that only 90a may use."""
    number = given or (capability or "9.0").replace(".", "")
    return "90a" if number == "90" else number


def describe(options):
    nvcc = find_tool("nvcc", ("CUDACXX",))
    card = gpu()
    return {
        "gpu": card or None,
        "nvcc": first_line([nvcc, "--version"], r"release .*") if nvcc else None,
        "compiler": first_line([os.environ.get("CXX", "c++"), "--version"]),
        "cores": len(os.sched_getaffinity(0)),
        "architecture": architecture(options.arch, card.get("compute_cap")),
        "commit": commit(),
    }
