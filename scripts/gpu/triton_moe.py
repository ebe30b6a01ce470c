"""A fused MoE block in Triton, as a peer for the benchmark: rows grouped by expert in blocks of one expert each, gathered
on load, SwiGLU in the epilogue of the first product, routing weights in that of the second."""

import torch
import triton
import triton.language as tl


@triton.jit
def expert_rows(x, w, out, rows, block_expert, pair_weight, n_out, k_in, slots,
                GLU: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr):
    """out[pair] = rows of one expert times its matrix [n_out (twice under GLU), k_in]; a pair is token * slots + slot."""
    block = tl.program_id(0)
    expert = tl.load(block_expert + block).to(tl.int64)
    if expert < 0:
        return
    pair = tl.load(rows + block * BLOCK_M + tl.arange(0, BLOCK_M))
    real = pair >= 0
    source = (pair // slots if GLU else pair).to(tl.int64)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    a_at = x + source[:, None] * k_in + k[None, :]
    matrix_rows = 2 * n_out if GLU else n_out
    b_at = w + expert * matrix_rows * k_in + n[None, :].to(tl.int64) * k_in + k[:, None]
    first = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    second = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    inside = n[None, :] < n_out
    for k0 in range(0, k_in, BLOCK_K):
        along = k0 + k < k_in
        a = tl.load(a_at + k0, mask=real[:, None] & along[None, :], other=0.0)
        mask = inside & along[:, None]
        first = tl.dot(a, tl.load(b_at + k0, mask=mask, other=0.0), first)
        if GLU:
            second = tl.dot(a, tl.load(b_at + n_out * k_in + k0, mask=mask, other=0.0), second)
    if GLU:
        result = first * tl.sigmoid(first) * second
    else:
        result = first * tl.load(pair_weight + pair, mask=real, other=0.0)[:, None]
    at = out + pair[:, None].to(tl.int64) * n_out + n[None, :]
    tl.store(at, result.to(out.dtype.element_ty), mask=real[:, None] & inside)


def blocks_of_pairs(ids, experts, block_m):
    """(rows, block_expert): pairs sorted by expert, each expert's padded with -1 to whole blocks. Sizes depend on the
    shape of `ids` alone, so that a graph can hold it."""
    flat = ids.flatten()
    pairs = flat.numel()
    most = pairs + min(experts, pairs) * (block_m - 1)
    blocks = (most + block_m - 1) // block_m
    order = torch.argsort(flat, stable=True)
    counts = torch.zeros(experts, dtype=torch.int64, device=ids.device).scatter_add_(0, flat, torch.ones_like(flat))
    padded = (counts + block_m - 1) // block_m * block_m
    ends, padded_ends = counts.cumsum(0), padded.cumsum(0)
    sorted_experts = flat[order]
    place = torch.arange(pairs, device=ids.device) - (ends - counts)[sorted_experts]
    rows = torch.full((blocks * block_m,), -1, dtype=torch.int32, device=ids.device)
    rows.scatter_(0, (padded_ends - padded)[sorted_experts] + place, order.to(torch.int32))
    firsts = torch.arange(blocks, device=ids.device) * block_m
    expert = torch.searchsorted(padded_ends, firsts, right=True)
    return rows, torch.where(firsts < padded_ends[-1], expert, -1).to(torch.int32)


# (BLOCK_M, BLOCK_N, BLOCK_K, warps, stages): a few that win somewhere between 1 and 4096 tokens.
CONFIGS = ((16, 64, 128, 4, 4), (16, 128, 64, 4, 4), (64, 64, 64, 4, 4), (64, 128, 64, 4, 3), (128, 128, 64, 8, 3))


def moe(x, ids, weights, gate_up, down, config):
    """x [T, H], ids and weights [T, k], gate_up [E, 2I, H], down [E, H, I]."""
    block_m, block_n, block_k, warps, stages = config
    tokens, slots = ids.shape
    experts, hidden, width = down.shape
    rows, block_expert = blocks_of_pairs(ids, experts, block_m)
    h = torch.empty((tokens * slots, width), dtype=x.dtype, device=x.device)
    y = torch.empty((tokens * slots, hidden), dtype=torch.float32, device=x.device)
    flat = weights.flatten()
    common = {"BLOCK_M": block_m, "BLOCK_N": block_n, "BLOCK_K": block_k, "num_warps": warps, "num_stages": stages}
    blocks = block_expert.numel()
    expert_rows[(blocks, triton.cdiv(width, block_n))](
        x, gate_up, h, rows, block_expert, flat, width, hidden, slots, GLU=True, **common)
    expert_rows[(blocks, triton.cdiv(hidden, block_n))](
        h, down, y, rows, block_expert, flat, hidden, width, slots, GLU=False, **common)
    return y.view(tokens, slots, hidden).sum(1)
