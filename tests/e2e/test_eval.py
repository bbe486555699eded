"""`tangram eval` on the default model: a small sample, its records, and what it refuses."""

import json
import re
import subprocess
import xml.etree.ElementTree

import pytest

from server_process import BINARY, MODEL, ROOT

PROFILE = ROOT / "profiles" / "SmolLM2-135M-Instruct.profile.safetensors"
# The facts need 700 tokens; small chunks are quick.
CONTEXT = ("--length", 768, "--continuation", 64, "--compression-chunk-size", 256)


def evaluate(*arguments):
    return subprocess.run([BINARY, "eval", *map(str, arguments)], capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One run: what it printed, and its records by (ratio, task, context)."""
    folder = tmp_path_factory.mktemp("eval")
    done = evaluate(MODEL, "--compression-profile", PROFILE, *CONTEXT, "--samples", 2, "--ratios", "0.5,0.2",
                    "--json", folder / "records.jsonl", "--plot", folder / "plot.svg")
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    return done, {(r["setting"]["ratio"], r["task"], r["context"]): r for r in records}, folder


def test_the_full_cache_is_its_own_measure(run):
    _, records, _ = run
    assert set(records) == {(ratio, task, i) for ratio in (1, 0.5, 0.2) for task in ("needle", "dialogue") for i in (0, 1)}
    for (ratio, task, context), record in records.items():
        assert record["num_scored"] == 64
        assert len(record["scores"]) == len(record["answers"]) == 4
        assert 1 < record["loss"] < 5
        full = records[1, task, context]
        if ratio == 1:
            assert record["agreement"] == 1 and record["memory"] == 1
        else:
            assert record["memory"] == pytest.approx(ratio, abs=0.01) and record["memory_mean"] > ratio
            assert abs(record["loss"] - full["loss"]) < 0.5
    # The model finds most of what it has whole, and something at 0.5.
    score = {ratio: sum(sum(r["scores"]) for (q, *_), r in records.items() if q == ratio) for ratio in (1, 0.5)}
    assert score[1] >= 8 and score[0.5] >= 4


def test_the_table_says_what_the_records_hold(run):
    done, records, _ = run
    rows = re.findall(r"^\| ([\d.]+) \| (\w+) \| (\S+) \| ([\d.]+), ([\d.]+) \| ([-+.\d]+)(?: \(.*?\))? \| ([\d.]+) \|",
                      done.stdout, re.M)
    assert [(row[0], row[1]) for row in rows] == 2 * [("1", "full"), ("0.5", "gate"), ("0.2", "gate")]
    for row, task in zip(rows, 3 * ["dialogue"] + 3 * ["needle"]):
        ratio = float(row[0])
        losses = [records[ratio, task, i]["loss"] - (records[1, task, i]["loss"] if ratio < 1 else 0) for i in (0, 1)]
        assert float(row[5]) == pytest.approx(sum(losses) / 2, abs=6e-4)
    assert "Contexts: 12/12" in done.stderr


def test_the_plot_is_a_picture(run):
    tree = xml.etree.ElementTree.parse(run[2] / "plot.svg")
    assert "gate, cross-layer" in [text.text for text in tree.iter("{http://www.w3.org/2000/svg}text")]


def test_records_merge_and_repeat(run):
    """The records alone give the same tables; another run, with other threads, the same records."""
    done, records, folder = run
    merged = evaluate("--merge", folder / "records.jsonl")
    assert merged.returncode == 0 and merged.stdout == done.stdout
    again = evaluate(MODEL, "--compression-profile", PROFILE, *CONTEXT, "--samples", 1, "--ratios", "0.2",
                     "--tasks", "dialogue", "--workers", 1, "--num-threads", 2, "--json", folder / "again.jsonl")
    assert again.returncode == 0, again.stderr
    for line in (folder / "again.jsonl").read_text().splitlines():
        record = json.loads(line)
        assert record == records[record["setting"]["ratio"], "dialogue", 0]


def test_ones_own_conversations(tmp_path):
    data = tmp_path / "data.jsonl"
    messages = [{"role": "user", "content": "Count to five."}, {"role": "assistant", "content": "One, two, three, four, five."},
                {"role": "user", "content": "And backwards."}, {"role": "assistant", "content": "Five, four, three, two, one."}]
    data.write_text(2 * (json.dumps({"messages": messages}) + "\n"))
    done = evaluate(MODEL, "--compression-profile", PROFILE, "--data", data, "--ratios", "0.5", "--json", tmp_path / "out",
                    "--length", 1024)
    assert done.returncode == 0, done.stderr
    assert "--length has no effect: the tests come from --data" in done.stderr and "WARNING" not in done.stdout
    records = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert len(records) == 4 and all(0 < r["loss"] < 4 for r in records)
    # Below a chunk nothing is dropped.
    assert len({r["loss"] for r in records}) == 1 and all(r["memory"] == 1 for r in records)


def test_the_tests_can_be_exported(tmp_path):
    done = evaluate(MODEL, "--export", tmp_path / "tests.json", "--samples", 1, "--tasks", "needle")
    assert done.returncode == 0, done.stderr
    tests = json.loads((tmp_path / "tests.json").read_text())
    (sample,) = tests["samples"]
    assert [step["kind"] for step in sample["steps"]] == ["read", "peek", "ask", "ask", "ask", "ask"]
    text = "".join(tests["vocabulary"][token] for token in sample["steps"][0]["tokens"])
    assert all(number in text for (number,) in sample["expected"])


@pytest.mark.parametrize("arguments, words", [
    ([], "name a model"),
    ([MODEL, "--ratios", "0.5,none"], "--ratios none"),
    ([MODEL, "--ratios", "1.5"], "--ratios 1.5"),
    ([MODEL, "--ratios", "0.01", "--compression-profile", PROFILE], "was measured at"),
    ([MODEL, "--scorers", "gates"], "--scorers: 'gates' is not one of"),
    ([MODEL, "--levels", "cross"], "--levels: 'cross' is not one of"),
    ([MODEL, "--tasks", "riddle"], "--tasks: 'riddle'"),
    ([MODEL, "--length", "1000"], "--length 1000 must be a multiple of the chunk"),
    ([MODEL, "--continuation", "5000"], "--continuation 5000"),
    ([MODEL, "--samples", "0"], "--samples"),
    ([MODEL, "--data", "/nonexistent"], "/nonexistent: no such file"),
    (["--merge", "/nonexistent"], "/nonexistent: no such file"),
])
def test_mistakes_are_told(arguments, words):
    done = evaluate(*arguments)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
