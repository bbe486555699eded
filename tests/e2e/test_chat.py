"""/v1/chat/completions through the official client: every field, streaming and not."""

import pytest

from server_process import NAME

QUESTION = [{"role": "user", "content": "Name three colours."}]


def ask(client, **fields):
    fields = {"model": NAME, "messages": QUESTION, "max_tokens": 16, "temperature": 0} | fields
    return client.chat.completions.create(**fields)


def fold(stream):
    """The text, the last finish_reason and the chunks of a stream."""
    chunks = list(stream)
    choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
    text = "".join(choice.delta.content or "" for choice in choices)
    return text, choices[-1].finish_reason, chunks


def extra(**fields):
    return {"extra_body": fields}


SAME_IN_STREAM = {
    "plain": {},
    "temperature": {"temperature": 0.8, "seed": 7},
    "top_p": {"temperature": 1, "top_p": 0.5, "seed": 1},
    "top_k": {"temperature": 1, "seed": 1, **extra(top_k=3)},
    "min_p": {"temperature": 1, "seed": 1, **extra(min_p=0.2)},
    "presence_penalty": {"presence_penalty": 1.5},
    "frequency_penalty": {"frequency_penalty": 1.5},
    "repetition_penalty": extra(repetition_penalty=1.3),
    "stop": {"stop": ["e", "zzz"]},
    "stop_included": {"stop": "e", **extra(include_stop_str_in_output=True)},
    "stop_token_ids": extra(stop_token_ids=list(range(250, 300))),
    "logit_bias": {"logit_bias": {"28": -100}},
    "max_completion_tokens": {"max_tokens": None, "max_completion_tokens": 5},
    "ignore_eos": {"max_tokens": 64, **extra(ignore_eos=True)},
    "min_tokens": {"max_tokens": 40, **extra(min_tokens=40)},
    "bad_words": extra(bad_words=["red", "blue"]),
    "allowed_token_ids": extra(allowed_token_ids=[28, 29, 30]),
    "special_tokens": {"max_tokens": 64, **extra(skip_special_tokens=False, ignore_eos=True)},
    "truncate": extra(truncate_prompt_tokens=8),
    "no_generation_prompt": extra(add_generation_prompt=False),
    "add_special_tokens": extra(add_special_tokens=True),
    "priority": extra(priority=-1),
    "user": {"user": "somebody"},
    "logprobs": {"logprobs": True, "top_logprobs": 2},
    "parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hello."},
                                                        {"type": "text", "text": "Who?"}]}]},
    "system": {"messages": [{"role": "system", "content": "Be brief."}, *QUESTION]},
}


@pytest.mark.parametrize("fields", SAME_IN_STREAM.values(), ids=SAME_IN_STREAM.keys())
def test_stream_folds_to_the_plain_reply(client, fields):
    plain = ask(client, **fields).choices[0]
    text, reason, chunks = fold(ask(client, stream=True, **fields))
    assert text == plain.message.content
    assert reason == plain.finish_reason
    assert chunks[0].choices[0].delta.role == plain.message.role
    assert all(chunk.choices[0].delta.role is None for chunk in chunks[1:])
    assert all(chunk.usage is None for chunk in chunks)
    if fields.get("logprobs"):
        streamed = [token for chunk in chunks if chunk.choices[0].logprobs
                    for token in chunk.choices[0].logprobs.content]
        assert [t.token for t in streamed] == [t.token for t in plain.logprobs.content]


def test_reply(client):
    reply = ask(client)
    assert reply.id.startswith("chatcmpl-")
    assert reply.object == "chat.completion"
    assert reply.model == NAME
    assert reply.choices[0].message.role == "assistant"
    assert reply.choices[0].finish_reason == "length"
    assert reply.usage.completion_tokens == 16
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + 16
    assert reply.usage.prompt_tokens_details.cached_tokens >= 0


def test_ends_by_itself(client):
    # Without max_tokens: the rest of the context is allowed, but EOS ends it.
    reply = ask(client, max_tokens=None, messages=[{"role": "user", "content": "Say hello."}])
    assert reply.choices[0].finish_reason == "stop"
    assert "<|im_end|>" not in reply.choices[0].message.content


def test_usage_of_streams(client):
    *chunks, last = ask(client, stream=True, stream_options={"include_usage": True})
    assert last.choices == [] and last.usage.completion_tokens == 16
    assert all(chunk.usage is None for chunk in chunks)
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = list(ask(client, stream=True, stream_options=options))
    counts = [chunk.usage.completion_tokens for chunk in chunks]
    assert counts[0] == 0 and counts[-1] == 16 and counts == sorted(counts)


def test_stop_reason(client):
    plain = ask(client).choices[0].message.content
    stop = plain[5:8]
    choice = ask(client, stop=["never this", stop]).choices[0]
    assert choice.message.content == plain[:plain.index(stop)]
    assert (choice.finish_reason, choice.stop_reason) == ("stop", stop)
    choice = ask(client, extra_body={"stop_token_ids": list(range(49152))}).choices[0]
    assert choice.finish_reason == "stop" and isinstance(choice.stop_reason, int)


def test_seed(client):
    def answer(seed):
        return ask(client, temperature=1.5, max_tokens=24, seed=seed).choices[0].message.content
    assert answer(11) == answer(11)
    assert len({answer(seed) for seed in range(5)}) > 1


def test_sampling_parameters_matter(client):
    plain = ask(client).choices[0].message.content
    assert ask(client, temperature=1, seed=3, **extra(top_k=1)).choices[0].message.content == plain
    assert ask(client, temperature=1, seed=3, top_p=1e-6).choices[0].message.content == plain
    assert ask(client, temperature=1, seed=3, **extra(min_p=1.0)).choices[0].message.content == plain
    first = ask(client, logprobs=True).choices[0].logprobs.content[0].token
    ids = [t for t in range(49152)]
    token_id = client.post("/../tokenize", cast_to=object,
                           body={"prompt": first, "add_special_tokens": False})["tokens"][0]
    assert token_id in ids
    other = ask(client, logit_bias={str(token_id): -100}).choices[0].message.content
    assert not other.startswith(first)
    forced = ask(client, max_tokens=3, **extra(allowed_token_ids=[token_id]))
    assert forced.choices[0].message.content == first * 3


def test_bad_words_do_not_appear(client):
    plain = ask(client).choices[0].message.content
    words = [word for word in plain.split() if word.isalpha() and len(word) > 3]
    answer = ask(client, **extra(bad_words=words)).choices[0].message.content
    assert words and not set(words) & set(answer.split())


def test_logprobs(client):
    choice = ask(client, logprobs=True, top_logprobs=3).choices[0]
    assert len(choice.logprobs.content) == 16
    text = b""
    for entry in choice.logprobs.content:
        assert len(entry.top_logprobs) == 3
        best = [top.logprob for top in entry.top_logprobs]
        assert best == sorted(best, reverse=True)
        assert entry.token == entry.top_logprobs[0].token  # greedy
        assert entry.logprob == pytest.approx(best[0])
        assert entry.logprob <= 0
        text += bytes(entry.bytes)
    assert text.decode() == choice.message.content
    choice = ask(client, logprobs=True, **extra(return_tokens_as_token_ids=True)).choices[0]
    assert choice.logprobs.content[0].token.startswith("token_id:")


def test_continues_the_final_message(client):
    messages = [*QUESTION, {"role": "assistant", "content": "Red, green and"}]
    fields = {"messages": messages, "max_tokens": 4,
              "extra_body": {"continue_final_message": True, "add_generation_prompt": False}}
    rest = ask(client, **fields).choices[0].message.content
    assert rest.startswith(" ")
    fields["extra_body"]["echo"] = True
    assert ask(client, **fields).choices[0].message.content == "Red, green and" + rest


def test_token_ids(client):
    reply = ask(client, extra_body={"return_token_ids": True})
    assert len(reply.prompt_token_ids) == reply.usage.prompt_tokens
    assert len(reply.choices[0].token_ids) == 16
    chunks = list(ask(client, stream=True, extra_body={"return_token_ids": True}))
    ids = [id for chunk in chunks for id in getattr(chunk.choices[0], "token_ids", None) or []]
    assert ids == reply.choices[0].token_ids
    assert chunks[0].prompt_token_ids == reply.prompt_token_ids


def test_cache_salt_keeps_prefixes_apart(client):
    messages = [{"role": "user", "content": "A question that nobody asked before. " * 20}]
    def cached(salt):
        reply = ask(client, messages=messages, max_tokens=2, **extra(cache_salt=salt))
        return reply.usage.prompt_tokens_details.cached_tokens
    assert cached("one") < 16
    assert cached("one") > 100
    assert cached("two") < 16


def test_unicode_survives_streaming(client):
    text = "Repeat: 😀 中文 é \u0000 ok"
    fields = {"messages": [{"role": "user", "content": text}], "max_tokens": 48}
    plain = ask(client, **fields).choices[0].message.content
    assert fold(ask(client, stream=True, **fields))[0] == plain


def test_request_ids(client):
    raw = client.chat.completions.with_raw_response.create(
        model=NAME, messages=QUESTION, max_tokens=1, extra_headers={"X-Request-Id": "mine"})
    assert raw.headers["x-request-id"] == "mine"
    assert raw.parse().id == "chatcmpl-mine"
    assert ask(client, max_tokens=1, extra_body={"request_id": "body"}).id == "chatcmpl-body"


def test_many_at_once_answer_as_one_alone(client):
    from concurrent.futures import ThreadPoolExecutor
    prompts = [f"What is {i} plus {i}?" for i in range(24)]
    def answer(prompt):
        messages = [{"role": "user", "content": prompt}]
        return ask(client, messages=messages, max_tokens=12).choices[0].message.content
    alone = [answer(prompt) for prompt in prompts]
    with ThreadPoolExecutor(24) as pool:
        assert list(pool.map(answer, prompts)) == alone
