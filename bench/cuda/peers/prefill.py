#!/usr/bin/env python3
"""Prefill attention of cuDNN and FlashAttention 2 through PyTorch, and of FlashAttention 3 (vLLM's build,
`_vllm_fa3_C.abi3.so` of its wheel): the rates beside `bench prefill`. On dense keys of one length; FlashAttention 3
also on pages of 16 tokens with one sequence for each KV head, of equal and of ragged lengths, as `bench prefill`.
Consecutive calls read other queries, keys and values, 200 MB of them in turn. Timed as ours."""

import argparse

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention as sdpa

HEADS, KV_HEADS, DIM, PAGE = 32, 8, 128, 16
GROUP = HEADS // KV_HEADS
SHAPES = ((8192, 0), (8192, 8192), (8192, 32768), (2048, 8192), (2048, 32768), (512, 8192), (512, 32768), (256, 8192),
          (256, 32768))  # chunk, history


def median_ms(runs, warmup, count):
    """Of `count` calls of `runs` in turn, after `warmup` others, each alone between two events behind a spin of 20 us, all
    queued behind a longer one: the time that Python takes to launch is in none (timing.cu's MedianMicroseconds)."""
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(count)]
    torch.cuda.synchronize()
    torch.cuda._sleep(400000 * min(warmup + count, 100))  # cycles: 0.2 ms a call
    for i in range(warmup):
        runs[i % len(runs)]()
    for i, (begin, end) in enumerate(events):
        torch.cuda._sleep(40000)
        begin.record()
        runs[(warmup + i) % len(runs)]()
        end.record()
    torch.cuda.synchronize()
    return sorted(begin.elapsed_time(end) for begin, end in events)[count // 2]


def rate(flops, runs):
    """TFLOP/s of calls that take `flops` each, after a round of them and 80 ms, as bench/cuda/prefill_bench.cc has it."""
    for run in runs:
        run()
    about = median_ms(runs, 1, 1)
    return flops / median_ms(runs, max(len(runs), int(80 / about)), 25 if about < 1 else 9) / 1e9


def random(*shape):
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)


def num_sets(chunk, tokens):
    """How many sets of queries and of keys and values, so many tokens of a head in all, are 200 MB."""
    return -(-200_000_000 // (2 * DIM * (chunk * HEADS + 2 * tokens)))


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
    length = history + chunk
    cu_q, cu_k = ints([0, chunk]), ints([0, length])
    sets = [[random(chunk, HEADS, DIM), *(random(length, KV_HEADS, DIM) for _ in "kv")]
            for _ in range(num_sets(chunk, length * KV_HEADS))]
    return rate(flops(chunk, [history] * KV_HEADS),
                [lambda one=one: fa3(*one, cu_q, cu_k, None, chunk, length, None) for one in sets])


def fa3_paged(chunk, histories):
    """One sequence for each KV head, as rows of their own lengths need it."""
    lengths = [h + chunk for h in histories]
    pages = [-(-n // PAGE) for n in lengths]
    total, sets = sum(pages), []
    for _ in range(num_sets(chunk, sum(lengths))):
        pool = random(total, 2, PAGE, 1, DIM)
        ids = torch.randperm(total, device="cuda").to(torch.int32)
        table = torch.zeros(KV_HEADS, max(pages), dtype=torch.int32, device="cuda")
        for head, n in enumerate(pages):
            table[head, :n] = ids[sum(pages[:head]):sum(pages[:head]) + n]
        sets.append((random(KV_HEADS * chunk, GROUP, DIM), pool[:, 0], pool[:, 1], table))
    cu_q, used = ints([chunk * h for h in range(KV_HEADS + 1)]), ints(lengths)
    return rate(flops(chunk, histories), [
        lambda one=one: fa3(*one[:3], cu_q, None, used, chunk, max(lengths), one[3]) for one in sets])


def torch_rate(backend, chunk, history):
    """What was computed, and its rate."""
    length = history + chunk
    sets = [[random(1, HEADS, chunk, DIM), *(random(1, KV_HEADS, length, DIM) for _ in "kv")]
            for _ in range(num_sets(chunk, length * KV_HEADS))]
    # No causal mask aligned to the end here: behind a history all keys for all queries, counted as such.
    causal = history == 0
    count = flops(chunk, [0] * KV_HEADS) if causal else 4 * DIM * HEADS * chunk * length
    with sdpa_kernel(backend):
        return "causal" if causal else "no mask", rate(
            count, [lambda one=one: sdpa(*one, is_causal=causal, enable_gqa=True) for one in sets])


def measure(chunk, history, with_fa3):
    """Rates by name."""
    rates = {}
    for name, backend in (("cuDNN", SDPBackend.CUDNN_ATTENTION), ("FlashAttention 2", SDPBackend.FLASH_ATTENTION)):
        try:
            what, got = torch_rate(backend, chunk, history)
            rates[f"{name} ({what})"] = got
        except RuntimeError as error:
            print(f"{name}: {str(error).splitlines()[0]}")
    if with_fa3:
        rates["FlashAttention 3 (causal, dense)"] = fa3_dense(chunk, history)
        rates["FlashAttention 3 (paged, a sequence a head)"] = fa3_paged(chunk, [history] * KV_HEADS)
        if history:
            ragged = [int(history * (0.3 + 1.4 * h / (KV_HEADS - 1))) for h in range(KV_HEADS)]
            rates["FlashAttention 3 (paged, ragged)"] = fa3_paged(chunk, ragged)
    return rates


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("fa3", metavar="LIBRARY", nargs="?", help="_vllm_fa3_C.abi3.so; without it no FlashAttention 3")
    library = parser.parse_args().fa3
    if library:
        torch.ops.load_library(library)
    a, b = random(8192, 8192), random(8192, 8192)
    print(f"8192^3 product {rate(2 * 8192 ** 3, [lambda: a @ b]):.0f} TFLOP/s")
    for chunk, history in SHAPES:
        rates = measure(chunk, history, library)
        print(f"c={chunk} history {history}: " + ", ".join(f"{n} {r:.0f} TFLOP/s" for n, r in rates.items()), flush=True)
        torch.cuda.empty_cache()


main()
