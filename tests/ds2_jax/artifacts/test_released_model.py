"""The models in the repository: small, readable, and as good as their cards say."""

import json
import re
from pathlib import Path

import pytest

from ds2_jax.artifacts.bundle import load_bundle
from ds2_jax.artifacts.load import resolve_model
from ds2_jax.cli.export import count_parameters
from ds2_jax.recognition import decode_settings
from tests.decoding.engines import needs_native
from tests.runs import ROOT, run_main, slow

BUNDLE = ROOT / "models" / "an4"
TUNED = ROOT / "models" / "an4_tuned"
ENGLISH = ROOT / "models" / "en"
ROUNDING = 0.0001  # the card states percentages with two decimals


def card_value(bundle: Path, name: str, engine: str) -> float:
    """Read a value from a card's two result tables, greedy and native, such as `| WER | 10.35 % |`."""
    values = re.findall(rf"^\| {name} \| ([\d.]+) %", (bundle / "README.md").read_text(), re.MULTILINE)
    return float(values[["greedy", "native"].index(engine)]) / 100


def evaluate(manifest, engine: str, bundle: Path = BUNDLE) -> dict:
    options = [f"--config.data.test={manifest}", f"--config.decode.engine={engine}"]
    result = run_main("--mode=eval", f"--config.restore={bundle}", *options)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def test_it_is_small_and_complete():
    assert sum(file.stat().st_size for file in BUNDLE.iterdir()) < 12_000_000
    meta, variables = load_bundle(BUNDLE)
    assert count_parameters(variables["params"]) < 6_000_000
    assert meta.stats is not None
    assert " " in meta.vocabulary.symbols


def test_it_transcribes_clips_from_its_training_set(clips):
    assert evaluate(clips, "greedy")["wer"] < 0.1


@pytest.mark.parametrize(
    ("bundle", "engine"),
    [
        slow(BUNDLE, "greedy"),
        pytest.param(BUNDLE, "native", marks=needs_native),
        slow(TUNED, "greedy"),
        slow(TUNED, "native"),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_it_reaches_the_error_rates_of_its_card_on_the_official_test(speech, bundle, engine):
    result = evaluate(speech / "an4" / "test.jsonl", engine, bundle)
    assert result["utterances"] == 130
    assert result["wer"] == pytest.approx(card_value(bundle, "WER", engine), abs=ROUNDING)
    assert result["cer"] == pytest.approx(card_value(bundle, "CER", engine), abs=ROUNDING)


def test_english_is_small():
    assert sum(file.stat().st_size for file in ENGLISH.iterdir() if file.name != "README.md") <= 25_000_000


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["greedy", pytest.param("native", marks=needs_native)])
def test_english_reaches_the_error_rates_of_its_card_on_dev(speech, engine):
    card = (ENGLISH / "README.md").read_text()
    rates = re.search(
        r"^\| LibriSpeech.*?\| ([\d.]+) % .*?\| ([\d.]+) % \| ([\d.]+) % .*?\| ([\d.]+) % \|$", card, re.MULTILINE
    )
    assert rates
    wer, cer = rates.groups()[:2] if engine == "greedy" else rates.groups()[2:]
    result = evaluate(speech / "librispeech_mini" / "dev.jsonl", engine, ENGLISH)
    assert result["wer"] == pytest.approx(float(wer) / 100, abs=ROUNDING)
    assert result["cer"] == pytest.approx(float(cer) / 100, abs=ROUNDING)


@pytest.mark.parametrize("name", ["an4", "models/an4", "models/an4/"])
def test_its_name_refers_to_it_if_no_such_folder_exists(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    packaged = Path(resolve_model(name))
    assert packaged.samefile(BUNDLE)
    assert Path(decode_settings.complete({}, name).lm).parent == packaged
    (tmp_path / name).mkdir(parents=True)
    assert resolve_model(name) == name
    assert decode_settings.complete({}, name).lm == ""


@pytest.mark.parametrize("path", ["", "runs/an4", "an5", "gs://bucket/an4", "../an4", "models"])
def test_other_paths_are_not_changed(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resolve_model(path) == path
