"""Builds with nvcc and c++ directly, a process per file: a file that does not compile is named and left out, and what
does not need it is still linked and run. The library that needs no CUDA (smoe_core) is CMake's."""

import os
import platform
import re
import shlex
import shutil
from concurrent.futures import ThreadPoolExecutor

import machine
from context import ROOT, run

# As CMakeLists.txt has it; -fmad=false is nvcc's -ffp-contract=off.
PROCESSOR = ["-DSMOE_X86=1"] if platform.machine() in ("x86_64", "AMD64") else []
CORE_FLAGS = ["-std=c++17", "-O2", "-ffp-contract=off", *PROCESSOR]


def sources(pattern):
    return sorted(ROOT.glob(pattern))


def emulator_only(path):
    """Tests of the emulator itself, or that look inside it."""
    return re.search(r'#include "(emu_test\.h|cuda/emu/)', path.read_text()) is not None


def layer_test(path):
    """Test cases of the layers above the kernels that run on a device, and do not ask the emulation for faults."""
    text = path.read_text()
    on_device = "BACKEND_" in text or path.parent.name == "device"
    return on_device and re.search(r'emulate\("(?!schedule)', text) is None


def source_sets():
    rig = [ROOT / "native/bench/cuda" / name
           for name in ("device_kernels.cu", "timer.cu", "moe_rig.cc", "moe_rig_int8.cc", "shapes.cc")]
    bench = [ROOT / "native/bench/cuda" / name for name in ("cases.cc", "ceilings.cc", "decoder_case.cc")]
    tests = [path for path in sources("native/test/cuda/*_test.cc") if not emulator_only(path)]
    return {
        "kernels": sources("native/kernels/*/*.cu") + sources("native/kernels/*.cu") +
                   sources("native/cuda/device/*.cu") + [ROOT / "native/test/gpu/missing_launches.cc"],
        "rig": rig,
        "bench": bench,
        "program": [ROOT / "native/bench/cuda/cuda_bench.cc"],
        "tests": tests + sources("native/test/gpu/*_test.cc") + [ROOT / "native/test/gpu/main.cc"],
        "layers": [path for path in sources("native/test/*_test.cc") + sources("native/test/device/*_test.cc")
                   if layer_test(path)],
        "references": sources("native/*/reference*.cc") + sources("native/kernels/*/reference.cc"),
    }


class Builder:
    def __init__(self, context, doctest):
        self.context = context
        self.nvcc = machine.find_tool("nvcc", ("CUDACXX",))
        self.doctest = doctest
        self.launcher = [tool] if (tool := shutil.which("ccache")) else []
        self.plugin = context.build / "smoe_cuda.so"
        self.objects = context.build / "objects"
        self.objects.mkdir(parents=True, exist_ok=True)
        arch = context.report["machine"]["architecture"]
        self.arch = ["-gencode", f"arch=compute_{arch},code=sm_{arch}"]
        self.limit = context.clock("build")

    def command(self, path, kind, target, dependencies):
        include = [f"-I{ROOT}/native", f"-I{ROOT}/native/test/cuda"]
        if self.doctest and str(self.doctest) != "/usr/include":  # naming that again would hide its own headers
            include += ["-isystem", self.doctest]
        tail = ["-MD", "-MF", dependencies, "-c", path, "-o", target]
        if kind in ("references", "layers"):
            library = ["-DSMOE_TEST_ON_GPU=1", f'-DSMOE_CUDA_EMU_LIBRARY="{self.plugin}"'] if kind == "layers" else []
            return [*self.launcher, os.environ.get("CXX", "c++"), *CORE_FLAGS, *library, *include, *tail]
        # Launches are optimised as the library's are; what only a test's host side needs is compiled faster.
        level = "-O3" if kind in ("kernels", "rig") else "-O2"
        return [*self.launcher, self.nvcc, "-std=c++17", level, *self.arch, "-x", "cu", "-DSMOE_TEST_ON_GPU=1", *PROCESSOR,
                f'-DSMOE_SOURCE_DIR="{ROOT}"', "-fmad=false", "-Xcompiler", "-ffp-contract=off,-fPIC", *include, *tail]

    def compile(self, path, kind):
        name = str(path.relative_to(ROOT)).replace("/", "_")
        target, dependencies = self.objects / f"{name}.o", self.objects / f"{name}.d"
        command = self.command(path, kind, target, dependencies)
        stamp = self.objects / f"{name}.command"
        text = shlex.join(str(word) for word in command)
        if stamp.exists() and stamp.read_text() == text and self.up_to_date(target, dependencies):
            return {"file": str(path.relative_to(ROOT)), "seconds": 0.0, "object": target}
        target.unlink(missing_ok=True)
        result = run(command, self.limit())
        entry = {"file": str(path.relative_to(ROOT)), "seconds": round(result.seconds, 1)}
        if result.code == 0 and not result.timed_out:
            stamp.write_text(text)
            return {**entry, "object": target}
        return {**entry, "error": "no time left" if result.timed_out else result.tail()}

    @staticmethod
    def up_to_date(target, dependencies):
        if not target.exists() or not dependencies.exists():
            return False
        words = dependencies.read_text().replace("\\\n", " ").split(":", 1)[-1].split()
        try:
            newest = max((ROOT / word).stat().st_mtime for word in words)
        except (OSError, ValueError):
            return False
        return newest < target.stat().st_mtime

    def core(self, jobs):
        """libsmoe_core.a."""
        folder = self.context.build / "core"
        configure = ["cmake", "-S", ROOT, "-B", folder, "-DSMOE_ADDON=OFF", "-DSMOE_TESTS=OFF", "-DSMOE_CUDA=OFF",
                     "-DCMAKE_BUILD_TYPE=Release"]
        for command in (configure, ["cmake", "--build", folder, "--target", "smoe_core", "--parallel", str(jobs)]):
            result = run(command, self.limit())
            if result.code != 0:
                return {"file": "smoe_core", "error": "no time left" if result.timed_out else result.tail()}
        return {"file": "smoe_core", "seconds": round(result.seconds, 1), "object": folder / "libsmoe_core.a"}

    def link(self, name, parts, *flags):
        target = self.context.build / name
        target.unlink(missing_ok=True)
        result = run([self.nvcc, *self.arch, *flags, *parts, "-o", target, "-lpthread", "-ldl"], self.limit())
        if result.code == 0:
            return None
        return {"file": name, "error": "no time left" if result.timed_out else result.tail()}


def build(context, doctest):
    """The stage: (status, details)."""
    builder = Builder(context, doctest)
    if builder.nvcc is None:
        return "failed", {"error": "nvcc not found: looked at CUDACXX, PATH, CUDA_HOME, CUDA_PATH and /usr/local/cuda"}
    jobs = context.options.jobs
    sets = source_sets()
    if doctest is None:
        sets["tests"] = sets["layers"] = []
    # Kernels take longest, so they begin first; smoe_core is compiled beside them.
    work = [(path, kind) for kind in ("kernels", "rig", "tests", "bench", "program", "layers", "references") for path in sets[kind]]
    with ThreadPoolExecutor(jobs + 1) as pool:
        core = pool.submit(builder.core, max(1, jobs // 3))
        made = list(pool.map(lambda item: {**builder.compile(*item), "kind": item[1]}, work))
        made.append({**core.result(), "kind": "core"})
    failed = [entry for entry in made if "error" in entry]

    def objects(*kinds, named=""):
        return [entry["object"] for entry in made
                if entry["kind"] in kinds and "object" in entry and entry["file"].endswith(named)]

    links = [builder.link(builder.plugin.name, objects("kernels"), "-shared"), builder.link("cuda_bench", objects("program", "bench", "rig", "kernels", "core"))]
    if doctest is None:
        failed.append({"file": "smoe_gpu_tests", "error": "doctest.h not found: --doctest PATH (see CONTRIBUTING.md)"})
    else:
        links.append(builder.link("smoe_gpu_tests", objects("tests", "bench", "rig", "kernels", "references", "core")))
        # The plug-in is loaded, as by the package; main alone asks the runtime whether there is a device.
        host = [*objects("tests", named="test/gpu/main.cc"), *objects("kernels", named="device/runtime.cu")]
        links.append(builder.link("smoe_gpu_layer_tests", [*objects("layers", "references"), *host, *objects("core")]))
    failed += [entry for entry in links if entry]
    details = {
        "files": len(made),
        "slowest": sorted(((entry.get("seconds", 0), entry["file"]) for entry in made), reverse=True)[:5],
        "failures": [{"file": entry["file"], "error": entry["error"]} for entry in failed],
    }
    return ("failed" if failed else "passed"), details
