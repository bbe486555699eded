"""Files of users that are corrupt, cut short or made to hurt: one message that names the file, and exit code 2 or 3."""

import json
import pathlib
import random

import pytest

from server_process import MODEL, ROOT
from test_command_line import run
from test_compression_flags import write_npz
from tiny_model import write_tiny_model

SEEDS = ROOT / "tests/fuzz/seeds"


def expect_refused(path, *command, code):
    done = run(*command)
    assert done.returncode == code, (command, done.returncode, done.stderr)
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert all(c.isprintable() for c in done.stderr[:-1]), done.stderr
    assert str(path) in done.stderr and len(done.stderr) < 10000, done.stderr


def mutations(whole, count):
    """Cut short, and with a few bytes changed among the first, where the structure is."""
    rnd = random.Random(1)
    for _ in range(count):
        yield whole[:rnd.randrange(len(whole))]
        changed = bytearray(whole)
        for _ in range(rnd.randint(1, 4)):
            changed[rnd.randrange(min(len(whole), 600))] = rnd.choice([0, 10, 27, 127, 255, rnd.randrange(256)])
        yield bytes(changed)


def refuse_profile(model, path):
    """As a server's, which names it, and alone."""
    expect_refused(path, "serve", model, "--load-format", "dummy", "--port", 0, "--compression-ratio", 0.3,
                   "--compression-profile", path, code=2)
    expect_refused(path, "calibrate", model, "--import", path, code=3)
    expect_refused(path, "inspect", path, code=3)


def test_npz_profiles(tmp_path):
    model, path = write_tiny_model(tmp_path / "tiny"), tmp_path / "broken.npz"
    whole = write_npz(tmp_path / "whole.npz").read_bytes()
    for data in (b"", b"PK\x03\x04" + bytes(100), whole[:200], whole[:-10], whole.replace(b"<f8", b"|O8"),
                 whole.replace(b"(1, 2, 2, 2)", b"(1, 2, 9, 2)"), whole.replace(b"raw_ratio", b"raw\n\x1b[31mx")):
        path.write_bytes(data)
        refuse_profile(model, path)


def header_of(text, data=b""):
    return len(text).to_bytes(8, "little") + text.encode() + data


def test_safetensors_profiles(tmp_path):
    model, path = write_tiny_model(tmp_path / "tiny"), tmp_path / "broken.safetensors"
    whole = (SEEDS / "profile/safetensors").read_bytes()
    for data in (b"", bytes(8), b"\xff" * 100, header_of("{"), header_of("[" * 100000), header_of("{}"), whole[:-1],
                 header_of('{"__metadata__": {"format": "tangram-profile-1"}}'),
                 header_of('{"a\\n\\u001b[31m": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}', bytes(4)),
                 header_of('{"a": {"dtype": "F32", "shape": [4611686018427387904, 4], "data_offsets": [0, 4]}}',
                           bytes(4)),
                 (SEEDS / "safetensors/small").read_bytes()):
        path.write_bytes(data)
        refuse_profile(model, path)


def test_published_gates(tmp_path):
    model, path = write_tiny_model(tmp_path / "tiny"), tmp_path / "gates.safetensors"
    profile = write_npz(tmp_path / "profile.npz", scorer="fastkvzip")
    for data in (b"", b"\xff" * 100, header_of("{}"), header_of('{"__metadata__": {"format": "tangram-fastkvzip-1"}}')):
        path.write_bytes(data)
        expect_refused(path, "serve", model, "--load-format", "dummy", "--port", 0, "--compression-ratio", 0.3,
                       "--compression-profile", profile, "--compression-scorer", "fastkvzip",
                       "--compression-gate-path", path, code=3)


def test_gguf_models(tmp_path):
    path = tmp_path / "broken.gguf"
    with open(MODEL, "rb") as file:
        real = file.read(4 << 20)
    assert b"GGUF" == real[:4]
    seed = (SEEDS / "gguf/llama").read_bytes()
    long_key = b"GGUF" + bytes([3, 0, 0, 0]) + bytes(8) + b"\1" + bytes(7) + (1 << 20).to_bytes(8, "little") + b"k" * (1 << 20)
    cases = [b"", b"GGUF", b"GGUF" + b"\xff" * 200, long_key, real[:1000], real[:2 << 20], real, seed, *mutations(seed, 20)]
    for data in cases:
        path.write_bytes(data)
        expect_refused(path, "serve", path, "--port", 0, code=3)


def test_model_folders(tmp_path):
    model = write_tiny_model(tmp_path / "tiny")
    weights, config, tokenizer = (model / name for name in ("model.safetensors", "config.json", "tokenizer.json"))
    for data in (b"", b"\xff" * 100, header_of("{}"), (SEEDS / "safetensors/small").read_bytes()):
        weights.write_bytes(data)
        expect_refused(model, "serve", model, "--port", 0, code=3)
    for text in ("", "[]", "{", json.dumps({"architectures": ["LlamaForCausalLM"], "hidden_size": -1})):
        old = config.read_text()
        config.write_text(text)
        expect_refused(model, "serve", model, "--port", 0, "--load-format", "dummy", code=3)
        config.write_text(old)
    for text in ("", "[]", "{", '{"model": 7}'):
        tokenizer.write_text(text)
        expect_refused(model, "serve", model, "--port", 0, "--load-format", "dummy", code=3)
