#!/usr/bin/env python3
"""extract.py ARCHIVE PATTERN FOLDER: takes the matching files out of a wheel or an sdist.

PATTERN is a shell pattern over the members' full names. What the pattern spells out of a path is
dropped: '*/models/*' puts a/models/b/c.txt at FOLDER/b/c.txt.
"""

import fnmatch
import pathlib
import shutil
import sys
import tarfile
import zipfile


def members(archive):
    """Yields (name, open) for every file of the archive, in its order."""
    if archive.endswith((".whl", ".zip")):
        with zipfile.ZipFile(archive) as opened:
            for info in opened.infolist():
                yield info.filename, lambda info=info: opened.open(info)
    else:
        with tarfile.open(archive) as opened:
            for info in opened:
                if info.isfile():
                    yield info.name, lambda info=info: opened.extractfile(info)


def main(archive, pattern, folder):
    kept = pattern.rstrip("*").lstrip("*") if pattern.endswith("/*") else None
    found = 0
    for name, open_member in members(archive):
        if not fnmatch.fnmatch(name, pattern):
            continue
        relative = name.split(kept, 1)[1] if kept else pathlib.PurePosixPath(name).name
        if ".." in pathlib.PurePosixPath(relative).parts:
            sys.exit(f"{archive}: {name} leads out of the folder")
        target = pathlib.Path(folder, relative)
        target.parent.mkdir(parents=True, exist_ok=True)
        with open_member() as source, open(target, "wb") as sink:
            shutil.copyfileobj(source, sink, 1 << 20)
        found += 1
    if not found:
        sys.exit(f"{archive} holds nothing that matches {pattern}")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
