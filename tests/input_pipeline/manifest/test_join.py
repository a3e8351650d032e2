"""Joining clips: each once, within the limits, the same for the same seed, and exact durations in the manifest."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from input_pipeline import audio, manifest
from input_pipeline.manifest import join
from tests.signals import RATE_HZ, hiss


@pytest.fixture
def words(tmp_path) -> Path:
    """Forty short clips of two speakers, one of them at 8 kHz."""
    lines = []
    for index in range(40):
        speaker, rate = ("an", RATE_HZ) if index % 4 else ("bo", RATE_HZ // 2)
        samples = hiss(int((0.3 + 0.01 * index) * rate), index)
        samples[: rate // 10] *= 0.01  # its quietest part
        soundfile.write(tmp_path / f"{index}.flac", samples, rate)
        record = {"audio_filepath": f"{index}.flac", "duration": len(samples) / rate, "text": f"字{index}"}
        lines.append(json.dumps(record | {"speaker": speaker}))
    path = tmp_path / "words.jsonl"
    path.write_text("\n".join(lines))
    return path


def run(words: Path, output: Path, *options: str) -> manifest.Manifest:
    assert join.main([str(words), f"--output={output}", "--language=zh", *options]) == 0
    return manifest.read(output)


@pytest.mark.parametrize("copies", [1, 3])
def test_each_clip_is_used_once_a_copy_and_speakers_stay_apart(words, tmp_path, copies):
    joined = run(words, tmp_path / "out" / "train.jsonl", "--per=2..5", f"--copies={copies}")
    used = [clip for extra in joined.extra for clip in extra["clips"]]
    assert sorted(used) == sorted(copies * [f"{index}.flac" for index in range(40)])
    for row, extra in enumerate(joined.extra):
        indices = [int(clip.split(".")[0]) for clip in extra["clips"]]
        assert {"an" if index % 4 else "bo" for index in indices} == {joined.speaker(row)}
        assert joined.text[row] == "".join(f"字{index}" for index in indices)
        assert len(indices) <= 5
    sizes = [len(extra["clips"]) for extra in joined.extra]
    assert {2, 3, 4, 5} >= set(sorted(sizes)[2 * copies :])  # only the last of a speaker and copy may be smaller


def test_durations_are_those_of_the_files_and_pauses_within_their_limits(words, tmp_path):
    joined = run(words, tmp_path / "train.jsonl", "--per=1..4", "--pause_s=0.2..0.3")
    clips = manifest.read(words)
    for row, path in enumerate(joined.audio):
        samples, rate = audio.read(path)
        assert rate == RATE_HZ
        assert joined.duration[row] == pytest.approx(len(samples) / rate, abs=0.0006)
        parts = [clips.duration[int(clip.split(".")[0])] for clip in joined.extra[row]["clips"]]
        pauses = joined.duration[row] - sum(parts)
        assert 0.2 * (len(parts) - 1) - 0.01 <= pauses <= 0.3 * (len(parts) - 1) + 0.01


def test_pauses_are_as_quiet_as_the_clips_get():
    first, second = hiss(8000, 1, level=0.1), hiss(8000, 2, level=0.2)
    first[:1600] *= 0.01
    limits = join.Limits(shortest_pause_s=0.25, longest_pause_s=0.25)
    joined = join.join_samples([first, second], RATE_HZ, limits, np.random.default_rng(0))
    assert len(joined) == 8000 + 4000 + 8000
    assert np.array_equal(joined[:8000], first)
    assert np.array_equal(joined[12000:], second)
    assert audio.rms_db(joined[8000:12000]) == pytest.approx(-60, abs=1.5)
    silent = join.join_samples([np.zeros(500, np.float32)] * 2, RATE_HZ, limits, np.random.default_rng(0))
    assert audio.rms_db(silent[500:4500]) == pytest.approx(-80, abs=0.5)


def test_no_utterance_is_longer_than_asked(words, tmp_path):
    joined = run(words, tmp_path / "train.jsonl", "--per=6", "--max_s=1.5")
    assert joined.duration.max() <= 1.5
    assert len(joined) > 20


def test_a_seed_repeats_everything_whatever_the_workers(words, tmp_path):
    one = run(words, tmp_path / "a" / "train.jsonl", "--workers=1", "--copies=2")
    two = run(words, tmp_path / "b" / "train.jsonl", "--workers=4", "--copies=2")
    other = run(words, tmp_path / "c" / "train.jsonl", "--seed=1", "--copies=2")
    assert one.digest() == two.digest() != other.digest()
    assert all(Path(a).read_bytes() == Path(b).read_bytes() for a, b in zip(one.audio, two.audio, strict=True))
    halves = {tuple(sorted(extra["clips"])) for extra in one.extra[: len(one) // 2]}
    assert len(halves & {tuple(sorted(extra["clips"])) for extra in one.extra[len(one) // 2 :]}) < len(halves) / 2


def test_texts_join_as_the_language_writes_them():
    assert join.join_texts(["Turn ", "on"], "en") == "turn on"
    assert join.join_texts(["你好", "世界"], "zh") == "你好世界"
    assert join.join_texts(["ä", " B"], "none") == "ä B"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--per=0..3"], "--per=0..3: clips per utterance must satisfy"),
        (["--per=3..2"], "--per=3..2"),
        (["--pause_s=0.5..0.1"], "--pause_s=0.5..0.1"),
        (["--max_s=0"], "--max_s=0"),
        (["--copies=0"], "--copies"),
        (["--sample_rate_hz=700000"], "FLAC allows 1 to 655350"),
        (["--seed=-1"], "--seed=-1: must be 0 or more"),
    ],
)
def test_impossible_limits_are_refused(words, tmp_path, capsys, options, message):
    assert join.main([str(words), f"--output={tmp_path / 'x.jsonl'}", *options]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "x.jsonl").exists()


def test_the_manifest_is_never_overwritten_and_comes_last(words, tmp_path, capsys):
    before = words.read_bytes()
    assert join.main([str(words), f"--output={words}"]) == 1
    assert "which is read, and would be lost" in capsys.readouterr().err
    assert words.read_bytes() == before
    (tmp_path / "7.flac").write_bytes(b"broken")
    assert join.main([str(words), f"--output={tmp_path / 'out.jsonl'}"]) == 1
    assert "7.flac" in capsys.readouterr().err
    assert not (tmp_path / "out.jsonl").exists()


def test_audio_is_never_written_among_the_clips(words, tmp_path, capsys):
    assert join.main([str(words), f"--output={tmp_path}.jsonl"]) == 1
    assert "among the clips themselves" in capsys.readouterr().err


def test_a_word_for_a_number_is_wrong_usage(words, capsys):
    with pytest.raises(SystemExit):
        join.main([str(words), "--output=x.jsonl", "--per=many"])
    assert "neither a number nor a range" in capsys.readouterr().err
