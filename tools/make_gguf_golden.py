#!/usr/bin/env python3
"""Makes golden logits of a GGUF file of the Llama architecture: a float32 forward pass in torch on the weights as the
gguf package dequantises them. It shares no code with the server.

    pip install numpy torch gguf tokenizers safetensors   # made with torch 2.8.0, then 0.19.0, 0.22.2, 0.8.0
    tools/make_gguf_golden.py models/SmolLM2-135M-Instruct.Q4_1.gguf tests/unit/model/smollm2_golden.safetensors

20 prompts of 10 to 4000 tokens: questions, code, other languages and, for the long ones, licence texts (Debian's
/usr/share/common-licenses). For prompt i the file holds, all as f32:
  {i}.tokens     [n + 64]       the prompt, then 64 tokens decoded greedily
  {i}.positions  [p]            of tokens whose logits are sampled: 8 in the prompt, its last among them, 8 in the answer
  {i}.samples    [p, 64]        logits of the vocabulary entries of `entries` there
  {i}.summary    [p, 2]         largest logit, log of the sum of exp(logit)
  {i}.top_ids    [64, 8]        the 8 best candidates for each token of the answer
  {i}.top_logprobs [64, 8]      their log probabilities
and `entries` [64].
"""

import pathlib
import sys

from need import need

need("numpy", "torch", "gguf", "safetensors", "tokenizers")
import numpy as np
import torch
from gguf import GGUFReader, dequantize
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

NUM_ANSWER = 64
LENGTHS = [10, 17, 24, 32, 48, 65, 90, 128, 160, 200, 257, 333, 400, 512, 700, 1000, 1400, 2000, 2900, 4000]
LICENSES = ["GPL-3", "Apache-2.0", "MPL-2.0", "GPL-2", "LGPL-2.1", "GFDL-1.3", "Artistic"]
CHAT = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
SHORT = [
    "The capital of France is Paris, and the capital of Italy is Rome.",
    CHAT.format("Why is the sky blue?"),
    "def fibonacci(n):\n    if n < 2:\n        return n\n    return fibonacci(n - 1) +",
    CHAT.format("Give me three tips for keeping a small balcony garden alive through a hot summer."),
    "Am Morgen ging der alte Fischer zum Hafen hinunter. Das Meer war still, und über dem Wasser lag ein "
    "dünner Nebel. Er setzte sich auf die Mauer und wartete,",
    "| city | country | population |\n|---|---|---|\n| Lagos | Nigeria | 15 million |\n| Lima | Peru | 10 million |\n"
    "| Oslo | Norway | 0.7 million |\n| Cairo | Egypt | 10 million |\n| Quito |",
    CHAT.format("A train leaves at 9:40 and arrives at 13:05. It stops for 12 minutes on the way. How long does "
                "it move? Then tell me what a person could read in that time, and be brief.") + "The train",
    "El perro corrió por la playa mientras el sol caía. 海の向こうに小さな島が見えた。 Вечером стало холодно, и мы "
    "развели костёр. \U0001F525 Then everyone sang, and nobody remembered the words; so they made up",
]


def make_tokenizer(reader):
    """Byte-level BPE with single digits, as the pre-tokenizer 'smollm' names it."""
    def field(name):
        return reader.fields["tokenizer.ggml." + name].contents()
    tokens, types = field("tokens"), field("token_type")
    merges = [tuple(m.split(" ", 1)) for m in field("merges")]
    tokenizer = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t) for t, kind in zip(tokens, types) if kind == 3])
    return tokenizer


def make_prompts(tokenizer):
    """Each of its length: short texts in turn, then licences, one behind another from a different start."""
    licences = [tokenizer.encode(pathlib.Path("/usr/share/common-licenses", name).read_text()).ids
                for name in LICENSES]
    prompts = []
    for i, length in enumerate(LENGTHS):
        ids = []
        if i < len(SHORT):
            ids = tokenizer.encode(SHORT[i]).ids
        # A prompt that is too short is set behind the end of a licence, so that its own end stays.
        if len(ids) < length:
            licence = licences[i % len(licences)]
            while len(licence) < length:
                licence = licence + licences[(i + 1) % len(licences)]
            start = (len(licence) - length) // 2
            missing = length - len(ids)
            ids = licence[start:start + missing] + ids
        prompts.append(ids[-length:])
    return prompts


class Llama:
    def __init__(self, reader):
        def field(name):
            return reader.fields["llama." + name].contents()
        self.layers, self.heads = field("block_count"), field("attention.head_count")
        self.kv_heads, self.eps = field("attention.head_count_kv"), field("attention.layer_norm_rms_epsilon")
        self.weights = {t.name: torch.from_numpy(np.array(dequantize(t.data, t.tensor_type), dtype=np.float32))
                        for t in reader.tensors}
        self.dim = field("embedding_length") // self.heads
        theta = field("rope.freq_base")
        self.frequencies = theta ** (-torch.arange(0, self.dim, 2, dtype=torch.float64) / self.dim)
        self.reset()

    def reset(self):
        self.keys, self.values, self.past = [None] * self.layers, [None] * self.layers, 0

    def norm(self, x, name):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weights[name]

    def rotate(self, x):
        """x: [heads, tokens, dim]; pairs (2i, 2i + 1), as the converter lays them."""
        positions = torch.arange(self.past, self.past + x.shape[1], dtype=torch.float64)
        angles = positions[:, None] * self.frequencies
        cos, sin = angles.cos().float(), angles.sin().float()
        even, odd = x[..., 0::2], x[..., 1::2]
        return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2)

    def attention(self, x, layer):
        def heads(name, count):
            return (x @ self.weights[f"blk.{layer}.attn_{name}.weight"].T).view(-1, count, self.dim).transpose(0, 1)
        q, k = self.rotate(heads("q", self.heads)), self.rotate(heads("k", self.kv_heads))
        v = heads("v", self.kv_heads)
        if self.past:
            k, v = torch.cat((self.keys[layer], k), 1), torch.cat((self.values[layer], v), 1)
        self.keys[layer], self.values[layer] = k, v
        out = torch.empty_like(q)
        group = self.heads // self.kv_heads
        for head in range(self.heads):
            scores = q[head] @ k[head // group].T / self.dim ** 0.5
            future = torch.ones_like(scores, dtype=torch.bool).triu(self.past + 1)
            out[head] = scores.masked_fill(future, -torch.inf).softmax(-1) @ v[head // group]
        out = out.transpose(0, 1).reshape(x.shape[0], -1)
        return out @ self.weights[f"blk.{layer}.attn_output.weight"].T

    def feed_forward(self, x, layer):
        gate, up, down = (self.weights[f"blk.{layer}.ffn_{name}.weight"] for name in ("gate", "up", "down"))
        return (torch.nn.functional.silu(x @ gate.T) * (x @ up.T)) @ down.T

    def forward(self, ids, rows):
        """Logits [rows, vocab] of the next tokens `ids`."""
        x = self.weights["token_embd.weight"][ids]
        for layer in range(self.layers):
            x = x + self.attention(self.norm(x, f"blk.{layer}.attn_norm.weight"), layer)
            x = x + self.feed_forward(self.norm(x, f"blk.{layer}.ffn_norm.weight"), layer)
        self.past += len(ids)
        x = self.norm(x[rows], "output_norm.weight")
        return x @ self.weights.get("output.weight", self.weights["token_embd.weight"]).T


def run_prompt(model, ids, entries):
    n = len(ids)
    model.reset()
    positions = sorted({n * k // 8 for k in range(1, 8)} | {n - 1})
    logits = [model.forward(torch.tensor(ids), positions)]
    tokens = list(ids)
    answer = [logits[0][-1]]
    for _ in range(NUM_ANSWER):
        tokens.append(int(answer[-1].argmax()))
        answer.append(model.forward(torch.tensor(tokens[-1:]), [0])[0])
    sampled = list(range(4, NUM_ANSWER, 8))  # answer[k] are the logits behind token n - 1 + k
    logits = torch.cat([logits[0], torch.stack([answer[k] for k in sampled])])
    top = torch.stack(answer[:NUM_ANSWER]).log_softmax(-1).topk(8)
    return {
        "tokens": torch.tensor(tokens).float(),
        "positions": torch.tensor(positions + [n - 1 + k for k in sampled]).float(),
        "samples": logits[:, entries].contiguous(),
        "summary": torch.stack((logits.max(-1).values, logits.logsumexp(-1)), -1),
        "top_ids": top.indices.float(),
        "top_logprobs": top.values.contiguous(),
    }


def main():
    reader = GGUFReader(sys.argv[1])
    tokenizer, model = make_tokenizer(reader), Llama(reader)
    vocab = model.weights["token_embd.weight"].shape[0]
    entries = torch.randperm(vocab, generator=torch.Generator().manual_seed(1))[:64]
    golden = {"entries": entries.float()}
    with torch.no_grad():
        for i, ids in enumerate(make_prompts(tokenizer)):
            result = run_prompt(model, ids, entries)
            golden |= {f"{i}.{key}": value for key, value in result.items()}
            text = tokenizer.decode(result["tokens"].long().tolist()[len(ids):], skip_special_tokens=False)
            print(f"{i}: {len(ids)} tokens, then {text[:70]!r}", flush=True)
    save_file(golden, sys.argv[2])


if __name__ == "__main__":
    main()
