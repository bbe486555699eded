"""A request at ratio 1.0 to a server that compresses gives the tokens of a server that does not."""

import concurrent.futures

import httpx
import pytest

from exact_memory import PROFILE
from server_process import NAME, ServerProcess


@pytest.fixture(scope="module")
def compressed():
    with ServerProcess("--compression-ratio", "0.3", "--compression-profile", str(PROFILE)) as process:
        yield process


def tokens(server, prompt, **fields):
    reply = httpx.post(server.url + "/v1/completions", timeout=120, json={
        "model": NAME, "prompt": prompt, "max_tokens": 48, "temperature": 0, "ignore_eos": True,
        "return_token_ids": True, **fields})
    assert reply.status_code == 200, reply.text
    return reply.json()["choices"][0]["token_ids"]


def prompts():
    """Of 5 to 1500 tokens: short of a boundary, and beyond several."""
    return [[1000 + (13 * i + 101 * length) % 40000 for i in range(length)]
            for length in (5, 100, 250, 256, 300, 700, 1500)]


def test_the_same_tokens(server, compressed):
    expected = [tokens(server, prompt) for prompt in prompts()]
    assert [tokens(compressed, prompt, compression_ratio=1.0) for prompt in prompts()] == expected
    # Again from the prefix cache, together, beside requests that are compressed.
    with concurrent.futures.ThreadPoolExecutor(14) as pool:
        beside = [pool.submit(tokens, compressed, prompt) for prompt in prompts()]
        together = pool.map(lambda prompt: tokens(compressed, prompt, compression_ratio=1.0), prompts())
        assert list(together) == expected
    differing = [future.result() != plain for future, plain in zip(beside, expected)]
    assert not any(differing[:2]), "nothing is compressed before the first boundary is crossed"
    assert any(differing), "compression changes nothing: is it on?"


def test_a_conversation(server, compressed):
    def answers(side, **fields):
        history, found = [2000 + i % 500 for i in range(400)], []
        for turn in range(4):
            found.append(tokens(side, history, **fields))
            history = history + found[-1] + [3000 + turn] * 40
        return found
    assert answers(compressed, compression_ratio=1.0) == answers(server)
