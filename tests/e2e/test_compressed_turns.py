"""Conversations in turns with compression: what is cached, what is kept, and what is stored once."""

import concurrent.futures
import os

import pytest
from openai import OpenAI

from exact_memory import CHUNK, PAGE, PROFILE, boundary, retained_pages, table_pages, table_resident
from server_process import NAME, ServerProcess
from test_prefix_cache import TURNS, facts, question, stream_turn

ROWS, WINDOW = 30, 32  # the default group size here is 3, of 90 heads


@pytest.fixture(scope="module")
def compressed():
    with ServerProcess("--compression-ratio", "0.3", "--compression-profile", str(PROFILE),
                       "--max-num-seqs", "64") as process:
        yield process


def client_of(server):
    return OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0, timeout=120)


def test_ten_turns(compressed, client):
    """Beside the same conversation without compression, turn by turn on the same machine."""
    sides = {"compressed": client_of(compressed), "plain": client}
    messages = {name: [] for name in sides}
    ttfts = {name: [] for name in sides}
    processed = 0
    for turn in range(TURNS):
        for name, side in sides.items():
            messages[name].append({"role": "user", "content": question(turn)})
            answer, ttft, usage = stream_turn(side, messages[name], "ten turns")
            messages[name].append({"role": "assistant", "content": answer})
            ttfts[name].append(ttft)
            if name == "plain":
                continue
            # All that came before, but for the answer's last token, which no step has read.
            assert usage.prompt_tokens_details.cached_tokens >= processed
            processed = usage.prompt_tokens + usage.completion_tokens - 1
            kept = usage.kv["resident_tokens"]
            assert usage.kv["logical_tokens"] == processed
            assert abs(kept - table_resident(processed, ROWS)) <= 0.5
            assert usage.kv["ratio"] == 0.3
    assert 3500 < processed < 4500
    late = {name: sum(values[TURNS // 2:]) for name, values in ttfts.items()}
    print(f"\nTTFT of turns {TURNS // 2 + 1} to {TURNS}, s: {late}; first turns: "
          f"{ttfts['compressed'][0]:.3f}, {ttfts['plain'][0]:.3f}; "
          f"{kept} of {processed} tokens are kept")
    assert late["compressed"] <= 1.2 * late["plain"]  # no worse, but for the clock


CONVERSATIONS = 50


def test_a_common_system_prompt_is_stored_once(compressed):
    """After a first turn, which ends in the system prompt's last chunk or the next, and after a second
    one, which has crossed a boundary of its own."""
    client = client_of(compressed)
    system = {"role": "system", "content": "You keep the town's books. " + facts(84, 0)}
    compressed.wait_until_empty()
    cached_before = compressed.metric("tangram:kv_pages", state="cached")

    def ask(messages):
        reply = client.chat.completions.create(model=NAME, messages=messages, max_tokens=8, temperature=0,
                                               extra_body={"ignore_eos": True, "return_token_ids": True})
        messages.append({"role": "assistant", "content": reply.choices[0].message.content})
        prompts.append(reply.prompt_token_ids)
        return reply.usage

    def ask_all(text):
        for i, messages in enumerate(conversations):
            messages.append({"role": "user", "content": text(i)})
        usages = [ask(conversations[0]), ask(conversations[1])]  # by the third it is known as common
        with concurrent.futures.ThreadPoolExecutor(CONVERSATIONS) as pool:
            usages += pool.map(ask, conversations[2:])
        compressed.wait_until_empty()
        held = compressed.metric("tangram:kv_pages", state="cached") - cached_before
        return usages, held

    def tail(n):  # pages of what came after the boundary
        return ROWS * -(-(n - boundary(n)) // PAGE)

    prompts = []
    conversations = [[system] for _ in range(CONVERSATIONS)]
    usages, held = ask_all(lambda i: f"My number is {i}. How many bridges were there in year {i}?")
    lengths = [usage.kv["logical_tokens"] for usage in usages]
    common = boundary(min(lengths))
    assert common == 1024 == boundary(max(lengths))
    for usage in usages[2:]:
        assert usage.prompt_tokens_details.cached_tokens >= common
    # The prompt's whole pages are held once, and each conversation's own behind them.
    shared = len(os.path.commonprefix(prompts)) - common
    first_turn = retained_pages(common, ROWS) + ROWS * (shared // PAGE) + sum(
        tail(n) - ROWS * (shared // PAGE) for n in lengths)
    assert shared > 3 * PAGE
    assert held <= first_turn
    alone = sum(table_pages(n, ROWS) for n in lengths)
    print(f"\n{CONVERSATIONS} conversations of {max(lengths)} tokens: {held:.0f} pages, {alone} if each were "
          "alone")
    assert held < alone / 2

    # To the middle of the chunk behind the next boundary; a fact has some 13 tokens.
    more = (common + 3 * CHUNK // 2 - max(lengths)) // 13
    usages, held = ask_all(lambda i: facts(more, i + 1) + " And now?")
    lengths = [usage.kv["logical_tokens"] for usage in usages]
    assert {boundary(n) for n in lengths} == {common + CHUNK}
    # Compression never writes what was kept before, but for the window.
    own = [retained_pages(common + CHUNK, ROWS) - retained_pages(common, ROWS) + ROWS * WINDOW // PAGE
           + tail(n) for n in lengths]
    alone = sum(table_pages(n, ROWS) for n in lengths)
    print(f"and of {max(lengths)} tokens: {held:.0f} pages, {alone} if each were alone")
    assert held <= first_turn + sum(own)
    # And it is still there for the next one.
    newcomer = ask([system, {"role": "user", "content": "I am new here."}])
    assert newcomer.prompt_tokens_details.cached_tokens >= common
