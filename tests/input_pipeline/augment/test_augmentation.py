"""The JSON file of augmentors: order, probabilities and draws, and error messages."""

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from input_pipeline.augment import Augmentation, AugmentationError, audio_effects, rng_for
from input_pipeline.augment.audio_effects import NoiseClip
from input_pipeline.augment.augmentors import AUGMENTORS, SpecAugment, Speed
from input_pipeline.augment.clip_cache import ClipCache
from tests.runs import ROOT
from tests.signals import RATE_HZ, hiss, response, tone

SPEED: dict[str, Any] = {"type": "speed", "params": {"min_speed_rate": 0.8, "max_speed_rate": 1.25}, "prob": 1.0}
KNOWN = ", ".join(AUGMENTORS)
MASK_PARAMS = {"n_freq_masks": 2, "F": 4, "n_time_masks": 1, "T": 9, "p": 0.1}
MASKS: dict[str, Any] = {"type": "specaugment", "params": MASK_PARAMS, "prob": 1.0}
DEFAULT_FILE = ROOT / "configs" / "augmentation.json"
# conf/augmentation.config.example of the original
ORIGINAL_EXAMPLE = [
    {
        "type": "noise",
        "params": {"min_snr_dB": 40, "max_snr_dB": 50, "noise_manifest_path": "datasets/manifest.noise"},
        "prob": 0.6,
    },
    {"type": "impulse", "params": {"impulse_manifest_path": "datasets/manifest.impulse"}, "prob": 0.5},
    {"type": "speed", "params": {"min_speed_rate": 0.95, "max_speed_rate": 1.05}, "prob": 0.5},
    {"type": "shift", "params": {"min_shift_ms": -5, "max_shift_ms": 5}, "prob": 1.0},
    {"type": "volume", "params": {"min_gain_dBFS": -10, "max_gain_dBFS": 10}, "prob": 0.0},
    {
        "type": "bayesian_normal",
        "params": {"target_db": -20, "prior_db": -20, "prior_samples": 100},
        "prob": 0.0,
    },
]


def write_config(folder: Path, *entries: dict, name: str = "augmentation.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(entries))
    return path


def write_noise(folder: Path, clips: dict[str, np.ndarray], manifest_name: str = "noise.jsonl") -> Path:
    lines = []
    for name, samples in clips.items():
        soundfile.write(folder / name, samples, RATE_HZ, subtype="FLOAT")
        lines.append(json.dumps({"audio_filepath": name, "duration": len(samples) / RATE_HZ}))
    path = folder / manifest_name
    path.write_text("\n".join(lines))
    return path


def noise_entry(path: str | Path = "noise.jsonl", low: float = 10.0, high: float = 20.0) -> dict:
    params = {"min_snr_dB": low, "max_snr_dB": high, "noise_manifest_path": str(path)}
    return {"type": "noise", "params": params, "prob": 1.0}


def one(kind: str, **params: Any) -> dict:
    return {"type": kind, "params": params, "prob": 1.0}


def test_speed_rates_depend_only_on_seed_epoch_and_copy(tmp_path):
    loaded = Augmentation.load(write_config(tmp_path, SPEED), RATE_HZ)
    rates = loaded.speed_rates(1000, seed=3, epoch=5)
    assert np.array_equal(rates, pickle.loads(pickle.dumps(loaded)).speed_rates(1000, seed=3, epoch=5))
    assert rates.min() >= 0.8
    assert rates.max() <= 1.25
    for other in ({"seed": 4, "epoch": 5}, {"seed": 3, "epoch": 6}, {"seed": 3, "epoch": 5, "copy": 1}):
        assert not np.isclose(rates, loaded.speed_rates(1000, **other)).mean() > 0.05


def test_speed_is_applied_with_its_probability_and_several_multiply(tmp_path):
    half = {**SPEED, "prob": 0.5}
    rates = Augmentation.load(write_config(tmp_path, half), RATE_HZ).speed_rates(4000, 0, 0)
    assert (rates == 1.0).mean() == pytest.approx(0.5, abs=0.04)
    twice = Augmentation.load(write_config(tmp_path, half, MASKS, SPEED), RATE_HZ)
    assert twice.stretch_limits == pytest.approx((1 / 1.25**2, 1 / 0.8**2))
    assert twice.speed_rates(4000, 0, 0).max() > 1.3


@pytest.mark.parametrize(
    ("rates", "prob", "limits"),
    [
        ((1.1, 1.25), 1.0, (0.8, 1 / 1.1)),  # every clip becomes shorter
        ((1.1, 1.25), 0.99, (0.8, 1.0)),
        ((0.8, 0.9), 1.0, (1 / 0.9, 1.25)),
        ((0.8, 0.9), 0.01, (1.0, 1.25)),
        ((0.8, 1.25), 0.0, (1.0, 1.0)),
    ],
)
def test_the_limits_of_a_length_are_those_of_the_rates_that_occur(tmp_path, rates, prob, limits):
    params = dict(zip(("min_speed_rate", "max_speed_rate"), rates, strict=True))
    loaded = Augmentation.load(write_config(tmp_path, {"type": "speed", "params": params, "prob": prob}), RATE_HZ)
    assert loaded.stretch_limits == pytest.approx(limits)
    drawn = 1 / loaded.speed_rates(1000, 0, 0)
    assert limits[0] <= drawn.min() <= drawn.max() <= limits[1]
    assert (drawn != 1).mean() == pytest.approx(prob, abs=0.02)


def test_what_an_entry_leaves_out_has_no_effect(tmp_path):
    masks = {name: value for name, value in MASK_PARAMS.items() if name != "p"}
    entries = SPEED, one("specaugment", **masks)
    speed, spectrum = (
        entry.augmentor for entry in Augmentation.load(write_config(tmp_path, *entries), RATE_HZ).entries
    )
    assert isinstance(speed, Speed)
    assert speed.num_rates == 0
    assert isinstance(spectrum, SpecAugment)
    assert (spectrum.max_time_share, spectrum.warp, spectrum.replace_with_zero) == (1.0, 0, True)
    assert (spectrum.adaptive_number, spectrum.adaptive_size, spectrum.max_time_masks) == (0.0, 0.0, 20)


def test_the_length_after_augmentation_is_the_planned_one(tmp_path):
    loaded = Augmentation.load(write_config(tmp_path, SPEED, MASKS), RATE_HZ)
    for row, rate in enumerate(loaded.speed_rates(20, 0, 0)):
        changed = loaded.apply_audio(tone(5000), RATE_HZ, rate=rate, rng=rng_for(0, 0, row))
        assert len(changed) == audio_effects.speed_length(5000, rate)


def test_draws_of_an_utterance_repeat_and_differ_between_epochs_and_copies(tmp_path):
    write_noise(tmp_path, {"a.wav": hiss(40000, 1), "b.wav": hiss(3000, 2)})
    loaded = Augmentation.load(write_config(tmp_path, noise_entry()), RATE_HZ)

    def run(*key: int) -> np.ndarray:
        return loaded.apply_audio(tone(8000), RATE_HZ, rate=1.0, rng=rng_for(*key))

    assert np.array_equal(run(1, 2, 3), run(1, 2, 3))
    assert not any(np.array_equal(run(1, 2, 3), run(*key)) for key in [(1, 2, 4), (1, 3, 3), (1, 2, 3, 1)])


def test_noise_is_looked_up_beside_the_json_file_then_in_the_working_directory(tmp_path, monkeypatch):
    for folder, level in (("config", 0.1), ("elsewhere", 0.2)):
        (tmp_path / folder).mkdir()
        write_noise(tmp_path / folder, {"a.wav": hiss(4000, level=level)})
    monkeypatch.chdir(tmp_path / "elsewhere")
    beside = Augmentation.load(write_config(tmp_path / "config", noise_entry()), RATE_HZ)
    from_here = Augmentation.load(write_config(tmp_path, noise_entry()), RATE_HZ)
    assert beside.entries[0].augmentor.clips.manifest.audio == [str(tmp_path / "config" / "a.wav")]
    assert os.path.samefile(from_here.entries[0].augmentor.clips.manifest.audio[0], tmp_path / "elsewhere" / "a.wav")


def apply(loaded: Augmentation, samples: np.ndarray, row: int = 0, rate: float = 1.0) -> np.ndarray:
    return loaded.apply_audio(samples, RATE_HZ, rate=rate, rng=rng_for(0, 0, row))


@pytest.fixture
def originals_folder(tmp_path, monkeypatch) -> Path:
    """Return a working directory with the manifests of the original's example."""
    (tmp_path / "datasets").mkdir()
    clips = {"long.wav": hiss(90000, 3), "short.wav": hiss(700, 4)}
    write_noise(tmp_path / "datasets", clips, "manifest.noise")
    write_noise(
        tmp_path / "datasets", {"hall.wav": response(9000, 40), "room.wav": response(800, 3)}, "manifest.impulse"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("always", [False, True])
def test_the_example_of_the_original_works_unchanged(originals_folder, always):
    entries = [entry | {"prob": 1.0} for entry in ORIGINAL_EXAMPLE] if always else ORIGINAL_EXAMPLE
    loaded = Augmentation.load(write_config(originals_folder, *entries), RATE_HZ)
    assert [line.split(":")[0] for line in loaded.describe().splitlines()] == [entry["type"] for entry in entries]
    different = set()
    for row, rate in enumerate(loaded.speed_rates(12, 0, 0)):
        changed = apply(loaded, tone(6000), row, rate)
        assert len(changed) == audio_effects.speed_length(6000, rate)
        assert np.isfinite(changed).all()
        assert np.array_equal(changed, apply(loaded, tone(6000), row, rate))
        different.add(changed.tobytes())
    assert len(different) == 12


def test_entries_are_applied_in_the_order_of_the_file(tmp_path):
    louder = {"type": "volume", "params": {"min_gain_dBFS": 6, "max_gain_dBFS": 6}, "prob": 1}
    level = {"type": "bayesian_normal", "params": {"target_db": -20, "prior_db": -20, "prior_samples": 1}, "prob": 1.0}
    first = apply(Augmentation.load(write_config(tmp_path, louder, level), RATE_HZ), tone(3000))
    last = apply(Augmentation.load(write_config(tmp_path, level, louder), RATE_HZ), tone(3000))
    normalised = audio_effects.normalise_online(tone(3000) * 10 ** np.float32(0.3), -20, -20, 1)
    np.testing.assert_allclose(first, normalised, atol=1e-6)
    np.testing.assert_allclose(last, audio_effects.normalise_online(tone(3000), -20, -20, 1) * 10**0.3, atol=1e-6)


def test_shift_and_startup_delay_are_milliseconds_and_seconds(tmp_path):
    shift = {"type": "shift", "params": {"min_shift_ms": 5.0, "max_shift_ms": 5.0}, "prob": 1.0}
    moved = apply(Augmentation.load(write_config(tmp_path, shift), RATE_HZ), tone(1000))
    assert np.array_equal(moved, np.append(tone(1000)[80:], np.zeros(80, np.float32)))
    params = {"target_db": -23, "prior_db": -30, "prior_samples": 100, "startup_delay": 0.01}
    delayed = {"type": "bayesian_normal", "params": params, "prob": 1.0}
    changed = apply(Augmentation.load(write_config(tmp_path, delayed), RATE_HZ), tone(1000))
    assert np.array_equal(changed, audio_effects.normalise_online(tone(1000), -23, -30, 100, 160))


def test_a_shift_beyond_the_clip_is_an_error_of_that_clip(tmp_path):
    shift = {"type": "shift", "params": {"min_shift_ms": 300, "max_shift_ms": 300}, "prob": 1.0}
    loaded = Augmentation.load(write_config(tmp_path, shift), RATE_HZ)
    message = (
        r"augmentation.json: entry 1 \(shift\): a shift of 4800 samples leaves nothing of 4000: .* within -250 and 250"
    )
    with pytest.raises(AugmentationError, match=message):
        apply(loaded, tone(4000))


def test_resample_limits_the_band_to_half_the_given_rate(tmp_path):
    entry = {"type": "resample", "params": {"new_sample_rate": 8000}, "prob": 1.0}
    changed = apply(Augmentation.load(write_config(tmp_path, entry), RATE_HZ), hiss(16001))
    power = np.square(np.abs(np.fft.rfft(changed)))
    assert len(changed) == 16001
    assert power[4100:].sum() < 1e-4 * power[:3900].sum()


def test_speed_draws_from_a_number_of_rates(tmp_path):
    params = {"min_speed_rate": 0.9, "max_speed_rate": 1.1, "num_rates": 3}
    loaded = Augmentation.load(write_config(tmp_path, {"type": "speed", "params": params, "prob": 1.0}), RATE_HZ)
    rates, counts = np.unique(loaded.speed_rates(3000, 0, 0), return_counts=True)
    np.testing.assert_allclose(rates, [0.9, 1.0, 1.1])
    assert counts.min() > 900


def test_specaugment_also_has_paddlespeechs_name_and_parameters(tmp_path):
    params = {"W": 0, "warp_mode": "PIL", "F": 10, "n_freq_masks": 2, "T": 50, "n_time_masks": 2, "p": 1.0}
    params |= {"adaptive_number_ratio": 0, "adaptive_size_ratio": 0, "max_n_time_masks": 20, "replace_with_zero": True}
    features, results = np.ones((300, 64), np.float32), []
    for name in ("specaug", "specaugment"):
        loaded = Augmentation.load(write_config(tmp_path, {"type": name, "params": params, "prob": 1.0}), RATE_HZ)
        results.append(loaded.apply_features(features, rng_for(0, 0, 2)))
    assert np.array_equal(results[0], results[1])
    assert 0 < (results[0] == 0).mean() < 1


def test_every_shipped_file_loads(tmp_path, monkeypatch):
    files = sorted([*(ROOT / "configs").glob("*.json"), ROOT / "benchmarks" / "augmentation.json"])
    monkeypatch.chdir(tmp_path)
    assert DEFAULT_FILE in files
    for file in files:
        for entry in json.loads(file.read_text()):
            for name, value in entry["params"].items():
                if name.endswith("manifest_path"):
                    (tmp_path / value).parent.mkdir(parents=True, exist_ok=True)
                    write_noise(tmp_path / Path(value).parent, {"a.wav": hiss(900)}, Path(value).name)
        assert len(apply(Augmentation.load(file, RATE_HZ), tone(9000))) == 9000


def test_the_first_channel_of_an_impulse_response_is_used(tmp_path):
    both = np.stack([response(900, 5), np.roll(response(900, 5), 7)], axis=1)
    write_noise(tmp_path, {"both.wav": both, "first.wav": both[:, 0]}, "rooms.jsonl")
    wet = []
    for line in (tmp_path / "rooms.jsonl").read_text().splitlines():
        (tmp_path / "one.jsonl").write_text(line)
        entry = one("impulse", impulse_manifest_path="one.jsonl")
        wet.append(apply(Augmentation.load(write_config(tmp_path, entry), RATE_HZ), tone(2000)))
    np.testing.assert_array_equal(wet[0], wet[1])


def test_a_response_longer_than_the_clip_is_cut_to_it(tmp_path):
    write_noise(tmp_path, {"hall.wav": response(30000, 5)}, "rooms.jsonl")
    entry = {"type": "impulse", "params": {"impulse_manifest_path": "rooms.jsonl"}, "prob": 1.0}
    loaded = Augmentation.load(write_config(tmp_path, entry), RATE_HZ)
    wet = apply(loaded, tone(2000))
    assert wet.shape == (2000,)
    assert not np.array_equal(wet, tone(2000))


def test_silent_and_broken_clips_are_reported_with_their_line_on_loading(tmp_path):
    write_noise(tmp_path, {"good.wav": hiss(400), "dead.wav": np.zeros(400, np.float32)}, "rooms.jsonl")
    with pytest.raises(AugmentationError, match=r"impulse response .*rooms\.jsonl:2 \(dead\.wav\).*silent"):
        Augmentation.load(write_config(tmp_path, one("impulse", impulse_manifest_path="rooms.jsonl")), RATE_HZ)
    write_noise(tmp_path, {"quiet.wav": np.zeros(4000, np.float32)})
    with pytest.raises(AugmentationError, match=r"noise .*noise\.jsonl:1 \(quiet\.wav\).*silent"):
        Augmentation.load(write_config(tmp_path, noise_entry()), RATE_HZ)
    (tmp_path / "quiet.wav").write_bytes(b"no audio at all")
    with pytest.raises(AugmentationError, match=r"noise\.jsonl:1 .*not in an audio format that libsndfile can read"):
        Augmentation.load(write_config(tmp_path, noise_entry()), RATE_HZ)


def test_a_clip_that_breaks_later_is_reported_when_it_is_drawn(tmp_path):
    write_noise(tmp_path, {"a.wav": hiss(4000)})
    loaded = pickle.loads(pickle.dumps(Augmentation.load(write_config(tmp_path, noise_entry()), RATE_HZ)))
    (tmp_path / "a.wav").unlink()
    with pytest.raises(AugmentationError, match=r"noise .*noise\.jsonl:1 \(a\.wav\): .*does not exist"):
        apply(loaded, tone(100))


def test_the_cache_drops_the_least_recently_used_clip(tmp_path):
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
    samples, rng = tone(100), rng_for(0, 0, 0)
    assert loaded.apply_audio(samples, RATE_HZ, rate=1.0, rng=rng) is samples
    assert loaded.apply_features(samples[None], rng).base is samples
    assert (loaded.speed_rates(3, 0, 0) == 1.0).all()
    assert (loaded.stretch_limits, loaded.describe()) == ((1.0, 1.0), "no augmentation")


def test_the_shipped_file_loads_and_masks():
    loaded = Augmentation.load(DEFAULT_FILE, RATE_HZ)
    masked = loaded.apply_features(np.ones((300, 161), np.float32), rng_for(0, 0, 1))
    assert 0.0 < (masked == 0.0).mean() < 0.6
    assert [line.split(":")[0] for line in loaded.describe().splitlines()] == ["speed", "specaugment"]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({**SPEED, "type": "pitch"}, rf"entry 2: unknown type 'pitch': use one of {KNOWN}"),
        ({**SPEED, "prob": 1.5}, r"entry 2 \(speed\): 'prob' is 1\.5: it must be a number from 0 to 1"),
        ({**SPEED, "probability": 1}, r"unknown 'probability': use one of type, params, prob"),
        ({**SPEED, "params": {"min_speed_rate": 0.9}}, r"'max_speed_rate' is missing: .* from 0\.5 to 2"),
        ({**SPEED, "params": {"min_speed_rate": 0.1, "max_speed_rate": 1}}, r"'min_speed_rate' is 0\.1: .* 0\.5 to 2"),
        ({**SPEED, "params": {"min_speed_rate": 1.1, "max_speed_rate": 1}}, r"min_speed_rate 1\.1 is above"),
        ({**MASKS, "params": {**MASK_PARAMS, "N": 5}}, r"unknown 'N': use one of n_freq_masks, F, n_time_m"),
        ({**MASKS, "params": {**MASK_PARAMS, "W": -1}}, r"'W' is -1: it must be a whole number from 0 to 1000"),
        ({**MASKS, "params": {**MASK_PARAMS, "warp_mode": "x"}}, r"'warp_mode' is 'x': it must be one of PIL"),
        ({**MASKS, "params": {**MASK_PARAMS, "replace_with_zero": 1}}, r"it must be true or false"),
        (one("volume", min_gain_dBFS=0, max_gain_dBFS=101), r"'max_gain_dBFS' is 101: it must be .* from -100 to 100"),
        (one("shift", min_shift_ms=-5, max_shift_ms=10001), r"'max_shift_ms' is 10001: .* from -10000 to 10000"),
        (one("resample", new_sample_rate=8), r"'new_sample_rate' is 8: it must be a number from 1000 to 1e\+06"),
        (one("bayesian_normal", target_db=-20, prior_db=-20, prior_samples=0), r"'prior_samples' is 0: .* from 1 to"),
        (one("bayesian_normal", target_db=-20, prior_db=-20), r"'prior_samples' is missing"),
        (one("impulse", impulse_manifest_path=3), r"'impulse_manifest_path' is 3: it must be the path of a file"),
        ({**MASKS, "params": {**MASK_PARAMS, "F": 2.5}}, r"'F' is 2\.5: it must be a whole number"),
        ({**MASKS, "params": [1]}, r"'params' is \[1\]"),
        ({"params": {}}, r"entry 2 is .*: write \{\"type\""),
        (noise_entry("gone.jsonl"), r"'noise_manifest_path' is 'gone\.jsonl', which is neither in"),
        (noise_entry(low=30.0), r"min_snr_dB 30 is above max_snr_dB 20"),
    ],
)
def test_errors_state_file_entry_parameter_and_range(tmp_path, entry, message):
    path = write_config(tmp_path, SPEED, entry)
    with pytest.raises(AugmentationError, match=message) as error:
        Augmentation.load(path, RATE_HZ)
    assert str(path) in str(error.value)


def test_invalid_files_are_refused(tmp_path):
    (tmp_path / "broken.json").write_text("[{")
    (tmp_path / "object.json").write_text('{"type": "speed"}')
    for name, message in (("gone.json", "No such file"), ("broken.json", "JSON"), ("object.json", "is not a list")):
        with pytest.raises(AugmentationError, match=message):
            Augmentation.load(tmp_path / name, RATE_HZ)


def test_missing_and_overlong_noise_clips_are_reported_on_loading(tmp_path):
    write_noise(tmp_path, {"a.wav": hiss(100)})
    path = write_config(tmp_path, noise_entry())
    manifest_path = tmp_path / "noise.jsonl"
    manifest_path.write_text('{"audio_filepath": "a.wav", "duration": 5000}')
    with pytest.raises(AugmentationError, match=r"noise\.jsonl:1 \(a\.wav\) is longer than"):
        Augmentation.load(path, RATE_HZ)
    manifest_path.write_text('{"audio_filepath": "b.wav", "duration": 5}')
    with pytest.raises(AugmentationError, match=r"noise\.jsonl:1 \(b\.wav\) does not exist"):
        Augmentation.load(path, RATE_HZ)
