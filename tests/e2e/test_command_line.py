"""The program as a person or a supervisor meets it: flags, exit codes, chat, generate, bench."""

import json
import os
import re
import resource
import subprocess

import httpx
import pytest

from server_process import BINARY, MODEL, NAME, ServerProcess


def run(*arguments, stdin="", environment=None, timeout=120, **options):
    return subprocess.run([BINARY, *map(str, arguments)], input=stdin, capture_output=True, text=True,
                          timeout=timeout, env={**os.environ, **(environment or {})}, **options)


@pytest.mark.parametrize("arguments, code, words", [
    ([], 2, "Usage: tangram COMMAND"),
    (["frobnicate"], 2, "unknown command 'frobnicate'"),
    (["serve"], 2, "name a model"),
    (["serve", MODEL, "--max-modle-len", "5"], 2, "did you mean --max-model-len?"),
    (["serve", MODEL, "--port", "99999"], 2, "99999"),
    (["serve", MODEL, "--ssl-keyfile", "x"], 2, "TLS is not supported"),
    (["serve", MODEL, "-tp", "2"], 2, "one device"),
    (["serve", MODEL, "--master-addr", "10.0.0.1"], 2, "one device"),
    (["serve", MODEL, "--max-num-queued-tokens", "9"], 2, "--max-queued-requests"),
    (["serve", MODEL, "--port", "0", "--override-generation-config", '{"top_k": -3}'], 2, "top_k"),
    (["serve", MODEL, "--kv-cache-dtype", "fp8"], 2, "is not one of auto"),
    (["serve", MODEL, "--max-model-len", "1M"], 2, "positions that the model knows"),
    (["serve", MODEL, "--port", "0", "--kv-cache-memory-bytes", "10k"], 4, "--max-model-len"),
    (["serve", "/nonexistent", "--port", "0"], 5, "no such file"),
    (["serve", os.path.dirname(MODEL), "--port", "0"], 5, "did you mean " + MODEL),
    (["generate", "owner/model", "-p", "Hello"], 5, "models are not downloaded"),
    (["generate", __file__, "-p", "Hello"], 3, "not a GGUF file"),
    (["generate", MODEL, "Hello"], 2, "unexpected argument 'Hello'"),
    (["generate", MODEL, "-p", "Hello", "-n", "0"], 2, "--max-tokens must be at least 1"),
    (["bench", "serve", "http://127.0.0.1:1", "--tokenizer", MODEL, "--num-prompts", "1",
      "--ready-check-timeout-sec", "1"], 1,
     "Waiting for the server, 1 s at most"),
    (["bench", "serve"], 2, "--tokenizer is needed"),
    (["chat", "https://example.org"], 2, "only http"),
    (["chat", "http://127.0.0.1:1", "--document", "/nonexistent"], 2, "the file is missing or empty"),
    (["calibrate"], 2, "name a model"),
    (["calibrate", MODEL, "--samples", "100"], 2, "give a longer one with --texts"),
    (["calibrate", MODEL, "-o", "/dev/null/x"], 5, "/dev/null: Not a directory; name another file with -o"),
    (["calibrate", MODEL, "-o", "/nowhere/x"], 5, "/nowhere: No such file or directory"),
    (["calibrate", MODEL, "--texts", "/nonexistent"], 2, "the file is missing or empty"),
    (["calibrate", MODEL, "--sample-tokens", "100"], 2, "at least a chunk"),
    (["calibrate", MODEL, "--compression-chunk-size", "100"], 2, "multiple of the page"),
    (["inspect"], 2, "name a model or a profile"),
    (["inspect", "/nonexistent"], 5, "/nonexistent"),
    (["chat", "http://127.0.0.1:1"], 1, "is `tangram serve MODEL` running?"),
])
def test_mistakes_have_exit_codes_and_say_what_to_do(arguments, code, words):
    done = run(*arguments)
    assert done.returncode == code, done.stderr
    assert words in done.stderr


@pytest.mark.parametrize("megabytes, words", [
    (80, "Q4_1.gguf: Cannot allocate memory"), (200, "not enough memory to load the weights"),
    (1000, "choose a smaller --kv-cache-memory-bytes")])
def test_too_little_memory_has_exit_code_4(megabytes, words):
    """Mapping the file, the weights, the pages: each says what did not fit."""
    limit = megabytes * 2**20
    done = run("generate", MODEL, "-p", "Hello", "--kv-cache-memory-bytes", "2G", "--num-threads", "1",
               preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)))
    assert done.returncode == 4, done.stderr
    assert words in done.stderr and done.stderr.count("error:") == 1


def test_the_default_pool_fits_into_a_limited_address_space():
    limit = 2**30
    done = run("generate", MODEL, "-p", "Once upon a time", "-n", "3", "--num-threads", "1",
               preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)))
    assert done.returncode == 0, done.stderr


def test_the_longest_length_that_fits_is_named_and_fits():
    pool = ("--kv-cache-memory-bytes", "30M")
    done = run("serve", MODEL, "--port", "0", *pool)
    assert done.returncode == 4, done.stderr
    longest = re.search(r"Set --max-model-len (\d+) or less", done.stderr).group(1)
    with ServerProcess("--max-model-len", longest, *pool) as server:
        assert httpx.get(server.url + "/v1/models").json()["data"][0]["max_model_len"] == int(longest)


@pytest.mark.parametrize("name", ["attention", "gemm", "compress"])
def test_bench_of_kernels_says_what_it_needs(name):
    done = run("bench", name, environment={"CUDA_VISIBLE_DEVICES": ""})
    assert done.returncode == 2
    assert f"error: tangram bench {name} " in done.stderr
    assert "cmake --preset cuda" in done.stderr or "needs an NVIDIA GPU" in done.stderr


def test_a_config_that_is_not_served_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["MambaForCausalLM"]}))
    done = run("serve", tmp_path, "--port", "0")
    assert done.returncode == 3, done.stderr
    assert "Mamba" in done.stderr


def test_version():
    done = run("--version")
    assert done.returncode == 0 and re.fullmatch(
        r"tangram \d+\.\d+\.\d+\ncommit ([0-9a-f]{12}|unknown)\nbuilt with .+, .+, (without CUDA|CUDA .+)\n", done.stdout)


@pytest.mark.parametrize("command", [["serve"], ["chat"], ["generate"], ["calibrate"], ["inspect"], ["bench", "serve"],
                                     ["bench", "multi-turn"], ["bench", "throughput"],
                                     ["bench", "latency"], ["eval"]])
def test_every_command_has_help(command):
    done = run(*command, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith("Usage: tangram " + " ".join(command))
    assert max(map(len, done.stdout.splitlines())) <= 120


def test_a_service_named_tangram_does_not_set_the_port():
    """Kubernetes sets TANGRAM_PORT for one; only TANGRAM_ARG_PORT is read."""
    done = run("serve", "/nonexistent", environment={
        "TANGRAM_PORT": "tcp://10.0.0.1:80", "TANGRAM_ARG_PORT": "0"})
    assert done.returncode == 5, done.stderr


def test_start_up_lines_that_operators_look_for(server):
    for words in ("non-default args: {", "Using max model len 8192", "Model loading took ",
                  "Available KV cache memory: ", "KV cache size: ",
                  "Maximum concurrency for 8,192 tokens per request: ",
                  "Application startup complete."):
        assert words in server.text()


def test_chat_holds_two_turns(server):
    done = run("chat", server.url, "--max-tokens", 12, "--temperature", 0,
               stdin="What is two and two?\nAnd three more?\n")
    assert done.returncode == 0, done.stderr
    usage = [line for line in done.stdout.splitlines() if "prompt tokens" in line]
    assert len(usage) == 2
    assert " 0 of them cached" not in usage[1]


def test_chat_fails_with_the_servers_words(server):
    done = run("chat", server.url, "--model", "nobody", stdin="Hello\n")
    assert done.returncode == 1
    assert f"The model `nobody` does not exist; this server has `{NAME}`" in done.stderr


def test_chat_takes_a_slash_and_a_word_for_a_command(server):
    done = run("chat", server.url, stdin="/help\n")
    assert done.returncode == 0
    assert "Unknown command /help. /clear" in done.stdout and "prompt tokens" not in done.stdout


def test_generate_is_greedy_and_repeats(server, client):
    first = run("generate", MODEL, "-p", "Once upon a time", "-n", 16)
    assert first.returncode == 0, first.stderr
    served = client.completions.create(model=NAME, prompt="Once upon a time", max_tokens=16,
                                       temperature=0)
    assert first.stdout == served.choices[0].text + "\n"
    stopped = run("generate", MODEL, "-p", "Once upon a time", "-n", 16, "--stop", " a")
    assert stopped.returncode == 0
    assert stopped.stdout.rstrip("\n") == served.choices[0].text.split(" a")[0]


def test_bench_serve_reports_under_vllms_keys(server, tmp_path):
    result = tmp_path / "result.json"
    done = run("bench", "serve", server.url, "--tokenizer", MODEL, "--num-prompts", 6, "--input-len",
               40, "--output-len", 8, "--max-concurrency", 3, "--goodput", "ttft:60000",
               "--percentile-metrics", "ttft,tpot,itl,e2el", "--result-filename", result,
               "--save-detailed")
    assert done.returncode == 0, done.stderr
    assert "Successful requests:                     6" in done.stdout
    assert "Requests: 6/6" in done.stderr
    report = json.loads(result.read_text())
    assert report["completed"] == 6 and report["failed"] == 0
    assert report["total_output_tokens"] == 48
    assert report["model_id"] == NAME
    assert report["request_goodput"] == pytest.approx(report["request_throughput"])
    for metric in ("ttft", "tpot", "itl", "e2el"):
        for key in ("mean", "median", "std", "p99"):
            assert report[f"{key}_{metric}_ms"] >= 0
    # Chunks are stamped as they come, not when the answer is whole.
    assert report["mean_e2el_ms"] > report["mean_ttft_ms"] + 3 * report["median_itl_ms"] > 0


def test_bench_serve_counts_failures(server, tmp_path):
    done = run("bench", "serve", server.url, "--tokenizer", MODEL, "--num-prompts", 2, "--input-len",
               20, "--output-len", 4, "--model", "nobody")
    assert done.returncode == 1
    assert "nobody" in done.stderr


def test_bench_multi_turn_finds_earlier_turns(server, tmp_path):
    generator = tmp_path / "generator.json"
    generator.write_text(json.dumps({
        "filetype": "generate_conversations", "num_conversations": 2,
        "prompt_input": {"num_turns": 4, "common_prefix_num_tokens": 40, "prefix_num_tokens": 40,
                         "num_tokens": {"distribution": "uniform", "min": 8, "max": 12}},
        "prompt_output": {"num_tokens": 6}}))
    result = tmp_path / "result.json"
    done = run("bench", "multi-turn", server.url, "--tokenizer", MODEL, "--input-file", generator,
               "--no-early-stop", "--result-filename", result)
    assert done.returncode == 0, done.stderr
    report = json.loads(result.read_text())
    assert report["ttft_ms"]["count"] == 4
    assert report["output_num_tokens"]["mean"] == 6
    assert report["turns"][1]["mean_cached_num_tokens"] > 80


def test_bench_throughput_and_latency(tmp_path):
    result = tmp_path / "result.json"
    done = run("bench", "throughput", MODEL, "--num-prompts", 3, "--input-len", 30, "--output-len", 5,
               "--output-json", result)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Throughput: ")
    report = json.loads(result.read_text())
    assert report["num_requests"] == 3 and report["total_num_tokens"] == 105
    done = run("bench", "latency", MODEL, "--batch-size", 2, "--input-len", 16, "--output-len", 4,
               "--num-iters-warmup", 0, "--num-iters", 2, "--output-json", result)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(result.read_text())["latencies"]) == 2
