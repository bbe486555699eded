"""What the scripts of this folder share: running commands and servers, and loads over HTTP."""

import contextlib
import json
import os
import pathlib
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[1]
MODEL = ROOT / "models/SmolLM2-135M-Instruct.Q4_1.gguf"
PROFILE = ROOT / "profiles/SmolLM2-135M-Instruct.profile.safetensors"
BINARY = ROOT / "build/release/tangram"
STREAMS, CONTEXT, ANSWER = 16, 512, 64


def run(command, **options):
    """Standard output of a command; its errors are shown if it fails."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def use_cores(text):
    """Keeps this process and its children on the cores "0,1"; how many they are."""
    cores = {int(core) for core in text.split(",")}
    os.sched_setaffinity(0, cores)
    return len(cores)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def serving(engine):
    """Starts the engine's server; yields its port and the seconds until it was ready."""
    port = free_port()
    start = time.monotonic()
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen([str(part) for part in engine.server(port)], stdout=log, stderr=log)
        try:
            while True:
                with contextlib.suppress(OSError):  # refused, or 503 while loading
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
                    break
                if server.poll() is not None:
                    log.seek(0)
                    sys.exit(f"{engine.name}'s server ended:\n{log.read().decode()}")
                time.sleep(0.005)
            yield port, time.monotonic() - start
        finally:
            server.terminate()
            server.wait()


def metrics(port):
    """The samples of /metrics, those of a name added up whatever their labels but `le`."""
    totals = {}
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as reply:
        for line in reply.read().decode().splitlines():
            name = line.split("{")[0].split(" ")[0]
            if not line.startswith("#") and not name.endswith("_bucket"):
                totals[name] = totals.get(name, 0) + float(line.rsplit(" ", 1)[1])
    return totals


class Tangram:
    def __init__(self, binary, model, threads, name="Tangram", flags=(), request_fields=None):
        self.binary, self.model, self.threads, self.name = binary, model, threads, name
        self.flags, self.request_fields = flags, request_fields or {}

    def server(self, port):
        return [self.binary, "serve", self.model, "-t", self.threads, "--host", "127.0.0.1",
                "--port", port, "--no-log-stats", "--no-access-log", *self.flags]


def drive(engine, port, client, streams, prompts):
    """Requests over HTTP by `tangram bench serve`: each one's chunk times, seconds."""
    with tempfile.NamedTemporaryFile() as result:
        run([client.binary, "bench", "serve", f"http://127.0.0.1:{port}", "--tokenizer",
             client.model, "--num-prompts", prompts, "--max-concurrency", streams, "--input-len",
             CONTEXT, "--output-len", ANSWER, "--extra-body", json.dumps(engine.request_fields),
             "--result-filename", result.name, "--save-detailed"])
        details = json.load(result)
    answers = []
    for start, first, gaps in zip(details["start_times"], details["ttfts"], details["itls"]):
        times = [start + first]
        for gap in gaps:
            times.append(times[-1] + gap)
        answers.append((start, times))
    return answers, details


def speeds(engine, port, client, singles=2):
    """Speeds over HTTP: prefill and decode of single streams, decode while all streams decode."""
    single, details = drive(engine, port, client, 1, singles)
    prefill = statistics.median(
        length / (times[0] - start)
        for (start, times), length in zip(single, details["input_lens"]))
    decode = statistics.median(
        (len(times) - 1) / (times[-1] - times[0]) for _, times in single)
    many, _ = drive(engine, port, client, STREAMS, STREAMS)
    begin = max(times[0] for _, times in many)
    end = min(times[-1] for _, times in many)
    tokens = sum(sum(begin < at <= end for at in times) for _, times in many)
    return {"HTTP: prefill of 512, tokens/s": prefill,
            "HTTP: decode of one stream, tokens/s": decode,
            f"HTTP: decode of {STREAMS} streams, tokens/s": tokens / (end - begin) if end > begin else 0}


def over_http(engine, client):
    """speeds() of a server of its own, and how soon it was ready."""
    with serving(engine) as (port, ready):
        return {**speeds(engine, port, client), "start to ready, s": ready}


def table(results):
    """The values of two engines, {name: {title: [values]}}: medians, ranges, and the ratio."""
    first, second = results
    lines = [f"{'median (least to most)':44}{first:>26}{second:>26}{'ratio':>8}"]
    for title in results[first]:
        medians, cells = [], []
        for name in (first, second):
            values = results[name][title]
            digits = 2 if title.endswith(", s") else 1
            medians.append(statistics.median(values))
            cells.append(f"{medians[-1]:.{digits}f} ({min(values):.{digits}f} to "
                         f"{max(values):.{digits}f})")
        ratio = medians[1] / medians[0] if medians[0] else float("nan")
        lines.append(f"{title:44}{cells[0]:>26}{cells[1]:>26}{ratio:>8.2f}")
    return "\n".join(lines)


def take_turns(engines, rounds, measure):
    """Calls measure(engine), which gives {title: value}, for one engine after the other, in rounds."""
    results = {engine.name: {} for engine in engines}
    for number in range(rounds):
        for engine in engines:
            print(f"round {number + 1}/{rounds}: {engine.name} ...", file=sys.stderr)
            for title, value in measure(engine).items():
                results[engine.name].setdefault(title, []).append(value)
    return results
