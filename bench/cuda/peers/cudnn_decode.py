#!/usr/bin/env python3
"""cuDNN's paged attention on the batches of `bench attention`: pages of 16 tokens, one sequence for each (sequence, KV
head), all layers in one graph. Lengths and page tables are on the device, so that a step has no host work but its launches;
what no step changes (shapes, the longest row) is in a plan made once.

    cudnn_decode.py PROFILES CONTEXTS SCORER:MODEL:BATCH:DTYPE...

PROFILES is a folder of SCORER-MODEL.txt (tools/profile_ratios.py), CONTEXTS a file with the lengths of the batch 64mixed.
Needs torch and nvidia-cudnn-frontend (PyPI; 1.18 was tried); the library is torch's. A group's query heads are given as heads
over one KV head or as query rows without a mask, which is the same sum (in fp8 cuDNN 9.19 takes only the latter on Hopper);
each of cuDNN's implementations and every plan that its heuristics offer is tried, and what is right on a few entries, against
float32, is timed: the fastest counts. Each trial has a process of its own, since a kernel's fault ends its process's GPU
context."""

import json
import math
import subprocess
import sys
import threading
import time

import torch

from decode_batches import DIM, GROUP, PAGE, Batch, Layer, make_batch, random_pool, read_contexts, time_graph

FORMS, IMPLEMENTATIONS = ("heads", "rows"), ("COMPOSITE", "UNIFIED")
SCALE_S, SCALE_O = 256.0, 32.0  # of fp8 probabilities and outputs: values of DIM random keys are small
TOLERANCE = {False: 0.02, True: 0.2}  # norm of the difference over the norm, bf16 and fp8


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
        """Norm of the difference over the norm, the largest of a few entries, the shortest and the longest among them."""
        self.run(layer, plan)
        torch.cuda.synchronize()
        by_length, worst = layer.lengths.argsort().tolist(), 0.0
        for e in by_length[::max(len(by_length) // 10, 1)] + by_length[-1:]:
            n = int(layer.lengths[e])
            kv = self.batch.pool[layer.table[e, :-(-n // PAGE)].long()].float()
            k, v = (kv[:, i].reshape(-1, DIM)[:n] for i in (0, 1))
            expected = (self.q[e].float() @ k.T / math.sqrt(DIM)).softmax(-1) @ v
            got = self.out[e].float() / (SCALE_O if self.fp8 else 1)
            worst = max(worst, float((got - expected).norm() / expected.norm()))
            if not math.isfinite(worst) or not got.isfinite().all():
                return math.inf
        return worst


def one_line(error):
    return f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"


def try_plan(attention, name, plan):
    """Microseconds a layer; infinite if it is wrong."""
    index, _, seconds = plan
    layers = attention.batch.layers
    error = max(attention.error(layer, index) for layer in (layers[0], layers[-1]))
    if error > TOLERANCE[attention.fp8]:
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


def trial(profiles, contexts_file, name, form, implementations):
    """One process's work; its result so far is a line of JSON."""
    fp8 = name.endswith("fp8")
    if name.startswith("small"):
        batch = small_batch(fp8)
    else:
        scorer, model, batch_name, _ = name.split(":")
        batch = make_batch(f"{profiles}/{scorer}-{model}.txt", read_contexts(batch_name, fp8, contexts_file), fp8)
    best = math.inf
    for implementation in implementations.split(","):
        try:
            attention = Attention(batch, form, implementation)
        except Exception as e:
            print(f"  {name} {form}, {implementation}: {one_line(e)}", flush=True)
            continue
        for plan in attention.plans:
            how = f"{form}, {implementation}, plan {plan[1]}"
            try:
                us = try_plan(attention, f"{name} {how}", plan)
            except Exception as e:
                print(f"  {name} {how}: {one_line(e)}", flush=True)
                continue
            if us < best:
                best = us
                print(json.dumps({"us": us, "how": how, "bytes": batch.num_bytes / len(batch.layers)}), flush=True)


def in_process(*arguments):
    """The result of a trial, or None; what else it printed is printed."""
    process = subprocess.Popen([sys.executable, __file__, "--trial", *map(str, arguments)], stdout=subprocess.PIPE, text=True)
    timer = threading.Timer(150, process.kill)
    timer.start()
    result = None
    for line in process.stdout:
        if line.startswith("{"):
            result = json.loads(line)
        else:
            print(line, end="", flush=True)
    timer.cancel()
    if process.wait():
        print(f"  {' '.join(map(str, arguments[2:]))}: ended with {process.returncode}", flush=True)
    return result


def taken(profiles, contexts_file, dtype):
    """Forms, with their implementations, that are right on the small batch; fp8 has one implementation."""
    ways = {}
    for form in FORMS:
        for implementation in IMPLEMENTATIONS[:1] if dtype == "fp8" else IMPLEMENTATIONS:
            if in_process(profiles, contexts_file, f"small:{dtype}", form, implementation):
                ways.setdefault(form, []).append(implementation)
    return ways


def main(profiles, contexts_file, *names):
    import cudnn
    print(f"torch {torch.__version__}, cuDNN {cudnn.backend_version_string()}, frontend {cudnn.__version__}", flush=True)
    ways = {}
    for name in names:
        dtype = name.split(":")[-1]
        if dtype not in ways:
            ways[dtype] = taken(profiles, contexts_file, dtype)
            print(f"{dtype}, small batch: right with {ways[dtype] or 'nothing'}", flush=True)
        results = [in_process(profiles, contexts_file, name, form, ",".join(implementations))
                   for form, implementations in ways[dtype].items()]
        results = [result for result in results if result]
        if results:
            best = min(results, key=lambda r: r["us"])
            print(f"cuDNN {name}: {best['bytes'] / 1e6:.1f} MB/layer, {best['us']:.2f} us a layer,"
                  f" {best['bytes'] / best['us'] / 1e6:.3f} TB/s ({best['how']})", flush=True)
        else:
            print(f"cuDNN {name}: not measured", flush=True)


if __name__ == "__main__":
    trial(*sys.argv[2:]) if sys.argv[1:2] == ["--trial"] else main(*sys.argv[1:])
