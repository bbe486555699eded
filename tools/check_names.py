#!/usr/bin/env python3
"""Checks that no two files define a type of the same name in the same namespace. Prints each pair; exit 1 if any.

    check_names.py [ROOT]

Two such types in one program break the rule of one definition: the linker keeps one of their destructors and
copies for both, and says nothing. Types in unnamed namespaces are their file's own.
"""

import pathlib
import re
import sys

SOURCES = {".h", ".cc", ".cu", ".cuh", ".in"}
# clang-format puts what stands in a namespace, and the namespace itself, at the beginning of a line.
OPEN = re.compile(r"^namespace\s*([\w:]*)\s*\{")
CLOSE = re.compile(r"^\}+\s*// namespace")
TYPE = re.compile(r"^(?:struct|class|union|enum(?: class| struct)?)\s+(?:alignas\([^)]*\)\s+)?((?:\w+::)*\w+)[^;()]*(?:\{|$)")


def definitions(text):
    """Yields "namespace::name" of each type that the text defines outside unnamed namespaces."""
    inside = []
    for line in text.splitlines():
        if opened := OPEN.match(line):
            if not line.rstrip().endswith("}"):
                inside.append(opened[1])
        elif CLOSE.match(line) and inside:
            inside.pop()
        elif (found := TYPE.match(line)) and "" not in inside:
            yield "::".join([*inside, found[1]])


def check(root):
    """Returns one line for each name below `root` that has two definitions."""
    places = {}
    for top in ("src", "apps", "bench", "tests"):
        for file in sorted((root / top).rglob("*")):
            if file.suffix not in SOURCES:
                continue
            for name in definitions(file.read_text()):
                places.setdefault(name, set()).add(file.relative_to(root).as_posix())
    return [f"{name} is defined in {' and in '.join(sorted(files))}: rename one, or give it a namespace"
            for name, files in sorted(places.items()) if len(files) > 1]


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parents[1])
    found = check(root)
    print("\n".join(found) or "every type has one definition")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
