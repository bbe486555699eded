#!/usr/bin/env python3
"""Writes small well-formed files of every kind that is fuzzed, for libFuzzer to begin with:
tests/fuzz/seeds/{gguf,safetensors,npz,profile}. What the fuzzer found lies beside them and is kept."""

import io
import json
import pathlib
import struct
import zipfile

ROOT = pathlib.Path(__file__).resolve().parents[1] / "tests/fuzz/seeds"


def string(text):
    return struct.pack("<Q", len(text)) + text.encode()


def gguf():
    """A llama of one layer: its config, a tokenizer of three tokens and one tensor."""
    values = b""
    count = 0

    def add(key, kind, data):
        nonlocal values, count
        values += string(key) + struct.pack("<I", kind) + data
        count += 1

    add("general.architecture", 8, string("llama"))
    for key, number in {"block_count": 1, "embedding_length": 32, "feed_forward_length": 64, "context_length": 128,
                        "attention.head_count": 2, "attention.head_count_kv": 1, "vocab_size": 3}.items():
        add(f"llama.{key}", 4, struct.pack("<I", number))
    add("llama.attention.layer_norm_rms_epsilon", 6, struct.pack("<f", 1e-5))
    add("tokenizer.ggml.add_bos_token", 7, b"\x01")
    add("tokenizer.ggml.tokens", 9, struct.pack("<IQ", 8, 3) + string("a") + string("b") + string("c"))
    add("tokenizer.ggml.token_type", 9, struct.pack("<IQ3i", 5, 3, 1, 1, 3))
    info = string("token_embd.weight") + struct.pack("<IQQIQ", 2, 32, 3, 0, 0)
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, count) + values + info
    return head + bytes(-len(head) % 32) + bytes(32 * 3 * 4)


def safetensors(tensors, metadata=None):
    """tensors: name -> (dtype, shape, bytes)."""
    header, data = {"__metadata__": metadata} if metadata else {}, b""
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def floats(*values):
    return struct.pack(f"<{len(values)}f", *values)


def profile():
    """Two layers of one head, with a gate, at two ratios."""
    tensors = {"gate.weight": ("F32", [2, 1, 2], floats(1, 2, 3, 4)), "gate.bias": ("F32", [2, 1], floats(0, 1))}
    for scorer in ("gate", "keydiff"):
        tensors |= {f"{scorer}.ratios": ("F32", [2], floats(0.25, 0.5)),
                    f"{scorer}.demand": ("F32", [2, 2, 1], floats(0.1, 0.4, 0.3, 0.7)),
                    f"{scorer}.spread": ("F32", [2, 2, 1], floats(0, 0, 0.1, 0)),
                    f"{scorer}.stability": ("F32", [1], floats(1))}
    return safetensors(tensors, {
        "format": "tangram-profile-1", "model_fingerprint": "7", "num_layers": "2", "num_kv_heads": "1",
        "hidden_size": "2", "num_samples": "1", "sample_tokens": "32", "repeat_prompt": "1,2"})


def npy(descr, shape, data):
    header = (f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}").ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + data


def npz(compression):
    meta = json.dumps({"scorer": "snapkv", "level": "non_uniform", "model_name": "m", "ctx_len_min": 9}).encode()
    arrays = {"meta": npy("|u1", f"({len(meta)},)", meta),
              "raw_ratio": npy("<f8", "(1, 2, 2, 1)", struct.pack("<4d", 0.1, 0.2, 0.3, 0.4)),
              "base_ratios": npy("<f4", "(1,)", floats(0.3)),
              "static_layer_ids": npy("<i8", "(2,)", struct.pack("<2q", 0, 1)),
              "a": npy("<i4", "()", struct.pack("<i", -1))}
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in arrays.items():
            archive.writestr(zipfile.ZipInfo(name + ".npy"), data, compression)
    return file.getvalue()


def main():
    stored, deflated = npz(zipfile.ZIP_STORED), npz(zipfile.ZIP_DEFLATED)
    small = safetensors({"a": ("BF16", [2, 3], bytes(12)), "b": ("I64", [], bytes(8))}, {"format": "pt"})
    array = npy("<f8", "(2, 1)", struct.pack("<2d", 0.5, 1.5))
    published = json.dumps({"scorer": "tova", "level": "non_uniform_per_layer", "ctx_len_min": 9}).encode() + bytes(
        [0, 1, 2, 2, 1]) + floats(0.4) + struct.pack("<4d", 0.1, 0.5, 0.3, 0.3)
    for path, data in {"npz/array": array, "profile/published": published, "gguf/llama": gguf(), "safetensors/small": small, "safetensors/profile": profile(),
                       "npz/stored": stored, "npz/deflated": deflated, "profile/safetensors": profile(),
                       "profile/npz_stored": stored, "profile/npz_deflated": deflated}.items():
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / path).write_bytes(data)


if __name__ == "__main__":
    main()
