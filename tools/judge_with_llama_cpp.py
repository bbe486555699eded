#!/usr/bin/env python3
"""Asks llama.cpp, on the same GGUF file, what it thinks of the golden answers of tools/make_gguf_golden.py.

    pip install safetensors numpy
    tools/judge_with_llama_cpp.py path/to/llama-server models/SmolLM2-135M-Instruct.Q4_1.gguf \
        tests/unit/model/smollm2_golden.safetensors [options of llama-server...]

llama.cpp quantises activations to 8 bits, so its logits are not the float32 model's. Its error is measured here: the
difference of its log probability and the float32 one, over the 8 best candidates of each token. Every token of
every answer is then its best too, or behind its best by no more than that error: exit status 0.
"""

import json
import socket
import subprocess
import sys
import time
import urllib.request

from need import need

need("numpy", "safetensors")
import numpy as np
from safetensors.numpy import load_file


def post(port, body):
    request = urllib.request.Request(f"http://127.0.0.1:{port}/completion", json.dumps(body).encode(),
                                     {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=600) as reply:
        return json.load(reply)


def start_server(binary, model, options):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [binary, "-m", model, "--port", str(port), "-c", "4352", "-np", "1", "-ctk", "f32", "-ctv", "f32", "-fa", "off",
         *options],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(600):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
            return server, port
        except OSError:
            time.sleep(0.1)
    server.kill()
    sys.exit("llama-server did not start")


def candidates(port, ids):
    """llama.cpp's log probabilities of the token behind `ids`, the likeliest 100."""
    reply = post(port, {"prompt": ids, "n_predict": 1, "n_probs": 100, "temperature": 0, "cache_prompt": True})
    return {c["id"]: c["logprob"] for c in reply["completion_probabilities"][0]["top_logprobs"]}


def judge(port, golden, prompt):
    """For each token of the answer: its distance behind llama.cpp's best, and llama.cpp's errors on the 8 best."""
    tokens = golden[f"{prompt}.tokens"].astype(int).tolist()
    top_ids, top = golden[f"{prompt}.top_ids"].astype(int), golden[f"{prompt}.top_logprobs"]
    gaps, errors = [], []
    for i in range(len(top)):
        position = len(tokens) - len(top) + i
        theirs = candidates(port, tokens[:position])
        gaps.append(max(theirs.values()) - theirs.get(tokens[position], -np.inf))
        errors.append(max(abs(theirs[t] - ours) for t, ours in zip(top_ids[i], top[i]) if t in theirs))
    return np.array(gaps), np.array(errors)


def main():
    binary, model, path = sys.argv[1:4]
    golden = load_file(path)
    server, port = start_server(binary, model, sys.argv[4:])
    all_gaps, all_errors = [], []
    try:
        for prompt in range(sum(key.endswith(".tokens") for key in golden)):
            gaps, errors = judge(port, golden, prompt)
            all_gaps.append(gaps)
            all_errors.append(errors)
            print(f"prompt {prompt:2}: {(gaps == 0).sum()} of {len(gaps)} are llama.cpp's best, farthest behind "
                  f"{gaps.max():.3f}; its error {errors.mean():.3f} on average, {errors.max():.3f} at most", flush=True)
    finally:
        server.terminate()
    gaps, errors = np.concatenate(all_gaps), np.concatenate(all_errors)
    print(f"all: {(gaps == 0).sum()} of {len(gaps)} are llama.cpp's best; the others are {gaps[gaps > 0].mean():.3f} behind "
          f"on average, {gaps.max():.3f} at most. llama.cpp's quantisation error (log probability, largest of "
          f"the 8 best candidates): mean {errors.mean():.3f}, 99% {np.quantile(errors, 0.99):.3f}, max {errors.max():.3f}")
    sys.exit(0 if gaps.max() <= errors.max() else 1)


if __name__ == "__main__":
    main()
