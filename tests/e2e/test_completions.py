"""/v1/completions, /v1/models, /tokenize and the small endpoints."""

import httpx
import pytest

from server_process import NAME


def complete(client, **fields):
    fields = {"model": NAME, "prompt": "Once upon a time", "max_tokens": 12,
              "temperature": 0} | fields
    # An instruct model ends some of these at once.
    fields["extra_body"] = {"ignore_eos": True} | fields.get("extra_body", {})
    return client.completions.create(**fields)


@pytest.mark.parametrize("fields", [
    {}, {"stop": "a"}, {"logprobs": 2}, {"echo": True}, {"temperature": 0.9, "seed": 5},
    {"prompt": [12, 345, 678]}, {"prompt": ["One", "Two words"]}, {"prompt": [[1, 2], [3, 4, 5]]},
    {"echo": True, "max_tokens": 0}, {"extra_body": {"add_special_tokens": False}},
    {"extra_body": {"truncate_prompt_tokens": 2}}, {"extra_body": {"return_token_ids": True}},
    {"n": 1, "best_of": 1}, {"frequency_penalty": 1, "presence_penalty": 1},
], ids=str)
def test_stream_folds_to_the_plain_reply(client, fields):
    plain = complete(client, **fields)
    texts = [""] * len(plain.choices)
    reasons = [None] * len(plain.choices)
    for chunk in complete(client, stream=True, **fields):
        choice = chunk.choices[0]
        texts[choice.index] += choice.text
        reasons[choice.index] = choice.finish_reason
    assert texts == [choice.text for choice in plain.choices]
    assert reasons == [choice.finish_reason for choice in plain.choices]
    assert [choice.index for choice in plain.choices] == list(range(len(plain.choices)))


def test_reply(client):
    reply = complete(client, max_tokens=None)
    assert reply.id.startswith("cmpl-") and reply.object == "text_completion"
    assert reply.usage.completion_tokens == 16  # the API's default
    assert reply.choices[0].finish_reason == "length"


def test_echo(client):
    assert complete(client, echo=True).choices[0].text.startswith("Once upon a time")
    reply = complete(client, echo=True, max_tokens=0)
    assert reply.choices[0].text == "Once upon a time" and reply.usage.completion_tokens == 0


def test_several_prompts_answer_as_alone(client):
    prompts = ["The sun is", "My favourite food", "1 2 3 4"]
    together = complete(client, prompt=prompts)
    assert [c.text for c in together.choices] == [complete(client, prompt=p).choices[0].text
                                                  for p in prompts]
    assert together.usage.completion_tokens == 36


def test_logprobs(client):
    choice = complete(client, logprobs=3).choices[0]
    logprobs = choice.logprobs
    assert "".join(logprobs.tokens) == choice.text
    assert logprobs.text_offset[0] == 0
    for i, token in enumerate(logprobs.tokens):
        assert len(logprobs.top_logprobs[i]) == 3
        assert logprobs.top_logprobs[i][token] == pytest.approx(logprobs.token_logprobs[i])
        if i:
            assert logprobs.text_offset[i] == logprobs.text_offset[i - 1] + len(logprobs.tokens[i - 1])
    assert complete(client, logprobs=0).choices[0].logprobs.token_logprobs == pytest.approx(
        logprobs.token_logprobs, abs=1e-6)


def test_token_ids_round_trip(client, server):
    ids = httpx.post(server.url + "/tokenize", json={"prompt": "Once upon a time"}).json()["tokens"]
    assert complete(client, prompt=ids).choices[0].text == complete(client).choices[0].text


def test_models(client):
    models = client.models.list().data
    assert [model.id for model in models] == [NAME]
    assert models[0].max_model_len == 8192
    assert client.models.retrieve(NAME).id == NAME


def test_tokenize_and_detokenize(server):
    text = "Hello, 世界! 😀"
    body = httpx.post(server.url + "/tokenize", json={"prompt": text, "return_token_strs": True}).json()
    assert body["count"] == len(body["tokens"]) == len(body["token_strs"])
    assert body["max_model_len"] == 8192
    back = httpx.post(server.url + "/detokenize", json={"tokens": body["tokens"]}).json()
    assert back["prompt"] == text
    messages = [{"role": "user", "content": "Hi"}]
    body = httpx.post(server.url + "/tokenize", json={"messages": messages}).json()
    back = httpx.post(server.url + "/detokenize", json={"tokens": body["tokens"]}).json()["prompt"]
    assert back.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")


def test_small_endpoints(server):
    for path in ("/health", "/ping", "/livez"):
        reply = httpx.get(server.url + path)
        assert (reply.status_code, reply.text) == (200, "")
    assert httpx.get(server.url + "/version").json()["version"]
    assert httpx.get(server.url + "/load").json() == {"server_load": 0}
    nowhere = httpx.post(server.url + "/chat/completions", json={})
    assert nowhere.status_code == 404
    assert "did you mean `/v1/chat/completions`?" in nowhere.json()["error"]["message"]
    assert httpx.get(server.url + "/v1/completions").status_code == 405


def test_metrics_count(client, server):
    before = server.metrics()
    reply = complete(client, prompt="Count these tokens, please.")
    after = server.metrics()
    def grown(name):
        return sum(v for k, v in after.items() if k.startswith(name)) - sum(
            v for k, v in before.items() if k.startswith(name))
    assert grown("vllm:prompt_tokens_total") == reply.usage.prompt_tokens
    assert grown("vllm:generation_tokens_total") == 12
    assert grown("vllm:time_to_first_token_seconds_count") == 1
    assert grown("vllm:inter_token_latency_seconds_count") == 11
    assert grown("vllm:time_per_output_token_seconds_count") == 11
    assert grown("vllm:request_success_total") == 1
    assert server.metric("vllm:kv_cache_usage_perc") == 0
