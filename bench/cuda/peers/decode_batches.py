"""The batches of `bench attention` for the decode kernels of others: bf16 or fp8 keys and values in scattered pages, one
sequence for each (sequence, KV head), its group of query heads being all that attends to it."""

from dataclasses import dataclass

import numpy as np
import torch

DIM, KV_HEADS, GROUP, COLUMNS, PAGE, CHUNK, RATIO = 128, 8, 4, 4, 16, 1024, 0.3


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


def read_contexts(batch, fp8, contexts_file):
    """Contexts of one of `bench attention`'s batches; contexts_file has the lengths of 64mixed."""
    if batch == "64mixed":
        with open(contexts_file) as file:
            contexts = [int(x) for x in file.read().split()]
    else:
        contexts = {"64x32k": [32768] * 64, "8x32k": [32768] * 8, "16x4k": [4096] * 16, "1x128k": [131072]}[batch]
    return contexts[:40] if len(contexts) == 64 and not fp8 else contexts  # what fits


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


def make_batch(path, contexts, fp8):
    """Pages as Tangram has them: a row's page is COLUMNS adjacent ones, and rows of all layers are scattered over one pool."""
    num_layers, places, rows = load(path, contexts)
    pages = [-(-row // PAGE) for row in rows]
    total = int(sum(p.sum() for p in pages))
    ids = torch.randperm(total, device="cuda").to(torch.int32)
    first = np.cumsum(np.concatenate([[0], *pages]))[:-1].reshape(len(contexts), -1)
    widest = max(int(p.max()) for p in pages)
    batch = Batch(random_pool(total * COLUMNS, fp8), [], 0)
    for layer in range(num_layers):
        table = torch.zeros(len(contexts) * KV_HEADS, widest, dtype=torch.int32, device="cuda")
        lengths = []
        for entry in range(len(table)):
            t, place = entry // KV_HEADS, places[layer * KV_HEADS + entry % KV_HEADS]
            row, column = place // COLUMNS, place % COLUMNS
            n, at = int(pages[t][row]), int(first[t][row])
            table[entry, :n] = ids[at:at + n] * COLUMNS + column
            lengths.append(int(rows[t][row]))
        batch.num_bytes += sum(lengths) * 2 * DIM * batch.pool.element_size()
        batch.layers.append(Layer(table, torch.tensor(lengths, dtype=torch.int32, device="cuda"), max(lengths)))
    return batch


def time_graph(run):
    """Microseconds of what `run` launches, captured once and replayed: the median of five after ten."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    times = []
    for _ in range(15):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end))
    return sorted(times[10:])[2] * 1000
