"""One server for all tests, on the default model, and the official client on it."""

import pytest
from openai import OpenAI

from server_process import ServerProcess


@pytest.fixture(scope="session")
def server():
    with ServerProcess("--max-num-seqs", "16", "--max-queued-requests", "64",
                       "--scheduling-policy", "priority") as process:
        yield process


@pytest.fixture(scope="session")
def client(server):
    # Retries would hide what the server says.
    return OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0, timeout=120)
