#!/usr/bin/env python3
"""Prefill attention of cuDNN and FlashAttention 2 through PyTorch, and of FlashAttention 3 (vLLM's build,
`_vllm_fa3_C.abi3.so` of its wheel): the rates beside `bench prefill`. On dense keys of one length; FlashAttention 3
also on pages of 16 tokens with one sequence for each KV head, of equal and of ragged lengths, as `bench prefill`.

    prefill.py [LIBRARY]
"""

import sys

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention as sdpa

HEADS, KV_HEADS, DIM, PAGE = 32, 8, 128, 16
GROUP = HEADS // KV_HEADS


def rate(flops, run):
    for _ in range(3):
        run()
    times = []
    for _ in range(10):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        run()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end))
    return flops / sorted(times)[5] / 1e9


def random(*shape):
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)


def flops(chunk, histories):
    """Of all query heads; each KV head has a history of its own."""
    return sum(4 * DIM * GROUP * (chunk * h + chunk * (chunk + 1) / 2) for h in histories)


def ints(values):
    return torch.tensor(values, device="cuda", dtype=torch.int32)


def fa3(q, k, v, cu_q, cu_k, used_k, max_q, max_k, table):
    out = torch.empty_like(q)
    torch.ops._vllm_fa3_C.fwd(q, k, v, None, None, None, out, cu_q, cu_k, None, None, used_k, max_q, max_k, table, None,
                              None, None, None, None, None, None, None, DIM ** -0.5, True, -1, -1, 0.0, True, None, 0,
                              None, 0, None, 1, 0, None)
    return out


def fa3_dense(chunk, history):
    q, k, v = random(chunk, HEADS, DIM), *(random(history + chunk, KV_HEADS, DIM) for _ in "kv")
    cu_q, cu_k = ints([0, chunk]), ints([0, history + chunk])
    return rate(flops(chunk, [history] * KV_HEADS),
                lambda: fa3(q, k, v, cu_q, cu_k, None, chunk, history + chunk, None))


def fa3_paged(chunk, histories):
    """One sequence for each KV head, as rows of their own lengths need it; four sets of pages in turn."""
    lengths = [h + chunk for h in histories]
    pages = [-(-n // PAGE) for n in lengths]
    total, sets = sum(pages), []
    for _ in range(4):
        pool = random(total, 2, PAGE, 1, DIM)
        ids = torch.randperm(total, device="cuda").to(torch.int32)
        table = torch.zeros(KV_HEADS, max(pages), dtype=torch.int32, device="cuda")
        for head, n in enumerate(pages):
            table[head, :n] = ids[sum(pages[:head]):sum(pages[:head]) + n]
        sets.append((pool, table))
    q = random(KV_HEADS * chunk, GROUP, DIM)
    cu_q, used = ints([chunk * h for h in range(KV_HEADS + 1)]), ints(lengths)
    turn = iter(range(10 ** 6))

    def run():
        pool, table = sets[next(turn) % 4]
        fa3(q, pool[:, 0], pool[:, 1], cu_q, None, used, chunk, max(lengths), table)

    return rate(flops(chunk, histories), run)


def torch_rate(backend, chunk, history):
    q, k, v = random(1, HEADS, chunk, DIM), *(random(1, KV_HEADS, history + chunk, DIM) for _ in "kv")
    with sdpa_kernel(backend):
        if history == 0:
            return "causal", rate(flops(chunk, [0] * KV_HEADS), lambda: sdpa(q, k, v, is_causal=True, enable_gqa=True))
        # No causal mask aligned to the end here: all keys for all queries, counted as such.
        return "no mask", rate(4 * DIM * HEADS * chunk * (chunk + history), lambda: sdpa(q, k, v, enable_gqa=True))


def main(library=None):
    if library:
        torch.ops.load_library(library)
    a, b = random(8192, 8192), random(8192, 8192)
    product = rate(2 * 8192 ** 3, lambda: a @ b)
    print(f"8192^3 product {product:.0f} TFLOP/s")
    for chunk, history in ((8192, 0), (8192, 8192), (8192, 32768), (2048, 8192), (2048, 32768), (256, 8192),
                           (256, 32768)):
        rates = {}
        for name, backend in (("cuDNN", SDPBackend.CUDNN_ATTENTION), ("FlashAttention 2", SDPBackend.FLASH_ATTENTION)):
            try:
                what, got = torch_rate(backend, chunk, history)
                rates[f"{name} ({what})"] = got
            except RuntimeError as error:
                print(f"{name}: {str(error).splitlines()[0]}")
        if library:
            rates["FlashAttention 3 (causal, dense)"] = fa3_dense(chunk, history)
            rates["FlashAttention 3 (paged, a sequence a head)"] = fa3_paged(chunk, [history] * KV_HEADS)
            if history:
                ragged = [int(history * (0.3 + 1.4 * h / (KV_HEADS - 1))) for h in range(KV_HEADS)]
                rates["FlashAttention 3 (paged, ragged)"] = fa3_paged(chunk, ragged)
        print(f"c={chunk} history {history}: " + ", ".join(f"{n} {r:.0f} TFLOP/s" for n, r in rates.items()), flush=True)
        torch.cuda.empty_cache()


main(*sys.argv[1:])
