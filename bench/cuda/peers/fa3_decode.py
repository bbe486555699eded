#!/usr/bin/env python3
"""FlashAttention 3 (vLLM's build, `_vllm_fa3_C.abi3.so` of its wheel) on the batches of `bench attention`: pages of 16
tokens, one sequence for each (sequence, KV head); the time includes its scheduler's metadata, once a layer, all in one graph.

    fa3_decode.py LIBRARY PROFILES CONTEXTS SCORER:MODEL:BATCH:DTYPE...

PROFILES is a folder of SCORER-MODEL.txt (tools/profile_ratios.py), CONTEXTS a file with the lengths of the batch 64mixed."""

import sys

import torch

from decode_batches import DIM, GROUP, PAGE, make_batch, read_contexts, time_graph


def run(name, path, contexts, fp8):
    ops = torch.ops._vllm_fa3_C
    batch = make_batch(path, contexts, fp8)
    entries, pool = len(batch.layers[0].table), batch.pool
    q = torch.randn(entries, GROUP, DIM, device="cuda", dtype=torch.bfloat16)
    q = q.to(torch.float8_e4m3fn) if fp8 else q
    out = torch.empty(entries, GROUP, DIM, device="cuda", dtype=torch.bfloat16)
    starts = torch.arange(entries + 1, device="cuda", dtype=torch.int32)
    scale = torch.ones(entries, 1, device="cuda") if fp8 else None

    def attend(layer):
        metadata = ops.get_scheduler_metadata(entries, 1, layer.longest, GROUP, 1, DIM, DIM, q.dtype, layer.lengths, starts,
                                              None, None, None, None, PAGE, 0, True, -1, -1, False, 0, None, 0)
        ops.fwd(q, pool[:, 0], pool[:, 1], None, None, None, out, starts, None, None, None, layer.lengths, 1, layer.longest,
                layer.table, None, None, None, None, None, scale, scale, scale, DIM ** -0.5, True, -1, -1, 0.0, True,
                metadata, 0, None, 0, None, 1, 0, None)

    attend(batch.layers[0])
    us = time_graph(lambda: [attend(layer) for layer in batch.layers]) / len(batch.layers)
    num_bytes = batch.num_bytes / len(batch.layers)
    print(f"FA3 {name}: {num_bytes / 1e6:.1f} MB/layer, {us:.2f} us a layer, {num_bytes / us / 1e6:.3f} TB/s", flush=True)


def main(library, profiles, contexts_file, *names):
    torch.ops.load_library(library)
    for name in names:
        scorer, model, batch, dtype = name.split(":")
        contexts = read_contexts(batch, dtype == "fp8", contexts_file)
        run(name, f"{profiles}/{scorer}-{model}.txt", contexts, dtype == "fp8")
        torch.cuda.empty_cache()


main(*sys.argv[1:])
