#!/usr/bin/env python3
"""Runs kvpress's compression methods on the tests of `tangram eval`, token for token, and writes the same records.

    tangram eval MODEL.gguf --export tests.json ...        the tests
    eval_kvpress.py MODEL.gguf tests.json records.jsonl    on a GPU if there is one
    tangram eval --merge ours.jsonl,records.jsonl          both in one table

Needs torch, transformers (tried: 5.17) with gguf, and kvpress (0.5.5; PyPI). Weights are the GGUF file's, dequantised to float32. A method
compresses once, when the whole context has been read with its full cache (kvzip after reading it a second time); Tangram
compresses chunk by chunk as it reads. Ratios are shares kept, as everywhere in Tangram.
"""

import argparse
import json
import logging
import pathlib
import sys
import tempfile
import time

from need import need

need("torch", "transformers", "gguf", "kvpress")
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

torch.set_grad_enabled(False)


def make_press(name, ratio):
    """kvpress's method with its own defaults, but for StreamingLLM's and KeyDiff's, which have none."""
    import kvpress
    kinds = {"snapkv": kvpress.SnapKVPress, "keydiff": kvpress.KeyDiffPress, "tova": kvpress.TOVAPress,
             "expected_attention": kvpress.ExpectedAttentionPress, "streamingllm": kvpress.StreamingLLMPress,
             "kvzip": kvpress.KVzipPress}
    return kinds[name](compression_ratio=1 - ratio)


def load_model(path, device, vocabulary):
    folder, name = str(path.parent), path.name
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32, attn_implementation="sdpa")
    # kvzip loads a tokenizer by the model's name. What transformers 5.2.0 saves of this one knows no white space.
    tokenizer_folder, probe = tempfile.mkdtemp(), "\n\nRepeat the previous context exactly."
    AutoTokenizer.from_pretrained(folder, gguf_file=name).save_pretrained(tokenizer_folder)
    tokens = AutoTokenizer.from_pretrained(tokenizer_folder).encode(probe, add_special_tokens=False)
    if "".join(vocabulary[t] for t in tokens) != probe:
        sys.exit(f"{path}: this transformers' tokenizer is not the one of the tests; 5.17's is")
    model.config.name_or_path = tokenizer_folder
    return model.to(device).eval()


class Batch:
    """Several contexts of one length and their caches, of equal lengths too, compressed or whole."""

    def __init__(self, model, contexts, press):
        self.model, self.cache = model, DynamicCache()
        ids = torch.tensor(contexts, device=model.device)
        if press is None:
            out = model(input_ids=ids, past_key_values=self.cache, logits_to_keep=1)
        else:
            # kvpress 0.5.5 asks what each layer is called with for cache_position; transformers no longer makes one (5.2.0 did).
            with press(model):
                out = model(input_ids=ids, past_key_values=self.cache, logits_to_keep=1,
                            cache_position=torch.arange(ids.shape[1], device=ids.device))
        self.logits = out.logits[:, -1]
        self.position = torch.full((len(contexts), 1), ids.shape[1], device=model.device)
        self.valid = torch.ones(len(contexts), self.cache.get_seq_length(), dtype=torch.bool, device=model.device)

    def append(self, ids, valid, all_logits=False):
        """ids, valid [B, q]: tokens and which of them are there; padding stands in front."""
        count, q = ids.shape
        mask = torch.ones(q, q, dtype=torch.bool, device=ids.device).tril()[None] & valid[:, None]
        mask |= torch.eye(q, dtype=torch.bool, device=ids.device)  # padding sees itself, lest it become NaN
        mask = torch.cat((self.valid[:, None].expand(count, q, -1), mask), 2)[:, None]
        positions = self.position + (valid.cumsum(1) - 1).clamp(min=0)
        out = self.model(input_ids=ids, past_key_values=self.cache, attention_mask=mask, position_ids=positions,
                         logits_to_keep=0 if all_logits else 1)
        self.valid = torch.cat((self.valid, valid), 1)
        self.position = self.position + valid.sum(1, keepdim=True)
        self.logits = out.logits[:, -1]
        return out.logits

    def peek(self, tokens):
        """Mean loss of each context's tokens, and the likeliest ones; the cache is as before."""
        kept, logits = (self.valid, self.position, self.logits), self.logits[:, None]
        ids = torch.tensor(tokens, device=self.model.device)
        logits = torch.cat((logits, self.append(ids, torch.ones_like(ids, dtype=torch.bool), True)[:, :-1]), 1)
        self.valid, self.position, self.logits = kept
        for layer in self.cache.layers:
            layer.keys = layer.keys[:, :, :self.valid.shape[1]].contiguous()
            layer.values = layer.values[:, :, :self.valid.shape[1]].contiguous()
        losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids.flatten(), reduction="none")
        return losses.view(ids.shape).mean(1).tolist(), logits.argmax(-1).tolist()

    def ask(self, questions, max_tokens, end_tokens):
        """Greedy answers, without end tokens."""
        width = max(map(len, questions))
        ids = torch.tensor([[0] * (width - len(q)) + q for q in questions], device=self.model.device)
        valid = torch.tensor([[False] * (width - len(q)) + [True] * len(q) for q in questions], device=ids.device)
        self.append(ids, valid)
        answers, running = [[] for _ in questions], [True] * len(questions)
        for _ in range(max_tokens):
            tokens = self.logits.argmax(-1)
            for i, token in enumerate(tokens.tolist()):
                running[i] = running[i] and token not in end_tokens
                if running[i]:
                    answers[i].append(token)
            last = self.logits
            self.append(tokens[:, None], torch.tensor(running, device=ids.device)[:, None])
            stopped = ~torch.tensor(running, device=ids.device)
            self.logits = torch.where(stopped[:, None], last, self.logits)
        return answers


def run_batch(model, samples, press, end_tokens):
    """One (loss, number scored, likeliest tokens, answers) for each sample; all have steps of the same kinds."""
    batch = Batch(model, [s["steps"][0]["tokens"] for s in samples], press)
    results = [{"loss": 0.0, "num_scored": 0, "predicted": [], "answers": []} for _ in samples]
    for i in range(1, len(samples[0]["steps"])):
        tokens = [s["steps"][i]["tokens"] for s in samples]
        if samples[0]["steps"][i]["kind"] == "peek":
            for result, loss, predicted in zip(results, *batch.peek(tokens)):
                result.update(loss=loss, num_scored=len(predicted), predicted=predicted)
        else:
            for result, answer in zip(results, batch.ask(tokens, samples[0]["steps"][i]["max_tokens"], end_tokens)):
                result["answers"].append(answer)
    return results


def agreement(result, full):
    pairs = list(zip(result["answers"], full["answers"])) or [(result["predicted"], full["predicted"])]
    total = sum(max(len(a), len(b)) for a, b in pairs)
    return sum(x == y for a, b in pairs for x, y in zip(a, b)) / total if total else 1.0


def record(tests, sample, name, ratio, result, full):
    texts = ["".join(tests["vocabulary"][t] for t in answer) for answer in result["answers"]]
    scores = [sum(e in text for e in expected) / len(expected) for text, expected in zip(texts, sample["expected"])]
    setting = {"source": "kvpress", "scorer": name, "level": "-", "ratio": ratio, "length": tests["length"],
               "chunk": 0, "window": 0, "later": tests["later"]}
    return {"setting": setting, "task": sample["task"], "context": sample["context"], "loss": result["loss"],
            "num_scored": result["num_scored"], "scores": scores, "answers": texts,
            "agreement": agreement(result, full), "memory": ratio, "memory_mean": ratio}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("tests", type=pathlib.Path)
    parser.add_argument("output", type=pathlib.Path)
    parser.add_argument("--presses", default="snapkv,keydiff,expected_attention,tova,streamingllm,kvzip")
    parser.add_argument("--ratios", default="0.75,0.5,0.3,0.2,0.1")
    parser.add_argument("--batch", type=int, default=16, help="contexts at once (kvzip: one)")
    parser.add_argument("--samples", type=int, default=0, help="contexts of each task; 0: all")
    args = parser.parse_args()

    logging.disable(logging.WARNING)
    tests = json.loads(args.tests.read_text())
    model = load_model(args.model, "cuda" if torch.cuda.is_available() else "cpu", tests["vocabulary"])
    groups = {}
    for sample in tests["samples"]:
        if args.samples == 0 or sample["context"] < args.samples:
            groups.setdefault(sample["task"], []).append(sample)
    settings = [("full", 1.0)] + [(p, float(r)) for r in args.ratios.split(",") for p in args.presses.split(",")]
    full = {}
    with args.output.open("w", buffering=1) as out:
        for name, ratio in settings:
            begin, size = time.time(), 1 if name == "kvzip" else args.batch
            for task, samples in groups.items():
                for i in range(0, len(samples), size):
                    part = samples[i:i + size]
                    press = None if name == "full" else make_press(name, ratio)
                    for sample, result in zip(part, run_batch(model, part, press, tests["end_tokens"])):
                        key = task, sample["context"]
                        full.setdefault(key, result)
                        out.write(json.dumps(record(tests, sample, name, ratio, result, full[key])) + "\n")
            print(f"{name} {ratio}: {time.time() - begin:.1f} s", flush=True)


if __name__ == "__main__":
    main()
