"""The batches of `bench attention` for the decode kernels of others: bf16 or fp8 keys and values in scattered pages, one
sequence for each (sequence, KV head), its group of query heads being all that attends to it. Timed as ours."""

import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

TOLERANCE = {"bf16": 0.02, "fp8": 0.2}  # of worst_error, by dtype
DIM, KV_HEADS, GROUP, COLUMNS, PAGE, CHUNK, RATIO = 128, 8, 4, 4, 16, 1024, 0.3
MIXED = Path(__file__).resolve().parent.parent / "mixed_contexts.inc"
NAMES = """Each ROW is SCORER:MODEL:BATCH:DTYPE, as snapkv:llama-3.1-8b:8x32k:bf16; batches 64x32k, 8x32k, 64mixed, 16x4k and
1x128k (bf16: the first 40 of 64, what fits), dtypes bf16 and fp8; PROFILES is a folder of SCORER-MODEL.txt
(tools/profile_ratios.py)."""


@dataclass
class Layer:
    """table [entries, widest] int32: each entry's pages in the pool; lengths [entries] int32: its tokens."""
    table: torch.Tensor
    lengths: torch.Tensor
    longest: int


@dataclass
class Batch:
    """pool [pages, 2, PAGE, 1, DIM]: keys and values of all layers; num_bytes: of the tokens attended, all layers."""
    pool: torch.Tensor
    layers: list
    num_bytes: int


def read_contexts(batch, fp8):
    """Contexts of one of `bench attention`'s batches."""
    if batch == "64mixed":
        contexts = [int(x) for x in re.findall(r"\d+", re.sub("//.*", "", MIXED.read_text()))]
    else:
        contexts = {"64x32k": [32768] * 64, "8x32k": [32768] * 8, "16x4k": [4096] * 16, "1x128k": [131072]}[batch]
    return contexts[:40] if len(contexts) == 64 and not fp8 else contexts


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


def random_pool(pages, fp8):
    pool = torch.empty(pages * 2 * PAGE * DIM, dtype=torch.uint8 if fp8 else torch.bfloat16, device="cuda")
    for part in pool.split(1 << 28):
        values = torch.randn(part.numel(), device="cuda", dtype=torch.bfloat16)
        part.copy_(values.to(torch.float8_e4m3fn).view(torch.uint8) if fp8 else values)
    return pool.view(torch.float8_e4m3fn if fp8 else torch.bfloat16).view(pages, 2, PAGE, 1, DIM)


def make_batch(profiles, name):
    """The batch of a row's name. Pages as Tangram has them: a row's page is COLUMNS adjacent ones, and rows of all layers
    are scattered over one pool."""
    scorer, model, batch_name, dtype = name.split(":")
    contexts = read_contexts(batch_name, dtype == "fp8")
    num_layers, places, rows = load(f"{profiles}/{scorer}-{model}.txt", contexts)
    pages = [-(-row // PAGE) for row in rows]
    total = int(sum(p.sum() for p in pages))
    ids = torch.randperm(total, dtype=torch.int32).numpy()
    first = np.cumsum(np.concatenate([[0], *pages]))[:-1].reshape(len(contexts), -1)
    widest = max(int(p.max()) for p in pages)
    batch = Batch(random_pool(total * COLUMNS, dtype == "fp8"), [], 0)
    for layer in range(num_layers):
        table = np.zeros((len(contexts) * KV_HEADS, widest), np.int32)
        lengths = []
        for entry in range(len(table)):
            t, place = entry // KV_HEADS, places[layer * KV_HEADS + entry % KV_HEADS]
            row, column = place // COLUMNS, place % COLUMNS
            n, at = int(pages[t][row]), int(first[t][row])
            table[entry, :n] = ids[at:at + n] * COLUMNS + column
            lengths.append(int(rows[t][row]))
        batch.num_bytes += sum(lengths) * 2 * DIM * batch.pool.element_size()
        batch.layers.append(Layer(torch.from_numpy(table).cuda(), torch.tensor(lengths, dtype=torch.int32, device="cuda"),
                                  max(lengths)))
    return batch


def worst_error(batch, layer, q, out):
    """Norm of the difference from float32 over the norm, the largest of a few entries, the shortest and the longest among
    them; infinite if anything is not finite. q, out [entries, GROUP, DIM]."""
    by_length, worst = layer.lengths.argsort().tolist(), 0.0
    for e in by_length[::max(len(by_length) // 10, 1)] + by_length[-1:]:
        n = int(layer.lengths[e])
        kv = batch.pool[layer.table[e, :-(-n // PAGE)].long()].float()
        k, v = (kv[:, i].reshape(-1, DIM)[:n] for i in (0, 1))
        expected = (q[e].float() @ k.T / math.sqrt(DIM)).softmax(-1) @ v
        worst = max(worst, float((out[e].float() - expected).norm() / expected.norm()))
    return worst if math.isfinite(worst) and bool(out.isfinite().all()) else math.inf


def time_graph(run):
    """Microseconds of what `run` launches, captured once and replayed, as timing.cu's GraphMicroseconds: the median of five
    replays after 150 ms of them, for the clocks, each behind a spin of 20 us, all queued without a stop."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()

    def replay(times):
        events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(times)]
        for begin, end in events:
            torch.cuda._sleep(40000)  # cycles
            begin.record()
            graph.replay()
            end.record()
        torch.cuda.synchronize()
        return sorted(begin.elapsed_time(end) * 1000 for begin, end in events)[times // 2]

    graph.replay()
    for _ in range(int(min(1000, 150000 / replay(1))) + 1):
        graph.replay()
    return replay(5)


def report(peer, name, num_bytes, us, how):
    """num_bytes: of a layer."""
    print(f"{peer} {name}: {num_bytes / 1e6:.1f} MB/layer, {us:.2f} us a layer, {num_bytes / us / 1e6:.3f} TB/s ({how})",
          flush=True)
