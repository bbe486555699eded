#!/usr/bin/env python3
"""Makes tests/unit/compression/golden: which tokens each scorer keeps by its own source, at lengths that are given.

    pip install numpy torch transformers kvpress gguf safetensors   # made with torch 2.8.0, transformers 5.2.0, kvpress 0.5.5
    tools/make_scorer_golden.py kvpress tests/unit/model/golden tests/unit/compression/golden
    tools/make_scorer_golden.py study path/to/compression_study.py models/SmolLM2-135M-Instruct.Q4_1.gguf \\
        tests/unit/compression/golden

All in float32. A file is safetensors: `tokens`, and for each scorer a mask of the tokens that every head of every layer
keeps at every boundary, [boundaries, L, Hkv, tokens / 32]: 32 tokens in the bits of what is declared a float, the type that
Tangram's reader knows, the first in the lowest bit.
"""

import importlib.util
import pathlib
import sys
import tempfile

from need import need

need("numpy", "torch", "safetensors", "transformers", "kvpress", "gguf")
import convert_fastkvzip
import numpy as np
import torch
from safetensors.numpy import save_file

torch.set_grad_enabled(False)


def pack(mask):
    return np.packbits(np.asarray(mask, np.uint8), axis=-1, bitorder="little").view(np.float32)


# --- kvpress: tiny models, one boundary at the prompt's end.

NUM_TOKENS = 256
WINDOW, SINKS = 32, 4
REPEAT = [5, 9, 2, 11, 60, 33]  # stands for the words that ask for a repetition


def kept(layer, head):
    """Tokens that a head keeps: uneven, so that a mix-up of heads shows."""
    return 64 + 16 * ((2 * layer + head) % 4)


class StubTokenizer:
    chat_template = None

    @staticmethod
    def from_pretrained(_):
        return StubTokenizer()

    def encode(self, text, **_):
        if not text:
            return torch.zeros((1, 0), dtype=torch.long)
        return torch.tensor([REPEAT[-1:] if text == "\n" else REPEAT[:-1]])


def scores_of(press, model, tokens):
    """What the press scores by, [L, Hkv, tokens]."""
    scores = []
    score = press.score

    def record(module, *args):
        result = score(module, *args)
        scores.append(result[0])
        return result

    press.score = record
    with press(model):
        model(tokens, past_key_values=new_cache(model))
    return torch.stack(scores)


def new_cache(model):
    from transformers import DynamicCache
    return DynamicCache(config=model.config)


def kvzip_scores(model, tokens):
    from kvpress import KVzipPress
    from kvpress.presses import kvzip_press
    kvzip_press.AutoTokenizer = StubTokenizer
    press, found = KVzipPress(compression_ratio=0.5), {}

    def keep_scores(_):
        press.score_val[..., :press.n_sink] = float("inf")
        found["scores"] = press.score_val[:, 0].clone()

    press.compress_post = keep_scores
    with press(model):
        model.model(input_ids=tokens, past_key_values=new_cache(model))
    return found["scores"]


def fastkvzip_scores(model, tokens, output):
    """With random gates, which go to `output` as the converter writes a published file."""
    from kvpress.presses.fastkvzip_press import FastKVzipGate, FastKVzipPress
    c = model.config
    generator, gates = torch.Generator().manual_seed(7), []
    for layer in range(c.num_hidden_layers):
        gate = FastKVzipGate(layer, c.hidden_size, c.num_key_value_heads,
                             c.num_attention_heads // c.num_key_value_heads, torch.float32)
        for parameter in gate.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
        gates.append(gate)
    with tempfile.TemporaryDirectory() as folder:
        published = pathlib.Path(folder) / "gate.pt"
        torch.save({"module": [gate.state_dict() for gate in gates], "loss": np.float64(0.5)}, published)
        convert_fastkvzip.main(published, output)
    press, found = FastKVzipPress(0.5), {}
    press.gates = gates
    press.compress_post = lambda _: found.update(scores=torch.stack(press.score_val)[:, 0])
    with press(model):
        model(tokens, past_key_values=new_cache(model))
    return found["scores"]


def kvpress_masks(model, tokens, gates):
    from kvpress import ExpectedAttentionPress, KeyDiffPress, SnapKVPress, StreamingLLMPress, TOVAPress
    scores = {
        "snapkv": scores_of(SnapKVPress(0.5, window_size=WINDOW, kernel_size=5), model, tokens),
        "keydiff": scores_of(KeyDiffPress(0.5), model, tokens),
        "expected_attention": scores_of(ExpectedAttentionPress(0.5, n_sink=SINKS, epsilon=0.01), model, tokens),
        "tova": scores_of(TOVAPress(0.5), model, tokens),
        "kvzip": kvzip_scores(model, tokens),
    }
    if gates:
        scores["fastkvzip"] = fastkvzip_scores(model, tokens, gates)
    masks = {}
    for name, s in scores.items():
        mask = torch.zeros(s.shape, dtype=torch.bool)
        for layer in range(s.shape[0]):
            for head in range(s.shape[1]):
                mask[layer, head, s[layer, head].topk(kept(layer, head)).indices] = True
        masks[name] = mask
    # Its scores are 0 and 1, by the share that is removed: each length by a press of its own.
    masks["streamingllm"] = torch.zeros_like(masks["tova"])
    for layer in range(s.shape[0]):
        for head in range(s.shape[1]):
            press = StreamingLLMPress(1 - kept(layer, head) / NUM_TOKENS, n_sink=SINKS)
            masks["streamingllm"][layer, head] = scores_of(press, model, tokens)[layer, head] > 0
    for name, mask in masks.items():
        lengths = mask.sum(-1).tolist()
        assert lengths == [[kept(l, h) for h in range(s.shape[1])] for l in range(s.shape[0])], (name, lengths)
    return masks


def make_kvpress(models, output):
    from transformers import AutoModelForCausalLM
    for seed, name in enumerate(("qwen3_tied_bf16", "llama31_bf16")):
        model = AutoModelForCausalLM.from_pretrained(models / name, dtype=torch.float32,
                                                     attn_implementation="sdpa").eval()
        generator = torch.Generator().manual_seed(seed)
        tokens = torch.randint(3, model.config.vocab_size, (1, NUM_TOKENS), generator=generator)
        gates = output / f"fastkvzip_{name}.safetensors" if seed == 0 else None
        masks = kvpress_masks(model, tokens, gates)
        tensors = {"tokens": tokens[0].numpy().astype(np.float32)}
        tensors |= {scorer: pack(mask.numpy()[None]) for scorer, mask in masks.items()}
        save_file(tensors, output / f"kvpress_{name}.safetensors")


# --- The study on the default model: several boundaries, each eviction final.

STUDY_TOKENS = 1024
STUDY_REPEAT = [198, 198, 42650, 260, 1552]


def study_kept(layer, head, boundary_index):
    """Multiples of 16 with increments of 48 to 176 of 256 tokens."""
    return boundary_index * (48 + 16 * ((5 * layer + 7 * head) % 9))


def study_gate(layers, heads, width):
    """[L, width + 1, G]: any linear map tests the arithmetic. What C++ computes too, from integers."""
    l, i, g = np.meshgrid(np.arange(layers), np.arange(width + 1), np.arange(heads), indexing="ij")
    return torch.from_numpy((((l * 31 + g * 17 + i * 7919 + l * i * 13) % 2003) / 1001.5 - 1).astype(np.float32))


def make_study(study_path, model_path, output):
    spec = importlib.util.spec_from_file_location("study", study_path)
    study = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(study)
    assert (study.CHUNK, study.SINKS, study.WINDOW) == (256, 4, 32)
    model = study.Model(str(model_path))
    gate = study_gate(model.L, model.G, model.width).to(study.DEVICE)
    # Numbered lines of words in a made-up language: repetitive, as text is, and everywhere different.
    tokens = [int(x) for x in (np.cumsum(np.arange(STUDY_TOKENS) % 97) * 7 + np.arange(STUDY_TOKENS) // 5) % 3000 + 300]
    tensors = {"tokens": np.array(tokens, np.float32)}
    for scorer in ("gate", "keydiff", "reconstruction", "snapkv"):
        sequence = study.Sequence(model, scorer, STUDY_TOKENS + 600, STUDY_REPEAT, gate)
        masks = []
        for k in range(STUDY_TOKENS // study.CHUNK):
            sequence.append(tokens[k * study.CHUNK:(k + 1) * study.CHUNK])
            retained = torch.tensor([[study_kept(l, g, k + 1) for g in range(model.G)] for l in range(model.L)])
            sequence.compress(retained.to(study.DEVICE))
            masks.append(torch.stack([m[:, :STUDY_TOKENS] for m in sequence.cache["keep"]]).cpu().numpy())
        tensors[scorer] = pack(np.stack(masks))
    save_file(tensors, output / "study.safetensors")


def main():
    kind, *paths = sys.argv[1:]
    paths = [pathlib.Path(p) for p in paths]
    paths[-1].mkdir(parents=True, exist_ok=True)
    {"kvpress": make_kvpress, "study": make_study}[kind](*paths)


if __name__ == "__main__":
    main()
