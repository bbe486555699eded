#!/usr/bin/env python3
"""cuDNN's paged attention on the batches of `bench attention`: pages of 16 tokens, one sequence for each (sequence, KV
head), all layers in one graph. Lengths and page tables are on the device, so that a step has no host work but its launches;
what no step changes (shapes, the longest row) is in a plan made once.

Needs torch and nvidia-cudnn-frontend (PyPI; 1.18 was tried); the library is torch's. A group's query heads are given as heads
over one KV head or as query rows without a mask, which is the same sum (in fp8 cuDNN 9.19 takes only the latter on Hopper);
each of cuDNN's implementations and every plan that its heuristics offer is tried, and what is right on a few entries, against
float32, is timed: the fastest counts. Each trial has a process of its own, since a kernel's fault ends its process's GPU
context. --quick tries only what was the fastest, or within 0.1% of it, in every batch of a whole run (cuDNN 9.19; H100,
H200), a process for each dtype."""

import argparse
import json
import math
import subprocess
import sys
import threading
import time

import torch

from decode_batches import (DIM, GROUP, NAMES, PAGE, TOLERANCE, Batch, Layer, make_batch, random_pool, report, time_graph,
                            worst_error)

FORMS, IMPLEMENTATIONS = ("heads", "rows"), ("COMPOSITE", "UNIFIED")
QUICK = {"bf16": {"heads": ["UNIFIED"]}, "fp8": {"rows": ["COMPOSITE"]}}
SCALE_S, SCALE_O = 256.0, 32.0  # of fp8 probabilities and outputs: values of DIM random keys are small


def small_batch(fp8):
    """Rows of 1 to 900 tokens in three layers."""
    generator, entries, widest = torch.Generator().manual_seed(1), 48, -(-900 // PAGE)
    layers, num_bytes = [], 0
    for _ in range(3):
        lengths = torch.randint(1, 901, (entries,), generator=generator, dtype=torch.int32)
        lengths[:2] = torch.tensor([1, 900])
        table = torch.randperm(entries * widest, generator=generator).view(entries, widest)
        num_bytes += int(lengths.sum()) * 2 * DIM * (1 if fp8 else 2)
        layers.append(Layer(table.to(torch.int32).cuda(), lengths.cuda(), 900))
    return Batch(random_pool(entries * widest, fp8), layers, num_bytes)


class Attention:
    """cuDNN's graph of one layer's attention over a batch, and the plans that it makes for it."""

    def __init__(self, batch, form, implementation):
        import cudnn
        self.cudnn, self.handle, self.batch = cudnn, cudnn.create_handle(), batch
        self.fp8 = batch.pool.dtype == torch.float8_e4m3fn
        entries = len(batch.layers[0].table)
        heads, rows = (GROUP, 1) if form == "heads" else (1, GROUP)
        self.q = torch.randn(entries, GROUP, DIM, device="cuda", dtype=torch.bfloat16).to(batch.pool.dtype)
        self.out = torch.zeros(entries, GROUP, DIM, device="cuda", dtype=torch.bfloat16).to(batch.pool.dtype)
        self.rows = torch.full((entries,), rows, dtype=torch.int32, device="cuda")
        self.io = cudnn.data_type.FP8_E4M3 if self.fp8 else cudnn.data_type.BFLOAT16
        f32 = cudnn.data_type.FLOAT
        self.graph = cudnn.pygraph(handle=self.handle, io_data_type=self.io, intermediate_data_type=f32, compute_data_type=f32)
        self.add_attention([entries, heads, rows, DIM], implementation)
        self.plans = self.build_plans()

    def tensor(self, name, dim, stride, data_type):
        return self.graph.tensor(name=name, dim=dim, stride=stride, data_type=data_type)

    def add_attention(self, query, implementation):
        """Declares the tensors and the operation; query: dimensions of the queries and of the output."""
        entries, widest = self.batch.layers[0].table.shape
        i32, query_stride = self.cudnn.data_type.INT32, [GROUP * DIM, query[2] * DIM, DIM, 1]
        t = self.tensors = {"q": self.tensor("q", query, query_stride, self.io)}
        for name in ("k", "v"):
            cache = [len(self.batch.pool), 1, PAGE, DIM], [2 * PAGE * DIM, PAGE * DIM, DIM, 1]
            t[name] = self.tensor(name, *cache, self.io)
            t[name + "_table"] = self.tensor(name + "_table", [entries, 1, widest, 1], [widest, widest, 1, 1], i32)
        for name in ("rows", "lengths"):
            t[name] = self.tensor(name, [entries, 1, 1, 1], [1, 1, 1, 1], i32)
        options = {"q": t["q"], "k": t["k"], "v": t["v"], "generate_stats": False, "attn_scale": DIM ** -0.5,
                   "use_padding_mask": True, "seq_len_q": t["rows"], "seq_len_kv": t["lengths"],
                   "paged_attention_k_table": t["k_table"], "paged_attention_v_table": t["v_table"],
                   "paged_attention_max_seq_len_kv": widest * PAGE}
        self.fixed = {}
        if self.fp8:
            o, _, *largest = self.graph.sdpa_fp8(**options, **self.scales())
            for unused in largest:
                unused.set_output(True).set_dim([1] * 4).set_stride([1] * 4).set_data_type(self.cudnn.data_type.FLOAT)
                self.fixed[unused] = torch.zeros(1, device="cuda")
        else:
            o, _ = self.graph.sdpa(**options, implementation=getattr(self.cudnn.attention_implementation, implementation))
        t["o"] = o.set_output(True).set_dim(query).set_stride(query_stride).set_data_type(self.io)

    def scales(self):
        """The scalars of fp8 attention."""
        values = {"descale_q": 1, "descale_k": 1, "descale_v": 1, "descale_s": 1 / SCALE_S, "scale_s": SCALE_S,
                  "scale_o": SCALE_O}
        tensors = {name: self.tensor(name, [1] * 4, [1] * 4, self.cudnn.data_type.FLOAT) for name in values}
        for name, value in values.items():
            self.fixed[tensors[name]] = torch.full((1,), value, dtype=torch.float32, device="cuda")
        return tensors

    def build_plans(self):
        """(index, name, seconds it took) of every plan that builds."""
        g, heuristics = self.graph, self.cudnn.heur_mode
        g.validate()
        g.build_operation_graph()
        g.create_execution_plans([heuristics.A, heuristics.FALLBACK])
        g.check_support()
        plans = []
        for i in range(g.get_execution_plan_count()):
            begin = time.time()
            try:
                g.build_plan_at_index(i)
                plans.append((i, g.get_plan_name_at_index(i), time.time() - begin))
            except Exception as e:
                print(f"  plan {i} does not build: {one_line(e)}", flush=True)
        size = max((g.get_workspace_size_plan_at_index(i) for i, _, _ in plans), default=0)
        self.workspace = torch.empty(max(size, 1), dtype=torch.uint8, device="cuda")
        return plans

    def run(self, layer, plan):
        t, pool = self.tensors, self.batch.pool
        self.cudnn.set_stream(self.handle, torch.cuda.current_stream().cuda_stream)
        self.graph.execute_plan_at_index(
            {t["q"]: self.q, t["k"]: pool[:, 0], t["v"]: pool[:, 1], t["rows"]: self.rows, t["lengths"]: layer.lengths,
             t["k_table"]: layer.table, t["v_table"]: layer.table, t["o"]: self.out, **self.fixed},
            self.workspace, plan, self.handle)

    def error(self, layer, plan):
        self.run(layer, plan)
        return worst_error(self.batch, layer, self.q, self.out.float() / (SCALE_O if self.fp8 else 1))


def one_line(error):
    return f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"


def try_plan(attention, name, plan):
    """Microseconds a layer; infinite if it is wrong."""
    index, _, seconds = plan
    layers = attention.batch.layers
    error = max(attention.error(layer, index) for layer in (layers[0], layers[-1]))
    if error > TOLERANCE["fp8" if attention.fp8 else "bf16"]:
        print(f"  {name}: WRONG, error {error:.3g}", flush=True)
        return math.inf
    begin = time.time()
    for layer in layers:
        attention.run(layer, index)
    issue = (time.time() - begin) / len(layers) * 1e6
    torch.cuda.synchronize()
    us = time_graph(lambda: [attention.run(layer, index) for layer in layers]) / len(layers)
    print(f"  {name}: {us:.2f} us a layer, error {error:.2g}; once: built in {seconds:.2f} s, workspace"
          f" {len(attention.workspace) / 1e6:.1f} MB; without a graph Python takes {issue:.0f} us to issue a layer", flush=True)
    return us


def trial(profiles, form, implementations, names):
    """One process's work; each result so far is a line of JSON."""
    for name in names.split(","):
        batch = small_batch(name.endswith("fp8")) if name.startswith("small") else make_batch(profiles, name)
        best = math.inf
        for implementation in implementations.split(","):
            how = f"{form}, {implementation}"
            try:
                attention = Attention(batch, form, implementation)
            except Exception as e:
                print(f"  {name} {how}: {one_line(e)}", flush=True)
                continue
            for plan in attention.plans:
                try:
                    us = try_plan(attention, f"{name} {how}, plan {plan[1]}", plan)
                except Exception as e:
                    print(f"  {name} {how}, plan {plan[1]}: {one_line(e)}", flush=True)
                    continue
                if us < best:
                    best = us
                    print(json.dumps({"name": name, "us": us, "how": f"{how}, plan {plan[1]}",
                                      "bytes": batch.num_bytes / len(batch.layers)}), flush=True)
        batch = attention = None  # before the next is made
        torch.cuda.empty_cache()


def in_process(profiles, form, implementations, names):
    """The results of a trial by name; what else it printed is printed."""
    arguments = (profiles, form, ",".join(implementations), ",".join(names))
    process = subprocess.Popen([sys.executable, __file__, "--trial", *arguments], stdout=subprocess.PIPE, text=True)
    timer = threading.Timer(150, process.kill)
    timer.start()
    results = {}
    for line in process.stdout:
        if line.startswith("{"):
            result = json.loads(line)
            results[result["name"]] = result
        else:
            print(line, end="", flush=True)
    timer.cancel()
    if process.wait():
        print(f"  {' '.join(arguments[1:])}: ended with {process.returncode}", flush=True)
    return results


def ways(profiles, dtype):
    """Forms, with their implementations, that are right on the small batch; fp8 has one implementation."""
    right = {}
    for form in FORMS:
        for implementation in IMPLEMENTATIONS[:1] if dtype == "fp8" else IMPLEMENTATIONS:
            if in_process(profiles, form, [implementation], [f"small:{dtype}"]):
                right.setdefault(form, []).append(implementation)
    print(f"{dtype}, small batch: right with {right or 'nothing'}", flush=True)
    return right


def main():
    import cudnn
    parser = argparse.ArgumentParser(description=__doc__, epilog=NAMES)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("profiles", metavar="PROFILES")
    parser.add_argument("rows", metavar="ROW", nargs="+")
    args = parser.parse_args()
    print(f"torch {torch.__version__}, cuDNN {cudnn.backend_version_string()}, frontend {cudnn.__version__}", flush=True)
    for dtype in TOLERANCE:
        rows = [name for name in args.rows if name.endswith(":" + dtype)]
        forms = {} if not rows else QUICK[dtype] if args.quick else ways(args.profiles, dtype)
        for together in [rows] if args.quick else [[name] for name in rows]:
            results = [in_process(args.profiles, form, implementations, together) for form, implementations in forms.items()]
            for name in together:
                found = [result[name] for result in results if name in result]
                if found:
                    best = min(found, key=lambda result: result["us"])
                    report("cuDNN", name, best["bytes"], best["us"], best["how"])
                else:
                    print(f"cuDNN {name}: not measured", flush=True)


if __name__ == "__main__":
    trial(*sys.argv[2:]) if sys.argv[1:2] == ["--trial"] else main()
