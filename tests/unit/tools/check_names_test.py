"""The check of names sees a type that two files define, and nothing in a tree without one."""

import pathlib
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).parents[3] / "tools"))
import check_names  # noqa: E402


def named(namespace, line):
    return f"namespace {namespace}{{\n{line}\n}}  // namespace {namespace}\n"


class CheckNames(unittest.TestCase):
    def found(self, first, second):
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            for path, text in (("src/a.h", first), ("apps/b.cc", second)):
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                (root / path).write_text(text)
            return check_names.check(root)

    def test_two_definitions(self):
        for line in ("struct Reply {", "class Reply : public Base {", "enum class Reply { kYes };",
                     "struct alignas(64) Reply {", "class Reply final {"):
            with self.subTest(line=line):
                found = self.found(named("tangram", "struct Reply {"), named("tangram", line))
                self.assertEqual(1, len(found))
                self.assertIn("tangram::Reply is defined in apps/b.cc and in src/a.h", found[0])

    def test_what_is_allowed(self):
        reply = named("tangram", "struct Reply {")
        for other in (named("tangram::apps", "struct Reply {"),  # another namespace
                      named("tangram", named("", "struct Reply {")),  # the file's own
                      named("tangram", "struct Reply;"), named("tangram", "  struct Reply {"),
                      named("tangram", "struct Reply Make();")):
            with self.subTest(other=other):
                self.assertEqual([], self.found(reply, other))


if __name__ == "__main__":
    unittest.main()
