"""The commands in the guides are valid: programs, files, flags and settings exist."""

import functools
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.configs.test_recipes import parse_main
from tests.runs import ROOT

GUIDES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
SUBCOMMANDS = ("input_pipeline.prepare", "input_pipeline.manifest", "decoding.lm")
# Placeholders for the flags of main.py (docs/launch.md) and for an optional argument (docs/corpora.md).
PLACEHOLDERS = ("FLAGS", "[--source=FOLDER]")


def commands_of(markdown: str) -> Iterator[list[str]]:
    """Yield the commands in shell blocks and inline code, as words, with the variables that a block sets substituted."""
    blocks = re.findall(r"```bash\n(.*?)```", markdown, re.DOTALL)
    text = re.sub(r"```.*?```", "", markdown, flags=re.DOTALL)
    for block in (*blocks, *re.findall(r"`((?:python|ds2) [^`]+)`", text)):
        variables: dict[str, str] = {}
        for line in re.sub(r"\\\n\s*", "", block).splitlines():
            for name, value in variables.items():
                line = line.replace(f"${name}", value)
            for command in re.split(r"; | && | & *$", line):
                words = shlex.split(command, comments=True)
                if len(words) == 1 and re.match(r"\w+=", words[0]):
                    name, _, variables[name] = words[0].partition("=")
                elif words:
                    yield [word for word in words if word not in PLACEHOLDERS]


def flags_of_main(words: list[str]) -> list[str] | None:
    """Return the arguments that a command passes to main.py; None if it starts something else."""
    while re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    program, arguments = words[0], words[1:]
    if program == "ds2":
        return arguments
    if program.endswith("python") and arguments[:1] == ["main.py"]:
        return arguments[1:]
    if program == "launch/local_multi.sh":
        return arguments[arguments.index("--") + 1 :]
    if program == "launch/slurm.sbatch":
        return arguments
    if program == "sbatch":
        return arguments[arguments.index("launch/slurm.sbatch") + 1 :]
    if program == "docker" and arguments[0] == "run":
        return [word for word in arguments if word.startswith(("--mode", "--config", "--audio"))]
    return None


def module_of(words: list[str]) -> list[str] | None:
    """Return the module that a command runs and its arguments; None if it runs no module."""
    return words[words.index("-m") + 1 :] if "-m" in words and "python" in words[words.index("-m") - 1] else None


@functools.cache
def help_of(module: str, *subcommand: str) -> str:
    if module.startswith("benchmarks.peers."):  # their packages are not installed here
        return (ROOT / f"{module.replace('.', '/')}.py").read_text()
    command = [sys.executable, "-m", module, *subcommand, "--help"]
    environment = os.environ | {"COLUMNS": "200"}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, f"{' '.join(command)}: {result.stderr}"
    return result.stdout


def unknown_flags(module: str, arguments: list[str]) -> list[str]:
    """Return the flags of a command that do not occur in its help."""
    subcommand = [arguments[0]] if module in SUBCOMMANDS and arguments and not arguments[0].startswith("-") else []
    if subcommand and subcommand[0].isupper():  # a placeholder
        return []
    known = set(re.findall(r"--[\w-]+", help_of(module, *subcommand)))
    return [
        word.partition("=")[0] for word in arguments if word.startswith("--") and word.partition("=")[0] not in known
    ]


@pytest.fixture
def known_recipes(monkeypatch):
    """Run in the root of the repository, to which the paths of recipes and augmentation files are relative."""
    monkeypatch.chdir(ROOT)


def with_paths(arguments: list[str]) -> list[str]:
    """Replace names of recipes by their paths, and the placeholder NAME of CONTRIBUTING.md by a recipe or a cell."""
    arguments = [word.replace("NAME", "tiny" if word.startswith("--config=") else "gru") for word in arguments]
    return [re.sub(r"^--config=(\w+)(:\d+)?$", r"--config=configs/\1.py\2", word) for word in arguments]


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.name)
def test_main_accepts_the_commands_of_a_guide(guide, known_recipes, monkeypatch):
    for words in commands_of(guide.read_text(encoding="utf-8")):
        arguments = flags_of_main(words)
        if arguments:
            parse_main(with_paths(arguments), monkeypatch)


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.name)
def test_the_modules_of_a_guide_exist(guide):
    for words in commands_of(guide.read_text(encoding="utf-8")):
        run = module_of(words)
        if run and run[0].split(".")[0] in ("ds2_jax", "input_pipeline", "decoding", "benchmarks", "tests"):
            assert importlib.util.find_spec(run[0]), shlex.join(words)


@pytest.mark.slow
@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.name)
def test_modules_accept_the_flags_of_a_guide(guide):
    for words in commands_of(guide.read_text(encoding="utf-8")):
        run = module_of(words)
        if run and re.match(r"(input_pipeline|decoding|benchmarks)\.", run[0]):
            assert not unknown_flags(run[0], run[1:]), shlex.join(words)


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.name)
def test_the_make_targets_in_a_guide_exist(guide):
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    text = guide.read_text(encoding="utf-8")
    used = {words[1] for words in commands_of(text) if words[:1] == ["make"]}
    assert used | set(re.findall(r"`make ([\w-]+)[^`]*`", text)) <= targets


def test_mistakes_in_a_command_are_detected(known_recipes, monkeypatch):
    text = "```bash\nA=1 python main.py --config=tiny \\\n  --config.seed=$N  # why\nN=3\n```\n`python -m decoding.lm trian`"
    assert list(commands_of(text)) == [
        ["A=1", "python", "main.py", "--config=tiny", "--config.seed=$N"],
        ["python", "-m", "decoding.lm", "trian"],
    ]
    assert flags_of_main(["A=1", "python", "main.py", "--config=tiny"]) == ["--config=tiny"]
    assert unknown_flags("input_pipeline.pack", ["train.jsonl", "--output=x", "--shrads=3"]) == ["--shrads"]
    with pytest.raises(AttributeError):
        parse_main(with_paths(["--config=tiny", "--config.data.tain=x"]), monkeypatch)
