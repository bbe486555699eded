"""Pages in use in the middle of decoding, as /metrics tells them, beside what the table says.

    .venv/bin/python tests/e2e/exact_memory.py [CONTEXT]    # every level and group size; markdown

TANGRAM_ARG_COMPRESSION_CHUNK_SIZE=C measures another chunk than the default.

The table's sum over rows follows from the design alone: after compression at boundary b the rows hold
ratio * b tokens on average, in whole pages, and n - b more each; it does not depend on which row holds
how many.
"""

import sys
import threading

import httpx

from server_process import NAME, ROOT, ServerProcess, default_of

PROFILE = ROOT / "profiles" / "SmolLM2-135M-Instruct.profile.safetensors"
LAYERS, KV_HEADS = 30, 3
CHUNK = int(default_of("compression-chunk-size"))
PERCENT, PAGE, FLOOR = 30, 16, 48  # the floor: sinks and window, 4 + 32, in whole pages
STEPS = CHUNK + 44  # of decoding


def group_sizes(level):
    """Those that are valid: a group is of one layer, or of any."""
    heads = KV_HEADS if level == "per-layer" else LAYERS * KV_HEADS
    return [size for size in range(1, heads + 1) if heads % size == 0]


def boundary(n):
    return (n - 1) // CHUNK * CHUNK if n else 0


def retained_pages(b, rows):
    """Sum over rows after compression at b: ratio * b, to the nearest page."""
    pages = (PERCENT * b * rows + 50 * PAGE) // (100 * PAGE)
    assert b == 0 or pages >= rows * FLOOR // PAGE
    return pages


def table_pages(n, rows):
    b = boundary(n)
    return retained_pages(b, rows) + rows * -(-(n - b) // PAGE)


def table_resident(n, rows):
    """Tokens, the mean over rows."""
    b = boundary(n)
    return retained_pages(b, rows) * PAGE / rows + n - b


def poll(server, samples, stop):
    """(tokens processed, pages held) after as many steps as can be seen."""
    with httpx.Client(base_url=server.url) as client:
        while not stop.is_set():
            found = {}
            for line in client.get("/metrics").text.splitlines():
                if line.startswith("tangram:kv_"):
                    name, value = line.rsplit(" ", 1)
                    found[name.split("{")[0] + ("used" if 'state="used"' in name else "")] = float(value)
            samples.add((int(found["tangram:kv_logical_tokens"]), int(found["tangram:kv_pagesused"]),
                         int(found["tangram:kv_resident_tokens"])))


def measure(level, size, context):
    """Decodes to `context` tokens, the longest that are served, and checks the pages in use after every step that was seen."""
    rows = LAYERS * KV_HEADS // size
    samples, stop = set(), threading.Event()
    with ServerProcess("--compression-ratio", str(PERCENT / 100), "--compression-profile", str(PROFILE),
                       "--compression-level", level, "--page-group-size", str(size),
                       "--max-model-len", str(context)) as server:
        watcher = threading.Thread(target=poll, args=(server, samples, stop))
        watcher.start()
        try:
            prompt = [1000 + 7 * i % 40000 for i in range(context - STEPS)]
            reply = httpx.post(server.url + "/v1/completions", timeout=300, json={
                "model": NAME, "prompt": prompt, "max_tokens": STEPS, "temperature": 0,
                "ignore_eos": True})
            assert reply.status_code == 200, reply.text
        finally:
            stop.set()
            watcher.join()
        for n, pages, resident in samples:
            assert pages == table_pages(n, rows), (level, size, n, pages)
            assert resident == int(table_resident(n, rows)), (level, size, n, resident)
        server.wait_until_empty()
    decoding = sorted(n for n, _, _ in samples if n > len(prompt))
    # One step before a boundary a row is longest, one after it shortest: both sides must be seen.
    assert len({boundary(n) for n in decoding}) >= 2 and len(decoding) >= 30, decoding
    last = boundary(context - 1)
    chunk = [table_pages(n, rows) for n in range(last + 1 - CHUNK, last + 1)]
    full = [rows * -(-n // PAGE) for n in range(last + 1 - CHUNK, last + 1)]
    return {"level": level, "heads a group": size, "rows": rows, "steps seen": len(decoding),
            "tokens": f"{decoding[0]} to {decoding[-1]}", "pages": f"{min(chunk)} to {max(chunk)}",
            "mean over a chunk": f"{sum(chunk) / CHUNK:.1f}",
            "of full": f"{sum(chunk) / sum(full):.3f}"}


def main(context):
    titles = None
    for level in ("uniform", "per-layer", "cross-layer"):
        for size in group_sizes(level):
            row = measure(level, size, context)
            if titles is None:
                titles = list(row)
                print("| " + " | ".join(titles) + " |\n|" + "---|" * len(titles))
            print("| " + " | ".join(str(value) for value in row.values()) + " |", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 8192)
