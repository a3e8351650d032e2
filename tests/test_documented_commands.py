"""Every `python -m` line of the guides, the recipes and the launchers names a module and flags that exist."""

import re
import subprocess
import sys

import pytest

from tests.runs import ROOT

PLACES = ("README*.md", "docs/*.md", "configs/*.py", "launch/**/*")
LINE = re.compile(r"python -m (?P<module>(?:input_pipeline|decoding|ds2_jax|benchmarks)[.\w]*)(?P<arguments>[^`\n#]*)")
WITH_COMMANDS = ("input_pipeline.manifest", "input_pipeline.prepare", "decoding.lm")
NEW_SHELL = re.compile(r"[;&|)]\s")  # what follows belongs to another command

Command = tuple[str, ...]  # module, and its first argument where that is a command


def documented() -> dict[Command, set[str]]:
    """Collect the commands that are written down -> the flags that they are written with."""
    found: dict[Command, set[str]] = {}
    for path in sorted(path for place in PLACES for path in ROOT.glob(place) if path.is_file()):
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:  # a picture
            continue
        for line in LINE.finditer(re.sub(r"\\\n[\s#]*", "", text)):
            arguments = NEW_SHELL.split(line["arguments"])[0].split()
            command = [word.replace("CORPUS", "an4") for word in arguments[:1] if line["module"] in WITH_COMMANDS]
            if command and command[0].startswith("-"):
                command = []
            flags = found.setdefault((line["module"], *command), set())
            flags |= {argument.partition("=")[0] for argument in arguments if argument.startswith("--")}
    return found


DOCUMENTED = documented()


def check(command: Command, python: str = sys.executable, **options) -> None:
    """Ask a module for its help, in which every documented flag has to be."""
    result = subprocess.run([python, "-m", *command, "--help"], capture_output=True, text=True, timeout=100, **options)
    assert result.returncode == 0, result.stderr
    missing = {flag for flag in DOCUMENTED[command] if not re.search(rf"{flag}\b", result.stdout)}
    assert not missing, f"{' '.join(command)} is documented with flags that it does not have: {missing}"


def test_the_commands_are_found():
    assert {"--target_dir", "--parts"} <= DOCUMENTED["input_pipeline.prepare", "librispeech"]
    assert {"--order", "--held_out"} <= DOCUMENTED["decoding.lm", "train"]
    assert len(DOCUMENTED) > 25


@pytest.mark.parametrize("command", [c for c in DOCUMENTED if not c[0].startswith("benchmarks")], ids=" ".join)
def test_a_documented_command_can_be_typed(command):
    check(command, cwd=ROOT)


@pytest.mark.slow
@pytest.mark.parametrize("command", [c for c in DOCUMENTED if c[0].startswith("benchmarks")], ids=" ".join)
def test_a_documented_benchmark_can_be_typed(command):
    check(command, cwd=ROOT)
