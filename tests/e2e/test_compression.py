"""Compression through the plain chat API: facts stay, memory follows the table, the cache still helps."""

import re

import pytest
from openai import OpenAI

from exact_memory import CHUNK, PROFILE
from server_process import MODEL, NAME, ROOT, ServerProcess
from test_command_line import run

RATIO = 0.3


@pytest.fixture(scope="module")
def compressed():
    with ServerProcess("--compression-ratio", str(RATIO), "--compression-profile", str(PROFILE)) as process:
        process.wait_ready()
        yield process


@pytest.fixture(scope="module")
def talk(compressed):
    client = OpenAI(base_url=compressed.url + "/v1", api_key="none", max_retries=0, timeout=120)

    def ask(messages, **extra):
        reply = client.chat.completions.create(model=NAME, messages=messages, max_tokens=24, temperature=0,
                                               extra_body=extra)
        return reply.choices[0].message.content, reply.usage

    return ask


def conversation(talk, **extra):
    """A long text with a fact in its middle, then two turns that ask. Answers and usages."""
    filler = [f"In year {i} the town had {3 * i % 97} bridges and {7 * i % 89} towers." for i in range(110)]
    filler.insert(40, "The special magic number for Lima is: 48213.")
    questions = [" ".join(filler) + " Answer with one word: ok.",
                 "What is the special magic number for Lima mentioned in the text?",
                 "Repeat that number."]
    messages, answers, usages = [], [], []
    for question in questions:
        messages.append({"role": "user", "content": question})
        answer, usage = talk(messages, **extra)
        messages.append({"role": "assistant", "content": answer})
        answers.append(answer)
        usages.append(usage)
    return answers, usages


def test_facts_stay_and_memory_shrinks(talk):
    answers, usages = conversation(talk, cache_salt="first")
    assert "48213" in answers[1]
    for usage in usages:
        kv = usage.kv
        boundary = (kv["logical_tokens"] - 1) // CHUNK * CHUNK
        # retained(b) + (n - b), to the page of the rounded share
        assert abs(kv["resident_tokens"] - (RATIO * boundary + kv["logical_tokens"] - boundary)) <= 1
    assert usages[0].kv["logical_tokens"] > 2000
    for before, after in zip(usages, usages[1:]):
        cached = after.prompt_tokens_details.cached_tokens
        assert cached >= before.prompt_tokens + before.completion_tokens - 1


def test_answers_do_not_depend_on_the_cache(talk):
    assert conversation(talk, cache_salt="second")[0] == conversation(talk, cache_salt="third")[0]


@pytest.mark.parametrize("scorer", ["gate", "expected_attention"])
def test_slices_of_a_prompt_change_nothing(scorer):
    """Some 650 tokens, in steps of 7 or at once; every scorer on a tiny model: engine_compression_test."""
    text = (ROOT / "examples/island.txt").read_text()[:2600]

    def answer(*flags):
        done = run("generate", MODEL, "-p", text, "-n", 16, "--ignore-eos", "--compression-chunk-size", 256,
                   "--compression-scorer", scorer, "--compression-profile", PROFILE, "--kv-cache-memory-bytes", "200M", *flags)
        assert done.returncode == 0, done.stderr
        return done.stdout

    sliced = answer("--compression-ratio", 0.3, "--max-num-batched-tokens", 7)
    assert sliced == answer("--compression-ratio", 0.3, "--max-num-batched-tokens", 2048)
    assert sliced != answer("--max-num-batched-tokens", 2048), "compression changes nothing: is it on?"


def test_a_request_may_opt_out(talk):
    _, usage = talk([{"role": "user", "content": "Count to five. " * 100}], compression_ratio=1.0)
    assert usage.kv["resident_tokens"] == usage.kv["logical_tokens"] > 300


def test_chat_brings_a_text_and_shows_what_is_held(compressed):
    """The demo's conversation."""
    done = run("chat", compressed.url, "--document", ROOT / "examples/island.txt", "--max-tokens", 40,
               "--temperature", 0, "--prompt", "What is the name of the keeper of the lighthouse?",
               stdin="What is the name of the ferry?\n")
    assert done.returncode == 0, done.stderr
    assert "Tobias Finch" in done.stdout and "Marigold" in done.stdout
    held = re.findall(r"KV cache: (\d+) tokens of the conversation, (\d+) held", done.stdout)
    assert len(held) == 2
    for logical, resident in held:
        assert int(logical) > 2 * CHUNK and int(resident) < int(logical) / 2


def test_metrics_tell_what_compression_did(talk, compressed):
    before = compressed.metric("tangram:compression_runs_total", scorer="gate", level="cross-layer")
    answers, usages = conversation(talk, cache_salt="metrics")
    runs = compressed.metric("tangram:compression_runs_total") - before
    # Boundaries behind the last turn's tokens; the two later turns go on from cached states.
    assert runs == (usages[-1].kv["logical_tokens"] - 1) // CHUNK
    assert compressed.metric("tangram:kv_pages_reclaimed_total") > 30 * runs
    steps = compressed.metric("tangram:compression_seconds_count")
    assert steps - compressed.metric("tangram:engine_steps_total") in (0, 1)  # read one after the other
    assert 0 < compressed.metric("tangram:compression_seconds_sum") < compressed.metric(
        "tangram:engine_forward_seconds_total")
    ended = compressed.metric("tangram:retention_ratio_count")
    assert ended >= 3
    assert compressed.metric("tangram:retention_ratio_sum") < 0.6 * ended
    config = next(name for name in compressed.metrics() if name.startswith("vllm:cache_config_info"))
    total = int(config.split('num_pages="')[1].split('"')[0])
    assert compressed.metric("tangram:kv_pages") == total
    assert compressed.metric("tangram:admission_blocked_total", reason="pages") == 0
    assert compressed.metric("tangram:row_length_imbalance") >= 1


def test_metrics_tell_turns_and_what_they_reuse(talk, compressed):
    def read():
        return {"first": compressed.metric("tangram:turn_ttft_seconds_count", turn="first"),
                "later": compressed.metric("tangram:turn_ttft_seconds_count", turn="later"),
                "hit": compressed.metric("tangram:session_lookup_total", result="hit"),
                "miss": compressed.metric("tangram:session_lookup_total", result="miss"),
                "reused": compressed.metric("tangram:session_reused_tokens_total")}

    before = read()
    _, usages = conversation(talk, cache_salt="turns")
    cached = sum(usage.prompt_tokens_details.cached_tokens for usage in usages)
    assert cached > 4000
    after = read()
    assert {key: after[key] - before[key] for key in before} == {
        "first": 1, "later": 2, "hit": 2, "miss": 1, "reused": cached}
    assert compressed.metric("tangram:sessions") >= 1


def test_all_pages_come_back(compressed):
    compressed.wait_until_empty()
