"""Speed, noise and SpecAugment against the original's figures, and the draws and errors of the JSON file."""

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from input_pipeline import audio, augment
from input_pipeline.augment import Augmentation, AugmentationError, audio_effects, feature_effects
from input_pipeline.augment.audio_effects import ImpulseResponse, NoiseClip
from input_pipeline.augment.clip_cache import ClipCache

RATE_HZ = 16000
ANCHOR_TOLERANCE = 1e-6  # the original's figures have six decimals
SPEED: dict[str, Any] = {"type": "speed", "params": {"min_speed_rate": 0.8, "max_speed_rate": 1.25}, "prob": 1.0}
MASK_PARAMS = {"n_freq_masks": 2, "F": 4, "n_time_masks": 1, "T": 9, "p": 0.1}
MASKS: dict[str, Any] = {"type": "specaugment", "params": MASK_PARAMS, "prob": 1.0}
DEFAULT_FILE = Path(__file__).parents[1] / "configs" / "augmentation.json"


def tone(n: int) -> np.ndarray:
    """The signal of which the original's figures are known."""
    time = np.arange(n) / RATE_HZ
    return (0.1 * np.sin(2 * np.pi * 440 * time) + 0.01 * np.sin(2 * np.pi * 3000 * time)).astype(np.float32)


def hiss(n: int, seed: int = 0, level: float = 0.1) -> np.ndarray:
    return (level * np.random.default_rng(seed).standard_normal(n)).astype(np.float32)


def write_config(folder: Path, *entries: dict, name: str = "augmentation.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(entries))
    return path


def write_noise(folder: Path, clips: dict[str, np.ndarray]) -> Path:
    lines = []
    for name, samples in clips.items():
        soundfile.write(folder / name, samples, RATE_HZ, subtype="FLOAT")
        lines.append(json.dumps({"audio_filepath": name, "duration": len(samples) / RATE_HZ}))
    path = folder / "noise.jsonl"
    path.write_text("\n".join(lines))
    return path


def noise_entry(path: str | Path = "noise.jsonl", low: float = 10.0, high: float = 20.0) -> dict:
    params = {"min_snr_dB": low, "max_snr_dB": high, "noise_manifest_path": str(path)}
    return {"type": "noise", "params": params, "prob": 1.0}


def test_speed_gives_the_figures_of_the_original():
    expected = [0.0, 0.032652, 0.045037, 0.059020, 0.087165, 0.102133, 0.093955, 0.090749]
    np.testing.assert_allclose(audio_effects.change_speed(tone(10), 1.25), expected, atol=ANCHOR_TOLERANCE)


@pytest.mark.parametrize(("n", "rate"), [(1, 1.9), (2, 0.5), (8191, 0.93), (20000, 1.07), (8192, 2.0)])
def test_speed_is_linear_interpolation_over_the_whole_clip(n, rate):
    samples = hiss(n)
    changed = audio_effects.change_speed(samples, rate)
    expected = np.interp(np.linspace(0, n, len(changed)), np.arange(n), samples)
    assert changed.dtype == np.float32
    np.testing.assert_allclose(changed, expected, atol=ANCHOR_TOLERANCE)


def test_speed_length_is_the_length_that_comes_out():
    n = np.array([1, 2, 7, 160, 16001])
    rate = np.array([1.3, 0.7, 1.0, 0.9, 1.1])
    made = [len(audio_effects.change_speed(hiss(count), one)) for count, one in zip(n, rate, strict=True)]
    assert audio_effects.speed_length(n, rate).tolist() == made
    assert int(audio_effects.speed_length(16000, 0.9)) == int(16000 / 0.9)


def test_speed_one_changes_nothing_and_absurd_rates_are_refused():
    samples = tone(100)
    assert audio_effects.change_speed(samples, 1.0) is samples
    with pytest.raises(AugmentationError, match=r"0\.5 to 2"):
        audio_effects.change_speed(samples, 2.5)


@pytest.mark.parametrize("noise_length", [3000, 8000, 50000])
def test_noise_has_the_asked_ratio_to_the_speech(noise_length):
    speech = tone(8000)
    added = audio_effects.add_noise(speech, NoiseClip.of(hiss(noise_length)), 15.0, 0.9) - speech
    ratio_db = audio.rms_db(speech) - audio.rms_db(added)
    assert ratio_db == pytest.approx(15.0, abs=0.5)  # the level is the whole clip's, not the piece's
    assert audio.rms_db(tone(8000)) == pytest.approx(-22.967089, abs=1e-5)


def test_repeated_noise_has_no_click_at_the_joint():
    slow = np.cos(np.linspace(0.0, 9.0, 4000, dtype=np.float32))  # ends far from where it starts
    loop = np.tile(audio_effects.loop_noise(slow, 800), 3)
    assert np.abs(slow[0] - slow[-1]) > 1.0
    assert np.abs(np.diff(loop)).max() < 0.01
    assert len(audio_effects.loop_noise(slow[:1], 800)) == 1


def test_silent_noise_is_an_error_and_silent_speech_stays_silent():
    with pytest.raises(AugmentationError, match="silent"):
        NoiseClip.of(np.zeros(500, np.float32))
    assert not audio_effects.add_noise(np.zeros(100, np.float32), NoiseClip.of(hiss(500)), 10.0, 0.5).any()


def test_masks_stay_within_their_widths_and_set_the_mean():
    features = hiss(200 * 30).reshape(200, 30) + 5.0
    widest_band = widest_time = 0
    for utterance in range(200):
        masked = feature_effects.mask_spectrogram(features, augment.rng_for(0, 0, utterance), 1, 4, 1, 50, 0.1)
        bands, times = (masked == 0).all(axis=0), (masked == 0).all(axis=1)
        assert np.array_equal(masked[~times][:, ~bands], features[~times][:, ~bands])
        widest_band, widest_time = max(widest_band, bands.sum()), max(widest_time, times.sum())
    assert (widest_band, widest_time) == (4, 20)  # 20 = a tenth of the frames, below T = 50
    assert features.min() > 0.0  # the input is not written to


def test_masks_fit_spectrograms_smaller_than_themselves():
    masked = feature_effects.mask_spectrogram(
        np.ones((1, 2), np.float32), augment.rng_for(0, 0, 0), 3, 100, 3, 100, 1.0
    )
    assert masked.shape == (1, 2)


def test_speed_rates_do_not_depend_on_anything_but_seed_epoch_and_copy(tmp_path):
    loaded = Augmentation.load(write_config(tmp_path, SPEED), RATE_HZ)
    rates = loaded.speed_rates(1000, seed=3, epoch=5)
    assert np.array_equal(rates, pickle.loads(pickle.dumps(loaded)).speed_rates(1000, seed=3, epoch=5))
    assert rates.min() >= 0.8
    assert rates.max() <= 1.25
    for other in ({"seed": 4, "epoch": 5}, {"seed": 3, "epoch": 6}, {"seed": 3, "epoch": 5, "copy": 1}):
        assert not np.isclose(rates, loaded.speed_rates(1000, **other)).mean() > 0.05


def test_speed_is_skipped_as_often_as_prob_says_and_several_multiply(tmp_path):
    half = {**SPEED, "prob": 0.5}
    rates = Augmentation.load(write_config(tmp_path, half), RATE_HZ).speed_rates(4000, 0, 0)
    assert (rates == 1.0).mean() == pytest.approx(0.5, abs=0.04)
    twice = Augmentation.load(write_config(tmp_path, half, MASKS, SPEED), RATE_HZ)
    assert twice.stretch_limits == pytest.approx((1 / 1.25**2, 1 / 0.8**2))
    assert twice.speed_rates(4000, 0, 0).max() > 1.3


def test_the_length_after_augmentation_is_the_planned_one(tmp_path):
    loaded = Augmentation.load(write_config(tmp_path, SPEED, MASKS), RATE_HZ)
    for row, rate in enumerate(loaded.speed_rates(20, 0, 0)):
        changed = loaded.apply_audio(tone(5000), RATE_HZ, rate=rate, rng=augment.rng_for(0, 0, row))
        assert len(changed) == audio_effects.speed_length(5000, rate)


def test_draws_of_an_utterance_repeat_and_differ_between_epochs_and_copies(tmp_path):
    write_noise(tmp_path, {"a.wav": hiss(40000, 1), "b.wav": hiss(3000, 2)})
    loaded = Augmentation.load(write_config(tmp_path, noise_entry()), RATE_HZ)

    def run(*key: int) -> np.ndarray:
        return loaded.apply_audio(tone(8000), RATE_HZ, rate=1.0, rng=augment.rng_for(*key))

    assert np.array_equal(run(1, 2, 3), run(1, 2, 3))
    assert not any(np.array_equal(run(1, 2, 3), run(*key)) for key in [(1, 2, 4), (1, 3, 3), (1, 2, 3, 1)])


def test_noise_is_found_beside_the_json_file_then_in_the_working_directory(tmp_path, monkeypatch):
    for folder, level in (("config", 0.1), ("elsewhere", 0.2)):
        (tmp_path / folder).mkdir()
        write_noise(tmp_path / folder, {"a.wav": hiss(4000, level=level)})
    monkeypatch.chdir(tmp_path / "elsewhere")
    beside = Augmentation.load(write_config(tmp_path / "config", noise_entry()), RATE_HZ)
    from_here = Augmentation.load(write_config(tmp_path, noise_entry()), RATE_HZ)
    assert beside.entries[0].augmentor.clips.audio == [str(tmp_path / "config" / "a.wav")]
    assert os.path.samefile(from_here.entries[0].augmentor.clips.audio[0], tmp_path / "elsewhere" / "a.wav")


def test_silent_noise_is_named_with_its_line(tmp_path):
    write_noise(tmp_path, {"quiet.wav": np.zeros(4000, np.float32)})
    loaded = Augmentation.load(write_config(tmp_path, noise_entry()), RATE_HZ)
    with pytest.raises(AugmentationError, match=r"noise\.jsonl:1 \(quiet\.wav\).*silent"):
        loaded.apply_audio(tone(100), RATE_HZ, rate=1.0, rng=augment.rng_for(0, 0, 0))


def test_cache_gives_up_the_clip_used_longest_ago(tmp_path):
    write_noise(tmp_path, {name: hiss(1000) for name in ("a.wav", "b.wav", "c.wav")})
    cache = ClipCache(NoiseClip, limit_bytes=2 * 4000)
    first = {name: cache.read(str(tmp_path / name), RATE_HZ) for name in ("a.wav", "b.wav")}
    assert cache.read(str(tmp_path / "a.wav"), RATE_HZ) is first["a.wav"]
    cache.read(str(tmp_path / "c.wav"), RATE_HZ)
    assert cache.read(str(tmp_path / "a.wav"), RATE_HZ) is first["a.wav"]
    assert cache.read(str(tmp_path / "b.wav"), RATE_HZ) is not first["b.wav"]


@pytest.mark.parametrize("content", ["", "[]", "{}"])
def test_nothing_is_changed_without_augmentors(tmp_path, content):
    path = tmp_path / "none.json"
    path.write_text(content)
    loaded = Augmentation.load(path if content else "", RATE_HZ)
    samples, rng = tone(100), augment.rng_for(0, 0, 0)
    assert loaded.apply_audio(samples, RATE_HZ, rate=1.0, rng=rng) is samples
    assert loaded.apply_features(samples[None], rng).base is samples
    assert (loaded.speed_rates(3, 0, 0) == 1.0).all()
    assert (loaded.stretch_limits, loaded.describe()) == ((1.0, 1.0), "no augmentation")


def test_the_shipped_file_loads_and_masks():
    loaded = Augmentation.load(DEFAULT_FILE, RATE_HZ)
    masked = loaded.apply_features(np.ones((300, 161), np.float32), augment.rng_for(0, 0, 1))
    assert 0.0 < (masked == 0.0).mean() < 0.6
    assert [line.split(":")[0] for line in loaded.describe().splitlines()] == ["speed", "specaugment"]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({**SPEED, "type": "pitch"}, r"entry 2: unknown type 'pitch'; there are speed, noise, impulse, specaugment"),
        ({**SPEED, "prob": 1.5}, r"entry 2 \(speed\): 'prob' is 1\.5; it must be a number from 0 to 1"),
        ({**SPEED, "probability": 1}, r"unknown 'probability'; there are type, params, prob"),
        ({**SPEED, "params": {"min_speed_rate": 0.9}}, r"'max_speed_rate' is missing; .* from 0\.5 to 2"),
        ({**SPEED, "params": {"min_speed_rate": 0.1, "max_speed_rate": 1}}, r"'min_speed_rate' is 0\.1; .* 0\.5 to 2"),
        ({**SPEED, "params": {"min_speed_rate": 1.1, "max_speed_rate": 1}}, r"min_speed_rate 1\.1 is above"),
        (
            {**MASKS, "params": {**MASK_PARAMS, "W": 5}},
            r"unknown 'W'; there are n_freq_masks, F, n_time_masks, T, p",
        ),
        ({**MASKS, "params": {**MASK_PARAMS, "F": 2.5}}, r"'F' is 2\.5; it must be a whole number"),
        ({**MASKS, "params": [1]}, r"'params' is \[1\]"),
        ({"params": {}}, r"is not \{\"type\""),
        (noise_entry("gone.jsonl"), r"'noise_manifest_path' is 'gone\.jsonl', which is neither in"),
        (noise_entry(low=30.0), r"min_snr_dB 30 is above max_snr_dB 20"),
    ],
)
def test_errors_name_file_entry_parameter_and_range(tmp_path, entry, message):
    path = write_config(tmp_path, SPEED, entry)
    with pytest.raises(AugmentationError, match=message) as error:
        Augmentation.load(path, RATE_HZ)
    assert str(path) in str(error.value)


def test_files_that_are_no_augmentation_are_refused(tmp_path):
    (tmp_path / "broken.json").write_text("[{")
    (tmp_path / "object.json").write_text('{"type": "speed"}')
    for name, message in (("gone.json", "No such file"), ("broken.json", "JSON"), ("object.json", "must be a list")):
        with pytest.raises(AugmentationError, match=message):
            Augmentation.load(tmp_path / name, RATE_HZ)


def test_missing_and_overlong_noise_clips_are_named_at_the_start(tmp_path):
    write_noise(tmp_path, {"a.wav": hiss(100)})
    path = write_config(tmp_path, noise_entry())
    manifest_path = tmp_path / "noise.jsonl"
    manifest_path.write_text('{"audio_filepath": "a.wav", "duration": 5000}')
    with pytest.raises(AugmentationError, match=r"noise\.jsonl:1 \(a\.wav\) is longer than"):
        Augmentation.load(path, RATE_HZ)
    manifest_path.write_text('{"audio_filepath": "b.wav", "duration": 5}')
    with pytest.raises(AugmentationError, match=r"noise\.jsonl:1 \(b\.wav\) does not exist"):
        Augmentation.load(path, RATE_HZ)


@pytest.mark.parametrize(("n", "m"), [(40000, 300), (40000, 9000), (500, 9000), (1, 1), (16384, 8192)])
def test_a_room_is_convolution_cut_to_the_speech_at_its_level(n, m):
    speech, response = hiss(n), hiss(m, 1) * np.exp(-np.arange(m) / 200).astype(np.float32)
    response[m // 10] = 1.0  # the direct sound
    wet = audio_effects.reverberate(speech, ImpulseResponse.of(response))
    expected = np.convolve(speech.astype(np.float64), response)[m // 10 :][:n]
    expected *= 10 ** ((audio.rms_db(speech) - audio.rms_db(expected)) / 20)
    assert wet.dtype == np.float32
    np.testing.assert_allclose(wet, expected, atol=1e-5)


def test_silent_speech_and_silent_responses_have_no_room():
    room = ImpulseResponse.of(hiss(100))
    assert not audio_effects.reverberate(np.zeros(50, np.float32), room).any()
    assert len(audio_effects.reverberate(np.zeros(0, np.float32), room)) == 0
    with pytest.raises(AugmentationError, match="silent"):
        ImpulseResponse.of(np.zeros(100, np.float32))
