"""The synthetic corpus: its plan, and its speech."""

import hashlib
import itertools
import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from input_pipeline.corpora import prepare, synthetic

HELD_OUT = ("dev", "test", "test_voices")


def words(utterances) -> Counter:
    """Count words, or characters in Mandarin."""
    return Counter(word for u in utterances for word in (u.text.split() if u.text.isascii() else u.text))


def few_of_each(language: str, count: int) -> dict[str, list[synthetic.Utterance]]:
    return {name: split[:count] for name, split in synthetic.plan(language, 10, seed=3).items()}


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def spoken(tmp_path_factory) -> tuple[Path, dict[str, list[dict]]]:
    """Write a small corpus with both languages, in two processes."""
    folder = tmp_path_factory.mktemp("spoken")
    splits = few_of_each("en", 4)
    splits["test"] = few_of_each("zh", 4)["test"]
    return folder, synthetic.write_corpus(splits, folder, workers=2)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_no_sentence_is_in_two_splits(language):
    splits = synthetic.plan(language, 1000, seed=0)
    sentences = {name: {u.text for u in split} for name, split in splits.items()}
    for one, other in itertools.combinations(sentences, 2):
        assert not sentences[one] & sentences[other], (one, other)
    for name in HELD_OUT:
        assert len(sentences[name]) == len(splits[name]), f"{name} repeats a sentence"


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_word_occurs_often_in_train(language):
    splits = synthetic.plan(language, 1000, seed=0)
    train = words(splits["train"])
    assert 40 <= len(train) <= 60
    assert min(train.values()) >= 30, train.most_common()[-3:]
    for name in HELD_OUT:
        assert set(words(splits[name])) <= set(train)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_test_has_the_voices_of_train_and_test_voices_has_none_of_them(language):
    voices = {name: {u.voice for u in split} for name, split in synthetic.plan(language, 1000, seed=0).items()}
    assert voices["test"] <= voices["train"]
    assert voices["dev"] <= voices["train"]
    assert not voices["test_voices"] & voices["train"]
    timbres = {name: {voice.partition("+")[2] for voice in split} for name, split in voices.items()}
    assert not timbres["test_voices"] & timbres["train"]


def test_text_is_lower_case_and_only_english_has_spaces():
    assert all(set(u.text) <= set("abcdefghijklmnopqrstuvwxyz ") for u in synthetic.plan("en", 500, 1)["train"])
    assert all("\u4e00" <= c <= "\u9fff" for u in synthetic.plan("zh", 500, 1)["train"] for c in u.text)


def test_the_plan_depends_on_seed_and_size_and_held_out_splits_only_on_the_seed():
    plan = synthetic.plan("en", 50, seed=5)
    assert plan == synthetic.plan("en", 50, seed=5)
    assert plan["train"] != synthetic.plan("en", 50, seed=6)["train"]
    longer = synthetic.plan("en", 70, seed=5)
    assert longer["train"][:50] == plan["train"]
    assert all(longer[name] == plan[name] for name in HELD_OUT)


def test_two_runs_write_the_same_bytes_for_any_number_of_workers(tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic, "CHUNK", 6)  # several chunks per split, so that the order of workers could matter
    splits = {"train": synthetic.plan("en", 16, seed=2)["train"], "dev": few_of_each("zh", 3)["dev"]}
    for run, workers in (("one", 1), ("two", 2)):
        synthetic.write_corpus(splits, tmp_path / run, workers)
    assert len(digests(tmp_path / "one")) == 16 + 3 + 2
    assert digests(tmp_path / "one") == digests(tmp_path / "two")


def test_audio_matches_the_manifest(spoken):
    folder, manifests = spoken
    for name, records in manifests.items():
        lines = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
        assert lines == records
        assert len(lines) == 4
        for line in lines:
            info = soundfile.info(folder / line["audio_filepath"])
            assert (info.format, info.subtype, info.samplerate, info.channels) == ("FLAC", "PCM_16", 16_000, 1)
            assert info.duration == pytest.approx(line["duration"], abs=0.0006)
            assert 0.8 < line["duration"] < 4.5


def test_audio_is_loud_unclipped_and_syllabic(spoken):
    folder, manifests = spoken
    for record in itertools.chain.from_iterable(manifests.values()):
        samples, _ = soundfile.read(folder / record["audio_filepath"], dtype="float32")
        assert 0.25 < np.abs(samples).max() < 0.95
        frames = samples[: len(samples) // 160 * 160].reshape(-1, 160)
        level_db = 20 * np.log10(np.sqrt((frames**2).mean(axis=1)))
        assert np.ptp(level_db) > 25, "speech has pauses"
        spectrum = np.abs(np.fft.rfft(samples)) ** 2
        hz = np.fft.rfftfreq(len(samples), 1 / 16_000)
        assert spectrum[hz < 4000].sum() > 0.8 * spectrum.sum(), "speech is strongest below 4 kHz"


def test_voice_rate_and_pitch_change_the_audio(tmp_path):
    base = synthetic.Utterance("", "call anna now please", "en-us+m1", 170, 50, 0)
    changed = [
        base,
        replace(base, voice="en-gb-scotland+f4"),
        replace(base, words_per_minute=145),
        replace(base, pitch=65),
    ]
    utterances = [replace(u, audio_filepath=f"audio/train/{number}.flac") for number, u in enumerate(changed)]
    records = synthetic.write_corpus({"train": utterances}, tmp_path, workers=1)["train"]
    assert len(set(digests(tmp_path / "audio").values())) == len(changed)
    assert records[2]["duration"] > records[0]["duration"] * 1.05


def test_the_error_for_an_unknown_timbre_names_it(tmp_path):
    bad = synthetic.Utterance("audio/train/0.flac", "go", "en-us+nobody", 170, 50, 0)
    with pytest.raises(synthetic.SyntheticCorpusError, match=r"no voice 'en-us\+nobody'"):
        synthetic.write_corpus({"train": [bad]}, tmp_path, workers=1)


def test_the_command_writes_all_splits_and_prints_the_next_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(synthetic, "HELD_OUT", {"dev": 3, "test": 4, "test_voices": 5})
    arguments = ["synthetic", f"--target_dir={tmp_path / 'zh'}", "--language=zh", "--utterances=6", "--workers=2"]
    assert prepare.main(arguments) == 0
    counts = {path.stem: len(path.read_text().splitlines()) for path in (tmp_path / "zh").glob("*.jsonl")}
    assert counts == {"train": 6, "dev": 3, "test": 4, "test_voices": 5}
    out = capsys.readouterr().out
    assert f"--config=configs/tiny_mandarin.py --workdir=runs/zh --config.data.train={tmp_path}/zh/train.jsonl" in out


def test_the_error_without_espeak_says_how_to_install_it(tmp_path):
    hide = "import sys; sys.modules['espeakng_loader'] = None; from input_pipeline.corpora import prepare; "
    code = hide + f"sys.exit(prepare.main(['synthetic', '--target_dir={tmp_path}/x']))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "pip install espeakng-loader" in run.stderr
    assert run.stderr.count("\n") == 1
    assert not (tmp_path / "x").exists()


def test_zero_utterances_are_refused(tmp_path, capsys):
    assert prepare.main(["synthetic", f"--target_dir={tmp_path}", "--utterances=0"]) == 1
    assert "--utterances=0" in capsys.readouterr().err
