"""Which CUDA toolkits a build takes: an older one stops it only if CUDA is insisted on."""

import pathlib
import subprocess
import tempfile
import unittest

ROOT = pathlib.Path(__file__).parents[3]


class CudaToolkit(unittest.TestCase):
    def configure(self, nvcc, *options):
        """Exit code and output of configuring a project that has cmake/cuda.cmake and nothing else; nvcc: a shell script."""
        with tempfile.TemporaryDirectory() as folder:
            project = pathlib.Path(folder)
            (project / "CMakeLists.txt").write_text("cmake_minimum_required(VERSION 3.25)\nproject(toolkit LANGUAGES NONE)\n"
                                                    f"include({ROOT}/cmake/cuda.cmake)\n")
            compiler = project / "cuda/bin/nvcc"
            compiler.parent.mkdir(parents=True)
            compiler.write_text(f"#!/bin/sh\n{nvcc}\n")
            compiler.chmod(0o755)
            done = subprocess.run(["cmake", "-S", project, "-B", project / "build", f"-DTANGRAM_CUDA_ROOT={project}/cuda",
                                   *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            return done.returncode, " ".join(done.stdout.split())

    def test_older_one_is_named_and_left_alone(self):
        for nvcc in ('echo "Cuda compilation tools, release 12.4, V12.4.131"', "exit 1"):
            code, output = self.configure(nvcc)
            self.assertEqual(0, code, output)
            self.assertIn("no CUDA backend: CUDA 13.0 or newer is needed", output)
            self.assertIn("CUDA backend: OFF", output)

    def test_older_one_is_an_error_if_insisted_on(self):
        code, output = self.configure('echo "Cuda compilation tools, release 12.4, V12.4.131"', "-DTANGRAM_CUDA=ON")
        self.assertNotEqual(0, code)
        self.assertIn("says 'release 12.4'", output)

    def test_not_asked_about_if_off(self):
        code, output = self.configure("exit 1", "-DTANGRAM_CUDA=OFF")
        self.assertEqual(0, code, output)
        self.assertNotIn("newer is needed", output)


if __name__ == "__main__":
    unittest.main()
