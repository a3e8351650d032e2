"""The README's commands and Python lines produce what the README shows."""

import re
import shlex
import subprocess
import sys

import pytest

from tests.runs import ROOT

READMES = ("README.md", "README.zh.md")


def run(*command: str) -> str:
    result = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return result.stdout


def blocks_of(readme: str, language: str) -> list[str]:
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / readme).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [text for name, text in blocks if name == language]


@pytest.mark.slow
@pytest.mark.parametrize("readme", READMES)
def test_the_first_command_prints_the_output_shown(readme):
    [line] = [line for line in blocks_of(readme, "bash")[0].splitlines() if line.startswith("python main.py")]
    [shown] = blocks_of(readme, "")
    assert run(*shlex.split(line)[1:]) == shown


@pytest.mark.slow
@pytest.mark.parametrize("readme", READMES)
def test_the_python_lines_run(readme):
    [lines] = blocks_of(readme, "python")
    printed = run("-c", lines).splitlines()
    assert re.fullmatch(r"s m i t h [\d.]+", printed[0])
    assert [line.partition(":")[0] for line in printed[1:]] == list("smith")


def test_both_languages_show_the_same_commands():
    english, chinese = ([re.sub(r"\s+#.*", "", block) for block in blocks_of(name, "bash")] for name in READMES)
    assert english == chinese
    assert len(english) == 3
