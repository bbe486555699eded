"""For the tools that need packages which scripts/setup does not bring: says what to install, where a traceback would be."""

import importlib.util
import pathlib
import sys


def need(*packages):
    """Ends the program unless all these packages of PyPI, whose modules are called as they are, can be imported."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        sys.exit(f"error: {pathlib.Path(sys.argv[0]).name} needs {', '.join(packages)}, and there is no "
                 f"{', no '.join(missing)}: {sys.executable} -m pip install {' '.join(missing)}")
