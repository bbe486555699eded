"""Runs `tangram serve` for tests."""

import os
import pathlib
import re
import signal
import subprocess
import tempfile
import time

import httpx

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = os.environ.get("TANGRAM_BINARY", str(ROOT / "build/release/tangram"))
MODEL = os.environ.get("TANGRAM_MODEL", str(ROOT / "models/SmolLM2-135M-Instruct.Q4_1.gguf"))
NAME = "smollm2"


def default_of(flag):
    """What `serve` takes for a flag that is not given: its variable, or what --help shows."""
    variable = os.environ.get("TANGRAM_ARG_" + flag.upper().replace("-", "_"))
    shown = subprocess.run([BINARY, "serve", "--help=" + flag], capture_output=True, text=True, check=True)
    return variable or re.search(rf"--{flag} .*\[(.*)\]", shown.stdout).group(1)


class ServerProcess:
    """A server on a free port. As a context: ready on entry, and it must end with exit code 0."""

    def __init__(self, *flags, model=MODEL):
        self.log = tempfile.NamedTemporaryFile("w+", suffix=".log", prefix="tangram-")
        command = [BINARY, "serve", model, "--host", "127.0.0.1", "--port", "0",
                   "--served-model-name", NAME, *flags]
        self.process = subprocess.Popen(command, stdout=self.log, stderr=subprocess.STDOUT)
        self.url = "http://127.0.0.1:%s" % self.wait_for_log(r"http://127\.0\.0\.1:(\d+)").group(1)

    def text(self):
        return pathlib.Path(self.log.name).read_text()

    def wait_for_log(self, pattern, seconds=30):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found = re.search(pattern, self.text())
            if found:
                return found
            assert self.process.poll() is None, self.text()
            time.sleep(0.01)
        raise AssertionError(f"no {pattern!r} in {seconds} s: {self.text()}")

    def wait_ready(self, seconds=60):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if httpx.get(self.url + "/health").status_code == 200:
                return
            assert self.process.poll() is None, self.text()
            time.sleep(0.02)
        raise AssertionError("not ready: " + self.text())

    def metrics(self):
        """Sample lines: name with labels -> value."""
        samples = {}
        for line in httpx.get(self.url + "/metrics").text.splitlines():
            if line and not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                samples[name] = float(value)
        return samples

    def metric(self, name, **labels):
        """The sum over the samples of that name with those labels."""
        total = 0.0
        for sample, value in self.metrics().items():
            wanted = all(f'{key}="{label}"' in sample for key, label in labels.items())
            if sample.split("{")[0] == name and wanted:
                total += value
        return total

    def wait_until_empty(self, seconds=10):
        """Until no request runs or waits, and none holds a page."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            busy = [self.metric("vllm:num_requests_running"),
                    self.metric("vllm:num_requests_waiting"),
                    self.metric("tangram:kv_pages", state="used")]
            if not any(busy):
                return
            time.sleep(0.05)
        raise AssertionError(f"running, waiting, pages: {busy}")

    def terminate(self, seconds=60):
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def __enter__(self):
        self.wait_ready()
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            try:
                assert self.terminate() == 0, self.text()
            finally:
                self.process.kill()
