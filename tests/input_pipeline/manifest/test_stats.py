"""Feature statistics: exact, the same for any number of workers, patient with a few bad clips."""

import json

import numpy as np
import pytest
import soundfile

from input_pipeline import audio, manifest
from input_pipeline.audio.features import FeatureSettings, extract
from input_pipeline.audio.front_end import FeatureStats
from input_pipeline.manifest.stats import STD_FLOOR, StatsError, compute, main

SETTINGS = FeatureSettings(kind="fbank", mel_bins=12)


def audio_of(path) -> manifest.Segments:
    return manifest.read(path).clips


def test_mean_and_std_are_those_of_all_frames(clips, caplog):
    frames = np.concatenate([extract(audio.read(p, 16000)[0], SETTINGS) for p in manifest.read(clips).audio]).astype(
        float
    )
    stats = compute(audio_of(clips), SETTINGS)
    np.testing.assert_allclose(stats.mean, frames.mean(0), rtol=1e-5)
    np.testing.assert_allclose(stats.std, frames.std(0), rtol=1e-5)
    assert not caplog.messages


def make_corpus(folder, clips: int) -> str:
    rng = np.random.default_rng(0)
    lines = []
    for i in range(clips):
        soundfile.write(folder / f"{i}.wav", rng.normal(0, 0.1, 800), 16000)
        lines.append({"audio_filepath": f"{i}.wav", "duration": 0.05, "text": "a"})
    path = folder / "m.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def test_threads_and_processes_give_the_same_bits(tmp_path):
    path = make_corpus(tmp_path, 310)  # above the number from which processes are used
    one, two = compute(audio_of(path), SETTINGS, workers=1), compute(audio_of(path), SETTINGS, workers=2)
    np.testing.assert_array_equal(one.mean, two.mean)
    np.testing.assert_array_equal(one.std, two.std)


def test_a_sample_is_drawn_by_the_seed(tmp_path):
    path = make_corpus(tmp_path, 30)
    first, again, other = (compute(audio_of(path), SETTINGS, num_samples=5, seed=seed).mean for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0


def test_no_clip_is_drawn_twice(tmp_path):
    path = make_corpus(tmp_path, 3)
    alone = [extract(audio.read(p, 16000)[0], SETTINGS).mean(axis=0) for p in manifest.read(path).audio]
    pairs = [(alone[i] + alone[j]) / 2 for i, j in ((0, 1), (0, 2), (1, 2))]
    for seed in range(10):
        drawn = compute(audio_of(path), SETTINGS, num_samples=2, seed=seed).mean
        assert min(np.abs(drawn - pair).max() for pair in pairs) < 1e-4


def test_few_bad_clips_are_left_out_and_many_stop(tmp_path, caplog):
    path = make_corpus(tmp_path, 40)
    good = compute(audio_of(path), SETTINGS)
    (tmp_path / "0.wav").write_bytes(b"")
    np.testing.assert_allclose(compute(audio_of(path), SETTINGS).mean, good.mean, atol=0.05)
    assert "0.wav" in caplog.text
    for i in range(1, 5):
        (tmp_path / f"{i}.wav").unlink()
    with pytest.raises(StatsError, match="5 of 40"):
        compute(audio_of(path), SETTINGS)


def test_empty_features_of_upsampled_clips_are_not_blown_up(tmp_path, caplog):
    path = make_corpus(tmp_path, 3)
    soundfile.write(tmp_path / "0.wav", np.random.default_rng(1).normal(0, 0.1, 4000), 8000)
    stats = compute(audio_of(path), FeatureSettings())
    for i in (1, 2):
        soundfile.write(tmp_path / f"{i}.wav", np.random.default_rng(i).normal(0, 0.1, 4000), 8000)
    alone = compute(audio_of(path), FeatureSettings())
    hardly = (alone.std == np.float32(STD_FLOOR)).sum()
    assert f"{hardly} of 161 features hardly vary over 3 clips" in caplog.text
    assert alone.std.min() == np.float32(STD_FLOOR) < stats.std.min()


def test_numbers_that_cannot_be_are_refused(clips):
    with pytest.raises(StatsError, match="num_samples is 0"):
        compute(audio_of(clips), SETTINGS, num_samples=0)
    with pytest.raises(StatsError, match="workers -1"):
        compute(audio_of(clips), SETTINGS, workers=-1)


def test_the_command_looks_for_the_output_folder_before_it_starts(tmp_path, capsys):
    assert main(["nowhere.jsonl", f"--output={tmp_path}/absent/stats.npz"]) == 1
    assert "absent is not a folder" in capsys.readouterr().err


def test_the_command_takes_booleans_by_name(clips, tmp_path):
    out = str(tmp_path / "stats.npz")
    assert main([str(clips), f"--output={out}", "--normalise_db=False"]) == 0
    expected = compute(audio_of(clips), FeatureSettings(normalise_db=False))
    np.testing.assert_array_equal(FeatureStats.load(out).mean, expected.mean)
    with pytest.raises(SystemExit, match="2"):
        main([str(clips), f"--output={out}", "--normalise_db=perhaps"])


def test_the_command_writes_what_compute_gives(clips, tmp_path, capsys):
    out = str(tmp_path / "stats.npz")
    assert main([str(clips), f"--output={out}", "--kind=fbank", "--mel_bins=12"]) == 0
    np.testing.assert_array_equal(FeatureStats.load(out).mean, compute(audio_of(clips), SETTINGS).mean)
    assert main(["nowhere.jsonl", f"--output={out}"]) == 1
    assert "nowhere.jsonl" in capsys.readouterr().err


def test_the_command_warns_of_clips_below_the_rate(tmp_path, caplog):
    path = make_corpus(tmp_path, 3)
    assert main([path, f"--output={tmp_path / 'stats.npz'}", "--sample_rate_hz=16000"]) == 0
    assert "upsampled" not in caplog.text
    assert main([path, f"--output={tmp_path / 'stats.npz'}", "--sample_rate_hz=32000"]) == 0
    assert "3 of 3 clips checked were recorded below the model's 32000 Hz and are upsampled" in caplog.text
