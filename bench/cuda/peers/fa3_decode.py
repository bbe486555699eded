#!/usr/bin/env python3
"""FlashAttention 3 (vLLM's build, `_vllm_fa3_C.abi3.so` of its wheel) on the batches of `bench attention`: pages of 16
tokens, one sequence for each (sequence, KV head). Its scheduler's metadata, which rows of their own lengths need once a
layer, is part of the time; the time without it is printed too."""

import argparse

import torch

from decode_batches import DIM, GROUP, NAMES, PAGE, TOLERANCE, make_batch, report, time_graph, worst_error


def run(profiles, name):
    ops, fp8 = torch.ops._vllm_fa3_C, name.endswith("fp8")
    batch = make_batch(profiles, name)
    entries, pool = len(batch.layers[0].table), batch.pool
    q = torch.randn(entries, GROUP, DIM, device="cuda", dtype=torch.bfloat16)
    q = q.to(torch.float8_e4m3fn) if fp8 else q
    out = torch.empty(entries, GROUP, DIM, device="cuda", dtype=torch.bfloat16)
    starts = torch.arange(entries + 1, device="cuda", dtype=torch.int32)
    scale = torch.ones(entries, 1, device="cuda") if fp8 else None

    def plan(layer):
        return ops.get_scheduler_metadata(entries, 1, layer.longest, GROUP, 1, DIM, DIM, q.dtype, layer.lengths, starts,
                                          None, None, None, None, PAGE, 0, True, -1, -1, False, 0, None, 0)

    def attend(layer, metadata):
        ops.fwd(q, pool[:, 0], pool[:, 1], None, None, None, out, starts, None, None, None, layer.lengths, 1, layer.longest,
                layer.table, None, None, None, None, None, scale, scale, scale, DIM ** -0.5, True, -1, -1, 0.0, True,
                metadata, 0, None, 0, None, 1, 0, None)

    error = 0
    for layer in (batch.layers[0], batch.layers[-1]):
        attend(layer, plan(layer))
        error = max(error, worst_error(batch, layer, q, out))
    if error > TOLERANCE[name.split(":")[-1]]:
        print(f"FlashAttention 3 {name}: WRONG, error {error:.3g}", flush=True)
        return
    us = time_graph(lambda: [attend(layer, plan(layer)) for layer in batch.layers]) / len(batch.layers)
    plans = [plan(layer) for layer in batch.layers]
    alone = time_graph(lambda: [attend(*each) for each in zip(batch.layers, plans)]) / len(batch.layers)
    report("FlashAttention 3", name, batch.num_bytes / len(batch.layers), us, f"{alone:.2f} us without its metadata; error {error:.2g}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, epilog=NAMES)
    parser.add_argument("fa3", metavar="LIBRARY", help="_vllm_fa3_C.abi3.so")
    parser.add_argument("profiles", metavar="PROFILES")
    parser.add_argument("rows", metavar="ROW", nargs="+")
    args = parser.parse_args()
    torch.ops.load_library(args.fa3)
    for name in args.rows:
        run(args.profiles, name)
        torch.cuda.empty_cache()


main()
