#!/usr/bin/env python3
"""FlashAttention 3 (vLLM's build, `_vllm_fa3_C.abi3.so` of its wheel) on the batches of `bench attention`: pages of 16
tokens, one sequence for each (sequence, KV head); the time includes its scheduler's metadata, once a layer, all in one graph.

    fa3_decode.py LIBRARY PROFILES CONTEXTS SCORER:MODEL:BATCH:DTYPE...

PROFILES is a folder of SCORER-MODEL.txt (tools/profile_ratios.py), CONTEXTS a file with the lengths of the batch 64mixed."""

import sys

import numpy as np
import torch

DIM, KV_HEADS, GROUP, COLUMNS, PAGE, CHUNK, RATIO = 128, 8, 4, 4, 16, 1024, 0.3


def load(path, contexts):
    """Places of the heads and the rows' lengths, as bench/cuda/decode_case.cu's ProfileLoad."""
    with open(path) as file:
        layers, _ = map(int, file.readline().split())
        ratios = np.array(file.read().split(), dtype=np.float32).astype(np.float64)
    low, high = 0.0, 1e4
    for _ in range(100):
        scale = (low + high) / 2
        if np.minimum(1.0, scale * ratios).mean() < RATIO:
            low = scale
        else:
            high = scale
    order = np.argsort(-ratios, kind="stable")
    places = np.empty(len(ratios), int)
    places[order] = np.arange(len(ratios))
    demand = np.minimum(1.0, low * ratios[order]).reshape(-1, COLUMNS).mean(1)
    return layers, places, [np.round(demand * (c // CHUNK * CHUNK) / PAGE).astype(int) * PAGE + 1 for c in contexts]


def random_pool(virtual_pages, fp8):
    pool = torch.empty(virtual_pages * 2 * PAGE * DIM, dtype=torch.uint8 if fp8 else torch.bfloat16, device="cuda")
    for part in pool.split(1 << 28):
        values = torch.randn(part.numel(), device="cuda", dtype=torch.bfloat16)
        part.copy_(values.to(torch.float8_e4m3fn).view(torch.uint8) if fp8 else values)
    return pool.view(torch.float8_e4m3fn if fp8 else torch.bfloat16).view(virtual_pages, 2, PAGE, 1, DIM)


def run(name, path, contexts, fp8):
    ops = torch.ops._vllm_fa3_C
    layers, places, rows = load(path, contexts)
    entries = len(contexts) * KV_HEADS
    pages = [-(-row // PAGE) for row in rows]
    total = int(sum(p.sum() for p in pages))
    ids = torch.randperm(total, device="cuda").to(torch.int32)
    pool = random_pool(total * COLUMNS, fp8)
    first = np.cumsum(np.concatenate([[0], *pages]))[:-1].reshape(len(contexts), -1)
    longest = max(int(p.max()) for p in pages)
    q = torch.randn(entries, GROUP, DIM, device="cuda", dtype=torch.bfloat16)
    q = q.to(torch.float8_e4m3fn) if fp8 else q
    out = torch.empty(entries, GROUP, DIM, device="cuda", dtype=torch.bfloat16)
    starts = torch.arange(entries + 1, device="cuda", dtype=torch.int32)
    scale = torch.ones(entries, 1, device="cuda") if fp8 else None
    work, num_bytes = [], 0
    for layer in range(layers):
        table = torch.zeros(entries, longest, dtype=torch.int32, device="cuda")
        lengths = []
        for entry in range(entries):
            t, place = entry // KV_HEADS, places[layer * KV_HEADS + entry % KV_HEADS]
            row, column = place // COLUMNS, place % COLUMNS
            n, at = int(pages[t][row]), int(first[t][row])
            table[entry, :n] = ids[at:at + n] * COLUMNS + column
            lengths.append(int(rows[t][row]))
        num_bytes += sum(lengths) * 2 * DIM * pool.element_size()
        work.append((table, torch.tensor(lengths, dtype=torch.int32, device="cuda"), max(lengths)))

    def attend(table, lengths, max_length):
        metadata = ops.get_scheduler_metadata(entries, 1, max_length, GROUP, 1, DIM, DIM, q.dtype, lengths, starts, None, None,
                                              None, None, PAGE, 0, True, -1, -1, False, 0, None, 0)
        ops.fwd(q, pool[:, 0], pool[:, 1], None, None, None, out, starts, None, None, None, lengths, 1, max_length, table,
                None, None, None, None, None, scale, scale, scale, DIM ** -0.5, True, -1, -1, 0.0, True, metadata, 0, None,
                0, None, 1, 0, None)

    attend(*work[0])
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for layer in work:
            attend(*layer)
    times = []
    for repeat in range(15):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        if repeat >= 10:
            times.append(begin.elapsed_time(end))
    us = sorted(times)[2] * 1000 / layers
    print(f"FA3 {name}: {num_bytes / layers / 1e6:.1f} MB/layer, {us:.2f} us a layer, {num_bytes / layers / us / 1e6:.3f} TB/s",
          flush=True)


def main(library, profiles, contexts_file, *names):
    torch.ops.load_library(library)
    with open(contexts_file) as file:
        mixed = [int(x) for x in file.read().split()]
    batches = {"64x32k": [32768] * 64, "8x32k": [32768] * 8, "64mixed": mixed, "16x4k": [4096] * 16}
    for name in names:
        scorer, model, batch, dtype = name.split(":")
        contexts = batches[batch]
        if dtype == "bf16" and len(contexts) == 64:
            contexts = contexts[:40]  # what fits
        run(name, f"{profiles}/{scorer}-{model}.txt", contexts, dtype == "fp8")
        torch.cuda.empty_cache()


main(*sys.argv[1:])
