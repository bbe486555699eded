"""Every tool names the packages that it imports, and says what to install where they are missing."""

import ast
import pathlib
import subprocess
import sys
import unittest

TOOLS = pathlib.Path(__file__).resolve().parents[3] / "tools"


def imported(tree):
    """The modules that are imported, wherever that is, but for Python's own and the folder's."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module.split(".")[0])
    return names - set(sys.stdlib_module_names) - {path.stem for path in TOOLS.glob("*.py")}


def needed(tree):
    """What need() is called with."""
    return {argument.value for node in ast.walk(tree) if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name) and node.func.id == "need" for argument in node.args}


class Need(unittest.TestCase):
    def test_every_tool_names_what_it_imports(self):
        for path in TOOLS.glob("*.py"):
            with self.subTest(tool=path.name):
                tree = ast.parse(path.read_text())
                self.assertLessEqual(imported(tree), needed(tree))
                for package in needed(tree):
                    self.assertIn(package, ast.get_docstring(tree))

    def test_what_is_missing_is_told(self):
        # Without site-packages, so that nothing is installed.
        done = subprocess.run([sys.executable, "-S", TOOLS / "profile_ratios.py"], capture_output=True, text=True)
        self.assertEqual(1, done.returncode)
        self.assertIn("error: profile_ratios.py needs numpy, and there is no numpy: ", done.stderr)
        self.assertIn("pip install numpy", done.stderr)


if __name__ == "__main__":
    unittest.main()
