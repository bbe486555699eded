"""Writes tests/ops/dequantize_golden.h: random blocks of each GGUF type and what the gguf package
makes of them. Run from the repository's root; needs `gguf` and `numpy` from PyPI."""

from need import need

need("gguf", "numpy")
import gguf
import numpy as np

TYPES = {"Q8_0": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}
SAMPLES = 24  # of a block's 32 or 256 values

rng = np.random.default_rng(3)
lines = [
    "#pragma once",
    "",
    "// Made by tools/make_dequantize_golden.py: do not edit.",
    "",
    "#include <cstdint>",
    "#include <vector>",
    "",
    '#include "tensor/dtype.h"',
    "",
    "namespace tangram {",
    "",
    "struct DequantizeGolden {",
    "  DType type;",
    "  std::vector<uint8_t> block;",
    "  std::vector<int> indices;",
    "  std::vector<float> values;  // of those elements of the block",
    "};",
    "",
    "inline const std::vector<DequantizeGolden> kDequantizeGolden = {",
]


def wrapped(items):
    rows = [", ".join(items[i : i + 12]) for i in range(0, len(items), 12)]
    return "{" + ",\n      ".join(rows) + "}"


for name, halves in TYPES.items():
    kind = getattr(gguf.GGMLQuantizationType, name)
    size, num_bytes = gguf.GGML_QUANT_SIZES[kind]
    block = rng.integers(0, 256, num_bytes, dtype=np.uint8)
    for at in halves:
        scale = np.float16(rng.uniform(-0.1, 0.1))
        block[at : at + 2] = np.frombuffer(scale.tobytes(), np.uint8)
    values = gguf.quants.dequantize(block[None], kind).reshape(-1)
    indices = np.sort(rng.choice(size, SAMPLES, replace=False))
    lines.append(f"    {{DType::k{name},")
    lines.append(f"     {wrapped([str(b) for b in block])},")
    lines.append(f"     {wrapped([str(i) for i in indices])},")
    lines.append(f"     {wrapped([f'{float(values[i])!r}f' for i in indices])}}},")
lines += ["};", "", "}  // namespace tangram", ""]
with open("tests/ops/dequantize_golden.h", "w") as f:
    f.write("\n".join(lines))
