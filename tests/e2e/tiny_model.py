"""A model of a few kilobytes for tests that load one: a config and a tokenizer of single bytes, for
--load-format dummy."""

import json


def byte_alphabet():
    """The byte-level alphabet: bytes that do not print stand from U+0100 on."""
    printing = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printing else next(others)) for byte in range(256)]


def write_tiny_model(folder, layers=2, kv_heads=2, positions=1024):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_hidden_layers": layers,
        "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2 * kv_heads,
        "num_key_value_heads": kv_heads, "head_dim": 16, "vocab_size": 258, "hidden_act": "silu",
        "max_position_embeddings": positions, "rms_norm_eps": 1e-5, "tie_word_embeddings": True,
        "rope_theta": 10000.0, "bos_token_id": 256, "eos_token_id": 257}))
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    (folder / "tokenizer.json").write_text(json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None,
        "added_tokens": [], "pre_tokenizer": level, "post_processor": None, "decoder": level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "merges": [],
                  "vocab": {letter: i for i, letter in enumerate(byte_alphabet())}}}))
    return folder
