#!/usr/bin/env python3
"""Prints the retention of each KV head of a published profile (.npz) as `tangram bench` reads it: layers and heads, then
one line a layer.

    pip install numpy
    tools/profile_ratios.py PROFILE.npz
"""

import sys

from need import need

need("numpy")
import numpy  # noqa: E402

if len(sys.argv) != 2:
    sys.exit(__doc__)

ratios = numpy.load(sys.argv[1])["ratio_per_head"][0]
print(*ratios.shape)
for layer in ratios:
    print(*(f"{ratio:.5f}" for ratio in layer))
