"""What `cmake --install` gives."""

import pathlib
import subprocess

import pytest

from server_process import BINARY, MODEL

BUILD = pathlib.Path(BINARY).parent


@pytest.mark.skipif(not (BUILD / "cmake_install.cmake").exists(), reason="the program is in no build folder")
def test_the_installed_program_finds_the_shipped_profiles(tmp_path):
    subprocess.run(["cmake", "--install", BUILD, "--prefix", tmp_path], check=True, stdout=subprocess.DEVNULL)
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    profiles = "share/tangram/profiles/"
    assert {"bin/tangram", "share/doc/tangram/LICENSE", "share/doc/tangram/README.md",
            profiles + "SmolLM2-135M-Instruct.profile.safetensors"} <= files
    assert not [name for name in files if not name.startswith(("bin/tangram", "share/doc/tangram/", profiles))]
    done = subprocess.run([tmp_path / "bin/tangram", "inspect", MODEL], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / profiles) in done.stdout
