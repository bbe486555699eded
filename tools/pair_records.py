#!/usr/bin/env python3
"""How much more loss each setting of `tangram eval --json` (or tools/eval_kvpress.py) costs than one of them, paired by context.

    pair_records.py SCORER records.jsonl...     e.g. gate ours.jsonl kvpress.jsonl

Of the contexts that both have; 95% by percentile bootstrap over contexts (4000 resamples, fixed seed)."""

import collections
import json
import random
import sys


def interval(values):
    """Mean, low, high."""
    rng = random.Random(1)
    means = sorted(sum(rng.choices(values, k=len(values))) / len(values) for _ in range(4000))
    return sum(values) / len(values), means[100], means[-101]


def main(base, *files):
    losses = collections.defaultdict(dict)  # by (task, length, ratio), then setting, then context
    for path in files:
        with open(path) as file:
            for record in map(json.loads, file):
                s = record["setting"]
                if record["num_scored"] > 0 and s["ratio"] < 1:
                    test = record["task"], s["length"], s["ratio"]
                    setting = f"{s['source']} {s['scorer']} {s['level']}".removesuffix(" -")
                    losses[test].setdefault(setting, {})[record["context"]] = record["loss"]
    for test, settings in sorted(losses.items()):
        of_base = [name for name in settings if name.startswith(f"tangram {base} ")]
        if len(of_base) != 1:
            sys.exit(f"{test}: {len(of_base)} settings of tangram's {base}, and one is needed")
        mine = settings.pop(of_base[0])
        for name, theirs in sorted(settings.items()):
            pairs = [loss - mine[context] for context, loss in theirs.items() if context in mine]
            if pairs:
                mean, low, high = interval(pairs)
                print(f"{test[0]}, {test[1]} tokens, {test[2]:g}: {name} costs {mean:+.3f} ({low:+.3f} to {high:+.3f}) more, {len(pairs)} contexts")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
