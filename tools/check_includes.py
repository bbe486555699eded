#!/usr/bin/env python3
"""Checks that includes obey the layers of docs/design/architecture.md. Prints each breach; exit 1 if any.

    check_includes.py [ROOT]
"""

import pathlib
import re
import sys

# folder of src/ -> what it may include besides base and itself: folders, or single headers.
MAY_INCLUDE = {
    "base": set(),
    "tensor": set(),
    "text": set(),
    "paging": set(),
    "sched": {"paging"},
    "ops": {"tensor"},
    "comm": {"tensor"},
    "kvcache": {"paging", "ops", "tensor"},
    "model": {"kvcache", "ops", "comm", "tensor", "paging"},
    "compression": {"kvcache", "model", "paging", "ops", "tensor"},
    "calibration": {"compression", "kvcache", "model", "paging", "ops", "tensor"},
    "engine": {"compression", "model", "kvcache", "ops", "comm", "sched", "paging", "tensor"},
    "server": {"text", "engine/engine.h", "engine/token_event.h", "sched/request.h"},
}
# The only places that may know CUDA.
CUDA_FOLDERS = ("src/ops/cuda", "src/comm", "tests/ops/cuda", "bench/cuda")
CUDA_HEADER = re.compile(r"^(cuda|cublas|cudnn|nccl|cutlass|cute/|flashinfer|cub/|thrust/)")
BACKEND_IF = re.compile(r"^\s*#\s*(if|ifdef|ifndef|elif)\b.*(CUDA|NCCL|HIP|ROCM)")
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')
SOURCES = {".h", ".cc", ".cu", ".cuh", ".inl"}


def allowed(folder, target):
    """Whether a file of src/`folder` may include "target" (a path below src/)."""
    first = target.split("/", 1)[0]
    return first in ("base", folder) or first in MAY_INCLUDE[folder] or target in MAY_INCLUDE[folder]


def check_line(path, line, is_source_folder):
    """Returns what is wrong with a line of the file at `path` (relative to the root), or None."""
    knows_cuda = path.as_posix().startswith(CUDA_FOLDERS)
    if BACKEND_IF.match(line) and not knows_cuda:
        return "chooses a backend with the preprocessor: the factory does that"
    include = INCLUDE.match(line)
    if not include:
        return None
    target = include[2]
    if CUDA_HEADER.match(target) and not knows_cuda:
        return f"includes {target}: CUDA stays in {' and '.join(CUDA_FOLDERS[:2])}"
    folder = path.parts[1] if path.parts[0] == "src" else None
    if folder is None or include[1] == "<":
        return None
    if "/" not in target:
        return f'includes "{target}": name it by its path below src/'
    if target.split("/", 1)[0] in is_source_folder and not allowed(folder, target):
        return f"includes {target}: {folder} may include {', '.join(sorted(MAY_INCLUDE[folder] | {'base'}))}"
    return None


def check(root):
    """Returns one line for each breach below `root`."""
    found = []
    folders = {entry.name for entry in (root / "src").iterdir() if entry.is_dir()}
    for unknown in sorted(folders - set(MAY_INCLUDE)):
        found.append(f"src/{unknown}: not in the table of {pathlib.Path(__file__).name}")
    for top in ("src", "apps", "tests", "bench"):
        for file in sorted((root / top).rglob("*")):
            path = file.relative_to(root)
            if file.suffix not in SOURCES or (top == "src" and path.parts[1] not in MAY_INCLUDE):
                continue
            for number, line in enumerate(file.read_text().splitlines(), 1):
                if breach := check_line(path, line, folders):
                    found.append(f"{path}:{number}: {breach}")
    return found


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parents[1])
    breaches = check(root)
    print("\n".join(breaches) or "includes obey the layers")
    return 1 if breaches else 0


if __name__ == "__main__":
    sys.exit(main())
