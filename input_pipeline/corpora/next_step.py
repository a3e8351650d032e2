"""Commands to run after a corpus is prepared, ready to be copied."""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

# A checkout has main.py beside the package; an installed package has the command ds2 instead.
PROGRAM = ("python", "main.py") if Path(__file__).parents[2].joinpath("main.py").is_file() else ("ds2",)


AN4_HOURS = 88  # the recipe an4 hears this much audio: 160 epochs of 0.55 hours


def settings_for(hours: float) -> tuple[str, list[str]]:
    """Return a recipe and the options to start with for these hours of training speech (docs/your_data.md)."""
    if hours >= 50:
        return "configs/librispeech_100.py", []
    if hours >= 10:
        return "configs/ljspeech.py", []
    epochs = min(160, round(AN4_HOURS / max(hours, 0.1)))
    options = [f"--config.train.epochs={epochs}"]
    if hours < 2:  # each is compiled before the first step
        options.append("--config.batch.buckets=6")
    return "configs/an4.py", options


def train(recipe: str, folder: Path, splits: Sequence[str] = ("train",), dev: str = "dev", test: str = "test") -> str:
    """Return the command that trains with a recipe on manifests of a folder; dev or test '' disables the recipe's."""
    manifests = {"train": ",".join(f"{folder / name}.jsonl" for name in splits)}
    manifests |= {split: f"{folder / name}.jsonl" if name else "" for split, name in (("dev", dev), ("test", test))}
    options = [f"--config.data.{split}={paths}" for split, paths in manifests.items()]
    return shlex.join([*PROGRAM, f"--config={recipe}", f"--workdir=runs/{folder.name}", *options])


def language_option(language: str, of_recipe: str) -> str:
    """Return the option that sets a language, '' if it is that of the recipe."""
    return "" if language.partition("-")[0] == of_recipe else f" --config.text.language={language}"


def evaluate(test: Path, *options: str) -> str:
    """Return the command that evaluates a model on a manifest."""
    return shlex.join([*PROGRAM, "--mode=eval", *options, "--config.restore=MODEL", f"--config.data.test={test}"])


def check(path: Path) -> str:
    """Return the command that checks every clip of a manifest."""
    return shlex.join(["python", "-m", "input_pipeline.manifest", "check", str(path)])


def add_noise(path: Path) -> str:
    """Return an entry of the augmentation file that adds noise from a manifest."""
    return _entry("noise", {"min_snr_dB": 10, "max_snr_dB": 30, "noise_manifest_path": str(path)})


def add_rooms(path: Path) -> str:
    """Return an entry of the augmentation file that adds the reverberation of rooms from a manifest."""
    return _entry("impulse", {"impulse_manifest_path": str(path)})


def _entry(kind: str, params: dict) -> str:
    entry = json.dumps({"type": kind, "params": params, "prob": 0.5}, ensure_ascii=False)
    return f"add to the file of --config.augment.file: {entry}"
