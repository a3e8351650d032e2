"""Pauses are found by level, whatever pieces the audio comes in."""

import numpy as np
import pytest

from input_pipeline.audio.pauses import LevelMeter, Pauses

RATE_HZ = 16000


def speak(*lengths_s: float, level: float = 0.1) -> np.ndarray:
    """Return noise, loud and 40 dB softer in turn, of these lengths."""
    rng = np.random.default_rng(0)
    parts = [level * (0.01 if i % 2 else 1.0) * rng.standard_normal(int(s * RATE_HZ)) for i, s in enumerate(lengths_s)]
    return np.concatenate(parts).astype(np.float32)


def measure(samples: np.ndarray, piece: int, rate_hz: int = RATE_HZ) -> Pauses:
    meter = LevelMeter(rate_hz)
    for start in range(0, len(samples), piece):
        meter.feed(samples[start : start + piece])
    return meter.pauses()


def test_pauses_do_not_depend_on_the_pieces():
    samples = speak(1.0, 0.5, 1.0)
    whole = measure(samples, len(samples))
    for piece in (1000, 1601, 16000):
        assert (measure(samples, piece).quiet == whole.quiet).all()
    assert whole.between(0.0, 2.5, 0.2) == [(pytest.approx(1.0), pytest.approx(1.5))]


def test_a_pause_is_found_in_a_part_and_shorter_ones_are_not():
    pauses = measure(speak(1.0, 0.5, 1.0, 0.1, 1.0), RATE_HZ)
    assert pauses.between(1.2, 2.0, 0.2) == [(pytest.approx(1.2), pytest.approx(1.5))]
    assert pauses.between(1.6, 3.6, 0.2) == []
    assert len(pauses.between(1.6, 3.6, 0.05)) == 1
    assert pauses.between(5.0, 6.0, 0.0) == []


def test_what_is_quiet_depends_on_the_speech_around_it():
    samples = np.concatenate([speak(20.0, 0.5, 20.0), speak(20.0, 0.5, 20.0, level=0.001)])
    assert {20, 60} <= {int(start_s + 0.1) for start_s, _ in measure(samples, RATE_HZ).between(0.0, 81.0, 0.3)}


def test_the_quietest_place_is_in_the_pause():
    pauses = measure(speak(1.0, 0.3, 1.0), RATE_HZ)
    assert 1.0 < pauses.quietest_s(0.5, 1.8) < 1.3
    assert pauses.quietest_s(9.0, 9.2) == pytest.approx(9.1)


def test_a_rate_that_ticks_do_not_divide_keeps_time():
    samples = np.random.default_rng(0).normal(0, 0.1, 11025 * 62).astype(np.float32)
    samples[11025 * 60 : 11025 * 61] = 0
    [(start_s, end_s)] = measure(samples, 4000, 11025).between(0.0, 62.0, 0.5)
    assert (start_s, end_s) == (pytest.approx(60.0, abs=0.02), pytest.approx(61.0, abs=0.02))


def test_no_audio_has_no_pauses():
    assert LevelMeter(RATE_HZ).pauses().between(0.0, 1.0, 0.0) == []
