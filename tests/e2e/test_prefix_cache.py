"""A conversation's later turns take their history from the cache."""

import time

import httpx

from server_process import NAME, ServerProcess

TURNS = 10


def facts(count, turn):
    return " ".join(f"In year {turn * 40 + i} the town had {17 * turn + 3 * i} bridges."
                    for i in range(count))


def question(turn):
    """A document of some 2700 tokens in the first turn, then some 120 in each."""
    return facts(180 if turn == 0 else 6, turn) + " How many bridges were there in the last year?"


def stream_turn(client, messages, salt):
    """The answer, seconds to the first token, and the usage."""
    start, first, text, usage = time.perf_counter(), None, "", None
    for chunk in client.chat.completions.create(
            model=NAME, messages=messages, max_tokens=16, temperature=0, stream=True,
            stream_options={"include_usage": True}, extra_body={"cache_salt": salt}):
        if chunk.choices:
            first = first or time.perf_counter() - start
            text += chunk.choices[0].delta.content or ""
        usage = chunk.usage or usage
    return text, first, usage


def test_the_tenth_turn(client):
    messages, processed = [], 0
    for turn in range(TURNS):
        messages.append({"role": "user", "content": question(turn)})
        answer, ttft, usage = stream_turn(client, messages, "conversation")
        cached = usage.prompt_tokens_details.cached_tokens
        # All that came before: the prompt and the answer, but for the answer's last token, which no
        # step has read.
        assert cached >= processed
        processed = usage.prompt_tokens + usage.completion_tokens - 1
        messages.append({"role": "assistant", "content": answer})
    assert 3500 < usage.prompt_tokens < 4500
    cold_answer, cold_ttft, cold_usage = stream_turn(client, messages[:-1], "another")
    assert cold_usage.prompt_tokens == usage.prompt_tokens
    assert cold_usage.prompt_tokens_details.cached_tokens == 0
    assert cold_answer == answer
    print(f"\nturn {TURNS}: {usage.prompt_tokens} prompt tokens, {cached} cached; "
          f"TTFT {ttft:.3f} s, cold {cold_ttft:.3f} s, ratio {ttft / cold_ttft:.3f}")
    assert ttft <= 0.15 * cold_ttft


def test_an_operator_empties_it():
    with ServerProcess("--admin-api-key", "sesame") as server:
        def cached():
            body = {"model": NAME, "prompt": facts(20, 0), "max_tokens": 1}
            usage = httpx.post(server.url + "/v1/completions", json=body, timeout=60).json()["usage"]
            return usage["prompt_tokens_details"]["cached_tokens"]

        def reset(key):
            return httpx.post(server.url + "/reset_prefix_cache", headers={"Authorization": "Bearer " + key})

        assert cached() == 0
        assert cached() > 100
        assert reset("guess").status_code == 401
        assert cached() > 100
        assert reset("sesame").status_code == 200
        assert cached() == 0
        assert "sesame" not in server.text()
