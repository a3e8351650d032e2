"""Recipes by name or file, from any folder; and the packages that each mode needs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ds2_jax.cli.command_line import RECIPES, find_file, list_recipes
from ds2_jax.cli.main import EXTRAS
from tests.runs import ROOT, slow

TRAIN = EXTRAS["train"]


def run(
    folder: Path,
    *arguments: str,
    without: tuple[str, ...] = (),
    program: str = "from ds2_jax.cli.main import main; main()",
) -> subprocess.CompletedProcess:
    """Run the command line in a folder without some of the installed packages."""
    code = f"import sys\nfor name in {without}: sys.modules[name] = None\n{program}"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(
    "flags", [["--config=librispeech:16"], ["--config", "librispeech:16"], ["-config=librispeech:16"]]
)
def test_a_recipe_is_found_by_its_name_from_any_folder(flags, tmp_path):
    program = (
        "from absl import flags; from ds2_jax.cli import command_line, main; command_line.parse(sys.argv)\n"
        "config = flags.FLAGS.config; print(config.batch.size, config.augment.file, config.seed)"
    )
    result = run(tmp_path, *flags, "--config.seed=7", program=program)
    assert result.stdout.split() == ["320", str(RECIPES / "augmentation.json"), "7"], result.stderr


def test_files_that_a_recipe_names_are_found_beside_it_and_in_the_home_folder(tmp_path):
    (tmp_path / "recipes" / "noise").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "recipes" / "noise" / "mine.json").write_text("[]")
    (tmp_path / "recipes" / "words.txt").write_text("a")
    (tmp_path / "recipes" / "mine.py").write_text(
        "from ds2_jax.configs import base\ndef get_config():\n    config = base.get_config()\n"
        "    config.augment.file, config.vocabulary = 'noise/mine.json', 'words.txt'\n"
        "    config.data.train, config.decode.lm = '~/a.jsonl,~/b.jsonl:0.5', '~/lm.bin'\n    return config\n"
    )
    program = (
        "from absl import flags; from ds2_jax.cli import command_line, main; command_line.parse(sys.argv)\n"
        "config = flags.FLAGS.config; print(config.augment.file, config.vocabulary, config.data.train, config.decode.lm)"
    )
    result = run(tmp_path / "elsewhere", "--config=../recipes/mine.py", program=program)
    home = os.path.expanduser("~")
    expected = [
        "../recipes/noise/mine.json",
        "../recipes/words.txt",
        f"{home}/a.jsonl,{home}/b.jsonl:0.5",
        f"{home}/lm.bin",
    ]
    assert result.stdout.split() == expected, result.stderr


def test_the_error_for_an_unknown_recipe_lists_all_recipes(tmp_path):
    result = run(tmp_path, "--config=tinny")
    assert result.returncode == 2
    [line] = result.stderr.splitlines()
    assert f"unknown recipe 'tinny': choose one of {', '.join(list_recipes())}, or give a file" in line
    assert {"tiny", "an4", "librispeech"} <= set(list_recipes())


def test_files_in_the_current_folder_take_precedence_over_those_of_the_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in ("configs/augmentation.json", "augmentation.json", "./configs/augmentation.json"):
        assert find_file(path) == str(RECIPES / "augmentation.json")
    for path in ("", "other/augmentation.json", "configs/none.json", "/configs/augmentation.json", "configs"):
        assert find_file(path) == path
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "augmentation.json").write_text("[]")
    assert find_file("configs/augmentation.json") == "configs/augmentation.json"


def test_a_custom_recipe_imports_the_packages_base_despite_a_configs_folder(tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "base.py").write_text("raise SystemExit('a foreign recipe')")
    (tmp_path / "mine.py").write_text(
        "from ds2_jax.configs import base\ndef get_config():\n    config = base.get_config()\n"
        "    config.data.train = 'mine.jsonl'\n    return config\n"
    )
    result = run(tmp_path, "--config=mine.py", f"--workdir={tmp_path}/run")
    assert result.returncode == 1
    assert "mine.jsonl" in result.stderr.splitlines()[-1]


# etils is excluded, because flax itself imports it.
def test_transcription_needs_no_package_of_the_extras(tmp_path, clips):
    missing = (*set(TRAIN) - {"etils"}, *EXTRAS["lm"], "tensorstore")
    clip = clips.parent / "cen1-fjdn-b.flac"
    result = run(tmp_path, "--mode=infer", "--config.restore=an4", f"--audio={clip}", without=missing)
    assert result.returncode == 0, result.stderr
    assert re.search(r"^  hypothesis: n e l s o n$", result.stdout, re.MULTILINE)


@pytest.mark.parametrize("package", [slow("clu"), slow("tensorboardX"), "orbax"])
def test_training_without_its_packages_ends_with_the_command_to_install_them(package, tmp_path, clips):
    flags = [f"--config.data.train={clips}", f"--workdir={tmp_path}/run"]
    result = run(tmp_path, *flags, without=(package, f"{package}.checkpoint"))
    assert result.returncode == 1
    [line] = result.stderr.splitlines()
    assert f"--mode=train needs the package {package}: pip install 'ds2-jax[train]'" in line
