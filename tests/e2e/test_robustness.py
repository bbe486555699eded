"""What clients do wrong: the server answers clearly, frees every page, and goes on."""

import socket
import threading
import time

import httpx
import pytest

from server_process import NAME, ServerProcess

LONG = "Tell a long story about a river. " * 150  # a prefill of more than one step


@pytest.fixture(scope="module")
def small():
    """A server of few slots."""
    with ServerProcess("--max-num-seqs", "2", "--max-queued-requests", "2",
                       "--max-body-size", "100000", "--max-output-buffer", "65536",
                       "--max-logprobs", "500") as process:
        yield process


def body(**fields):
    return {"model": NAME, "prompt": "Once", "max_tokens": 4, "temperature": 0} | fields


def goes_on(server):
    server.wait_until_empty()
    reply = httpx.post(server.url + "/v1/completions", json=body(), timeout=30)
    assert reply.status_code == 200 and reply.json()["choices"][0]["text"]


def raw(server, text, receive_buffer=None):
    connection = socket.socket()
    if receive_buffer:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.settimeout(20)
    connection.connect(("127.0.0.1", int(server.url.rsplit(":", 1)[1])))
    connection.sendall(text)
    return connection


def post(fields):
    import json
    text = json.dumps(body(**fields)).encode()
    return (b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n" % len(text)) + text


def wait_running(server, count=1):
    end = time.monotonic() + 10
    while server.metric("vllm:num_requests_running") < count:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_malformed_http(server):
    for text in (b"GARBAGE\r\n\r\n", b"GET / HTTP/7\r\n\r\n", b"POST /tokenize HTTP/1.1\r\nContent-Length: x\r\n\r\n",
                 b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(50) + b"\r\n\r\n"):
        assert raw(server, text).recv(100).startswith(b"HTTP/1.1 400")
    assert raw(server, b"GET / HTTP/1.1\r\nX: " + b"x" * 100000).recv(100).startswith(b"HTTP/1.1 431")
    goes_on(server)


def test_absurd_sizes(small):
    reply = httpx.post(small.url + "/v1/completions", json=body(prompt="x" * 200000))
    assert reply.status_code == 413 and "error" in reply.json()
    huge = b"POST /tokenize HTTP/1.1\r\nContent-Length: 99999999999999\r\n\r\n"
    assert raw(small, huge).recv(100).startswith(b"HTTP/1.1 413")
    reply = httpx.post(small.url + "/v1/completions", json=body(prompt=["x"] * 20000))
    assert reply.status_code == 400 and reply.json()["error"]["param"] == "prompt"
    goes_on(small)


def test_two_hundred_idle_connections(server):
    idle = [raw(server, b"POST /v1/co" if i % 2 else b"") for i in range(220)]
    start = time.monotonic()
    goes_on(server)
    assert time.monotonic() - start < 10
    for connection in idle:
        connection.close()


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("prompt, wait", [(LONG, 0), ("Once", 0.3)], ids=["prefill", "decode"])
def test_disconnects_abort(small, stream, prompt, wait):
    connection = raw(small, post({"prompt": prompt, "max_tokens": 4000, "stream": stream,
                                  "ignore_eos": True}))
    wait_running(small)
    time.sleep(wait)
    aborted = small.metric("vllm:request_success_total", finished_reason="abort")
    connection.close()
    goes_on(small)
    assert small.metric("vllm:request_success_total", finished_reason="abort") == aborted + 1


def test_slow_readers_are_cut_off(small):
    connection = raw(small, post({"max_tokens": 8000, "stream": True, "ignore_eos": True,
                                  "logprobs": 500}), receive_buffer=4096)
    wait_running(small)
    small.wait_until_empty(seconds=60)
    assert small.metric("vllm:request_success_total", finished_reason="abort") > 0
    assert "does not read its reply" in small.text()
    connection.close()
    goes_on(small)


def test_full_queue(small):
    busy = [raw(small, post({"max_tokens": 2000, "stream": True, "ignore_eos": True}))
            for _ in range(4)]
    end = time.monotonic() + 10
    while small.metric("vllm:num_requests_running") + small.metric("vllm:num_requests_waiting") < 4:
        assert time.monotonic() < end
        time.sleep(0.01)
    reply = httpx.post(small.url + "/v1/completions", json=body())
    assert reply.status_code == 503
    assert int(reply.headers["retry-after"]) > 0
    assert reply.json()["error"]["code"] == 503
    assert small.metric("tangram:requests_rejected_total", reason="queue_full") == 1
    for connection in busy:
        connection.close()
    goes_on(small)


def test_cancellation_storm(server):
    def cancelled():
        try:
            httpx.post(server.url + "/v1/completions",
                       json=body(max_tokens=4000, ignore_eos=True), timeout=0.5)
        except httpx.TimeoutException:
            pass
    threads = [threading.Thread(target=cancelled) for _ in range(75)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    start = time.monotonic()
    goes_on(server)
    assert time.monotonic() - start < 5


def test_keys():
    with ServerProcess("--api-key", "sesame") as server:
        url = server.url + "/v1/completions"
        assert httpx.post(url, json=body()).status_code == 401
        assert httpx.get(server.url + "/metrics").status_code == 401
        headers = {"Authorization": "Bearer wrong"}
        assert httpx.post(url, json=body(), headers=headers).status_code == 401
        headers = {"Authorization": "Bearer sesame"}
        assert httpx.post(url, json=body(), headers=headers, timeout=30).status_code == 200


def stream_until_first(url, lines, fields):
    with httpx.stream("POST", url + "/v1/completions", timeout=60, json=fields) as reply:
        for line in reply.iter_lines():
            lines.append(line)


@pytest.mark.parametrize("timeout, reason", [(30, "length"), (1, "abort")], ids=["drains", "aborts"])
def test_sigterm_under_load(timeout, reason):
    server = ServerProcess("--shutdown-timeout", str(timeout))
    server.wait_ready()
    fields = body(stream=True, ignore_eos=True, max_tokens=60 if reason == "length" else 4000)
    results = [[] for _ in range(6)]
    threads = [threading.Thread(target=stream_until_first, args=(server.url, lines, fields))
               for lines in results]
    for thread in threads:
        thread.start()
    wait_running(server, 6)
    assert server.terminate() == 0, server.text()
    for thread in threads:
        thread.join()
    for lines in results:
        assert lines[-2:] == ["data: [DONE]", ""]
        assert any(f'"finish_reason":"{reason}"' in line for line in lines)
    with pytest.raises(httpx.ConnectError):
        httpx.get(server.url + "/health")


def test_the_port_listens_before_the_model_is_there():
    server = ServerProcess()
    first = httpx.get(server.url + "/health")
    assert first.status_code in (200, 503)  # loading may be over already
    if first.status_code == 503:
        assert first.json()["error"]["message"] == "Loading model"
    assert httpx.get(server.url + "/livez").status_code == 200
    server.wait_ready()
    assert server.terminate() == 0
