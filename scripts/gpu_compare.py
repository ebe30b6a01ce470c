#!/usr/bin/env python3
"""Times the MoE block of the benchmark's shapes in PyTorch (torch._grouped_mm) and in a Triton kernel of our own, with
the benchmark's rules: a CUDA graph of layers, several sets of weights, new inputs for every replay. One JSON object a
line; what is not installed is one line that says so."""

import argparse
import importlib.util
import json
import math
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "gpu"))
sys.dont_write_bytecode = True

# native/bench/cuda/shapes.cc: name, hidden, width, experts, k
SHAPES = (("OLMoE", 2048, 1024, 64, 8), ("Qwen3-30B-A3B", 2048, 768, 128, 8), ("Mixtral-8x7B", 4096, 14336, 8, 2),
          ("DeepSeek-V3", 7168, 2048, 256, 8))
TOKENS = (1, 8, 64, 512, 4096)
WARM_UPS = 3


def emit(**line):
    print(json.dumps({"case": "compare", **line}), flush=True)


def missing():
    """Why nothing can be compared, or None."""
    if importlib.util.find_spec("torch") is None:
        return "PyTorch is not installed"
    import torch

    return None if torch.cuda.is_available() else "PyTorch finds no GPU"


def route(torch, x, router, k):
    """As the benchmark's router: softmax, the k largest, divided by their sum."""
    scores = torch.softmax((x @ router.t()).float(), dim=-1)
    weights, ids = torch.topk(scores, k, dim=-1)
    return ids, weights / weights.sum(-1, keepdim=True)


def grouped_mm(torch, x, ids, weights, gate_up, down):
    """gate_up [E, 2I, H], down [E, H, I]: both column-major as _grouped_mm wants them, by a transposed view."""
    tokens, slots = ids.shape
    width = down.shape[2]
    flat = ids.flatten()
    order = torch.argsort(flat, stable=True)
    counts = torch.zeros(down.shape[0], dtype=torch.int64, device=x.device).scatter_add_(0, flat, torch.ones_like(flat))
    ends = counts.cumsum(0).to(torch.int32)
    both = torch._grouped_mm(x[order // slots], gate_up.transpose(1, 2), offs=ends)
    h = torch.nn.functional.silu(both[:, :width]) * both[:, width:]
    y = torch._grouped_mm(h, down.transpose(1, 2), offs=ends)
    rows = torch.empty_like(y)
    rows[order] = y
    return (rows.view(tokens, slots, -1).float() * weights[..., None]).sum(1)


class Layers:
    """Weights and inputs of one shape."""

    def __init__(self, torch, shape, tokens):
        name, hidden, width, experts, k = shape
        self.torch, self.shape, self.tokens, self.k = torch, shape, tokens, k
        matrix = 6 * hidden * width  # bytes of an expert
        touched = experts * (1 - (1 - k / experts) ** tokens) * matrix
        properties = torch.cuda.get_device_properties(0)
        room = int(0.8 * torch.cuda.mem_get_info()[0]) // (experts * matrix)
        self.layers = 20 if tokens <= 64 else 4
        wanted = max(2, 1 + math.ceil(4 * getattr(properties, "L2_cache_size", 60 << 20) / touched))
        self.sets = min(wanted, room, self.layers)
        self.weights = []
        for _ in range(self.sets):
            made = [torch.empty(size, dtype=torch.bfloat16, device="cuda").normal_(0, deviation) for size, deviation in (
                ((experts, hidden), 1.28 / hidden**0.5), ((experts, 2 * width, hidden), 1 / hidden**0.5),
                ((experts, hidden, width), 1 / width**0.5))]
            self.weights.append(made)
        self.x = [torch.empty((tokens, hidden), dtype=torch.bfloat16, device="cuda") for _ in range(self.layers)]

    def draw(self):
        for x in self.x:
            x.normal_()

    def run(self, block):
        for i, x in enumerate(self.x):
            router, gate_up, down = self.weights[i % self.sets]
            ids, weights = route(self.torch, x, router, self.k)
            block(x, ids, weights, gate_up, down)


def measure(layers, block, seconds):
    """Sorted seconds of one layer: replays of a graph."""
    torch = layers.torch
    layers.draw()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        layers.run(block)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        layers.run(block)
    times, begin = [], time.monotonic()
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    while len(times) < WARM_UPS + 5 or (time.monotonic() - begin < seconds and len(times) < 200):
        layers.draw()
        first.record()
        graph.replay()
        last.record()
        last.synchronize()
        times.append(first.elapsed_time(last) * 1e-3 / layers.layers)
    return sorted(times[WARM_UPS:])


def check(torch, got, expected):
    error = ((got - expected).norm() / expected.norm()).item()
    if not error <= 2e-2:
        raise RuntimeError(f"results differ by {error:.3g}, relative: not the same block")


def peers(torch):
    """(name, [block]): a block per configuration, of which the fastest counts; or (name, why there is none)."""
    found = []
    if hasattr(torch, "_grouped_mm"):
        found.append(("torch._grouped_mm", [lambda *a: grouped_mm(torch, *a)]))
    else:
        found.append(("torch._grouped_mm", f"PyTorch {torch.__version__} has no _grouped_mm"))
    if importlib.util.find_spec("triton") is None:
        found.append(("triton", "Triton is not installed"))
    else:
        import triton_moe

        found.append(("triton", [lambda *a, c=config: triton_moe.moe(*a, c) for config in triton_moe.CONFIGS]))
    return found


def reference(torch, x, ids, weights, gate_up, down):
    """In f32, a token at a time."""
    out = []
    for t in range(x.shape[0]):
        sum_ = 0
        for e, weight in zip(ids[t].tolist(), weights[t]):
            gate, up = (gate_up[e].float() @ x[t].float()).chunk(2)
            sum_ = sum_ + weight * (down[e].float() @ (torch.nn.functional.silu(gate) * up))
        out.append(sum_)
    return torch.stack(out)


def compare(torch, name, blocks, layers, seconds):
    torch.manual_seed(1)
    layers.draw()
    router, gate_up, down = layers.weights[0]
    x = layers.x[0]
    ids, weights = route(torch, x, router, layers.k)
    expected = reference(torch, x[:2], ids[:2], weights[:2], gate_up, down)
    best, why = None, None
    for block in blocks:
        try:
            check(torch, block(x, ids, weights, gate_up, down)[:2].float(), expected)
            times = measure(layers, block, seconds / len(blocks))
        except Exception as error:  # one configuration may not fit this GPU
            why = str(error).splitlines()[0] if str(error) else repr(error)
            continue
        if best is None or times[len(times) // 2] < best[len(best) // 2]:
            best = times
    shape = layers.shape
    line = {"peer": name, "shape": shape[0], "format": "bf16", "tokens": layers.tokens}
    if best is None:
        return emit(**line, error=why)
    median = best[len(best) // 2]
    flops = 6 * layers.tokens * shape[4] * shape[1] * shape[2]
    emit(**line, us_median=median * 1e6, us_p99=best[(len(best) * 99 + 99) // 100 - 1] * 1e6,
         tflops=flops / median / 1e12, sets=layers.sets, layers=layers.layers, replays=len(best))


def dense(torch):
    """cuBLAS on random data: what the multiply units give to the best-known product."""
    n = 8192
    a, b = (torch.randn((n, n), dtype=torch.bfloat16, device="cuda") for _ in range(2))
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    times = []
    for _ in range(12):
        first.record()
        a @ b
        last.record()
        last.synchronize()
        times.append(first.elapsed_time(last) * 1e-3)
    median = sorted(times[2:])[5]
    emit(peer="torch matmul", shape=f"dense {n}", format="bf16", tokens=n, us_median=median * 1e6,
         tflops=2 * n**3 / median / 1e12)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    options = parser.parse_args()
    why = missing()
    if why:
        emit(peer="PyTorch and Triton", skipped=why)
        return 0
    import torch

    end = time.monotonic() + options.seconds
    dense(torch)
    found = peers(torch)
    for name, blocks in found:
        if isinstance(blocks, str):
            emit(peer=name, skipped=blocks)
    left_out = 0
    for tokens in TOKENS:
        for shape in SHAPES:
            if time.monotonic() > end:
                left_out += 1
                continue
            layers = Layers(torch, shape, tokens)
            if layers.sets == 0:
                emit(peer="all", shape=shape[0], tokens=tokens, skipped="one set of weights does not fit the memory")
                continue
            for name, blocks in found:
                if not isinstance(blocks, str):
                    compare(torch, name, blocks, layers, 0.5)
            del layers
            torch.cuda.empty_cache()
    if left_out:
        emit(peer="all", skipped=f"no time left for {left_out} shapes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
