import os
import subprocess
import sys

from tests.runs import ROOT


def test_without_emscripten_the_command_says_what_to_install_and_writes_nothing(tmp_path):
    command = [sys.executable, "-m", "decoding.native.browser_build", f"--output={tmp_path / 'decoder'}"]
    environment = os.environ | {"PATH": str(tmp_path)}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr == (
        "the decoder for browsers was not built: em++ was not found (Debian: apt-get install emscripten)\n"
    )
    assert not (tmp_path / "decoder").exists()
