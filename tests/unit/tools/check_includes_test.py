"""The include check sees each kind of breach, and nothing in a tree that obeys."""

import pathlib
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).parents[3] / "tools"))
import check_includes  # noqa: E402


class CheckIncludes(unittest.TestCase):
    def breaches(self, files):
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            for name in check_includes.MAY_INCLUDE:
                (root / "src" / name).mkdir(parents=True)
            for name, text in files.items():
                path = root / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
            return check_includes.check(root)

    def test_what_is_allowed(self):
        self.assertEqual([], self.breaches({
            "src/sched/a.h": '#include <vector>\n#include "base/result.h"\n#include "paging/b.h"\n',
            "src/server/a.cc": '#include "engine/engine.h"\n#include "sched/request.h"\n',
            "src/ops/cuda/a.cu": "#include <cuda_runtime.h>\n#ifdef __CUDA_ARCH__\n#endif\n",
            "apps/main.cc": '#include "engine/engine.h"\n#include "server/server.h"\n',
        }))

    def test_each_breach(self):
        for path, line, word in [
            ("src/sched/a.cc", '#include "tensor/tensor.h"', "sched may include"),
            ("src/server/a.cc", '#include "engine/sampler.h"', "server may include"),
            ("src/server/a.cc", '#include "sched/scheduler.h"', "server may include"),
            ("src/engine/a.h", '#include "text/tokenizer.h"', "engine may include"),
            ("src/text/a.h", '#include "tensor/tensor.h"', "text may include"),
            ("src/base/a.h", '#include "sibling.h"', "by its path"),
            ("src/model/a.cc", "#include <cuda_runtime.h>", "CUDA stays"),
            ("apps/a.cc", "#include <nccl.h>", "CUDA stays"),
            ("src/ops/a.cc", "#if defined(TANGRAM_CUDA)", "preprocessor"),
            ("src/extra/a.h", "", "not in the table"),
        ]:
            with self.subTest(path=path, line=line):
                found = self.breaches({path: line + "\n"})
                self.assertEqual(1, len(found))
                self.assertIn(word, found[0])


if __name__ == "__main__":
    unittest.main()
