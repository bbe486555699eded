#!/usr/bin/env python3
"""Makes tests/unit/model/golden: tiny random models with the logits that Hugging Face transformers gives for them.

    pip install torch transformers safetensors   # made with 2.8.0 and 5.2.0
    tools/make_model_golden.py tests/unit/model/golden

Each folder is a model as save_pretrained writes it, and expected.safetensors: `tokens` [n] and `logits` [n, vocab], f32,
computed in float32 on the weights as stored.
"""

import json
import pathlib
import shutil
import sys

from need import need

need("torch", "safetensors", "transformers")
import torch
from safetensors.torch import save_file
from transformers import (LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config,
                          Qwen3ForCausalLM)

NUM_TOKENS = 40
SIZES = dict(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
             num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
             rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2)
LLAMA3 = dict(rope_type="llama3", rope_theta=500000.0, factor=4.0, low_freq_factor=1.0,
              high_freq_factor=4.0, original_max_position_embeddings=16)
YARN = dict(rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=16)


def llama(**fields):
    return LlamaForCausalLM(LlamaConfig(**(SIZES | fields)))


def qwen2(**fields):
    return Qwen2ForCausalLM(Qwen2Config(**(SIZES | fields)))


def qwen3(**fields):
    return Qwen3ForCausalLM(Qwen3Config(**(SIZES | fields)))


# name: model, stored type, largest shard, changes to config.json (None removes a field)
MODELS = {
    "llama31_bf16": lambda: (llama(rope_parameters=LLAMA3), torch.bfloat16, "1GB", {}),
    # Two heads of 20: a head dimension that fills no vector.
    "llama_linear_tied_f32": lambda: (
        llama(hidden_size=40, num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=True,
              rope_parameters=dict(rope_type="linear", rope_theta=10000.0, factor=2.0)),
        torch.float32, "1GB",
        {"rope_parameters": None, "rope_theta": 10000.0, "rope_scaling": {"type": "linear", "factor": 2.0}}),
    # Dynamic scaling is in force beyond 16 positions; one KV head for each query head.
    "llama_dynamic_f16": lambda: (
        llama(num_key_value_heads=4, max_position_embeddings=16,
              rope_parameters=dict(rope_type="dynamic", rope_theta=10000.0, factor=4.0)),
        torch.float16, "1GB", {}),
    "qwen2_sharded_f16": lambda: (qwen2(), torch.float16, "20KB", {}),
    "qwen2_yarn_tied_bf16": lambda: (
        qwen2(tie_word_embeddings=True, rope_parameters=YARN), torch.bfloat16, "1GB",
        {"rope_parameters": None, "rope_theta": 10000.0, "max_position_embeddings": 16,
         "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
         "dual_chunk_attention_config": {"chunk_size": 8, "local_size": 4}}),
    # Four heads of 16 on a width of 32.
    "qwen3_tied_bf16": lambda: (qwen3(head_dim=16, tie_word_embeddings=True), torch.bfloat16, "1GB", {}),
    "qwen3_yarn_sharded_f32": lambda: (
        qwen3(head_dim=16, rope_parameters=YARN | dict(attention_factor=0.9, beta_fast=16.0, beta_slow=2.0)),
        torch.float32, "60KB", {}),
}


def randomize(model, generator):
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.2 * noise if "norm" in name else 0.2 * noise)


def make(folder, name, seed):
    model, dtype, shard, changes = MODELS[name]()
    generator = torch.Generator().manual_seed(seed)
    randomize(model, generator)
    model.tie_weights()
    shutil.rmtree(folder, ignore_errors=True)
    model.to(dtype).save_pretrained(folder, max_shard_size=shard)
    config_path = folder / "config.json"
    config = json.loads(config_path.read_text())
    for key, value in changes.items():
        config.pop(key, None)
        if value is not None:
            config[key] = value
    config_path.write_text(json.dumps(config, indent=2) + "\n")

    model = type(model).from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    tokens = torch.randint(0, SIZES["vocab_size"], (NUM_TOKENS,), generator=generator)
    with torch.no_grad():
        logits = model(tokens[None]).logits[0]
    save_file({"tokens": tokens.float(), "logits": logits.contiguous()}, folder / "expected.safetensors")
    print(f"{name}: |logits| <= {logits.abs().max():.2f}")


def main():
    root = pathlib.Path(sys.argv[1])
    for seed, name in enumerate(MODELS):
        make(root / name, name, seed)


if __name__ == "__main__":
    main()
