"""Compression as the command line has it: what is refused, what is accepted, where the profile comes from."""

import json
import re
import zipfile

import httpx
import pytest

from server_process import MODEL, NAME, ROOT, ServerProcess
from test_command_line import run
from tiny_model import write_tiny_model

PROFILE = str(ROOT / "profiles/SmolLM2-135M-Instruct.profile.safetensors")
ON = ["--port", "0", "--compression-profile", PROFILE, "--compression-ratio"]


@pytest.mark.parametrize("flags, words", [
    (["--enable-compression"], "--compression-ratio 0.3"),
    (["--no-enable-compression", *ON, "0.3"], "contradict"),
    ([*ON, "0"], "(0, 1]"),
    ([*ON, "1.5"], "(0, 1]"),
    ([*ON, "nan"], "not a number"),
    ([*ON, "0.05"], "below 0.10"),
    ([*ON, "0.3", "--compression-chunk-size", "250"], "multiple of the page"),
    ([*ON, "0.3", "--compression-chunk-size", "2147483632"], "above 4194304"),
    ([*ON, "0.3", "--compression-chunk-size", "64", "--compression-window-size", "64"], "below the chunk"),
    ([*ON, "0.3", "--compression-chunk-size", "256", "--compression-floor-min", "512"], "--compression-floor-min"),
    ([*ON, "0.3", "--compression-level", "sideways"], "is not one of uniform"),
    ([*ON, "0.3", "--compression-scorer", "h2o"], "is not one of gate"),
    ([*ON, "0.3", "--page-group-size", "7"], "does not divide"),
    ([*ON, "0.3", "--head-group-cluster-map", "/nowhere"], "/nowhere"),
    (["--compression-ratio", "0.3", "--compression-profile", "/nowhere"], "/nowhere"),
    (["--compression-ratio", "0.3", "--compression-profile", MODEL], "header"),
])
def test_bad_input_is_one_message_and_exit_code_2(flags, words):
    done = run("serve", MODEL, *flags)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_a_profile_of_another_model_is_refused(tmp_path):
    model = write_tiny_model(tmp_path / "tiny")
    done = run("serve", model, "--load-format", "dummy", *ON, "0.3")
    assert done.returncode == 2, done.stderr
    assert "another model" in done.stderr and "30 layers of 3 KV heads" in done.stderr


def test_the_references_spellings_are_accepted(tmp_path):
    """One line for what means nothing; then the missing profile ends it."""
    done = run("serve", MODEL, *ON[2:], "0.3", "--enable_compression", "--compression-level",
               "crosslayer_head", "--compression-retention-dump", "x", "--multi-turn",
               "--head-group-cluster-map", "identity", "--page-group-size", "3",
               "--compression-chunk-size", "512", "--compression-profile", "/nowhere")
    assert done.returncode == 2, done.stderr
    warnings = [line for line in done.stdout.splitlines() if "WARNING" in line]
    assert len(warnings) == 3, done.stdout
    for words in ("each head its own", "--compression-retention-dump has no effect",
                  "--multi-turn has no effect"):
        assert any(words in line for line in warnings), words


def test_start_up_prints_the_resolved_set_and_the_capacity():
    with ServerProcess(*ON[2:], "0.3", "--compression-scorer", "keydiff", "--compression-chunk-size", "512",
                       "--kv-cache-memory-bytes", "800M", "--compression-floor-min", "256") as server:
        text = server.text()
    assert ("KV cache compression: ratio 0.30, scorer keydiff, level cross-layer, chunk 512, window 32, "
            "sinks 4, floor 256, 30 groups of 3 heads") in text
    assert f"Compression profile: {PROFILE}, named by --compression-profile" in text
    assert "KV cache capacity at ratio 1.00: " in text
    assert "KV cache capacity at ratio 0.30: " in text
    assert "the floor of 256 tokens a head group hides the ratio 0.30" in text


def test_the_published_systems_floor_is_warned_of():
    with ServerProcess(*ON[2:], "0.3", "--compression-scorer", "snapkv", "--compression-chunk-size", "2048",
                       "--compression-window-size", "32", "--compression-floor-min", "512",
                       "--compression-level", "perlayer_cluster", "--kv-cache-memory-bytes", "800M") as server:
        text = server.text()
    assert "scorer snapkv (queries 32, pooled over 7), level per-layer, chunk 2048, window 32, sinks 4, floor 512" in text
    assert "the floor of 512 tokens a head group leaves 102 of the 614 that the ratio 0.30 keeps" in text


def test_chunks_that_no_context_fills_are_told(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    done = run("generate", MODEL, "-p", "Hello", "-n", 1, "--max-model-len", 512, "--kv-cache-memory-bytes", "100M",
               *ON[2:], "0.3")
    assert done.returncode == 0 and "end before they are compressed" in done.stderr
    model = write_tiny_model(tmp_path / "tiny", positions=256)
    done = run("generate", model, "-p", "Hello", "--load-format", "dummy", "--compression-ratio", "0.3")
    assert done.returncode == 2 and "the model's contexts end at 256 tokens" in done.stderr


def serve_tiny(model):
    return ServerProcess("--load-format", "dummy", "--compression-ratio", "0.5", model=str(model))


def test_a_profile_is_made_once_and_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = write_tiny_model(tmp_path / "tiny")
    with serve_tiny(model) as server:
        text = server.text()
    assert "There is no profile of this model at" in text
    assert "calibrating: 100%" in text
    assert "later starts find it there" in text
    kept = list((tmp_path / "cache/tangram").iterdir())
    assert len(kept) == 1 and kept[0].name.endswith(".profile.safetensors")
    with serve_tiny(model) as server:
        assert f"Compression profile: {kept[0]}, kept by an earlier start" in server.text()
        assert "calibrating" not in server.text()
    kept[0].rename(tmp_path / "tiny.profile.safetensors")
    with serve_tiny(model) as server:
        assert "beside the model" in server.text()
    # The same shape with other weights is another model.
    done = run("serve", model, "--load-format", "dummy", "--seed", 5, "--port", 0, "--compression-ratio", "0.5")
    assert done.returncode == 2, done.stderr
    assert "another model, with other weights" in done.stderr and done.stderr.count("\n") == 1


def test_at_ratio_1_a_request_may_ask_for_less(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = write_tiny_model(tmp_path / "tiny")
    with ServerProcess("--load-format", "dummy", "--enable-compression", "--compression-ratio", "1",
                       model=str(model)) as server:
        assert "KV cache compression: ratio 1.00" in server.text()
        assert server.text().count("KV cache capacity at ratio") == 1

        def usage(**fields):
            reply = httpx.post(server.url + "/v1/completions", json={
                "model": NAME, "prompt": [3 + i % 50 for i in range(600)], "max_tokens": 2, "ignore_eos": True, **fields})
            assert reply.status_code == 200, reply.text
            return reply.json()["usage"]["kv"]

        assert usage() == {"logical_tokens": 601, "resident_tokens": 601, "ratio": 1.0}
        asked = usage(compression_ratio=0.5)
        assert asked == {"logical_tokens": 601, "resident_tokens": 512 // 2 + 89, "ratio": 0.5}


def npy(descr, shape, data):
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}"
    header = header.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + data


def write_npz(path, layers=2, heads=2, scorer="keydiff", compression=zipfile.ZIP_STORED):
    """A profile in the published form: two samples, at ratio 0.3."""
    import struct
    meta = json.dumps({"scorer": scorer, "level": "non_uniform", "model_name": "some/model",
                       "ctx_len_min": 20000}).encode()
    ratios = [0.05 + 0.4 * (i % 3 == 0) for i in range(2 * layers * heads)]
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("meta.npy", npy("|u1", f"({len(meta)},)", meta))
        archive.writestr("raw_ratio.npy", npy("<f8", f"(1, 2, {layers}, {heads})",
                                              struct.pack(f"<{len(ratios)}d", *ratios)))
        archive.writestr("base_ratios.npy", npy("<f4", "(1,)", struct.pack("<f", 0.3)))
    return path


def test_a_published_profile_is_imported_and_served(tmp_path):
    model = write_tiny_model(tmp_path / "tiny")
    npz = write_npz(tmp_path / "profile.npz", compression=zipfile.ZIP_DEFLATED)
    done = run("calibrate", model, "--import", npz, "--texts", "unread")
    assert done.returncode == 0, done.stderr
    assert "--texts has no effect: --import takes the profile as it is" in done.stderr
    assert "imported from a published profile of some/model" in done.stdout
    for profile in (tmp_path / "tiny.profile.safetensors", npz):
        with ServerProcess("--load-format", "dummy", "--compression-ratio", "0.3", "--compression-scorer",
                           "keydiff", "--compression-profile", str(profile), model=str(model)) as server:
            assert "imported from a published profile of some/model" in server.text()
    done = run("serve", model, "--port", 0, "--load-format", "dummy", "--compression-ratio", "0.3",
               "--compression-profile", npz)
    assert done.returncode == 2 and "give --compression-scorer keydiff, or make one" in done.stderr
    other = write_npz(tmp_path / "other.npz", layers=3)
    done = run("calibrate", model, "--import", other)
    assert done.returncode == 2
    assert "3 layers of 2 KV heads" in done.stderr


def test_inspect_prints_and_draws(tmp_path):
    done = run("inspect", MODEL, "--compression-profile", PROFILE, "--contexts", "1024,8192", "--svg", tmp_path)
    assert done.returncode == 0, done.stderr
    for words in ("30 layers of 3 KV heads", "What each head wants to keep", "Groups (rows)",
                  "One sequence, in tokens", "Waste, in tokens", "MiB of pages by context"):
        assert words in done.stdout
    for name in ("retention.svg", "groups.svg", "memory.svg"):
        text = (tmp_path / name).read_text()
        assert text.startswith("<svg") and text.endswith("</svg>\n")


def test_the_shipped_profile_needs_no_flag():
    """The default model's, in the source tree: nothing is calibrated."""
    with ServerProcess("--compression-ratio", "0.3") as server:
        text = server.text()
    assert re.search(r"Compression profile: \S*/profiles/SmolLM2\S*, shipped with Tangram", text), text
    assert "calibrating" not in text
    done = run("inspect", MODEL)
    assert done.returncode == 0, done.stderr
    assert "/profiles/SmolLM2" in done.stdout


def test_inspect_needs_no_weights_and_takes_a_profile_alone(tmp_path):
    model = write_tiny_model(tmp_path / "tiny")
    npz = write_npz(tmp_path / "profile.npz")
    done = run("inspect", model, "--compression-profile", npz)
    assert done.returncode == 0, done.stderr
    assert "scorer keydiff" in done.stdout and "MiB of pages" in done.stdout
    done = run("inspect", npz)
    assert done.returncode == 0, done.stderr
    assert "Thousands of pages" in done.stdout
    done = run("inspect", model)
    assert done.returncode == 2 and "tangram calibrate" in done.stderr
    done = run("inspect", npz, "--compression-ratio", "0.1")
    assert done.returncode == 2 and "the profile covers ratios from" in done.stderr
