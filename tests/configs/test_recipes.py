"""Every recipe is documented, loads and is consistent, and the commands in its docstring are valid."""

import argparse
import importlib
import json
import re
import shlex
import sys
from pathlib import Path

import pytest
from absl import flags
from ml_collections import config_flags

from decoding.alignment.utterances import UtteranceSettings
from decoding.settings import BeamSettings
from ds2_jax.cli import main as program
from ds2_jax.cli import settings
from ds2_jax.configs import base
from ds2_jax.recognition.cues import CueSettings
from ds2_jax.recognition.recording import RecordingSettings
from ds2_jax.recognition.stream_settings import StreamSettings
from ds2_jax.training.settings import DataSettings, TrainingSettings
from input_pipeline import manifest
from input_pipeline.augment import Augmentation
from input_pipeline.corpora import prepare
from input_pipeline.manifest import join, vocabulary
from tests.runs import ROOT
from tests.signals import RATE_HZ

RECIPES = sorted(path.stem for path in (ROOT / "configs").glob("*.py") if path.stem not in ("__init__", "base"))
EVALUATED_ONLY = {"voxforge_eval"}
SERVER = ("host", "port", "wyoming_port", "demo_port", "token", "tls_cert", "tls_key", "origin", "file")


def commands_of(docstring: str) -> list[list[str]]:
    """Return the commands in a docstring; the body of a shell loop is returned once."""
    lines = [line.strip() for line in re.sub(r"\\\n\s*", "", docstring).splitlines()]
    shown = [re.sub(r"^for .*?; do|; done$", "", line) for line in lines if re.match(r"for .*; do|python ", line)]
    return [[re.sub(r"\$\w+", "test", word) for word in shlex.split(line)] for line in shown if line]


def parse_main(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Parse and check a command line as main.py does."""
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values)
    flags.DEFINE_enum("mode", "train", program.MODES, "", flag_values=values)
    flags.DEFINE_enum("format", "bundle", program.FORMATS, "", flag_values=values)
    flags.DEFINE_enum("download", None, program.ORIGINALS, "", flag_values=values)
    flags.DEFINE_boolean("check", False, "", flag_values=values)
    for name in ("workdir", "audio", "text", "output", "source", *SERVER, *program.CLUSTER):
        flags.DEFINE_string(name, "", "", flag_values=values)
    if not any(argument.startswith("--config=") for argument in arguments):
        arguments = ["--config=configs/base.py", *arguments]
    monkeypatch.setattr(sys, "argv", ["main.py", *arguments])  # config_flags reads overrides from here
    rest = values(sys.argv)
    assert rest == ["main.py"]
    if values.mode == "client":  # needs no config
        return
    settings.check(values.config, config_flags.get_override_values(values["config"]), values.mode, values.workdir)


def parse_prepare(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `prepare` parse its arguments and stop before the work begins."""

    def begin(args: argparse.Namespace) -> None:
        raise InterruptedError(f"parsed, {args.target_dir}")

    monkeypatch.setattr(importlib.import_module(f"input_pipeline.corpora.{arguments[0]}"), "prepare", begin)
    assert prepare.main(arguments) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", -1),
        ("train.keep", 0),
        ("train.nonfinite", "hope"),
        ("train.patience", -1),
        ("train.max_steps", -1),
        ("optim.clip_norm", -1.0),
        ("optim.learning_rate", 0.0),
        ("optim.decay", 0.0),
    ],
)
def test_an_error_names_the_field_its_value_and_a_remedy(name, value):
    config = base.get_config()
    config.update_from_flattened_dict({name: value})
    with pytest.raises(ValueError, match=rf"config\.{name} is {value!r}: \w+"):
        settings.check(config, [], "train", "")


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_passes_the_check(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    config = importlib.import_module(f"configs.{name}").get_config()
    assert config.keys() == base.get_config().keys()
    settings.check(config, [], "train", "")
    assert (config.data.train == "") == (name in EVALUATED_ONLY)
    for path in filter(None, ",".join((config.data.train, config.data.dev, config.data.test)).split(",")):
        assert path.startswith("data")


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_reads_its_manifests_and_augmentors(name, monkeypatch, tmp_path):
    config = importlib.import_module(f"configs.{name}").get_config()
    monkeypatch.chdir(tmp_path)
    record = {"audio_filepath": "a.wav", "duration": 1.0, "text": "一" if config.text.language == "zh" else "one"}
    for split in ("train", "dev", "test"):
        for path, _ in map(manifest.parse_weight, filter(None, config.data[split].split(","))):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).write_text(json.dumps(record))
        if config.data[split]:
            assert len(manifest.read_many(config.data[split])) == len(config.data[split].split(","))
    if config.augment.file:
        assert Augmentation.load(ROOT / config.augment.file, RATE_HZ).entries


@pytest.mark.parametrize("name", RECIPES)
def test_the_commands_of_a_recipe_are_valid(name, monkeypatch):
    docstring = importlib.import_module(f"configs.{name}").__doc__ or ""
    monkeypatch.chdir(ROOT)
    programs = set()
    for program_name, *arguments in commands_of(docstring):
        assert program_name == "python"
        if arguments[:1] == ["main.py"]:
            parse_main(arguments[1:], monkeypatch)
            programs.add("main")
        elif arguments[:2] == ["-m", "input_pipeline.prepare"]:
            parse_prepare(arguments[2:], monkeypatch)
        elif arguments[:2] == ["-m", "input_pipeline.join"]:
            join.make_parser().parse_args(arguments[2:])
        elif arguments[:2] == ["-m", "input_pipeline.text"]:
            vocabulary.make_parser().parse_args(arguments[2:])
        else:
            pytest.fail(f"unknown command: {shlex.join([program_name, *arguments])}")
    assert "main" in programs
    assert f"configs/{name}.py" in docstring


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_states_its_result(name):
    docstring = importlib.import_module(f"configs.{name}").__doc__ or ""
    assert re.search(r"\bnot measured\b|measured", docstring, re.IGNORECASE), (
        "add the result to the docstring, or 'not measured'"
    )


def test_a_misspelt_flag_in_a_docstring_is_detected(monkeypatch, capsys):
    with pytest.raises((AttributeError, flags.UnrecognizedFlagError)):
        parse_main(["--config=configs/an4.py", "--config.data.tain=x"], monkeypatch)
    with pytest.raises(flags.UnrecognizedFlagError):
        parse_main(["--config=configs/an4.py", "--wrkdir=x"], monkeypatch)
    with pytest.raises(SystemExit):
        parse_prepare(["an4", "--targets=x"], monkeypatch)
    assert commands_of("a\n\n    for x in 1 2; do python -m a \\\n      --b=$x; done\n") == [
        ["python", "-m", "a", "--b=test"]
    ]


def test_the_defaults_of_settings_are_those_of_the_base_recipe():
    config = base.get_config()
    assert settings.read_training(config) == TrainingSettings(DataSettings(), config=config.to_dict())
    assert settings.read_decoding(config) == BeamSettings(engine="greedy")
    assert settings.read_subtitles(config) == CueSettings()
    assert settings.read_streams(config) == StreamSettings()
    assert settings.read_recording(config) == RecordingSettings()
    assert settings.read_utterances(config) == UtteranceSettings()
