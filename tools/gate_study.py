#!/usr/bin/env python3
"""What the gate should learn: fits gates to several labels and runs them on the tests of `tangram eval`, on a GPU.

    tangram eval MODEL.gguf --samples 80 --seed 77 --export tests.json
    gate_study.py MODEL.gguf apps/calibration/sample.txt tests.json repeated both both,chunk=256 both,weight=0.05

A setting is a label and what differs from the defaults:
    repeated   the largest attention that a key gets when the model repeats its chunk (KVzip, arXiv 2505.23416)
    both       the larger of that and of weight * n * the mean attention that later tokens pay it in a text of n tokens
    chunk, label-chunk   tokens between boundaries, when serving and when labels are taken
    weight, power        as above; of the demand, before budgets are made of it
It prints, for each ratio, what the loss rises by and how many answers are lost against the full cache, with 95% intervals over
contexts. Budgets, compression and tests are Tangram's, token for token, with keys and values in float32: tokens are kept by masks,
many contexts at once. Needs numpy, torch, and transformers with gguf for the weights."""

import argparse
import json
import math
import pathlib
import time

from need import need

need("numpy", "torch", "transformers", "gguf")
import numpy as np
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

torch.set_grad_enabled(False)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SINKS, WINDOW, PAGE, GROUP = 4, 32, 16, 3


class Model:
    """A Llama decoder in float32. L layers, H query heads, G KV heads of size d, g of the former to one of the latter."""

    def __init__(self, path):
        path = pathlib.Path(path)
        hf = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
        self.tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        c = hf.config
        self.L, self.H, self.G, self.width = c.num_hidden_layers, c.num_attention_heads, c.num_key_value_heads, c.hidden_size
        self.d, self.g, self.eps = self.width // self.H, self.H // self.G, c.rms_norm_eps
        theta = getattr(c, "rope_theta", None) or c.rope_parameters["rope_theta"]
        self.frequencies = (theta ** -(torch.arange(0, self.d, 2) / self.d)).to(DEVICE)
        self.embedding, self.head = hf.model.embed_tokens.weight.to(DEVICE), hf.lm_head.weight.to(DEVICE)
        self.last_norm, self.layers = hf.model.norm.weight.to(DEVICE), []
        for layer in hf.model.layers:
            a, m = layer.self_attn, layer.mlp
            self.layers.append({"norm": layer.input_layernorm.weight, "qkv": torch.cat([a.q_proj.weight, a.k_proj.weight, a.v_proj.weight]),
                                "o": a.o_proj.weight, "norm2": layer.post_attention_layernorm.weight,
                                "gate_up": torch.cat([m.gate_proj.weight, m.up_proj.weight]), "down": m.down_proj.weight})
            self.layers[-1] = {k: w.to(DEVICE) for k, w in self.layers[-1].items()}

    def norm(self, x, weight):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * weight

    def rotate(self, x, positions):  # [B, heads, T, d], [B, T]
        angle = positions[:, None, :, None].float() * self.frequencies
        a, b = x.chunk(2, -1)
        return torch.cat((a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()), -1)


class Batch:
    """B sequences side by side, with their caches; keep[l] [B, G, capacity] says which tokens a head still has."""

    def __init__(self, model, count, capacity):
        self.m, self.count = model, count
        new = lambda *shape, **kw: [torch.zeros(count, model.G, capacity, *shape, device=DEVICE, **kw) for _ in range(model.L)]
        self.k, self.v, self.keep = new(model.d), new(model.d), new(dtype=torch.bool)
        self.n, self.position = 0, torch.zeros(count, dtype=torch.long, device=DEVICE)

    def forward(self, ids, valid=None, commit=True, watch=None, all_logits=False):
        """ids, valid [B, T]: tokens and which of them are there. watch(layer, attention input [B, T, width], probabilities [B, G, g, T, n+T])."""
        m, n, (count, T) = self.m, self.n, ids.shape
        valid = torch.ones(count, T, dtype=torch.bool, device=DEVICE) if valid is None else valid
        positions = self.position[:, None] + (valid.long().cumsum(1) - 1).clamp(min=0)
        # Padding sees itself, lest it become NaN.
        seen = (torch.ones(T, T, dtype=torch.bool, device=DEVICE).tril() & valid[:, None]) | torch.eye(T, dtype=torch.bool, device=DEVICE)
        bias = torch.zeros(count, 1, 1, T, T, device=DEVICE).masked_fill_(~seen[:, None, None], float("-inf"))
        x = m.embedding[ids]
        for l, w in enumerate(m.layers):
            h = m.norm(x, w["norm"])
            qkv = (h @ w["qkv"].T).view(count, T, m.H + 2 * m.G, m.d).transpose(1, 2)
            q = m.rotate(qkv[:, :m.H], positions).reshape(count, m.G, m.g * T, m.d)
            k, v = m.rotate(qkv[:, m.H:m.H + m.G], positions), qkv[:, m.H + m.G:]
            keys, values = torch.cat((self.k[l][:, :, :n], k), 2), torch.cat((self.v[l][:, :, :n], v), 2)
            p = (q @ keys.transpose(-1, -2)).view(count, m.G, m.g, T, n + T).div_(math.sqrt(m.d))
            p[..., :n].masked_fill_(~self.keep[l][:, :, None, None, :n], float("-inf"))
            p[..., n:] += bias
            p = p.softmax(-1)
            if watch:
                watch(l, h, p)
            o = (p.view(count, m.G, m.g * T, n + T) @ values).view(count, m.H, T, m.d).transpose(1, 2).reshape(count, T, m.width)
            x = x + o @ w["o"].T
            gate, up = (m.norm(x, w["norm2"]) @ w["gate_up"].T).chunk(2, -1)
            x = x + (F.silu(gate) * up) @ w["down"].T
            if commit:
                self.k[l][:, :, n:n + T], self.v[l][:, :, n:n + T], self.keep[l][:, :, n:n + T] = k, v, valid[:, None]
        if commit:
            self.n, self.position = n + T, self.position + valid.sum(1)
        return m.norm(x if all_logits else x[:, -1:], m.last_norm) @ m.head.T

    def compress(self, scores, retained, chunk):
        """scores [L, B, G, n]; retained [L, G] tokens stay. What an earlier boundary kept stays, its window excepted; on ties the later wins."""
        n, keep = self.n, torch.stack([k[:, :, :self.n] for k in self.keep])
        s = scores.clone()
        s[..., :max(SINKS, n - chunk - WINDOW)] = s[..., n - WINDOW:] = float("inf")
        order = n - 1 - torch.argsort(s.masked_fill(~keep, float("-inf")).flip(-1), dim=-1, descending=True, stable=True)
        rank = torch.empty_like(order).scatter_(-1, order, torch.arange(n, device=DEVICE).expand_as(order))
        for l, kept in enumerate((rank < retained[:, None, :, None]) & keep):
            self.keep[l][:, :, :n] = kept


def take_labels(m, texts, repeat, chunk):
    """Attention inputs [L, S, n, width]; largest attention when repeated and mean attention from behind the window, [L, S, G, n]."""
    S, n = texts.shape
    inputs = torch.zeros(m.L, S, n, m.width, device=DEVICE)
    repeated, read = torch.zeros(2, m.L, S, m.G, n, device=DEVICE)
    batch, prompt = Batch(m, S, n), torch.tensor(repeat, device=DEVICE).expand(S, -1)
    for begin in range(0, n, chunk):
        ids, first = texts[:, begin:begin + chunk], batch.n

        def reading(l, h, p):
            T = h.shape[1]
            inputs[l, :, first:first + T] = h
            behind = torch.ones(T, first + T, dtype=torch.bool, device=DEVICE).tril(first - WINDOW)
            read[l, :, :, :first + T] += (p * behind).sum((2, 3)) / m.g

        def repeating(l, h, p):
            repeated[l, :, :, first:first + chunk] = p[..., first:first + ids.shape[1]].amax((2, 3))

        batch.forward(ids, watch=reading)
        batch.forward(torch.cat((prompt, ids), 1), commit=False, watch=repeating)
    readers = (n - WINDOW - torch.arange(n, device=DEVICE)).clamp(min=1)
    return inputs, repeated, read / readers


def fit_gate(inputs, labels, ridge=1e-2):
    """Ridge regression of log labels on inputs, on the first 7/8 of each text: [L, width, G], [L, G]."""
    weights, n = [], inputs.shape[2] * 7 // 8
    for x, y in zip(inputs, labels):
        x = x[:, :n].reshape(-1, x.shape[-1]).double()
        x = torch.cat((x, torch.ones(len(x), 1, device=DEVICE, dtype=torch.float64)), 1)
        y = torch.log(y[..., :n].permute(0, 2, 1).reshape(len(x), -1).double() + 1e-5)
        xx = x.T @ x
        xx += ridge * xx.diagonal().mean() * torch.eye(len(xx), device=DEVICE, dtype=torch.float64)
        weights.append(torch.linalg.solve(xx, x.T @ y))
    weights = torch.stack(weights).float()
    return weights[:, :-1], weights[:, -1]


def demand(labels, ratio):
    """Share of each head's tokens among the best of all heads, mean over texts: [L * G]."""
    shares = []
    for s in labels.clone().transpose(0, 1):
        s[:, :, :SINKS] = s[:, :, -WINDOW:] = float("inf")
        shares.append((s >= s.flatten().topk(int(ratio * s.numel())).values[-1]).float().mean(-1))
    return torch.stack(shares).mean(0).flatten().cpu().double().numpy()


def retention_table(heads, ratio, chunk, length):
    """Retained tokens by boundary and head, as src/paging/budget.cc makes them for rows of GROUP heads of like demand."""
    rows = np.argsort(-heads, kind="stable").reshape(-1, GROUP)
    want, pages, out = heads[rows].sum(1), np.zeros(len(rows), int), []
    want = np.maximum(want, 1e-6 * max(want.max(), 1e-6))
    for boundary in range(chunk, length + 1, chunk):
        most = pages + chunk // PAGE
        least = np.minimum(np.maximum(pages, -(-(SINKS + WINDOW) // PAGE)), most)
        total = (round(ratio * 100) * boundary * len(rows) + 50 * PAGE) // (100 * PAGE)
        total = min(max(total, least.sum()), most.sum())
        low, high = -float(total), float(total)
        for _ in range(60):
            middle = (low + high) / 2
            below = np.clip(want * total / want.sum() + middle, least, most).sum() < total
            low, high = (middle, high) if below else (low, middle)
        target = np.clip(want * total / want.sum() + high, least, most)
        pages = np.floor(target + 1e-6).astype(int)
        by_remainder = np.argsort(-np.round((target - pages) / 1e-6), kind="stable")
        while pages.sum() < total:
            for r in by_remainder:
                pages[r] += int(pages.sum() < total and pages[r] < most[r])
        out.append(np.zeros(len(heads), int))
        out[-1][rows] = pages[:, None] * PAGE
    return torch.from_numpy(np.array(out)).to(DEVICE)


def read_context(m, ids, gate, table, chunk):
    batch, scores = Batch(m, len(ids), ids.shape[1] + 500), torch.zeros(m.L, len(ids), m.G, ids.shape[1], device=DEVICE)
    for i, begin in enumerate(range(0, ids.shape[1], chunk)):
        def score(l, h, p):
            scores[l, :, :, begin:begin + h.shape[1]] = (h @ gate[0][l] + gate[1][l]).transpose(1, 2)
        logits = batch.forward(ids[:, begin:begin + chunk], watch=score if gate else None)
        if gate:
            batch.compress(scores[..., :batch.n], table[i].view(m.L, m.G), chunk)
    return batch, logits


def run_tests(m, tests, task, gate=None, table=None, chunk=512):
    """Loss of each context's next tokens, and share of its answers that are right."""
    samples = [s for s in tests["samples"] if s["task"] == task]
    steps = lambda i: [s["steps"][i]["tokens"] for s in samples]
    batch, last = read_context(m, torch.tensor(steps(0), device=DEVICE), gate, table, chunk)
    following = torch.tensor(steps(1), device=DEVICE)
    logits = torch.cat((last, batch.forward(following, commit=False, all_logits=True)[:, :-1]), 1)
    loss = F.cross_entropy(logits.flatten(0, 1), following.flatten(), reduction="none").view(following.shape).mean(1)
    ends, right = torch.tensor(tests["end_tokens"], device=DEVICE), []
    for i in range(2, len(samples[0]["steps"])):
        width = max(map(len, steps(i)))
        ids = torch.tensor([[0] * (width - len(q)) + q for q in steps(i)], device=DEVICE)
        there = torch.tensor([[False] * (width - len(q)) + [True] * len(q) for q in steps(i)], device=DEVICE)
        logits, running, answers = batch.forward(ids, there)[:, -1], torch.ones(len(samples), dtype=torch.bool, device=DEVICE), []
        for _ in range(samples[0]["steps"][i]["max_tokens"]):
            tokens = logits.argmax(-1)
            running = running & ~torch.isin(tokens, ends)
            answers.append(torch.where(running, tokens, -1))
            logits = batch.forward(tokens[:, None], running[:, None])[:, -1]
        texts = ["".join(tests["vocabulary"][t] for t in row if t >= 0) for row in torch.stack(answers, 1).tolist()]
        right.append([np.mean([e in text for e in s["expected"][i - 2]]) for s, text in zip(samples, texts)])
    return loss.cpu().numpy(), np.mean(right, 0)


def parse_setting(text):
    setting = {"label": text.split(",")[0], "chunk": 512, "label-chunk": 512, "weight": 0.025, "power": 1.0}
    for pair in text.split(",")[1:]:
        key, value = pair.split("=")
        setting[key] = type(setting[key])(float(value))
    return setting


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model"), parser.add_argument("calibration"), parser.add_argument("tests")
    parser.add_argument("settings", nargs="+")
    parser.add_argument("--ratios", default="0.3,0.2")
    parser.add_argument("--texts", type=int, default=12, help="calibration texts of 2048 tokens")
    parser.add_argument("--contexts", type=int, default=80, help="of each task")
    args = parser.parse_args()
    m, n = Model(args.model), 2048
    encode = lambda text: m.tokenizer(text, add_special_tokens=False)["input_ids"]
    book, repeat = encode(pathlib.Path(args.calibration).read_text()), encode("\n\nRepeat the previous part exactly:\n")
    texts = torch.tensor([book[i * n:(i + 1) * n] for i in range(args.texts)], device=DEVICE)
    tests = json.loads(pathlib.Path(args.tests).read_text())
    tests["samples"] = [s for s in tests["samples"] if s["context"] < args.contexts]
    tasks = sorted({s["task"] for s in tests["samples"]})
    full, taken = {task: run_tests(m, tests, task) for task in tasks}, {}
    interval = lambda x: f"{x.mean():+.4f} ± {1.96 * x.std(ddof=1) / math.sqrt(len(x)):.4f}"
    print("full cache:", *(f"{task}: loss {full[task][0].mean():.4f}, score {full[task][1].mean():.3f};" for task in tasks), flush=True)
    for text in args.settings:
        s, begin = parse_setting(text), time.time()
        if s["label-chunk"] not in taken:
            taken[s["label-chunk"]] = take_labels(m, texts, repeat, s["label-chunk"])
        inputs, labels, read = taken[s["label-chunk"]]
        if s["label"] == "both":
            labels = torch.maximum(labels, s["weight"] * n * read)
        gate = fit_gate(inputs, labels)
        for ratio in map(float, args.ratios.split(",")):
            table = retention_table(demand(labels, ratio) ** s["power"], ratio, s["chunk"], n)
            for task in tasks:
                loss, score = run_tests(m, tests, task, gate, table, s["chunk"])
                print(f"{text} {ratio} {task}: loss {interval(loss - full[task][0])}, score {interval(score - full[task][1])}"
                      f" ({time.time() - begin:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
