"""Help: one screen, complete, fast, without starting anything."""

import resource
import subprocess
import sys

import pytest

from ds2_jax.cli.command_line import BASE, list_recipes
from ds2_jax.cli.main import MODES
from tests.runs import ROOT

LINES, COLUMNS = 24, 80  # of a terminal
CPU_S = 0.5  # not wall time, which depends on other programs


def run(*arguments: str, program: str = "main.py") -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, program, *arguments], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",), ("--mode=train", "--help")])
def test_help_fits_a_screen_and_lists_modes_and_recipes(arguments):
    result = run(*arguments)
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert len(lines) <= LINES
    assert max(map(len, lines)) <= COLUMNS
    words = result.stdout.split()
    assert set(MODES) <= set(words)
    assert set(list_recipes()) <= set(words)
    assert str(BASE.relative_to(ROOT)) in words
    assert result.stdout.count("python main.py --") == 6  # four of the five commands, the modes, --helpfull


def test_help_is_fast_and_does_not_import_jax():
    code = "import sys; sys.argv[1:] = []; from ds2_jax.cli.main import main; main(); print('jax' in sys.modules)"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = run(code, program="-c")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert result.stdout.splitlines()[-1] == "False", result.stderr
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < CPU_S


def test_all_flags_are_shown_on_request():
    result = run("--helpfull")
    assert (result.returncode, result.stderr) == (0, "")
    for flag in ("--config:", "--workdir:", "--expect_devices:", "--verbosity:", "--flagfile:"):
        assert flag in result.stdout
    assert str(BASE) in result.stdout
