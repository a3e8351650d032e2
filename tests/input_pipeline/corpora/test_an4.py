"""AN4 from an archive with the published layout, with noise in real SPHERE files."""

import os
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from input_pipeline.corpora import an4, prepare
from tests import corpus_archives

SPEECH_DATA = os.environ.get("DS2_SPEECH_DATA")

# speaker, utterance, text, in the order of the file lists
TRAIN = [
    ("fash", "an251-fash-b", "YES"),
    ("fash", "cen1-fash-b", "S C H M I D T"),
    ("mcsc", "an101-mcsc-b", "ENTER SIX TWO"),  # a speaker of dev
]
TEST = [("fcaw", "an406-fcaw-b", "RUBOUT G M E F THREE NINE"), ("mmxg", "an60-mmxg-b", "GO")]


def sound(utterance: str) -> np.ndarray:
    """Return samples [N] i16 whose length and content depend on the utterance."""
    seed = sum(utterance.encode())
    return np.random.default_rng(seed).integers(-9000, 9000, size=4000 + seed, dtype=np.int16)


@pytest.fixture
def distribution(tmp_path) -> Path:
    """Write a distribution to tmp_path/site/an4: transcripts of train with sentence marks, of test without."""
    root = tmp_path / "site" / "an4"
    (root / "etc").mkdir(parents=True)
    for part, folder, rows, line in (
        ("train", "an4_clstk", TRAIN, "<s> {} </s> ({})\n"),
        ("test", "an4test_clstk", TEST, "{} ({})\n"),
    ):
        (root / "etc" / f"an4_{part}.transcription").write_text("".join(line.format(t, u) for _, u, t in rows))
        (root / "etc" / f"an4_{part}.fileids").write_text("".join(f"{folder}/{s}/{u}\n" for s, u, _ in rows))
        for speaker, utterance, _ in rows:
            path = root / "wav" / folder / speaker / f"{utterance}.sph"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, sound(utterance), 16_000, format="NIST", subtype="PCM_16", endian="BIG")
    return root


@pytest.fixture
def url(distribution):
    """Pack the distribution and serve it locally."""
    site = distribution.parent
    with tarfile.open(site / an4.ARCHIVE.name, "w:gz") as tar:
        tar.add(distribution, "an4")
    with corpus_archives.serve(site) as address:
        yield f"{address}/{an4.ARCHIVE.name}"


def test_the_command_downloads_converts_and_prints_the_next_step(url, tmp_path, capsys):
    target = tmp_path / "an4"
    assert prepare.main(["an4", f"--target_dir={target}", f"--url={url}"]) == 0
    assert sorted(path.name for path in target.iterdir()) == [
        "an4_sphere", "an4_sphere.tar.gz", "audio", "dev.jsonl", "test.jsonl", "train.jsonl"
    ]  # fmt: skip
    assert corpus_archives.read_manifest(target / "test.jsonl")[0] == {
        "audio_filepath": "audio/fcaw/an406-fcaw-b.flac",
        "duration": round(len(sound("an406-fcaw-b")) / 16_000, 3),
        "text": "rubout g m e f three nine",
        "speaker": "fcaw",
        "sample_rate": 16_000,
    }
    out = capsys.readouterr().out
    assert "no digest is known, only the size is verified" in out
    assert prepare.main(["an4", f"--target_dir={target}", f"--url={url}"]) == 0
    assert f"{target}/an4_sphere: already unpacked" in capsys.readouterr().out
    assert "train: 3 transcripts and 3 audio files, officially 948" in out
    assert f"--config=configs/an4.py --workdir=runs/an4 --config.data.train={target}/train.jsonl" in out


def test_flac_files_have_exactly_the_samples_of_the_sphere_files(distribution, tmp_path):
    an4.convert(distribution, tmp_path / "an4", workers=2)
    for speaker, utterance, _ in TRAIN + TEST:
        samples, rate = soundfile.read(tmp_path / "an4" / "audio" / speaker / f"{utterance}.flac", dtype="int16")
        assert rate == 16_000
        np.testing.assert_array_equal(samples, sound(utterance))


def test_dev_speakers_are_removed_from_train_and_test_is_the_official_set(distribution, tmp_path):
    splits = an4.convert(distribution, tmp_path / "an4", workers=1)
    texts = {name: [record["text"] for record in records] for name, records in splits.items()}
    assert texts == {
        "train": ["yes", "s c h m i d t"],
        "dev": ["enter six two"],
        "test": ["rubout g m e f three nine", "go"],
    }


@pytest.mark.parametrize("below", ["", "an4"], ids=["above the distribution", "the distribution itself"])
def test_the_source_may_be_an_unpacked_distribution_which_is_kept(distribution, tmp_path, below):
    source = distribution.parent / below
    target = tmp_path / "target"
    assert prepare.main(["an4", f"--source={source}", f"--target_dir={target}"]) == 0
    assert len(corpus_archives.read_manifest(target / "train.jsonl")) == 2
    assert (distribution / "wav").is_dir()


def test_the_source_may_be_a_folder_with_the_archive(url, distribution, tmp_path):
    alone = tmp_path / "alone"
    alone.mkdir()
    (distribution.parent / an4.ARCHIVE.name).rename(alone / an4.ARCHIVE.name)
    assert prepare.main(["an4", f"--source={alone}", f"--target_dir={tmp_path / 'target'}"]) == 0
    assert [path.name for path in alone.iterdir()] == [an4.ARCHIVE.name]


def test_missing_and_broken_utterances_are_reported_and_skipped(distribution, tmp_path, capsys):
    wav = distribution / "wav"
    (wav / "an4_clstk" / "fash" / "an251-fash-b.sph").unlink()
    broken = wav / "an4test_clstk" / "mmxg" / "an60-mmxg-b.sph"
    broken.write_bytes(broken.read_bytes()[:2000])
    with (distribution / "etc" / "an4_test.transcription").open("a") as file:
        file.write("NOBODY (an1-nobody-b)\n")
    with (distribution / "etc" / "an4_train.fileids").open("a") as file:
        file.write("an4_clstk/fash/an9-fash-b\n")
    with (distribution / "etc" / "an4_train.transcription").open("a") as file:
        file.write("<s> ONE </s> (an9-fash-b)\n<s> TWO </s> (an9-fash-b)\n")
    splits = an4.convert(distribution, tmp_path / "an4", workers=2)
    assert [len(records) for records in splits.values()] == [1, 1, 1]
    out = capsys.readouterr().out
    assert "skipped 2 (no audio file): an4_clstk/fash/an251-fash-b, an4_clstk/fash/an9-fash-b" in out
    assert "skipped 1 (several different transcripts): an9-fash-b" in out
    assert "skipped 1 (no transcript): an4_clstk/fash/an9-fash-b" in out
    assert "skipped 1 (transcript not in the list of files): an1-nobody-b" in out
    assert re.search(r"skipped 1 \(unreadable\): \S*/an60-mmxg-b.sph is truncated", out)


def test_an_invalid_transcript_is_reported_with_its_line_number(distribution, tmp_path, capsys):
    path = distribution / "etc" / "an4_train.transcription"
    path.write_text("<s> YES </s> (an251-fash-b)\nYES an251\n")
    assert prepare.main(["an4", f"--source={distribution}", f"--target_dir={tmp_path / 'x'}"]) == 1
    assert f"{path}:2: 'YES an251' is not" in capsys.readouterr().err


def test_a_source_without_an4_is_refused_in_one_line(tmp_path, capsys):
    assert prepare.main(["an4", f"--source={tmp_path}", f"--target_dir={tmp_path / 'x'}"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "contains neither an4_sphere.tar.gz nor etc/an4_train.fileids" in error


def test_a_target_that_is_a_file_is_refused_in_one_line(distribution, tmp_path, capsys):
    (tmp_path / "file").write_bytes(b"")
    assert prepare.main(["an4", f"--source={distribution}", f"--target_dir={tmp_path / 'file'}"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "choose a folder that can be written with --target_dir" in error


@pytest.mark.skipif(SPEECH_DATA is None, reason="needs AN4 in DS2_SPEECH_DATA")
def test_dev_speakers_are_those_of_the_real_corpus():
    records = corpus_archives.read_manifest(Path(str(SPEECH_DATA)) / "an4" / "dev.jsonl")
    assert {record["speaker"] for record in records} == an4.DEV_SPEAKERS
