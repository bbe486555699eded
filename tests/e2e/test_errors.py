"""Every invalid case is a 4xx that names the field, streaming or not."""

import json

import httpx
import openai
import pytest

from server_process import NAME

BOTH = {
    "temperature": [-1, "hot", True, [], 1e400],
    "top_p": [0, 1.5, "x"],
    "top_k": [-2, 0.5, "x"],
    "min_p": [-0.1, 2],
    "presence_penalty": [-3, 2.5],
    "frequency_penalty": [-3, 2.5],
    "repetition_penalty": [0, -1],
    "seed": ["x", 2**64, 0.5],
    "stop": [[""], 5, [1]],
    "stop_token_ids": ["x", [0.5], {}],
    "logit_bias": [{"x": 1}, {"99999999": 1}, {"-1": 1}, {"5": "x"}, [1]],
    "max_tokens": [-1, "x", 1.5, 10**9, 10**30],
    "min_tokens": [-1, 10000],
    "ignore_eos": ["yes"],
    "stream": ["yes", 1],
    "stream_options": [5, {"include_usage": "x"}],
    "truncate_prompt_tokens": [0, -2],
    "allowed_token_ids": [[], [-1], [10**8], "x"],
    "cache_salt": ["", 5],
    "priority": ["high"],
    "n": [0, 2, -1],
    "best_of": [3],
    "bad_words": [[""], 7],
    "prompt_logprobs": [1, "3"],
    "response_format": [{"type": "json_object"}, {"type": "json_schema"}, {}],
    "structured_outputs": [{"json": {}}, {"regex": "("}],
    "guided_json": [{"type": "object"}],
    "tools": [[{"type": "function", "function": {"name": "f"}}]],
    "tool_choice": ["auto", "required"],
    "suffix": ["x"],
    "compression_ratio": [0, 0.5, 2, "half"],
    "echo": ["x"],
    "model": [5],
}
CHAT = {
    "messages": [None, [], "x", [5], [{}], [{"role": "user"}], [{"role": 5, "content": "x"}],
                 [{"role": "user", "content": 5}],
                 [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]],
    "max_tokens": [0],
    "max_completion_tokens": [0, "x"],
    "logprobs": [5],
    "top_logprobs": [2],
    "chat_template": ["{{ messages }}"],
    "chat_template_kwargs": ["x"],
    "documents": [{}],
}
COMPLETION = {
    "prompt": [None, "", [], [[]], [""], 5, {}, [10**8], [-1], ["a", 1], [[1], "a"], [True]],
    "logprobs": [-1, 21, "x", True],
    "max_tokens": [0],
}


def cases():
    for path, required, tables in (
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]}, (BOTH, CHAT)),
            ("/v1/completions", {"prompt": "hi"}, (BOTH, COMPLETION))):
        for table in tables:
            for field, values in table.items():
                for value in values:
                    yield pytest.param(path, required, field, value,
                                       id=f"{path.split('/')[2]}-{field}-{value!r}"[:60])


@pytest.mark.parametrize("path, required, field, value", cases())
def test_bad_fields(server, path, required, field, value):
    for stream in (False, True):
        body = {"model": NAME, "stream": stream} | required | {field: value}
        reply = httpx.post(server.url + path, content=json.dumps(body).replace("Infinity", "1e400"),
                           headers={"Content-Type": "application/json"})
        assert reply.status_code == 400, reply.text
        error = reply.json()["error"]
        assert error["type"] == "BadRequestError" and error["code"] == 400 and error["message"]
        if value != 1e400:  # no JSON number: the body's fault, not the field's
            assert error["param"] == field


def test_client_raises(client):
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model=NAME, prompt="x", temperature=-1)
    assert caught.value.param == "temperature"
    with pytest.raises(openai.NotFoundError) as caught:
        client.completions.create(model="other", prompt="x")
    assert caught.value.param == "model"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


def test_too_long(client):
    with pytest.raises(openai.BadRequestError, match="maximum context length is 8192") as caught:
        client.completions.create(model=NAME, prompt="word " * 9000)
    assert caught.value.param == "prompt"
    messages = [{"role": "user", "content": "word " * 9000}]
    with pytest.raises(openai.BadRequestError, match="maximum context length is 8192") as caught:
        client.chat.completions.create(model=NAME, messages=messages)
    assert caught.value.param == "messages"
    with pytest.raises(openai.BadRequestError, match="maximum context length is 8192") as caught:
        client.completions.create(model=NAME, prompt="x", max_tokens=8192)
    assert caught.value.param == "max_tokens"


@pytest.mark.parametrize("body", [
    b"", b"{", b"[]", b"null", b"5", b'"x"', b"{'prompt': 1}", b'{"prompt": "\xff"}', b"\x00",
    b'{"prompt": "a\x00b"}', b'{"prompt": NaN}', b'{"prompt": "\\ud800"}', b"[" * 100000,
    b'{"prompt":' * 1000, b'{"prompt": ' + b"[" * 70, b'{"prompt": "x"} trailing',
], ids=lambda body: repr(body[:20]))
def test_bad_bodies(server, body):
    for path in ("/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"):
        reply = httpx.post(server.url + path, content=body,
                           headers={"Content-Type": "application/json"})
        assert reply.status_code == 400 and reply.json()["error"]["message"], reply.text


def test_content_type(server):
    for content_type in ("text/plain", "application/x-www-form-urlencoded", ""):
        reply = httpx.post(server.url + "/v1/completions", content=b'{"prompt": "x"}',
                           headers={"Content-Type": content_type})
        assert reply.status_code == 400


def test_tokenize_errors(server):
    def param(path, body):
        reply = httpx.post(server.url + path, json=body)
        assert reply.status_code in (400, 404), reply.text
        return reply.json()["error"]["param"]
    assert param("/tokenize", {}) == "prompt"
    assert param("/tokenize", {"prompt": ["x"]}) == "prompt"
    assert param("/tokenize", {"messages": []}) == "messages"
    assert param("/tokenize", {"prompt": "x", "model": "other"}) == "model"
    assert param("/detokenize", {}) == "tokens"
    assert param("/detokenize", {"tokens": [10**7]}) == "tokens"
    assert param("/detokenize", {"tokens": "x"}) == "tokens"


def test_unknown_fields_are_ignored_and_said_once(server, client):
    for _ in range(2):
        client.completions.create(model=NAME, prompt="x", max_tokens=1,
                                  extra_body={"no_such_field": {"a": 1}})
    assert server.text().count("no_such_field") == 1
